"""Nothing that one call leaves in a model reaches another: any order, any batch, any mix gives what each gets alone.

The right answers are those of transformers' `generate` on a model that nothing was run on before.
"""

import os
from collections import OrderedDict
from functools import cache

import mixes
import pytest
import tiny
import torch
from mixes import Alone

import workbench as wb
from workbench.decoding.decode import Response
from workbench.errors import InputError
from workbench.models.batches import collate
from workbench.models.pairs import ModelPair
from workbench.models.positions import next_positions, positions_of

MIXES = int(os.environ.get("WORKBENCH_MIXES", "200"))
"""Random mixes over all families; more by the environment."""


@cache
def measured(family: str) -> tuple[ModelPair, Alone]:
    """A pair that nothing was run on, never to be run itself, and what its copies answer."""
    pair = mixes.untouched(family)
    return pair, mixes.alone(pair)


def texts(responses: list[list[Response]]) -> list[str]:
    return [samples[0].text for samples in responses]


@pytest.mark.parametrize("family", tiny.MULTIMODAL)
def test_a_text_after_a_picture_is_answered_as_before_it(family):
    """Protects from an offset that a pass with pictures leaves behind for the texts after it."""
    pair, wanted = measured(family)
    pair = mixes.fresh(pair)
    for kind in ("text", "image", "text", "images", "long text", "turns", "text"):
        found = wb.decode(pair, wanted.prompts[kind], max_new_tokens=mixes.TOKENS)[0].text
        assert found == wanted.rlvr[kind], kind


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_padding_counts_nothing(family):
    """Protects from texts in one batch whose new tokens stand where padding put them."""
    pair, wanted = measured(family)
    kinds = ["long text", "text", "text turns", "text"]
    prompts = [wanted.prompts[kind] for kind in kinds]
    found = wb.decode_many(mixes.fresh(pair), prompts, max_new_tokens=mixes.TOKENS)
    assert texts(found) == [wanted.rlvr[kind] for kind in kinds]


@pytest.mark.parametrize("family", tiny.MULTIMODAL)
def test_a_text_after_a_trace_of_several_pictures_is_answered(family):
    """Protects from an offset of two rows that meets a batch of one, which was an error of torch."""
    pair, wanted = measured(family)
    pair = mixes.fresh(pair)
    wb.trace(pair, [wanted.prompts["image"], wanted.prompts["turns"]], null_draws=0)
    assert wb.decode(pair, wanted.prompts["text"], max_new_tokens=mixes.TOKENS)[0].text == wanted.rlvr["text"]


def test_what_a_user_generates_in_between_changes_nothing(pair_of):
    """Protects from the model's own memory when somebody else wrote it."""
    pair, wanted = measured("qwen2_5_vl")
    pair = mixes.fresh(pair)
    shown = mixes.anatomy_inputs(pair.rlvr, wanted.prompts["images"])
    pair.rlvr.model.generate(**shown, max_new_tokens=2, do_sample=False)
    kinds = ["text", "image", "long text"]
    found = wb.decode_many(pair, [wanted.prompts[k] for k in kinds], max_new_tokens=mixes.TOKENS)
    assert texts(found) == [wanted.rlvr[k] for k in kinds]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_any_mix_of_calls_gives_each_prompt_what_it_gets_alone(family):
    """Protects from whatever else a call may leave behind: greedy, sampled, patched, replayed, scored, traced."""
    untouched, wanted = measured(family)
    pair = mixes.fresh(untouched)
    first, share = tiny.FAMILIES.index(family), len(tiny.FAMILIES)
    for seed in range(first, MIXES, share):
        mixes.mix(pair, wanted, seed)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_no_call_leaves_anything_in_a_model(family):
    """Protects from attributes and buffers that a new version of a model may keep between forwards."""
    untouched, wanted = measured(family)
    pair = mixes.fresh(untouched)
    everything = [*wanted.prompts]
    for call in mixes.CALLS:
        call(pair, wanted, everything, 2)  # the first call of all wraps the modules
        before = kept(pair)
        call(pair, wanted, everything, 3)
        assert kept(pair) == before
    assert without_versions(kept(pair)) == without_versions(kept(untouched))


def without_versions(found: dict[str, str]) -> dict[str, str]:
    """Copies have versions of their own."""
    return {name: value.rsplit(" ", 1)[0] for name, value in found.items()}


IGNORED = ("_parameters", "_buffers", "_modules", "forward", "_output_capturing_hooks_installed")


def kept(pair: ModelPair) -> dict[str, str]:
    """Every attribute and buffer of every module, as text that tells two values apart, but for what nnsight wraps with."""
    return {
        f"{role}.{path}.{name}": shown(value)
        for role in ("base", "rlvr")
        for path, module in getattr(pair, role).model.named_modules()
        for name, value in [*vars(module).items(), *module._buffers.items(), *module._parameters.items()]
        if name not in IGNORED and not name.startswith("__")
    }


def shown(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.shape} {value.double().sum().item()!r} {value._version}"
    if isinstance(
        value, OrderedDict
    ):  # hooks; transformers has inert ones of its own, put there by the first forward
        value = [
            hook.__qualname__ for hook in value.values() if not hook.__module__.startswith("transformers.")
        ]
    plain = isinstance(value, int | float | str | dict | list | type(None))
    return f"{type(value).__name__} {value if plain else ''} -"


def test_positions_are_those_of_generate():
    """Protects from positions of our own: pictures, videos and padding, as the model lays them out itself."""
    for family in tiny.QWEN_VL:
        pair, wanted = measured(family)
        for batch in (["image", "turns"], ["text", "long text"], ["video"], ["images"]):
            prompts = [wanted.prompts[kind] for kind in batch]
            inputs = collate(prompts, pair.pad_id)
            found = positions_of(pair.rlvr.model, inputs)
            for row, prompt in enumerate(prompts):
                alone = positions_of(pair.rlvr.model, prompt.model_inputs)[:, 0]
                assert torch.equal(found[:, row, -len(prompt) :], alone)
                assert torch.equal(next_positions(found)[:, row, 0], alone.max().expand(3) + 1)
                model = mixes.fresh(pair).rlvr.model
                own = model._prepare_position_ids_for_generation(
                    prompt.input_ids[None], {n: v for n, v in prompt.model_inputs.items() if n != "input_ids"}
                )
                if prompt.grids:
                    own = model._prepare_position_ids_for_generation(
                        prompt.input_ids[None], {**prompt.model_inputs}
                    )
                assert torch.equal(own[1:, 0], alone)


# --- rope that stretches ---------------------------------------------------------------------------------

STRETCHED = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    "longrope": {
        "rope_type": "longrope",
        "factor": 2.0,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 64,
        "short_factor": [1.0] * 4,
        "long_factor": [8.0] * 4,
    },
}


@pytest.mark.parametrize("kind", STRETCHED)
def test_a_long_prompt_stretches_no_later_one(kind):
    """Protects from rotary tables that remember the longest sequence of a model's life."""
    untouched = mixes.untouched("llama", max_position_embeddings=64, rope_parameters=STRETCHED[kind])
    questions = {"short": "x", "middling": "x" * 60, "long": "x" * 160}
    prompts = {name: untouched.encode(wb.Problem(name, text)) for name, text in questions.items()}
    assert [len(p) > 64 for p in prompts.values()] == [False, True, True]
    wanted = {name: mixes.generated(untouched, "rlvr", p) for name, p in prompts.items()}
    pair = mixes.fresh(untouched)
    before = kept(pair)
    for name in ("short", "long", "middling", "short", "middling", "long", "middling"):
        assert mixes.answer(pair, prompts[name], None) == wanted[name], name
    traced = [wb.trace(pair, [prompts[name]], null_draws=0).kl for name in ("middling", "long", "middling")]
    assert torch.equal(traced[0], traced[2])
    assert without_versions(kept(pair)) == without_versions(before)


@pytest.mark.parametrize("kind", STRETCHED)
def test_prompts_that_would_stretch_each_other_are_refused_together(kind):
    """Protects from answers that depend on a neighbour in the batch."""
    pair = mixes.untouched("llama", max_position_embeddings=64, rope_parameters=STRETCHED[kind])
    prompts = [pair.encode(wb.Problem(str(n), "x" * n)) for n in (1, 160)]
    with pytest.raises(
        InputError, match=r"`batch_size`: the rope of this llama stretches beyond 64 .* batch_size=1"
    ):
        wb.decode_many(pair, prompts, max_new_tokens=2)
    with pytest.raises(InputError, match="stretches beyond 64"):
        wb.trace(pair, prompts, null_draws=0)
    wb.decode_many(pair, prompts, max_new_tokens=2, batch_size=1)
    wb.decode_many(pair, [prompts[1], prompts[1]], max_new_tokens=2)
