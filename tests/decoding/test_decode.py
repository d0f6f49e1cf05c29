"""Decoding (`test_families` compares it with the models' own `generate`): batches, samples, stops, interventions."""

import warnings
from collections import Counter
from dataclasses import replace

import pytest
import tiny
import torch

from workbench.decoding import decode as decoding
from workbench.decoding.decode import decode, decode_many, respond
from workbench.decoding.vllm_engine import export_visual_embeddings
from workbench.errors import InputError
from workbench.models.presets import PairPreset
from workbench.models.prompts import TokenKind
from workbench.replay.patching import Patch, prepare_patch
from workbench.replay.replay import Replay, learn_tokens
from workbench.sampling import Sampling
from workbench.tracing.residuals import read_logits

LEARN = Replay(layers=2, threshold="quantile", alpha=2000.0, iterations=3)


def texts(responses):
    return [r.text for r in responses]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_dropping_finished_rows_changes_no_response(pair_of, family, monkeypatch):
    pair = pair_of(family)
    prompts = [pair.encode(tiny.problem(family, seed=3 * i)) for i in range(3)]
    # One token in eight ends a response, so that samples end early, late and not at all.
    monkeypatch.setattr(pair.rlvr.model.generation_config, "eos_token_id", [*range(0, tiny.VOCAB, 8)])
    widths = []
    step = pair.rlvr.unembedding.register_forward_hook(lambda _, args, out: widths.append(len(out)))
    found = {}
    for share in (0.25, 2.0):
        monkeypatch.setattr(decoding, "DROP_AT", share)
        widths.clear()
        settings = {"samples": 4, "temperature": 2.0, "max_new_tokens": 16}
        found[share] = decode_many(pair, prompts, **settings), [*widths]
    step.remove()
    assert found[0.25][0] == found[2.0][0]
    assert found[0.25][1][-1] < 12
    assert {*found[2.0][1][1:]} == {12}
    lengths = {r.tokens for responses in found[2.0][0] for r in responses}
    assert len(lengths) > 3
    alone = [decode(pair, prompt, **settings) for prompt in prompts]
    assert alone == found[0.25][0]


def test_greedy_samples_are_said_to_be_one_text(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem("qwen2_5_vl"))
    with pytest.warns(UserWarning, match=r"`samples` is 3 with `temperature` 0, .* all 3 texts"):
        texts = [r.text for r in decode(tiny_pair, prompt, samples=3, max_new_tokens=3)]
    assert len(set(texts)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(tiny_pair, prompt, max_new_tokens=3)
        decode(tiny_pair, prompt, samples=3, temperature=1.0, max_new_tokens=3)


def test_neither_the_batch_nor_more_samples_change_a_sample(tiny_pair):
    prompts = [tiny_pair.encode(tiny.problem(seed=i, images=1 + i % 2)) for i in range(3)]
    settings = {"temperature": 1.0, "seed": 5, "max_new_tokens": 6}
    together = decode_many(tiny_pair, prompts, samples=4, **settings)
    alone = [decode(tiny_pair, p, samples=2, **settings) for p in prompts]
    assert [texts(rs[:2]) for rs in together] == [texts(rs) for rs in alone]
    assert len({*texts(together[0])}) > 1
    assert texts(decode(tiny_pair, prompts[0], samples=4, **settings | {"seed": 6})) != texts(together[0])
    longer = decode(tiny_pair, prompts[0], samples=1, **settings | {"max_new_tokens": 9})
    assert longer[0].text.startswith(together[0][0].text.rstrip("\ufffd"))


def test_samples_follow_the_models_probabilities(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    samples = decode(tiny_pair, prompt, samples=4000, temperature=0.5, max_new_tokens=1)
    logits = read_logits(tiny_pair.rlvr, prompt.model_inputs)[0, -1].double() / 0.5
    logits[sorted(tiny_pair.rlvr.visual_token_ids)] = -torch.inf
    shown = [tiny_pair.tokenizer.decode([i], skip_special_tokens=True) for i in range(logits.shape[0])]
    expected = dict.fromkeys(shown, 0.0)
    for text, probability in zip(shown, logits.softmax(-1).tolist(), strict=True):
        expected[text] += probability
    counts = Counter(r.text for r in samples)
    for text, probability in expected.items():
        error = (probability * (1 - probability) / 4000) ** 0.5
        assert counts[text] / 4000 == pytest.approx(probability, abs=5 * error + 1e-3)


def test_placeholders_are_never_drawn(tiny_pair):
    prompt, ids = tiny_pair.encode(tiny.problem()), sorted(tiny_pair.rlvr.visual_token_ids)
    weight = tiny_pair.rlvr.unembedding.weight
    before = weight.clone()
    try:
        weight[ids] = 50 * weight[ids].sign()
        found = decode(tiny_pair, prompt, samples=3, temperature=1.0, max_new_tokens=5)
        assert not any("pad" in r.text for r in found)
        assert all(r.tokens <= 5 for r in found)
    finally:
        weight.copy_(before)


def test_a_stop_string_ends_a_response(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    whole = decode(tiny_pair, prompt, samples=6, temperature=1.0, max_new_tokens=12)
    letters = [r for r in whole if len(r.text) > 4 and r.text.isascii()]
    stop = (letters or whole)[0].text[2:4]
    cut = decode(tiny_pair, prompt, samples=6, temperature=1.0, max_new_tokens=12, stop=[stop])
    for long, short in zip(whole, cut, strict=True):
        if stop in long.text:
            assert short.text == long.text[: long.text.index(stop) + len(stop)]
            assert short.finished
            assert short.tokens <= long.tokens
        else:
            assert short.text == long.text


def test_an_unfinished_response_says_so(tiny_pair):
    response = decode(tiny_pair, tiny_pair.encode(tiny.problem()), max_new_tokens=2)[0]
    assert (response.tokens, response.finished) == (2, False)


def test_either_model_answers(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    base = decode(tiny_pair, prompt, model="base", max_new_tokens=8)
    alone = respond(tiny_pair.base, tiny_pair.processor, [prompt], Sampling(max_new_tokens=8))[0]
    assert base == alone


@pytest.mark.parametrize("wanted", ["medium", None])
def test_products_are_as_the_pair_wants_them_only_while_it_answers(tiny_pair, monkeypatch, wanted):
    seen, real = [], decoding.respond
    monkeypatch.setattr(
        decoding,
        "respond",
        lambda *a, **k: seen.append(torch.get_float32_matmul_precision()) or real(*a, **k),
    )
    before = torch.get_float32_matmul_precision()
    preset = PairPreset("mine", base="base", rlvr="rlvr", matmul=wanted)
    prompt = tiny_pair.encode(tiny.problem("qwen2_5_vl"))
    decoding.decode(replace(tiny_pair, preset=preset), prompt, max_new_tokens=2)
    assert seen == [wanted or before]
    assert torch.get_float32_matmul_precision() == before


def test_interventions_act_in_a_batch_as_they_do_alone(tiny_pair):
    prompts = [tiny_pair.encode(tiny.problem(seed=i, images=1 + i % 2)) for i in range(3)]
    made = [
        learn_tokens(tiny_pair, prompts[0], LEARN),
        prepare_patch(tiny_pair, prompts[1], Patch(select="all", layers=2)),
        None,
    ]
    settings = {"temperature": 1.0, "samples": 3, "max_new_tokens": 6}
    together = decode_many(tiny_pair, prompts, interventions=made, **settings)
    for prompt, one, responses in zip(prompts, made, together, strict=True):
        assert texts(decode(tiny_pair, prompt, intervention=one, **settings)) == texts(responses)
    plain = decode_many(tiny_pair, prompts, **settings)
    assert texts(plain[2]) == texts(together[2])
    assert texts(plain[0]) != texts(together[0])
    assert texts(plain[1]) != texts(together[1])


def test_exported_embeddings_are_what_the_decoder_reads(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem(images=2))
    learned = learn_tokens(tiny_pair, prompt, LEARN)
    plain, replayed = (
        export_visual_embeddings(tiny_pair, prompt),
        export_visual_embeddings(tiny_pair, prompt, learned),
    )
    assert [len(e) for e in plain] == [int((prompt.image_index == i).sum()) for i in (0, 1)]
    assert torch.equal(torch.cat(replayed), torch.cat(plain) + learned.tokens)
    embeddings = tiny_pair.rlvr.model.get_input_embeddings()(prompt.input_ids)[None]
    embeddings[0, prompt.kinds == TokenKind.VISUAL] = torch.cat(replayed)
    given = {k: v for k, v in prompt.model_inputs.items() if k != "pixel_values"}
    positions = tiny_pair.rlvr.model.model.get_rope_index(
        prompt.model_inputs["input_ids"],
        prompt.model_inputs["mm_token_type_ids"],
        prompt.model_inputs["image_grid_thw"],
    )[0]
    engine = tiny_pair.rlvr.model.model.language_model(
        inputs_embeds=embeddings, attention_mask=given["attention_mask"], position_ids=positions
    )
    ours = read_logits(tiny_pair.rlvr, prompt.model_inputs, write={0: lambda h: learned.apply(0, h)})
    torch.testing.assert_close(tiny_pair.rlvr.unembedding(engine.last_hidden_state[:, -1]), ours[:, -1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "both"},
            r"`model` is 'both'; expected 'base' or 'rlvr': decode\(pair, prompt, model='base'\)",
        ),
        ({"samples": 0}, "`samples` is 0; expected a whole number of at least 1"),
        ({"max_new_tokens": 1.5}, "`max_new_tokens` is 1.5"),
        ({"temperature": -1.0}, r"`temperature` is -1.0; expected 0 \(greedy\) or more"),
        ({"temperature": float("nan")}, "`temperature` is nan"),
        ({"seed": "a"}, "`seed` is 'a'; expected a whole number of at least 0"),
    ],
)
def test_bad_settings(tiny_pair, changes, message):
    with pytest.raises(InputError, match=message):
        decode(tiny_pair, tiny_pair.encode(tiny.problem()), **changes)


def test_what_is_no_prompt_is_refused(tiny_pair):
    with pytest.raises(InputError, match="`prompts` holds a str; expected Problem or EncodedPrompt: decode"):
        decode(tiny_pair, "How many?")
    with pytest.raises(
        InputError, match="`prompts` is a EncodedPrompt; expected a list of Problem or EncodedPrompt"
    ):
        decode_many(tiny_pair, tiny_pair.encode(tiny.problem()))


def test_bad_interventions(tiny_pair):
    prompt, other = (tiny_pair.encode(tiny.problem(seed=s)) for s in (0, 1))
    patch = prepare_patch(tiny_pair, other, Patch(layers=2))
    with pytest.raises(
        InputError, match="`intervention` was made for 'p1', the prompt is 'p0'; make one for each"
    ):
        decode(tiny_pair, prompt, intervention=patch)
    with pytest.raises(InputError, match="`interventions` has 1 entries for 2 prompts"):
        decode_many(tiny_pair, [prompt, other], interventions=[patch])
    with pytest.raises(InputError, match="only tokens at layer 0 can be exported as embeddings"):
        export_visual_embeddings(tiny_pair, other, patch)


def test_a_pair_without_a_tokenizer_cannot_answer(tiny_pair):
    from dataclasses import replace

    with pytest.raises(InputError, match="`pair` has no tokenizer, so responses can't be turned into text"):
        decode(replace(tiny_pair, processor=None), tiny_pair.encode(tiny.problem()))
