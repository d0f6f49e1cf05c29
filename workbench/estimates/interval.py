"""An estimate with its interval: the value that every table, figure and claim hands on."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, log
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from workbench.errors import InputError

Array = NDArray[np.float64]
FEWEST = 8
"""Problems, below which a resampled interval is too sure of itself to be shown."""
ENOUGH = 16
"""Problems, below which no claim is decided, whatever its interval."""


class Settings(TypedDict, total=False):
    """Keyword arguments of ``bootstrap`` that every estimate takes."""

    resamples: int
    level: float
    seed: int


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its interval, in the unit of the statistic; NaN bounds: no interval."""

    estimate: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise InputError(f"`low` must not exceed `high`, found [{self.low}, {self.high}].")

    def above(self, value: float) -> bool | None:
        """True if the interval lies above ``value``, False if below, None if it holds it or is not there."""
        if self.low > value:
            return True
        return False if self.high < value else None

    def p_value(self, bound: float, *, units: int, level: float = 0.95, factor: bool = False) -> float:
        """Two-sided p value that the number is ``bound``, read from the interval; NaN without one.

        It is 1 less the level at which the nearer end would just reach ``bound``, so that it lies below ``1 - level``
        exactly where the interval leaves ``bound`` out. Between, the end is taken to move as a t distribution of
        ``units - 1`` degrees of freedom has it.

        Args:
            bound: in the unit of the statistic.
            units: problems (or other units) that were resampled.
            level: of the interval.
            factor: measure distances in logarithms, as suits a ratio. An end that is not positive is measured plainly.
        """
        end = self.low if self.estimate > bound else self.high
        if isnan(end) or isnan(self.estimate) or units < 2:
            return np.nan
        values = (self.estimate, end, bound)
        estimate, end, bound = map(log, values) if factor and min(values) > 0 else values
        if estimate == bound:
            return 1.0
        critical = stdtrit(units - 1, (1 + level) / 2)
        with np.errstate(divide="ignore"):
            distance = critical * np.divide(abs(estimate - bound), abs(estimate - end))
        return float(2 * stdtr(units - 1, -distance))

    def detectable(
        self, *, units: int, level: float = 0.95, factor: bool = False, power: float = 0.8
    ) -> float:
        """The smallest true effect that a design with this interval would find in ``power`` of its repetitions; NaN without one.

        The standard error is half the interval's width over t; the effect is a difference from the bound, or a factor above 1
        (and its inverse below). It says what an undecided claim leaves open, not how large the effect is.

        Args:
            units: problems (or other units) that were resampled.
            level: of the interval.
            factor: as in `p_value`.
            power: chance of finding it.
        """
        if isnan(self.low) or isnan(self.high) or units < 2 or (factor and self.low <= 0):
            return np.nan
        width = log(self.high) - log(self.low) if factor else self.high - self.low
        critical = stdtrit(units - 1, (1 + level) / 2)
        effect = width / 2 / critical * (critical + stdtrit(units - 1, power))
        return float(np.exp(effect) if factor else effect)

    @staticmethod
    def names(measure: str) -> list[str]:
        """The three columns of a measure in a table: estimate, lower and upper end."""
        return [measure, f"{measure}_low", f"{measure}_high"]

    @classmethod
    def in_row(cls, row: Mapping[str, Any], measure: str) -> "Interval":
        """The interval that a table's row holds in the three columns of a measure."""
        return cls(*(float(row[column]) for column in cls.names(measure)))

    def columns(self, measure: str) -> dict[str, float]:
        """The interval as a table's three columns."""
        return dict(zip(self.names(measure), (self.estimate, self.low, self.high), strict=True))

    def times(self, factor: float) -> "Interval":
        """The same in another unit, such as points for shares; ``factor`` is positive."""
        return Interval(*(factor * value for value in (self.estimate, self.low, self.high)))

    def __str__(self) -> str:
        bounds = "" if isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.estimate:.2f}{bounds}"


@dataclass(frozen=True, eq=False)
class Intervals:
    """Many intervals from the same resamples: three arrays of shape (statistics,)."""

    estimate: Array
    low: Array
    high: Array

    def __post_init__(self) -> None:
        if not self.estimate.shape == self.low.shape == self.high.shape:
            raise InputError("`estimate`, `low` and `high` must have one shape.")

    def __getitem__(self, index: int) -> Interval:
        return Interval(*(float(array[index]) for array in (self.estimate, self.low, self.high)))
