"""What a bench can do at a selection, as values: built from a short description, written as JSON and as Python."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from workbench.conditions import Condition
from workbench.errors import InputError, nearest
from workbench.interventions import Patch, Replay
from workbench.live.mask import Mask
from workbench.mixtures import CrossSample, Extrapolate
from workbench.models.pairs import ModelPair
from workbench.replay.adapters import BUNDLED, Adapter, load_adapter
from workbench.replay.cell_edits import Overwrite, Remove, Scale

KINDS: Mapping[str, type] = {
    kind.__name__: kind for kind in (Patch, Replay, Scale, Overwrite, Remove, CrossSample, Extrapolate)
}
"""Conditions that a bench can keep: name -> kind."""


def patch(pair: ModelPair, mask: Mask, source: str = "base") -> Condition:
    """Overwrite the selection with one model's activations in the other."""
    if source == "base":
        return Patch(select="all", positions="all", layers=mask.layers, cells=mask)
    return Overwrite(source, layers=mask.layers, cells=mask)  # pyright: ignore[reportArgumentType]


def replay(pair: ModelPair, mask: Mask, **changes: Any) -> Condition:
    """Learn tokens at the selected positions, with the loss at the selected cells.

    The loss covers the layers up to the last that is selected; its rate, vocabulary and solver are those that suit the pair.
    """
    own = {"select": "all", "threshold": "max_fraction", "layers": mask.layers[-1] + 1, "cells": mask}
    spans = tuple(
        span for _, spans in Mask({0: [(at, at + 1) for at in mask.positions]}).rows for span in spans
    )
    return pair.replay(**{**own, "positions": spans, **changes})


def scale(pair: ModelPair, mask: Mask, factor: float = 0.0, model: str = "rlvr") -> Condition:
    """Multiply the selection; 0 takes it away."""
    return Scale(factor, layers=mask.layers, cells=mask, model=model)  # pyright: ignore[reportArgumentType]


def remove(
    pair: ModelPair, mask: Mask, layer: int, head: int | None = None, model: str = "rlvr"
) -> Condition:
    """Take a head or the MLP out of a layer, at the positions that are selected in any layer; at all where none is."""
    where = Mask({layer: [(at, at + 1) for at in mask.positions]}) if mask else None
    return Remove(layer=layer, head=head, cells=where, model=model)  # pyright: ignore[reportArgumentType]


def has_adapter(name: str) -> bool:
    """Whether an adapter of a pair of that name ships with the package."""
    return name.isidentifier() and (BUNDLED / f"{name}.safetensors").is_file()


def bundled_adapter(name: str) -> Adapter:
    """The adapter that ships with the package for a pair.

    Raises:
        InputError: there is none.
    """
    if not has_adapter(name):
        raise InputError(
            f"no adapter of {name!r} ships with the package; act with your own: bench.act(wb.load_adapter('mine.safetensors'))"
        )
    return load_adapter(name)


ACTS: Mapping[str, Callable[..., Condition]] = {
    "patch": patch,
    "replay": replay,
    "scale": scale,
    "remove": remove,
    "cross-sample": lambda pair, mask, **settings: CrossSample(**settings),
    "adapter": lambda pair, mask: bundled_adapter(pair.name),
    "extrapolate": lambda pair, mask, **settings: Extrapolate(**settings),
}
"""What buttons do: name -> (pair, selection, settings) -> the condition."""
_NEED_CELLS = ("patch", "replay", "scale")


def act(name: str, pair: ModelPair, mask: Mask, settings: Mapping[str, Any]) -> Condition:
    """The condition that a button stands for.

    Raises:
        InputError: an unknown act, nothing selected, or settings that it does not take.
    """
    if name not in ACTS:
        raise InputError(f"`do` is {name!r}{nearest(name, ACTS)}; expected one of {', '.join(ACTS)}")
    if name in _NEED_CELLS and not mask:
        raise InputError(
            f"nothing is selected to {name}: drag over the picture, or bench.select(word='triangle', layers=3)"
        )
    try:
        return ACTS[name](pair, mask, **settings)
    except TypeError as error:
        raise InputError(f"`{name}` does not take these settings: {error}") from error


def to_json(condition: Condition) -> dict[str, Any]:
    """Kind and fields that are not the default.

    Raises:
        InputError: a kind of your own.
    """
    kind = type(condition)
    if isinstance(condition, Adapter):
        return {"kind": "Adapter", "pair": condition.pair.get("name")}
    if KINDS.get(kind.__name__) is not kind:
        raise InputError(f"a {kind.__name__} can't be written as JSON; expected one of {', '.join(KINDS)}")
    return {"kind": kind.__name__, **{name: _plain(value) for name, value in changed(condition).items()}}


def from_json(entry: Any) -> Condition:
    """What `to_json` wrote.

    Raises:
        InputError: something else.
    """
    entry = dict(entry) if isinstance(entry, Mapping) else {}
    if entry.get("kind") == "Adapter":
        return bundled_adapter(str(entry.get("pair")))
    kind = KINDS.get(str(entry.pop("kind", None)))
    if kind is None:
        raise InputError(f"an action without a known kind; expected one of {', '.join(KINDS)}")
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(entry) - known):
        raise InputError(f"`{unknown[0]}` is no field of {kind.__name__}{nearest(unknown[0], known)}")
    if "cells" in entry:
        entry["cells"] = Mask.from_spans(entry["cells"])
    if "under" in entry:
        entry["under"] = tuple(from_json(one) for one in entry["under"])
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{kind.__name__} can't be read: {error}") from error


def code_of(condition: Condition) -> str:
    """Python that builds it."""
    if isinstance(condition, Adapter):
        return f"wb.load_adapter({condition.pair.get('name')!r})"
    own = ", ".join(f"{name}={_code(value)}" for name, value in changed(condition).items())
    return f"wb.{type(condition).__name__}({own})"


def changed(condition: Condition) -> dict[str, Any]:
    """The fields that are not the default."""
    values = {}
    for field in fields(condition):  # pyright: ignore[reportArgumentType]
        value = getattr(condition, field.name)
        if field.default is MISSING or value != field.default:
            values[field.name] = value
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Mask):
        return value.spans
    if isinstance(value, Condition):
        return to_json(value)
    return (
        [_plain(one) for one in value]
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )


def _code(value: Any) -> str:
    if isinstance(value, Mask):
        return f"wb.{value!r}"
    if isinstance(value, tuple) and value and isinstance(value[0], Condition):
        return f"({', '.join(map(code_of, value))},)"
    return code_of(value) if isinstance(value, Condition) else repr(value)
