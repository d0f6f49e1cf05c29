"""Nats per token of a given response: those of a plain forward, in any batch, in every family."""

import pytest
import tiny
import torch

from workbench.decoding.likelihoods import response_ids, response_nats
from workbench.errors import InputError
from workbench.models.batches import batches
from workbench.models.prompts import TokenKind
from workbench.replay.disturbances import EmbeddingNoise
from workbench.tracing.residuals import read_calls

TEXTS = ("<answer> 3</answer>", "no", "<think> one two three </think><answer> 17</answer>")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_batched_as_alone_and_as_a_plain_forward(pair_of, family):
    pair = pair_of(family)
    prompts = [pair.encode(tiny.problem(family, seed=i)) for i in range(3)]
    assert len(list(batches(prompts, 3))) == 1
    ids = [response_ids(pair, text) for text in TEXTS]
    together = response_nats(pair.rlvr, prompts, ids, pad_id=pair.pad_id)
    for prompt, response, found in zip(prompts, ids, together, strict=True):
        (alone,) = response_nats(pair.rlvr, [prompt], [response], pad_id=pair.pad_id)
        assert found == pytest.approx(alone, abs=2e-5)
        length = len(prompt) + len(response)
        inputs = {
            name: torch.cat([value, torch.zeros(1, len(response), dtype=value.dtype)], 1)
            if value.shape == (1, len(prompt))
            else value
            for name, value in prompt.model_inputs.items()
        }
        inputs["input_ids"] = torch.cat([prompt.input_ids, response])[None]
        inputs["attention_mask"] = torch.ones(1, length, dtype=torch.int64)
        with torch.no_grad():
            logits = pair.rlvr.model(**inputs, use_cache=False).logits[0]
        plain = torch.nn.functional.cross_entropy(logits[len(prompt) - 1 : -1], response).item()
        assert alone == pytest.approx(plain, abs=2e-5)


def test_noise_lands_on_each_prompts_own_visual_rows(tiny_pair):
    prompts = [tiny_pair.encode(tiny.problem(seed=i)) for i in range(2)]
    ids = [response_ids(tiny_pair, text) for text in TEXTS[:2]]
    made = [EmbeddingNoise.of(prompt, 1.0, seed) for seed, prompt in enumerate(prompts)]
    together = response_nats(tiny_pair.rlvr, prompts, ids, pad_id=tiny_pair.pad_id, interventions=made)
    plain = response_nats(tiny_pair.rlvr, prompts, ids, pad_id=tiny_pair.pad_id)
    for i in range(2):
        (alone,) = response_nats(
            tiny_pair.rlvr,
            prompts[i : i + 1],
            ids[i : i + 1],
            pad_id=tiny_pair.pad_id,
            interventions=[made[i]],
        )
        assert together[i] == pytest.approx(alone, abs=2e-5)
        assert abs(together[i] - plain[i]) > 1e-3


def test_a_continued_prompt_keeps_its_places(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem(images=2))
    longer = prompt.continued(torch.tensor([5, 6, 7]))
    assert len(longer) == len(prompt) + 3
    assert longer.input_ids[-3:].tolist() == [5, 6, 7]
    assert (longer.kinds[-3:] == TokenKind.RESPONSE).all()
    assert (longer.grid[-3:] == -1).all()
    assert torch.equal(longer.visual_index[: len(prompt)], prompt.visual_index)
    assert longer.model_inputs["attention_mask"].sum() == len(longer)
    assert set(longer.model_inputs) == set(prompt.model_inputs)
    assert len(prompt) == len(prompt.model_inputs["attention_mask"][0])
    before = read_calls(tiny_pair.rlvr, prompt.model_inputs, 1)[0].hidden[0]
    assert torch.allclose(
        read_calls(tiny_pair.rlvr, longer.model_inputs, 1)[0].hidden[0, : len(prompt)], before, atol=1e-6
    )


def test_a_response_without_tokens_is_refused(tiny_pair):
    with pytest.raises(InputError, match="`response` '' has no tokens; give one such as"):
        response_ids(tiny_pair, "")
