"""What stands beside a pair's two models: controls, a user's own too, and a bundled pair's checkpoints of training."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from workbench.errors import InputError
from workbench.models.controls import load_controls
from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair

RESTARTED = {"shapes": 25}
"""Where the RL of a bundled pair was resumed without its weights: but for the unembedding it began again from the base."""


FIRST = "first"
PLAYED = frozenset({"checkpoint", "control", "null"})
"""What provenance says of a pair in which another model plays the RLVR model, and which has no controls of its own."""


def controls_of(pair: ModelPair, sources: Mapping[str, str | Path] | None = None) -> dict[str, ModelPair]:
    """Pairs of the same base that RL did not train, by name: what analyses and studies set beside RLVR.

    Args:
        pair: what `load_pair` returned.
        sources: folder of a model, adapter of the base, or hub id, by name; None: those that the pair brings, which are
            ``controls`` in its YAML, and of a bundled pair its fine-tuned base.

    Raises:
        InputError: a name that is taken, or a model that is nowhere, of another shape, or can't be compared with the base.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> list(wb.controls_of(pair))
        ['fine-tuned without RL']
        >>> wb.controls_of(pair, {"sft": "runs/sft"})  # doctest: +SKIP
    """
    if sources is not None:
        return load_controls(pair, sources)
    preset = pair.preset
    if preset is None or not PLAYED.isdisjoint(pair.provenance):
        return {}
    own = load_controls(pair, preset.control_sources)
    if preset.control is None:
        return own
    control = load_pair(preset.name, checkpoint=preset.control, dtype=pair.dtype, device=pair.device)
    return {"fine-tuned without RL": control, **own}


def all_controls_of(pair: ModelPair) -> dict[str, ModelPair]:
    """As `controls_of`, with every control of a bundled pair by the name of its checkpoint: "sft", and "random" where saved."""
    if pair.preset is None or not pair.preset.bundled or not PLAYED.isdisjoint(pair.provenance):
        return controls_of(pair)
    load = partial(load_pair, pair.preset.name, dtype=pair.dtype, device=pair.device)
    return {name: load(checkpoint=name) for name in pair.preset.changes if isinstance(name, str)}


def checkpoints_of(pair: ModelPair) -> dict[int | str, Callable[[], ModelPair]]:
    """What loads the checkpoints of a bundled pair, by steps of RL since the base (0: the base in both places), or by name.

    Names are those of controls, and ``"first 10"`` and ``"first 25"``: saved before RL was interrupted and began again.

    Raises:
        InputError: a pair that is not bundled.
    """
    preset = pair.preset
    if preset is None or not preset.bundled:
        raise InputError(
            f"`pair` {pair.name!r} brings no checkpoints; name your own by steps of RL, 0 is the base in both places: "
            "follow_training(problems, {0: lambda: load_pair(base=B, rlvr=B), 100: lambda: load_pair(base=B, rlvr=S), ...})"
        )
    load = partial(load_pair, preset.name, dtype=pair.dtype, device=pair.device)
    start = {**pair.provenance, "rlvr": pair.provenance["base"], "checkpoint": 0}
    loaders: dict[int | str, Callable[[], ModelPair]] = {
        0: lambda: replace(pair, rlvr=pair.base, provenance=start)
    }
    for saved in preset.changes:
        steps = saved - RESTARTED.get(preset.name, 0) if isinstance(saved, int) else 0
        name = steps if steps > 0 else saved if isinstance(saved, str) else f"{FIRST} {saved}"
        loaders[name] = partial(load, checkpoint=saved)
    return loaders
