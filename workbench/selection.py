"""Which cells an intervention acts on, as a value: which are low in entropy, and which of the cells to take.

"Low" means one thing here, for replay, patches, drift and attribution alike, by one of three rules: at most a share of the
largest entropy, the lowest share of the cells, or less than a level. `Selection.rule` says which, in words, and `Strata.rule`
what the lowest of several strata is; ``lens.strata`` makes the masks. `low_note` writes them into captions.
"""

import inspect
from collections.abc import Callable, Mapping
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


LOW = Selection(threshold="quantile", tau=0.4)
"""What drift and perturbation call low: a fixed part of each layer's visual positions, image by image, so that every condition is
measured at as many cells, whatever it selects."""
ATTRIBUTED = Selection(threshold="quantile", tau=0.2)
"""What attribution calls low, of each layer and prompt, unless it is told otherwise."""
_PARTS = ("half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True)
class Strata:
    """Cells of each layer and token kind, cut by one quantity into several strata; stratum 0 is the lowest.

    Attributes:
        number: how many strata.
        by: ``quantile``: equally full ones, over all prompts; ``fraction``: of equal width, up to the largest of each prompt.
        of: the quantity, in words.
    """

    number: int
    by: str = "quantile"
    of: str = "base entropy"

    @property
    def part(self) -> str:
        """What one of them is called: "fifth", or "fifth of the entropy range"."""
        place = self.number - 2
        part = _PARTS[place] if 0 <= place < len(_PARTS) else f"of {self.number} parts"
        return f"{part} of the entropy range" if self.by == "fraction" else part

    @property
    def rule(self) -> str:
        """What the lowest stratum is, in words."""
        if self.by == "fraction":
            return f"{self.of} at most 1/{self.number} of the prompt's largest, by layer and kind"
        return f"lowest {self.part} of {self.of}, by layer and kind"


def low_note(rule: Selection | Strata | Mapping[str, Any], name: str | None = None) -> str:
    """Which cells a caption, an axis or a heading calls low, in words: the one place where they are worded.

    Args:
        rule: a selection; strata; or several conditions as `described` has them, by name. Of these, those that name low cells
            (``select`` other than ``all``) count; the commonest rule stands first, each other one with its conditions.
        name: what is called so; None: "low", or "stratum 0" of strata.

    Returns:
        Such as "low: entropy at most 0.4 of the layer's largest"; "" where no condition names low cells.
    """
    if not isinstance(rule, Mapping):
        return f"{name or ('stratum 0' if isinstance(rule, Strata) else 'low')}: {rule.rule}"
    titles: dict[str, list[str]] = {}
    for title, condition in rule.items():
        if isinstance(condition, Mapping) and condition.get("select") in ("low", "high", "random"):
            titles.setdefault(_rule_of(condition), []).append(title)
    first, *others = sorted(titles, key=lambda words: -len(titles[words])) or [""]
    parts = [first, *(f"{words} ({'; '.join(titles[words])})" for words in others)]
    return f"{name or 'low'}: {'; but '.join(parts)}" if first else ""


def _rule_of(condition: Mapping[str, Any]) -> str:
    """The rule of a condition that `described` made a mapping of."""
    values = {key: condition[key] for key in ("select", "threshold", "tau") if key in condition}
    return Selection(**values).rule + (", of cells chosen by hand" if condition.get("cells") else "")


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
