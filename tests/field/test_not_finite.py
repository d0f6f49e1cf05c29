"""NaN and infinity end a prompt with the place where they began; no answer and no number is made of them.

The right places come from plain hooks on the models.
"""

from collections.abc import Callable
from typing import Any

import mixes
import oracle
import pytest
import tiny
import torch

import workbench as wb
from workbench.decoding import streams
from workbench.decoding.likelihoods import response_scores
from workbench.decoding.stops import Stops
from workbench.models.anatomy import dissect
from workbench.models.finite import NotFiniteError
from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.replay.patching import Patch, prepare_patch
from workbench.replay.replay import Replay, learn_tokens

FAMILIES = ("qwen2_5_vl", "gemma3", "llava_onevision", "llama")


def model_of(family: str, dtype: torch.dtype, scale: float) -> Any:
    """A model with finite weights whose layer 1 overflows where its MLP says enough."""
    model = tiny.model(family)
    with torch.no_grad():
        dissect(model).layers[1].mlp.down_proj.weight.mul_(scale)  # pyright: ignore
    return model.to(dtype)


def pair_of(family: str, dtype: torch.dtype = torch.float16, scale: float = 3e4) -> ModelPair:
    """One that overflows against itself; put together by hand, so that it is the call that refuses it."""
    model = dissect(model_of(family, dtype, scale))
    return ModelPair("overflowing", model, model, tiny.processor(family), {})


def place_of(pair: ModelPair, prompt: EncodedPrompt) -> tuple[int, int]:
    """(layer, position) of the first residual that is not finite, by plain hooks."""
    inputs = mixes.anatomy_inputs(pair.rlvr, prompt)
    for layer, hidden in enumerate(oracle.hooked_residuals(pair.rlvr.model, pair.rlvr.layers, inputs)):
        wrong = ~hidden[0].isfinite().all(-1)
        if wrong.any():
            return layer, int(wrong.nonzero()[0])
    raise AssertionError("all is finite")


CALLS: dict[str, Callable[[ModelPair, EncodedPrompt], Any]] = {
    "greedy": lambda pair, p: wb.decode(pair, p, max_new_tokens=4),
    "sampled": lambda pair, p: wb.decode(pair, p, max_new_tokens=4, samples=2, temperature=1.0),
    "base": lambda pair, p: wb.decode(pair, p, model="base", max_new_tokens=4),
    "trace": lambda pair, p: wb.trace(pair, [p], null_draws=0),
    "scores": lambda pair, p: response_scores(pair.rlvr, [p], [torch.tensor([65])], pad_id=pair.pad_id),
    "patch": lambda pair, p: prepare_patch(pair, p, Patch(layers=2)),
    "replay": lambda pair, p: learn_tokens(pair, p, Replay(layers=2)),
}


@pytest.mark.parametrize(
    ("call", "family"), [(c, f) for c in CALLS for f in FAMILIES if (c, f) != ("replay", "llama")]
)
def test_an_overflow_is_told_with_its_place(call, family):
    """Protects from "!!!!" and empty texts where half precision overflowed, and from refusals that don't say where."""
    pair = pair_of(family)
    prompt = pair.encode(tiny.problem(family))
    layer, position = place_of(pair, prompt)
    with pytest.raises(
        NotFiniteError, match=r"gives NaN or infinity in float16, first at position \d+ "
    ) as told:
        CALLS[call](pair, prompt)
    assert (told.value.layer, told.value.position) == (layer, position)
    assert f"position {position} after layer {layer}" in str(told.value)
    assert 'dtype="bfloat16"' in str(told.value)
    if call not in ("patch", "replay"):
        assert str(told.value).startswith("problem 'p0': ")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_precisions_overflow_too(dtype, call):
    """Protects from a check of one precision alone."""
    pair = pair_of("qwen2_5_vl", dtype, 3e38)
    with pytest.raises(NotFiniteError, match=f"in {str(dtype)[6:]}, first at"):
        CALLS[call](pair, pair.encode(tiny.problem()))


def test_what_fits_is_answered_beside_what_does_not():
    """Protects from a neighbour's overflow: in one batch the error names the problem that overflows, alone the other answers."""
    pair = pair_of("qwen2_5_vl", torch.float32, 1.0)
    prompts = [pair.encode(tiny.problem(seed=seed)) for seed in (0, 4)]
    wanted = wb.decode(pair, prompts[0], max_new_tokens=4)
    row = pair.rlvr.model.get_input_embeddings().weight
    before = row[ord("x")].clone()
    row[tiny.tokenizer("qwen2_5_vl").convert_tokens_to_ids("x")] = (
        torch.inf
    )  # of the second prompt's words alone
    with pytest.raises(
        NotFiniteError, match=r"problem 'p4': .* before layer 0, in what words, pictures or an"
    ):
        wb.decode_many(pair, prompts, max_new_tokens=4)
    assert wb.decode(pair, prompts[0], max_new_tokens=4) == wanted
    row[tiny.tokenizer("qwen2_5_vl").convert_tokens_to_ids("x")] = before


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_token_that_the_model_said_may_overflow_too(temperature, monkeypatch):
    """Protects from a text that goes on in "!" after the prompt went well."""
    pair = pair_of("qwen2_5_vl", torch.float32, 1.0)
    prompt, said = pair.encode(tiny.problem()), []
    read = Stops.read
    monkeypatch.setattr(Stops, "read", lambda self, ids: (said.extend(ids), read(self, ids))[1])
    wb.decode(pair, prompt, max_new_tokens=8, temperature=temperature)
    fatal = next(n for n, i in enumerate(said) if i not in {*prompt.input_ids.tolist(), *said[:n]})
    pair.rlvr.model.get_input_embeddings().weight[said[fatal]] = torch.nan
    with pytest.raises(NotFiniteError, match=r"problem 'p0': .* before layer 0") as told:
        wb.decode(pair, prompt, max_new_tokens=fatal + 4, temperature=temperature)
    assert told.value.position == len(prompt) + fatal


def test_what_an_intervention_writes_is_looked_at():
    """Protects from learnt tokens that are no numbers."""
    pair = pair_of("qwen2_5_vl", torch.float32, 1.0)
    prompt = pair.encode(tiny.problem())
    learned = learn_tokens(pair, prompt, Replay(layers=2, iterations=0, threshold="quantile"))
    learned.tokens[2] = torch.nan
    with pytest.raises(NotFiniteError, match=r"before layer 0, .* or an intervention put there") as told:
        wb.decode(pair, prompt, intervention=learned, max_new_tokens=2)
    assert told.value.position == int((prompt.kinds == TokenKind.VISUAL).nonzero()[2])
    assert told.value.layer == -1


def test_an_overflowing_output_layer_is_told():
    """Protects from logits of infinity: one of them would always be the answer."""
    pair = pair_of("llama", torch.float32, 1.0)
    pair.rlvr.unembedding.weight.mul_(3e38)
    prompt = pair.encode(tiny.problem("llama"))
    with pytest.raises(NotFiniteError, match=rf"position {len(prompt) - 1} in the logits"):
        wb.decode(pair, prompt, max_new_tokens=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_that_overflows_on_two_tokens_is_refused_for_that(family):
    """Protects from "model type not supported", said of a model that overflows."""
    model = model_of(family, torch.float16, 6e4)
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
    with pytest.raises(
        NotFiniteError, match=r"two plain tokens: .* in float16, first at .*dtype=\"bfloat16\""
    ):
        load_pair(base=model, rlvr=model, processor=tiny.processor(family))


def test_a_device_without_float64_draws_the_same(pair_of, monkeypatch):
    """Protects from an error of torch on Apple's GPUs; what is drawn stays what the CPU draws."""
    pair = pair_of("qwen2_5_vl")
    prompts = [pair.encode(tiny.problem(seed=seed)) for seed in (0, 3)]
    wanted = wb.decode_many(pair, prompts, **mixes.SAMPLED)
    monkeypatch.setattr(streams, "has_float64", lambda device: False)
    assert wb.decode_many(pair, prompts, **mixes.SAMPLED) == wanted
