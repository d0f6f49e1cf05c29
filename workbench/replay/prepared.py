"""`prepare`: a condition's interventions on some prompts, whatever kind of condition it is.

A condition of your own is a frozen dataclass with the members of `conditions.Condition`, and a function registered here that
returns an `Intervention` (``problem_id``, ``sites``, ``apply(layer, hidden)``) for each prompt, or None:

    @wb.prepare.register
    def _(condition: Mine, pair, prompts, **others):
        return [... for prompt in prompts]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from torch import Tensor

from workbench.cache import Reuse
from workbench.conditions import check_depth, needs_pictures
from workbench.errors import InputError
from workbench.interventions import Patch, Replay
from workbench.mixtures import CrossSample, Extrapolate, Mixture, conditions_under
from workbench.models.comparability import ends_of
from workbench.models.pairs import ModelPair, batch_of, weights_of
from workbench.models.preflight import check_pair as check_preflight
from workbench.models.presets import ROLES
from workbench.models.prompts import EncodedPrompt
from workbench.problems.problem import Problem
from workbench.replay.adapters import Adapter, check_pair
from workbench.replay.amortised import predict_many
from workbench.replay.disturbances import jittered
from workbench.replay.learned_tokens import LearnedTokens
from workbench.replay.nothing_selected import BLIND
from workbench.replay.patching import Readings, prepare_patch, takes_all
from workbench.replay.replay import aims_of, learn_many
from workbench.tracing.edits import Intervention


@singledispatch
def prepare(
    condition: Any,
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    *,
    problems: Sequence[Problem] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    reuse: Reuse | None = None,
) -> Sequence[Intervention | None]:
    """The condition's intervention for each prompt; None leaves the model as it is there.

    Args:
        condition: what is done.
        pair: what `load_pair` returned.
        prompts: encoded prompts.
        problems: what the prompts were encoded from; needed by a `Replay` of direction ``self`` alone.
        seed: of what is drawn: the jitter of direction ``self``.
        batch_size: prompts per forward; changes speed and memory, results only by rounding. None: what suits the pair.
        reuse: where what other conditions need too is kept, for this pair and problems with ids of their own.

    Raises:
        InputError: no function is registered for this kind of condition, or what it refuses.
    """
    kind = type(condition).__name__
    raise InputError(
        f"`condition` is a {kind}, for which nothing is registered that prepares it; register a function: "
        f"@wb.prepare.register, def _(condition: {kind}, pair, prompts, **others), which returns an intervention for each prompt"
    )


@prepare.register
def _plain(
    condition: str, pair: ModelPair, prompts: Sequence[EncodedPrompt], **_: Any
) -> list[Intervention | None]:
    return [None] * len(prompts)


@prepare.register
def _adapter(
    condition: Adapter,
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    *,
    batch_size: int | None = None,
    **_: Any,
) -> Sequence[Intervention]:
    return predict_many(pair, prompts, condition, batch_size=batch_size)


@prepare.register
def _patch(
    condition: Patch,
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    *,
    reuse: Reuse | None = None,
    **_: Any,
) -> Sequence[Intervention]:
    condition.check_depth(pair.depth)
    if condition.when == "decoding":  # which reads no prompt beforehand
        return [prepare_patch(pair, prompt, condition) for prompt in prompts]
    reuse, layers = reuse or Reuse(), condition.patched

    def made(prompt: EncodedPrompt) -> Intervention:
        key = ("readings", prompt.problem_id, layers, takes_all(condition))
        return prepare_patch(
            pair,
            prompt,
            condition,
            readings=reuse.of(key, lambda: Readings.needed(pair, prompt, condition)),
        )

    return [made(prompt) for prompt in prompts]


@prepare.register
def _replay(
    condition: Replay,
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    *,
    problems: Sequence[Problem] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    reuse: Reuse | None = None,
) -> Sequence[Intervention]:
    reuse, ids = reuse or Reuse(), tuple(prompt.problem_id for prompt in prompts)
    disturbed = condition.direction == "self" and problems is not None

    def learnt() -> list[LearnedTokens]:
        students, aims = None, None
        if disturbed:
            students = [pair.encode(jittered(problem, seed)) for problem in problems or ()]
        if reuse.limit:
            teacher = "base" if condition.direction == "base_to_rlvr" else "rlvr"
            key = ("aims", *ids, teacher, condition.loss_layers(pair.depth))
            key += (condition.top_v, condition.positions)
            aims = reuse.of(
                key, lambda: aims_of(pair, prompts, condition, batch_size=batch_of(pair, batch_size))
            )
        return learn_many(pair, prompts, condition, students=students, aims=aims, batch_size=batch_size)

    return reuse.of(("learnt", ids, condition, seed if disturbed else None), learnt)


@dataclass(frozen=True, eq=False)
class Mixed:
    """A mixture at one prompt: two models that decode together, each with what is done to it there.

    Where one of them is looked at alone, as drift does, it is what is done to the one that answers.
    """

    problem_id: str
    mixture: Mixture
    base: Intervention | None
    rlvr: Intervention | None

    def of(self, role: str) -> Intervention | None:
        """What is done to a model, ``base`` or ``rlvr``."""
        return self.base if role == "base" else self.rlvr

    @property
    def own(self) -> Intervention | None:
        """What is done to the model that answers."""
        return self.of(self.mixture.answered_by)

    @property
    def while_decoding(self) -> bool:
        """Whether either model's response is overwritten as it is decoded."""
        return any(getattr(self.of(role), "while_decoding", False) for role in ROLES)

    @property
    def sites(self) -> tuple[int, ...]:
        """The layers whose input is written, of the model that answers."""
        return self.own.sites if self.own else ()

    @property
    def mask(self) -> Tensor | None:
        """The cells that are selected, if what is done to the model that answers tells."""
        return getattr(self.own, "mask", None)

    @property
    def summary(self) -> dict[str, Any]:
        """In a line of a table: that of what is done to the model that answers."""
        return getattr(self.own, "summary", {})

    @property
    def stopped(self) -> str | None:
        """Why learning ended early, or why there is nothing done where a picture is needed; None if neither."""
        for one in conditions_under(self.mixture):
            made = self.of(one.answered_by)
            if (why := BLIND if made is None else getattr(made, "stopped", None)) is not None:
                return why
        return None

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        """The new input of a layer of the model that answers."""
        return self.own.apply(layer, hidden) if self.own else hidden.clone()


@prepare.register
def _mixture(
    condition: CrossSample | Extrapolate, pair: ModelPair, prompts: Sequence[EncodedPrompt], **others: Any
) -> Sequence[Intervention]:
    check_fits(condition, pair)
    made: dict[str, Sequence[Intervention | None]] = dict.fromkeys(ROLES, [None] * len(prompts))
    for one in conditions_under(condition):
        made[one.answered_by] = prepare_seeing(one, pair, prompts, **others)
    rows = zip(prompts, made["base"], made["rlvr"], strict=True)
    return [Mixed(prompt.problem_id, condition, base, rlvr) for prompt, base, rlvr in rows]


def prepare_seeing(
    condition: Any,
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    *,
    problems: Sequence[Problem] | None = None,
    **others: Any,
) -> list[Intervention | None]:
    """As `prepare`, but None for a prompt without pictures, where the condition needs them and so does nothing."""
    here = [i for i, prompt in enumerate(prompts) if prompt.grids or not needs_pictures(condition)]
    interventions: list[Intervention | None] = [None] * len(prompts)
    if here:
        parts, sources = [prompts[i] for i in here], problems and [problems[i] for i in here]
        for i, one in zip(here, prepare(condition, pair, parts, problems=sources, **others), strict=True):
            interventions[i] = one
    return interventions


@singledispatch
def check_fits(condition: Any, pair: ModelPair) -> None:
    """Refuse a condition that does not fit a pair, before anything is computed.

    By its depth; a kind that needs more registers a function, as with `prepare`.

    Raises:
        InputError: it needs layers that the models do not have, or is an adapter of another pair.
    """
    check_depth(condition, pair.depth)


@check_fits.register
def _adapter_fits(condition: Adapter, pair: ModelPair) -> None:
    check_depth(condition, pair.depth)
    check_pair(condition, weights_of(pair))


@check_fits.register
def _mixture_fits(condition: CrossSample | Extrapolate, pair: ModelPair) -> None:
    check_preflight(pair.base, pair.rlvr, pair.tokenizer)
    own = getattr(pair.tokenizer, "eos_token_id", None)
    shared = frozenset[int]() if own is None else frozenset({int(own)})
    settings = [getattr(anatomy.model, "generation_config", None) for anatomy in (pair.base, pair.rlvr)]
    facts = [
        (
            "end a response at tokens",
            [sorted(ends_of(anatomy) | shared) for anatomy in (pair.base, pair.rlvr)],
        ),
        ("never draw tokens", [sorted(getattr(one, "suppress_tokens", None) or ()) for one in settings]),
    ]
    for what, (base, rlvr) in facts:
        if base != rlvr:
            raise InputError(
                f"`pair` {pair.name!r}: two models that decode together must {what} alike; `base` has {base}, `rlvr` {rlvr}. Set "
                "`model.generation_config` alike, or let load_pair(base=..., rlvr=...) give both one set of ends"
            )
    for one in conditions_under(condition):
        check_fits(one, pair)
