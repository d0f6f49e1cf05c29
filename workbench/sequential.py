"""Activation Replay where two models do not fit side by side: one after the other, with the same result.

1. Load the base model with its first K layers only, final norm and unembedding; take every prompt's aim; free it.
2. Load the RLVR model and learn the tokens towards these aims.

Peak memory is that of the RLVR model and one batch, where `load_pair` needs that of both models. What is kept between
the two steps lies on the CPU: per prompt and layer, the probabilities of ``top_v`` tokens at each visual position.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.anatomy import Anatomy, dissect, probe
from workbench.checkpoints import Placement, load_model, load_processor, read_depth
from workbench.errors import InputError
from workbench.pairs import ModelPair
from workbench.preflight import check_processor, check_weights
from workbench.problems import Problem
from workbench.prompts import EncodedPrompt
from workbench.replay import LearnedTokens, Replay, aims_of, learn_many


@dataclass(frozen=True, eq=False)
class Sequential:
    """What `learn_sequentially` learnt, and what it takes to decode with it."""

    learned: list[LearnedTokens]
    prompts: list[EncodedPrompt] = field(repr=False)
    pair: ModelPair
    """Holds the RLVR model in both roles: `decode(result.pair, prompt, intervention=...)`; the base is gone."""


def learn_sequentially(
    problems: Sequence[Problem],
    replay: Replay,
    *,
    base: str | Path,
    rlvr: str | Path,
    revision: str | None = None,
    dtype: Any | None = None,
    device: Any | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int = 8,
    progress: Callable[[str, int, int], None] | None = None,
) -> Sequential:
    """Learn the tokens of several problems with one model in memory at a time; the module's text tells how.

    Arguments are those of `load_pair` and `learn_many`; the loss must be a forward one (base -> RLVR).

    Raises:
        InputError: another direction, checkpoints that do not fit each other, and what those two refuse.
    """
    if replay.direction != "base_to_rlvr":
        raise InputError(
            f"`replay` has the direction {replay.direction!r}; one model at a time works for 'base_to_rlvr' only: "
            "load_pair(...) and learn_many(...) do the others"
        )
    tell = progress or (lambda what, done, total: None)
    placement = Placement(dtype, device, None, attn_implementation)
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}

    def alone(role: str, source: str | Path, layers: int | None) -> ModelPair:
        anatomy = dissect(load_model(role, source, placement, **hub, layers=layers))
        processor = load_processor(role, source, anatomy, **hub)
        if processor is not None:
            check_processor(processor, anatomy)
        check_weights(role, anatomy)
        probe(anatomy)
        return ModelPair(Path(source).name, anatomy, anatomy, processor, {role: str(source), **hub})

    depth = read_depth("base", base, **hub)
    layers = replay.loss_layers(depth)
    tell("taking aim", 0, len(problems))
    teacher = alone("base", base, layers[-1] + 1)
    prompts = [teacher.encode(problem) for problem in problems]
    fixed = Replay(**{**vars(replay), "layers": None if replay.site == "mid_tokens" else len(layers)})
    aims = aims_of(teacher, prompts, fixed, batch_size=batch_size)
    tell("taking aim", len(problems), len(problems))
    shape = _shape(teacher.base)
    del teacher
    learner = alone("rlvr", rlvr, None)
    if (found := _shape(learner.rlvr)) != shape or learner.depth != depth:
        raise InputError(
            f"`rlvr` {str(rlvr)!r} has (family, hidden, vocabulary, depth) {(*found, learner.depth)}, the base "
            f"{(*shape, depth)}; give two checkpoints of one architecture"
        )
    learned = learn_many(
        learner,
        prompts,
        fixed,
        aims=aims,
        batch_size=batch_size,
        progress=lambda done, total: tell("learning", done, total),
    )
    return Sequential(learned, prompts, learner)


def _shape(anatomy: Anatomy) -> tuple[str, int, int]:
    return anatomy.family, anatomy.hidden_size, anatomy.vocab_size
