"""What a prompt gets alone on a model that nothing ran on before: the measure of every mix of calls."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
import tiny
import torch

import workbench as wb
from workbench.decoding.likelihoods import response_scores
from workbench.errors import InputError
from workbench.models.anatomy import dissect
from workbench.models.batches import batches
from workbench.models.chat import Message
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.replay.patching import Patch, prepare_patch
from workbench.replay.replay import Replay, learn_many, learn_tokens
from workbench.tracing.trace import compare_residuals

TOKENS = 6
PATCH = Patch(select="high", layers=2, threshold="quantile", tau=0.5)
REPLAY = Replay(tau=0.5, threshold="quantile", alpha=300.0, layers=2, iterations=2)
SAMPLED: dict[str, Any] = {"samples": 2, "temperature": 1.5, "seed": 3, "max_new_tokens": TOKENS}


def fresh(pair: ModelPair) -> ModelPair:
    """Copies of both models; of a pair that nothing was run on, models that nothing was run on."""
    return replace(pair, **{role: dissect(deepcopy(getattr(pair, role).model)) for role in ("base", "rlvr")})


def untouched(family: str, **changes: Any) -> ModelPair:
    """A tiny pair in float64, so that rounding decides nothing; built by hand, as `load_pair` runs its models."""
    base, rlvr = (tiny.model(family, seed, torch.float64, **changes) for seed in (0, 1))
    with torch.no_grad():
        for weight, start in zip(rlvr.parameters(), base.parameters(), strict=True):
            weight.copy_(start + 0.1 * (weight - start))
    return ModelPair(family, dissect(base), dissect(rlvr), tiny.processor(family), {})


def prompts_of(pair: ModelPair) -> dict[str, EncodedPrompt]:
    """Prompts of every kind that the family reads: texts, images, a video, turns of an agent."""
    family = pair.base.family
    turns = (Message("assistant", ("Zoom in.",)), Message("user", (tiny.image(48, 32, 9), "Here it is.")))
    asked: dict[str, tuple[Any, tuple[Message, ...]]] = {
        "text": (tiny.problem(family, images=0, seed=1), ()),
        "long text": (tiny.problem(family, images=0, seed=40), ()),
        "image": (tiny.problem(family, images=1, seed=3), ()),
        "images": (tiny.problem(family, images=2, seed=5), ()),
        "video": (tiny.problem(family, images=0, frames=4, seed=7), ()),
        "turns": (tiny.problem(family, images=1, seed=11), turns),
        "text turns": (tiny.problem(family, images=0, seed=13), (turns[0], Message("user", ("Go on.",)))),
    }
    if family in tiny.TEXT_ONLY:
        asked = {kind: asked[kind] for kind in ("text", "long text", "text turns")}
    elif family not in tiny.VIDEO:
        del asked["video"]
    return {kind: pair.encode(*one) for kind, one in asked.items()}


def generated(pair: ModelPair, role: str, prompt: EncodedPrompt) -> str:
    """What transformers' own `generate` answers on a fresh model."""
    anatomy = getattr(pair, role)
    model = deepcopy(anatomy.model)
    never = sorted(anatomy.visual_token_ids) or None
    ids = model.generate(
        **anatomy_inputs(anatomy, prompt), max_new_tokens=TOKENS, do_sample=False, suppress_tokens=never
    )
    return pair.tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True)


def anatomy_inputs(anatomy: Any, prompt: EncodedPrompt) -> dict[str, Any]:
    """The prompt's own inputs with pixels in the model's dtype; no positions: the model finds them itself."""
    inputs = prompt.model_inputs
    return {n: v.to(anatomy.model.dtype) if v.is_floating_point() else v for n, v in inputs.items()}


@dataclass(frozen=True)
class Alone:
    """What each kind of prompt gets alone, each on models of its own."""

    prompts: dict[str, EncodedPrompt]
    base: dict[str, str]
    rlvr: dict[str, str]
    sampled: dict[str, list[str]]
    patched: dict[str, str]
    replayed: dict[str, str]
    scores: dict[str, float]
    traces: dict[str, Any]


def alone(pair: ModelPair) -> Alone:
    """Measured on a fresh copy a prompt and a call; greedy answers by transformers' `generate`."""
    prompts = prompts_of(pair)
    seen = {kind: prompt for kind, prompt in prompts.items() if prompt.grids}
    return Alone(
        prompts,
        *({kind: generated(pair, role, p) for kind, p in prompts.items()} for role in ("base", "rlvr")),
        {kind: [r.text for r in wb.decode(fresh(pair), p, **SAMPLED)] for kind, p in prompts.items()},
        {kind: answer(one := fresh(pair), p, prepare_patch(one, p, PATCH)) for kind, p in prompts.items()},
        {kind: answer(one := fresh(pair), p, learn_tokens(one, p, REPLAY)) for kind, p in seen.items()},
        {kind: score(fresh(pair), [p])[0] for kind, p in prompts.items()},
        {kind: wb.trace(fresh(pair), [p], null_draws=1, top_k=3) for kind, p in prompts.items()},
    )


def answer(pair: ModelPair, prompt: EncodedPrompt, made: Any) -> str:
    return wb.decode(pair, prompt, intervention=made, max_new_tokens=TOKENS)[0].text


def score(pair: ModelPair, prompts: list[EncodedPrompt]) -> list[float]:
    ids = [torch.tensor([65, 66, 67])] * len(prompts)
    return [log_p for log_p, _ in response_scores(pair.rlvr, prompts, ids, pad_id=pair.pad_id)]


def mix(pair: ModelPair, wanted: Alone, seed: int) -> None:
    """Calls of random kinds in random order on random prompts, all on one pair: each gets what it gets alone."""
    chance = Random(seed)
    for _ in range(chance.randint(2, 4)):
        kinds = chance.choices([*wanted.prompts], k=chance.randint(1, 4))
        call = chance.choice(CALLS)
        call(pair, wanted, kinds, chance.randint(1, 4))


def _greedy(role: str) -> Callable[..., None]:
    def call(pair: ModelPair, wanted: Alone, kinds: list[str], size: int) -> None:
        prompts = [wanted.prompts[kind] for kind in kinds]
        found = wb.decode_many(pair, prompts, model=role, max_new_tokens=TOKENS, batch_size=size)  # pyright: ignore[reportArgumentType]
        assert [r[0].text for r in found] == [getattr(wanted, role)[kind] for kind in kinds], (role, kinds)

    return call


def _sampled(pair: ModelPair, wanted: Alone, kinds: list[str], size: int) -> None:
    found = wb.decode_many(pair, [wanted.prompts[kind] for kind in kinds], **SAMPLED, batch_size=size)
    assert [[r.text for r in responses] for responses in found] == [wanted.sampled[kind] for kind in kinds]


def _patched(pair: ModelPair, wanted: Alone, kinds: list[str], size: int) -> None:
    prompts = [wanted.prompts[kind] for kind in kinds]
    made = [prepare_patch(pair, p, PATCH) if i % 2 else None for i, p in enumerate(prompts)]
    found = wb.decode_many(pair, prompts, interventions=made, max_new_tokens=TOKENS, batch_size=size)
    expected = [(wanted.patched if i % 2 else wanted.rlvr)[kind] for i, kind in enumerate(kinds)]
    assert [r[0].text for r in found] == expected, kinds


def _replayed(pair: ModelPair, wanted: Alone, kinds: list[str], size: int) -> None:
    kinds = [kind for kind in kinds if kind in wanted.replayed]
    prompts = [wanted.prompts[kind] for kind in kinds]
    if not kinds:
        return
    made = learn_many(pair, prompts, REPLAY, batch_size=size)
    found = wb.decode_many(pair, prompts, interventions=made, max_new_tokens=TOKENS, batch_size=size)
    assert [r[0].text for r in found] == [wanted.replayed[kind] for kind in kinds], kinds


def _scored(pair: ModelPair, wanted: Alone, kinds: list[str], size: int) -> None:
    prompts = [wanted.prompts[kind] for kind in kinds]
    found = [log_p for batch in batches(prompts, size) for log_p in score(pair, batch)]
    torch.testing.assert_close(torch.tensor(found), torch.tensor([wanted.scores[kind] for kind in kinds]))


def _traced(pair: ModelPair, wanted: Alone, kinds: list[str], size: int) -> None:
    found = wb.trace(pair, [wanted.prompts[kind] for kind in kinds], null_draws=1, top_k=3, batch_size=size)
    for number, kind in enumerate(kinds):
        one = found.select(prompt=number)
        for name in ("entropy_base", "entropy_rlvr", "kl", "kl_null", "base_norm", "shift_norm"):
            expected = getattr(wanted.traces[kind], name)
            torch.testing.assert_close(getattr(one, name), expected, rtol=1e-4, atol=1e-6)


def _refused(pair: ModelPair, wanted: Alone, kinds: list[str], size: int) -> None:
    """A call that ends in the middle leaves nothing behind either."""

    def fail(*_: Any) -> None:
        raise InputError("enough of it")

    with pytest.raises(Exception, match="enough of it"):  # nnsight wraps it
        compare_residuals(pair, [wanted.prompts[kinds[0]]], fail)


CALLS = (_greedy("base"), _greedy("rlvr"), _sampled, _patched, _replayed, _scored, _traced, _refused)
