"""Grids of interventions: fields of their values (`Replay`, ...), one value or several, checked by pydantic."""

import importlib
import itertools
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    WithJsonSchema,
    create_model,
    model_validator,
)

from workbench.conditions import Condition, Named
from workbench.errors import InputError
from workbench.interventions import Patch, Replay, default_matrix
from workbench.mixtures import CrossSample, Extrapolate
from workbench.selection import Threshold


class Checked(BaseModel):
    """Of the types it says, and with no other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def _item(kind: Any) -> Any:
    """The type of one grid value: lists stand for tuples, and for nothing else."""
    if get_origin(kind) is tuple:
        parts = tuple(part if part is ... else _item(part) for part in get_args(kind))
        return Annotated[tuple[parts], Strict(False)]
    if get_origin(kind) in (Union, UnionType):
        joined = _item(get_args(kind)[0])
        for part in get_args(kind)[1:]:
            joined = joined | _item(part)
        return joined
    return kind


def _grid(kind: Any) -> Any:
    """One value, or several: always a list once read."""
    one = TypeAdapter(_item(kind)).json_schema()
    several = {"type": "array", "items": one, "minItems": 1}
    return Annotated[
        list[_item(kind)],
        Field(min_length=1),
        BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
        WithJsonSchema({"anyOf": [one, several]}),
    ]


def _grids(name: str, kinds: Mapping[str, Any]) -> type[BaseModel]:
    fields: dict[str, Any] = {key: (_grid(kind), Field(default_factory=list)) for key, kind in kinds.items()}
    return create_model(name, __base__=Checked, **fields)


_REPLAY, _PATCH, _CROSS, _FURTHER = (
    {name: kind for name, kind in get_type_hints(value).items() if name not in ("seed", "cells", "under")}
    # The seed is the cell's; a function or a condition can't be written in YAML, for which there is `own`.
    for value in (Replay, Patch, CrossSample, Extrapolate)
)
_MATRIX = {name: _REPLAY[name] for name in ("tau", "alpha", "layers", "iterations", "top_v")}
_MATRIX["threshold"] = Threshold
ReplayGrid, PatchGrid = _grids("ReplayGrid", _REPLAY), _grids("PatchGrid", _PATCH)
MatrixGrid = _grids("MatrixGrid", _MATRIX)
CrossSampleGrid, ExtrapolateGrid = _grids("CrossSampleGrid", _CROSS), _grids("ExtrapolateGrid", _FURTHER)
FIELDS = tuple(dict.fromkeys((*_REPLAY, *_PATCH, *_CROSS, *_FURTHER)))
KINDS: dict[str, type[BaseModel]] = {
    "replay": ReplayGrid,
    "patch": PatchGrid,
    "matrix": MatrixGrid,
    "cross_sample": CrossSampleGrid,
    "extrapolate": ExtrapolateGrid,
}
"""What may stand under an intervention's name, beside ``own``."""


class Grid(Checked):
    """One kind of intervention, with values or lists of values for its fields."""

    replay: ReplayGrid | None = None  # pyright: ignore[reportInvalidTypeForm]
    """Activation Replay."""
    patch: PatchGrid | None = None  # pyright: ignore[reportInvalidTypeForm]
    """A cross-model patch."""
    matrix: MatrixGrid | None = None  # pyright: ignore[reportInvalidTypeForm]
    """The default matrix: low and high by tokens and by patch, and every control."""
    cross_sample: CrossSampleGrid | None = None  # pyright: ignore[reportInvalidTypeForm]
    """Two models decode together: where the guest's draw replaces the host's."""
    extrapolate: ExtrapolateGrid | None = None  # pyright: ignore[reportInvalidTypeForm]
    """Two models decode together: along the update, and beyond it."""
    own: dict[str, Any] | None = None
    """A condition of yours: its class under ``of``, as ``module:Class``, and its fields; Python has to find the module."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Grid":
        if len(self.model_fields_set) != 1 or getattr(self, self.kind) is None:
            raise InputError(
                "give one of `replay`, `patch`, `matrix`, `cross_sample`, `extrapolate` and `own`: {replay: {tau: [0.2, 0.4]}}"
            )
        if self.own is not None:
            own_class(self.own.get("of"))
        return self

    @property
    def kind(self) -> str:
        """``replay``, ``patch``, ``matrix``, ``cross_sample``, ``extrapolate`` or ``own``."""
        return next(iter(self.model_fields_set), "replay")

    @property
    def values(self) -> dict[str, list[Any]]:
        """The values of every field that is named."""
        if self.own is not None:
            return {k: v if isinstance(v, list) else [v] for k, v in self.own.items() if k != "of"}
        grid = getattr(self, self.kind)
        return {
            name: getattr(grid, name) for name in type(grid).model_fields if name in grid.model_fields_set
        }

    def combinations(self, entry: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every combination of the values, with a name: the entry's, and the values of what varies."""
        varied = [name for name, values in self.values.items() if len(values) > 1]
        for values in itertools.product(*self.values.values()):
            combination = dict(zip(self.values, values, strict=True))
            yield " ".join([entry, *(f"{name}={_shown(combination[name])}" for name in varied)]), combination

    def build(
        self, title: str, chosen: Mapping[str, Any], known: Mapping[str, Any], depth: int
    ) -> dict[str, Named]:
        """The interventions of one combination, by name; `known` are the pair's own settings."""
        if self.kind == "matrix":
            conditions = default_matrix(depth, **{**known, **chosen})
            return {f"{title}: {name}": condition for name, condition in conditions.items()}
        if self.own is not None:
            kind = own_class(self.own["of"])
            try:
                return {title: kind(**chosen)}
            except TypeError as error:
                raise InputError(f"{self.own['of']} does not take these fields ({error})") from error
        if self.kind == "cross_sample":
            if chosen.get("threshold") is None and chosen.get("budget") is None:
                raise InputError(
                    "`threshold` or `budget` is missing; expected one of them: {cross_sample: {budget: [0.05, 0.1]}}"
                )
            return {title: CrossSample(**chosen)}
        if self.kind == "extrapolate":
            if "gamma" not in chosen:
                raise InputError("`gamma` is missing; expected a number: {extrapolate: {gamma: [-0.5, 0.5]}}")
            return {title: Extrapolate(**chosen)}
        if self.kind == "patch":
            shared = {k: v for k, v in known.items() if k in _PATCH}
            return {title: Patch(**{**shared, **known.get("patch", {}), **chosen})}
        omitted = {"patch", "layers"} if chosen.get("site") == "mid_tokens" else {"patch"}
        return {title: Replay(**{**{k: v for k, v in known.items() if k not in omitted}, **chosen})}


def own_class(named: Any) -> type[Condition]:
    """The class of a condition that ``module:Class`` names, imported.

    Raises:
        InputError: there is no such module or class.
    """
    module, _, name = str(named).partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"`of` is {named!r}, which can't be imported ({error}); expected module:Class of a condition of yours, "
            "in a module on PYTHONPATH: {own: {of: 'my_conditions:Zeroed', layer: [1, 2]}}"
        ) from error


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(":".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in value)
    return str(value)
