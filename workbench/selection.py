"""Which cells an intervention acts on, as a value: which are low in entropy, and which of the cells to take.

"Low" means one thing here, for replay, patches, drift and attribution alike, by one of three rules: at most a share of the
largest entropy, the lowest share of the cells, or less than a level. `Selection.rule` says which, in words, for tables and
figures; ``lens.strata.select_cells`` makes the mask.
"""

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from typing import Any, Literal, Self, get_args

from workbench.errors import InputError

Select = Literal["low", "high", "all", "random"]
Threshold = Literal["max_fraction", "quantile", "fixed"]
SELECTS: tuple[str, ...] = get_args(Select)
THRESHOLDS: tuple[str, ...] = get_args(Threshold)
Chosen = Callable[[Any], Any]
"""Cells chosen by hand: of an `EncodedPrompt`, a bool tensor (positions,) or (layers, positions)."""


@dataclass(frozen=True)
class Selection:
    """Which cells are low in entropy, and which of the cells in question to take.

    Attributes:
        select: ``low``, cells of low entropy; ``high``, all others; ``random``, as many as are low; ``all``.
        threshold: what makes a cell low: ``max_fraction``: at most ``tau`` of the largest entropy of its layer (the paper);
            ``quantile``: the lowest share ``tau``; ``fixed``: less than ``levels``.
        tau: the share, from 0 to 1.
        levels: for ``fixed``: an entropy in nats for each layer.
        only_where_base_lower: of the low ones, only cells whose entropy is lower than in the other model.
        seed: of ``random``.
        cells: the cells in question, chosen by hand; None: all that the intervention can act on.
    """

    select: Select = "low"
    threshold: Threshold = "max_fraction"
    tau: float = 0.4
    levels: tuple[float, ...] | None = None
    only_where_base_lower: bool = False
    seed: int = 0
    cells: Chosen | None = None

    @classmethod
    def of(cls, intervention: Any) -> Self:
        """What an intervention with fields of these names selects."""
        return cls(**{field.name: getattr(intervention, field.name) for field in fields(cls)})

    @property
    def rule(self) -> str:
        """What counts as low, in words."""
        return {
            "max_fraction": f"entropy at most {self.tau:g} of the layer's largest",
            "quantile": f"the {100 * self.tau:g}% of a layer's cells that are lowest in entropy",
            "fixed": "entropy below the layer's level",
        }[self.threshold]

    def check(self, layers: int) -> None:
        """Refuse what selects from no `layers` layers.

        Raises:
            InputError: an unknown ``select`` or ``threshold``, tau outside [0, 1], levels that do not fit, or ``cells`` that
                can't be called.
        """
        for name, value, words in (
            ("select", self.select, SELECTS),
            ("threshold", self.threshold, THRESHOLDS),
        ):
            if value not in words:
                raise InputError(
                    f"`{name}` is {value!r}; expected one of {', '.join(words)}: {name}={words[0]!r}"
                )
        if not 0 <= self.tau <= 1:
            raise InputError(f"`tau` is {self.tau}; expected a fraction from 0 to 1: tau=0.4")
        if self.threshold == "fixed" and (self.levels is None or len(self.levels) != layers):
            count = "none" if self.levels is None else len(self.levels)
            raise InputError(
                f"`levels` gives {count} entropies, expected {layers}, one for each layer, in nats: "
                f"threshold='fixed', levels=({', '.join(['2.0'] * min(layers, 3))}{', ...' * (layers > 3)})"
            )
        if self.threshold != "fixed" and self.levels is not None:
            raise InputError(
                f"`levels` belongs to threshold='fixed', not to {self.threshold!r}; leave it out"
            )
        if self.cells is not None and not callable(self.cells):
            raise InputError(
                f"`cells` is a {type(self.cells).__name__}; expected a function of an encoded prompt that gives bool "
                "(positions,) or (layers, positions): cells=lambda prompt: mask"
            )


def described(intervention: Any) -> dict[str, Any]:
    """Every field of an intervention that can change its results, as JSON's types; a function by its text."""
    values = asdict(intervention)
    cells = values.pop("cells")
    return values if cells is None else values | {"cells": _text(cells)}


def _text(function: Callable[..., Any]) -> str:
    """A function's name and a digest of what it says and of what it holds."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):  # typed where nothing is kept
        text = repr(getattr(function, "__code__", function))
    contents = [repr(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()]
    name = getattr(function, "__qualname__", type(function).__name__)
    return f"{name} {sha256(repr([text, contents]).encode()).hexdigest()[:16]}"
