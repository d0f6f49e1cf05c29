"""Estimates of single numbers, each with the interval that suits its kind."""

from dataclasses import replace
from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike

from workbench.errors import InputError
from workbench.estimates.bootstrap import bootstrap
from workbench.estimates.interval import Array, Interval, Settings
from workbench.estimates.shares import share, share_difference
from workbench.estimates.statistics import (
    Correlation,
    Median,
    RankCorrelation,
    divide,
    finite,
    number_problems,
    sums_by_problem,
)


def ratio(
    numerator: ArrayLike, denominator: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]
) -> Interval:
    """Ratio of two sums over cells; ``problem`` (cells,) is the label of each cell's problem."""
    values = np.stack(np.broadcast_arrays(finite(numerator), finite(denominator)))
    ids, problems = number_problems(problem, values.shape[-1])
    sums = sums_by_problem(values, ids, problems)

    def statistic(counts: Array) -> Array:
        totals = counts @ sums
        return divide(totals[:, :1], totals[:, 1:])

    least = 0.0 if values.min() >= 0 else -np.inf
    return bootstrap(statistic, problems, bounds=(least, np.inf), **settings)[0]


def mean(values: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]) -> Interval:
    """Mean over cells, every cell weighing the same; of values that are all 0 or 1 it is their ``share``."""
    if _binary(values):
        return share(values, problem, **settings)
    return ratio(values, np.ones(np.shape(values)), problem, **settings)


def paired_difference(
    a: ArrayLike, b: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]
) -> Interval:
    """Mean of ``b - a`` over pairs (the same cell, question or sample under two conditions).

    Of values that are all 0 or 1 it is their ``share_difference``.
    """
    if np.shape(a) != np.shape(b):
        raise InputError(f"`a` and `b` must pair up, found shapes {np.shape(a)} and {np.shape(b)}.")
    if _binary(a) and _binary(b):
        return share_difference(a, b, problem, **settings)
    change = np.subtract(b, a, dtype=np.float64)
    return ratio(change, np.ones(np.shape(change)), problem, **settings)


def median(values: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]) -> Interval:
    """Median over cells (mean of the middle two when their number is even)."""
    cells = finite(values)
    ids, problems = number_problems(problem, len(cells))
    return bootstrap(Median(cells, ids, problems), problems, method="order", **settings)[0]


def spearman(x: ArrayLike, y: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]) -> Interval:
    """Spearman rank correlation over cells; the estimate is exact, see RankCorrelation for the interval."""
    if np.shape(x) != np.shape(y):
        raise InputError(f"`x` and `y` must pair up, found shapes {np.shape(x)} and {np.shape(y)}.")
    x, y = finite(x), finite(y)
    ids, problems = number_problems(problem, len(x))
    statistic = RankCorrelation(x, y, ids, problems)
    interval = bootstrap(statistic, problems, method="correlation", **settings)[0]
    return replace(interval, estimate=statistic.exact)


def pearson(x: ArrayLike, y: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]) -> Interval:
    """Pearson correlation over cells; NaN where a measure is constant."""
    if np.shape(x) != np.shape(y):
        raise InputError(f"`x` and `y` must pair up, found shapes {np.shape(x)} and {np.shape(y)}.")
    x, y = finite(x), finite(y)
    ids, problems = number_problems(problem, len(x))
    return bootstrap(Correlation(x, y, ids, problems), problems, method="correlation", **settings)[0]


def _binary(values: ArrayLike) -> bool:
    """Whether all values are 0 or 1."""
    array = np.asarray(values)
    return bool(array.size) and bool(np.isin(array, (0, 1)).all())
