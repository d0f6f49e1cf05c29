"""One number of several pairs: a random-effects estimate with its interval, and how much the pairs differ.

The variance between pairs is Paule and Mandel's (`statsmodels.stats.meta_analysis.combine_effects`, ``method_re="iterated"``),
the interval the random-effects one with t of pairs less one. Where pairs differ, that is Hartung and Knapp's, which holds
with few pairs; where they agree better than chance would have it, it is not narrower than the pairs' own intervals allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, isfinite, log, nan
from typing import Any

import numpy as np
from scipy.special import stdtrit

from workbench.errors import InputError
from workbench.estimates.interval import Interval

_CALL = "pool([Interval(0.4, 0.3, 0.5), Interval(0.6, 0.4, 0.8)], [64, 100])"


@dataclass(frozen=True)
class Pooled:
    """What several pairs show together."""

    interval: Interval
    """In the unit of the number; NaN ends where fewer than two pairs have an interval."""
    pairs: int
    """How many pairs it is over."""
    tau: float
    """Standard deviation between pairs, of the number; of its logarithm for a factor."""
    i2: float
    """Share of 1 of the variance between the estimates that is more than their intervals explain (Higgins' I²)."""
    q: float
    """Cochran's Q."""
    p_alike: float
    """P value that all pairs have the same number, of Q."""
    factor: bool = False
    """Whether it was pooled in logarithms."""

    def p_value(self, bound: float) -> float:
        """Two-sided p value that the mean over pairs is ``bound``; NaN without an interval."""
        return self.interval.p_value(bound, units=self.pairs, factor=self.factor)


def standard_error(interval: Interval, units: int, *, factor: bool = False, level: float = 0.95) -> float:
    """The standard error that an interval's width implies; NaN where it has none.

    It is half the width over the quantile of t with ``units - 1`` degrees of freedom, as `Interval.p_value` reads an interval.

    Args:
        interval: of one pair.
        units: problems that it resamples.
        factor: take the width in logarithms; NaN unless the number and both ends are positive.
        level: of the interval.
    """
    ends = interval.low, interval.high
    if not all(map(isfinite, (interval.estimate, *ends))) or units < 2 or ends[0] == ends[1]:
        return nan
    if factor and min(interval.estimate, *ends) <= 0:
        return nan
    low, high = map(log, ends) if factor else ends
    return float((high - low) / (2 * stdtrit(units - 1, (1 + level) / 2)))


def pool(
    intervals: Sequence[Interval], units: Sequence[int], *, factor: bool = False, level: float = 0.95
) -> Pooled:
    """The mean over pairs with a random-effects interval; pairs without a standard error are left out.

    Args:
        intervals: one a pair, all at ``level``.
        units: problems behind each.
        factor: pool logarithms, as suits a ratio.
        level: of the interval that is returned, too.

    Raises:
        InputError: not as many units as intervals.

    Example:
        >>> both = pool([Interval(2.0, 1.6, 2.5), Interval(3.0, 2.2, 4.1)], [64, 64], factor=True)
        >>> both.pairs, round(both.interval.estimate, 2), round(both.i2, 2)
        (2, 2.41, 0.78)
    """
    if len(intervals) != len(units):
        raise InputError(
            f"`units` has {len(units)} values for {len(intervals)} intervals; expected one each: {_CALL}"
        )
    errors = [standard_error(i, n, factor=factor, level=level) for i, n in zip(intervals, units, strict=True)]
    kept = [(i.estimate, e) for i, e in zip(intervals, errors, strict=True) if isfinite(e)]
    if len(kept) < 2:
        alone = kept[0][0] if kept else nan
        return Pooled(Interval(alone, nan, nan), len(kept), nan, nan, nan, nan, factor)

    from statsmodels.stats.meta_analysis import combine_effects  # a second to import

    values = np.array([log(value) if factor else value for value, _ in kept])
    with np.errstate(divide="ignore", invalid="ignore"):  # I² of pairs that are all alike
        combined: Any = combine_effects(
            values,
            np.array([e for _, e in kept]) ** 2,
            method_re="iterated",
            use_t=True,
            alpha=1 - level,
            maxiter=1000,
        )
    low, high = combined.conf_int(alpha=1 - level)[1].tolist()
    ends = (float(combined.mean_effect_re), low, high)
    alike = combined.test_homogeneity()
    return Pooled(
        Interval(*(exp(value) if factor else value for value in ends)),
        len(kept),
        float(np.sqrt(combined.tau2)),
        max(0.0, float(combined.i2)) if combined.q > 0 else 0.0,
        max(0.0, float(combined.q)),
        float(alike.pvalue),
        factor,
    )
