"""Peak memory of a pair by name, or of two checkpoints: what `memory` needs is read from their files, never from weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from workbench.errors import InputError
from workbench.interventions import Replay
from workbench.machine.memory import MemoryForecast, predict_memory
from workbench.machine.prompt_sizes import QWEN_VL, configured_budget
from workbench.machine.published import published_config
from workbench.models.checkpoints import Placement, read_config
from workbench.models.preset_files import named_pair
from workbench.models.presets import ROLES, PairPreset


def forecast_pair(
    name: str | None = None,
    *,
    base: str | Path | None = None,
    rlvr: str | Path | None = None,
    dtype: str | None = None,
    **prompt: Any,
) -> MemoryForecast:
    """`predict_memory` for a pair by name, with its preset's settings, or for two hub ids or folders.

    Of a preset whose configs are not here, the base's published numbers stand for both where they ship (``published.yaml``).
    The pixels are the preset's, else those that the processor's files name, which need to be here. The notes say which.

    Args:
        name: a preset, as in `load_pair`.
        base: hub id or folder, with a config at least.
        rlvr: likewise.
        dtype: such as ``"bfloat16"``; None: the preset's, else as stored.
        **prompt: other arguments of `predict_memory`.

    Raises:
        InputError: no such pair, no readable config or processor, or what `predict_memory` refuses.
    """
    preset = None if name is None else named_pair(name, base, rlvr)
    sources = (base, rlvr) if preset is None else (preset.source("base"), preset.source("rlvr"))
    by_role = {role: source for role, source in zip(ROLES, sources, strict=True) if source is not None}
    if len(by_role) < len(ROLES):
        raise InputError(
            "`base` and `rlvr`, or a pair's `name`, are needed: forecast_pair('vl-rethinker-7b')"
        )
    revisions = {} if preset is None else preset.revision
    configs, notes = _configs(by_role, revisions, of_preset=preset is not None)
    if preset is not None:
        dtype = dtype or preset.dtype
        where = {} if hasattr(configs[-1], "vision_config") else {"positions": "text"}
        prompt = {"replay": Replay(**where, **preset.replay), **prompt}
        if preset.frame_pixels:
            notes.append("videos: not in the forecast")
    sees = configs[-1].model_type in QWEN_VL and prompt.get("image", "auto") is not None
    if sees and preset is not None and preset.image_pixels and prompt.get("budget") is None:
        prompt["budget"] = preset.image_pixels
        notes.append(f"pixels: as the preset {preset.name!r} says")
    elif sees and prompt.get("budget") is None:
        prompt["budget"], note = _read_budget(_readers(preset, by_role, revisions), configs[-1])
        notes.append(note)
    kind = None if dtype is None else Placement(dtype=dtype).dtype
    forecast = predict_memory(*configs, dtype=kind if isinstance(kind, torch.dtype) else None, **prompt)
    return replace(forecast, notes=(*forecast.notes, *notes))


def _configs(
    by_role: Mapping[str, str | Path], revisions: Mapping[str, str | None], *, of_preset: bool
) -> tuple[list[Any], list[str]]:
    """Both models' configs and a word on those that are not here; RL keeps the base's shape.

    Raises:
        InputError: a config that can't be read, of a pair whose base's numbers are not published here.
    """
    configs, notes = [], []
    for role, source in by_role.items():
        try:
            configs.append(read_config(role, source, revision=revisions.get(role)))
        except InputError:
            config = published_config(by_role["base"]) if of_preset else None
            if config is None:
                raise
            configs.append(config)
            notes.append(
                f"config of {source}: not here, taken from the published numbers of {by_role['base']}"
            )
    return configs, notes


def _readers(
    preset: PairPreset | None,
    given: Mapping[str, str | Path],
    revisions: Mapping[str, str | None],
) -> list[tuple[str, str | Path, str | None]]:
    """Whose processor `load_pair` would take: name, source and revision, the first that has one."""
    if preset is None:
        return [(str(source), source, None) for source in given.values()]
    if preset.processor is None:
        return [(preset.id_of(role), source, revisions.get(role)) for role, source in given.items()]
    source = preset.source(preset.processor)
    revision_of = {given[role]: revisions.get(role) for role in given}
    return [(str(source), source, revision_of.get(source))]


def _read_budget(
    readers: Sequence[tuple[str, str | Path, str | None]], config: Any
) -> tuple[tuple[int, int] | None, str]:
    """Least and most pixels of the first of (name, source, revision) that has a processor, and a word on it."""
    for name, source, revision in readers:
        if budget := configured_budget(source, config, revision=revision):
            return budget, f"pixels: as the processor of {name} is configured"
    names = " and ".join(name for name, _, _ in readers)
    return None, f"pixels: no processor files of {names} were found"
