"""Activation Replay on problems, from checkpoints: both models in memory together, or one after the other.

``placement="sequential"`` is for GPUs that do not hold two models, and learns the same tokens:

1. Load the base model with its first K layers only, final norm and unembedding; take every prompt's aim; free it.
2. Load the RLVR model and learn the tokens towards these aims.

Peak memory is that of the RLVR model and one batch, where ``"together"`` needs that of both models (`workbench doctor`
says which fits). What is kept between the two steps lies on the CPU: per prompt and layer, the probabilities of
``top_v`` tokens at each visual position.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from workbench.errors import InputError
from workbench.interventions import Replay
from workbench.models.anatomy import Anatomy, dissect, probe
from workbench.models.chat import within_budget
from workbench.models.checkpoints import Placement, load_model, load_processor, read_depth
from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair
from workbench.models.preflight import check_processor, check_weights
from workbench.models.preset_files import named_pair
from workbench.models.presets import PairPreset
from workbench.models.prompts import EncodedPrompt
from workbench.models.settling import with_template
from workbench.problems.problem import Problem
from workbench.replay.learned_tokens import LearnedTokens
from workbench.replay.nothing_selected import check_selected, unselected
from workbench.replay.replay import aims_of, learn_many
from workbench.views import markup

Placing = Literal["together", "sequential"]


@dataclass(frozen=True, eq=False)
class LearnedProblems:
    """What `learn_problems` learnt, and what it takes to decode with it."""

    learned: list[LearnedTokens]
    prompts: list[EncodedPrompt] = field(repr=False)
    pair: ModelPair
    """For `decode(result.pair, prompt, intervention=...)`. After ``sequential`` it holds the RLVR model in both roles."""

    def __repr__(self) -> str:
        return f"LearnedProblems({len(self.learned)} problems, {self.pair!r})"

    def _repr_html_(self) -> str:
        return markup.paragraph(repr(self)) + markup.table(self.to_dataframe())

    def to_dataframe(self) -> pd.DataFrame:
        """One row a problem: problem, tokens, iterations, loss before the first and before the last (nats), stopped."""
        return pd.DataFrame(
            {
                "problem": one.problem_id,
                "tokens": len(one.tokens),
                "iterations": len(one.losses),
                "first_loss": float(one.losses[0]) if len(one.losses) else math.nan,
                "last_loss": float(one.losses[-1]) if len(one.losses) else math.nan,
                "stopped": one.stopped or "",
            }
            for one in self.learned
        )


def learn_problems(
    problems: Sequence[Problem],
    replay: Replay,
    *,
    name: str | None = None,
    base: str | Path | None = None,
    rlvr: str | Path | None = None,
    placement: Placing = "together",
    revision: str | None = None,
    dtype: Any | None = None,
    device: Any | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int = 8,
    progress: Callable[[str, int, int], None] | None = None,
) -> LearnedProblems:
    """Learn the tokens of several problems, from checkpoints that need not fit in memory together.

    ``placement="sequential"`` loads the base with its first K layers only, takes every prompt's aim, frees it, and then loads the
    RLVR model and learns the tokens towards these aims: the same tokens, with the memory of one model.

    Args:
        problems: what to learn them for.
        replay: the settings. ``sequential`` needs the direction base -> RLVR.
        name: a preset, as in `load_pair`; or give ``base`` and ``rlvr``.
        base: hub id or folder.
        rlvr: hub id or folder.
        placement: ``together`` loads both models, ``sequential`` one at a time.
        revision: of both checkpoints; this and the rest are arguments of `load_pair` and `learn_many`.
        dtype: of both.
        device: of both.
        attn_implementation: of both.
        trust_remote_code: of both.
        batch_size: prompts per forward.
        progress: called with (what is being done, problems done, problems in all).

    Raises:
        InputError: an unknown placement, another direction one at a time, checkpoints that do not fit each other, and
            what `load_pair` and `learn_many` refuse; a selection that is empty for every problem though tau > 0.
    """
    if placement not in get_args(Placing):
        raise InputError(
            f"`placement` is {placement!r}; expected 'together' or 'sequential': learn_problems(..., placement='sequential')"
        )
    tell = progress or (lambda what, done, total: None)
    preset = None if name is None else named_pair(name, base, rlvr)
    if preset is not None:
        base, rlvr, dtype = preset.source("base"), preset.source("rlvr"), dtype or preset.dtype
    if base is None or rlvr is None:
        raise InputError(
            "`base` and `rlvr`, or a `name`, are needed: learn_problems(problems, replay, name='vl-rethinker-7b')"
        )
    loading: dict[str, Any] = {"dtype": dtype, "device": device, "attn_implementation": attn_implementation}
    learning: dict[str, Any] = {
        "batch_size": batch_size,
        "progress": lambda done, total: tell("learning", done, total),
    }
    if placement == "together":
        sources: dict[str, Any] = {"name": name} if preset else {"base": base, "rlvr": rlvr}
        pair = load_pair(**sources, **loading, revision=revision, trust_remote_code=trust_remote_code)
        prompts = [pair.encode(problem) for problem in problems]
        return _learned(pair, prompts, replay, learning)
    if replay.direction != "base_to_rlvr":
        raise InputError(
            f"`replay` has the direction {replay.direction!r}; one model at a time works for 'base_to_rlvr' only: "
            "learn_problems(..., placement='together') does the others"
        )
    checkpoints = _Checkpoints({"base": base, "rlvr": rlvr}, preset, revision, loading, trust_remote_code)
    return _one_at_a_time(checkpoints, problems, replay, learning, tell)


@dataclass(frozen=True)
class _Checkpoints:
    """Two checkpoints, of which one is in memory at a time."""

    sources: Mapping[str, str | Path]
    preset: PairPreset | None
    revision: str | None
    placement: Mapping[str, Any]
    trust_remote_code: bool

    def hub(self, role: str) -> dict[str, Any]:
        """What the hub is asked for."""
        own = self.preset.revision.get(role) if self.preset and self.revision is None else self.revision
        return {"revision": own, "trust_remote_code": self.trust_remote_code}

    def depth(self) -> int:
        """Decoder layers of the base."""
        return read_depth("base", self.sources["base"], **self.hub("base"))

    def alone(self, role: str, layers: int | None = None) -> ModelPair:
        """One of the two as both models of a pair, with its first so many layers."""
        source, preset = self.sources[role], self.preset
        anatomy = dissect(
            load_model(role, source, Placement(**self.placement), **self.hub(role), layers=layers)
        )
        reader = (preset and preset.processor) or role
        where = preset.source(reader) if preset else source
        processor = load_processor(reader, where, anatomy, **self.hub(reader))
        if processor is not None:
            check_processor(processor, anatomy)
            budgets = (preset.image_pixels, preset.frame_pixels) if preset else (None, None)
            processor = within_budget(processor, anatomy, *budgets)
        if preset and preset.chat_template:
            processor = with_template(processor, preset.source(preset.chat_template), {})
        check_weights(role, anatomy)
        probe(anatomy)
        provenance = {role: str(source), **self.hub(role)}
        return ModelPair(Path(source).name, anatomy, anatomy, processor, provenance, preset)


def _one_at_a_time(
    checkpoints: _Checkpoints,
    problems: Sequence[Problem],
    replay: Replay,
    learning: Mapping[str, Any],
    tell: Callable[[str, int, int], None],
) -> LearnedProblems:
    """The base's aims, and then, with the base freed, the tokens."""
    depth = checkpoints.depth()
    layers = replay.loss_layers(depth)
    tell("taking aim", 0, len(problems))
    teacher = checkpoints.alone("base", layers[-1] + 1)
    prompts = [teacher.encode(problem) for problem in problems]
    fixed = Replay(**{**vars(replay), "layers": None if replay.site == "mid_tokens" else len(layers)})
    aims = aims_of(teacher, prompts, fixed, batch_size=learning["batch_size"])
    tell("taking aim", len(problems), len(problems))
    shape, precision = _shape(teacher.base), teacher.dtype
    del teacher
    learner = checkpoints.alone("rlvr")
    if (own := _shape(learner.rlvr)) != shape or learner.depth != depth:
        raise InputError(
            f"`rlvr` {str(checkpoints.sources['rlvr'])!r} has (family, hidden, vocabulary, depth) {(*own, learner.depth)}, "
            f"the base {(*shape, depth)}; give two checkpoints of one architecture"
        )
    if learner.dtype != precision:
        names = [str(dtype).removeprefix("torch.") for dtype in (precision, learner.dtype)]
        raise InputError(
            f"`base` is in {names[0]} and `rlvr` in {names[1]}, and rounding would be learnt as a change: take both in one "
            'precision, learn_problems(..., dtype="bfloat16")'
        )
    return _learned(learner, prompts, fixed, {**learning, "aims": aims})


def _learned(
    pair: ModelPair, prompts: list[EncodedPrompt], replay: Replay, how: Mapping[str, Any]
) -> LearnedProblems:
    learned = learn_many(pair, prompts, replay, **how)
    check_selected(unselected(learned), len(prompts), replay)
    return LearnedProblems(learned, prompts, pair)


def _shape(anatomy: Anatomy) -> tuple[str, int, int]:
    return anatomy.family, anatomy.hidden_size, anatomy.vocab_size
