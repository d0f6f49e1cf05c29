"""Presets by name, read from YAML files: the package's ``pairs.yaml``, or a file of your own with the same fields."""

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from workbench.errors import InputError, nearest
from workbench.models.presets import CALL, PACKAGED, ROLES, PairPreset


def read_presets(file: Path | None = None) -> dict[str, PairPreset]:
    """Every preset of a file, by name; of the package, if none is given.

    Raises:
        InputError: no such file, no YAML, or a preset with an unknown, missing or ill-formed field.
    """
    file = file or PACKAGED
    tables = read_tables(file, "pairs", "mine:\n  base: Qwen/Qwen2.5-VL-7B-Instruct\n  rlvr: runs/my-model")
    names = [f.name for f in fields(PairPreset) if f.name not in ("name", "file", "seed")]
    presets = {}
    for name, table in tables.items():
        check_fields(f"preset {name!r} in {file.name}", table, names, ROLES)
        entries = {key: value for key, value in table.items() if value is not None}
        presets[name] = PairPreset(**entries, name=name, file=file)
    return presets


def read_tables(file: Path, what: str, example: str) -> dict[str, dict[str, Any]]:
    """A YAML file of named tables.

    Raises:
        InputError: no such file, or other content.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{file} could not be read as YAML ({reason}); expected {what} by name:\n{example}"
        ) from error
    if not isinstance(content, dict) or not content or not all(isinstance(t, dict) for t in content.values()):
        raise InputError(f"{file} holds a {type(content).__name__}; expected {what} by name:\n{example}")
    return {str(name): table for name, table in content.items()}


def check_fields(here: str, table: Mapping[str, Any], known: Any, needed: Any) -> None:
    """Refuse unknown and missing fields.

    Raises:
        InputError: starts with `here`.
    """
    for name in table:
        if name not in known:
            raise InputError(
                f"{here} has an unknown field {name!r}{nearest(str(name), known)}; expected {', '.join(known)}"
            )
    if absent := [name for name in needed if table.get(name) is None]:
        raise InputError(f"{here} lacks {', '.join(f'`{name}`' for name in absent)}")


def pair_preset(name: str) -> PairPreset:
    """The preset that a name stands for: ``NAME``, ``FILE.yaml:NAME``, or ``FILE.yaml``; ``NAME@1``: of another training run.

    Raises:
        InputError: there is none, or its file is wrong.
    """
    if run := re.fullmatch(r"([\w-]+)@([^@]*)", name):
        return _of_seed(pair_preset(run[1]), run[2])
    file, own = PACKAGED, name
    if match := re.fullmatch(r"(.+\.ya?ml)(?::(.*))?", name, re.DOTALL):
        file, own = Path(match[1]).expanduser().resolve(), match[2] or ""
    presets = read_presets(file)
    if not own and len(presets) == 1:
        return next(iter(presets.values()))
    if own not in presets:
        where = "is not a known pair" if file == PACKAGED else f"is not in {file}"
        raise InputError(
            f"`name` {own!r} {where}{nearest(own, presets)}; there are {', '.join(presets)}: "
            f'load_pair("{next(iter(presets))}"), or give your own models: {CALL}'
        )
    return presets[own]


def _of_seed(preset: PairPreset, seed: str) -> PairPreset:
    seeds = [0, *preset.seeds]
    if seed not in map(str, seeds):
        calls = ", ".join(preset.name + (f"@{s}" if s else "") for s in seeds)
        raise InputError(
            f"`name` '{preset.name}@{seed}': no training run with that seed ships; there are {calls}"
        )
    return replace(preset, name=f"{preset.name}@{seed}", seed=int(seed), steps=None) if int(seed) else preset


def named_pair(name: str, base: Any = None, rlvr: Any = None) -> PairPreset:
    """The preset of a name that was given without `base` and `rlvr`.

    Raises:
        InputError: no such name, one that came beside them, or a bundled pair without its weights.
    """
    if base is not None or rlvr is not None:
        raise InputError(f"`name` {name!r} was given beside `base` or `rlvr`; give one or the other: {CALL}")
    preset = pair_preset(name)
    if not preset.bundled:
        return preset
    from workbench.models.adapter_files import check_installed, find_adapter

    adapters = {role: find_adapter(role, preset.source(role)) for role in ROLES}
    absent = [
        role
        for role in ROLES
        if adapters[role] is None and not (Path(preset.source(role)) / "config.json").is_file()
    ]
    if absent:
        raise InputError(
            f"`name` {name!r}: the weights of {' and '.join(absent)} are not in {Path(preset.source(absent[0])).parent}; "
            "reinstall the package, or train them with `workbench organism train`"
        )
    for adapter in filter(None, adapters.values()):
        check_installed(f"`name` {name!r}", adapter)
    return preset
