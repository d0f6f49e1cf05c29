"""Uncertainty: intervals by bootstrap clustered by problem.

Cells of one problem (its layers and positions, its samples) are not independent, so problems are resampled:

1. Draw as many problems as there are, with replacement, ``resamples`` times (``scipy.stats.bootstrap`` over
   problem indices, percentile method). A resample is a row of counts: how often each problem was drawn.
2. Evaluate the statistic on all resamples at once. Sums over cells are ``counts @ sums_by_problem``, so means
   and ratios of sums cost one matrix product, whatever the number of cells. Medians and rank correlations
   have short cuts of their own, below.
3. The interval is the central ``level`` of the resampled values.

Fewer than two problems have no interval: the bounds are NaN, never 0. The same holds where more than a tenth
of the resamples leave the statistic undefined, because too few problems hold the cells it is about.
Equal seeds draw equal resamples, so all intervals of one study rest on the same draws.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isnan
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import gammaln

from workbench.errors import InputError

Array = NDArray[np.float64]
UNDEFINED_SHARE = 0.1  # of the resamples, above which there is no interval
GRID = 64  # ties that a rank correlation's resamples are rounded to


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


def bootstrap(
    statistic: Callable[[Array], Array],
    problems: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Percentile intervals of a statistic of problem counts.

    Args:
        statistic: maps counts (resamples, problems), how often each problem is drawn, to values (resamples,
            statistics); NaN where undefined. The estimate is its value with every problem drawn once.
        problems: how many problems there are.
        resamples: bootstrap resamples.
        level: coverage, inside (0, 1).
        seed: of the generator that draws the resamples.

    Raises:
        InputError: no problem, no resample or a level outside (0, 1).
    """
    _check_settings(problems, resamples, level)
    estimate = np.asarray(statistic(np.ones((1, problems))), dtype=np.float64)[0]
    if problems < 2:
        nothing = np.full_like(estimate, np.nan)
        return Intervals(estimate, nothing, nothing)

    def of_indices(indices: NDArray, axis: int) -> Array:
        rows = problems * np.arange(len(indices))[:, None]
        flat = (indices.astype(np.int64) + rows).ravel()
        return statistic(
            np.bincount(flat, minlength=indices.size).reshape(indices.shape).astype(np.float64)
        ).T

    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter(
            "ignore", stats.DegenerateDataWarning
        )  # undefined resamples are dealt with below
        result = stats.bootstrap(
            (np.arange(problems),),
            of_indices,
            vectorized=True,
            axis=-1,
            n_resamples=resamples,
            confidence_level=level,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        drawn = np.asarray(result.bootstrap_distribution)
        low, high = (np.array(bound, dtype=np.float64) for bound in result.confidence_interval)
    undefined = np.isnan(drawn).mean(axis=-1)
    low[undefined > 0] = high[undefined > 0] = np.nan
    for row in np.flatnonzero((undefined > 0) & (undefined <= UNDEFINED_SHARE)):
        low[row], high[row] = np.nanquantile(drawn[row], [(1 - level) / 2, (1 + level) / 2])
    # Interpolation between equal draws can leave the bounds an ulp out of order.
    return Intervals(estimate, low, np.where(high < low, low, high))


def sums_by_problem(values: ArrayLike, problem: ArrayLike, problems: int) -> Array:
    """Sums of ``values`` (..., cells) over the cells of each problem: (problems, ...)."""
    rows = np.asarray(values, dtype=np.float64)
    ids = np.asarray(problem)
    flat = rows.reshape(-1, rows.shape[-1])
    sums = np.stack([np.bincount(ids, weights=row, minlength=problems) for row in flat], axis=-1)
    return sums.reshape(problems, *rows.shape[:-1]).astype(np.float64, copy=False)


def ratio(
    numerator: ArrayLike, denominator: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]
) -> Interval:
    """Ratio of two sums over cells; ``problem`` (cells,) is the label of each cell's problem."""
    values = np.stack(np.broadcast_arrays(_finite(numerator), _finite(denominator)))
    ids, problems = number_problems(problem, values.shape[-1])
    sums = sums_by_problem(values, ids, problems)

    def statistic(counts: Array) -> Array:
        totals = counts @ sums
        return divide(totals[:, :1], totals[:, 1:])

    return bootstrap(statistic, problems, **settings)[0]


def mean(values: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]) -> Interval:
    """Mean over cells, every cell weighing the same."""
    return ratio(values, np.ones(np.shape(values)), problem, **settings)


def paired_difference(
    a: ArrayLike, b: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]
) -> Interval:
    """Mean of ``b - a`` over pairs (the same cell, question or sample under two conditions)."""
    if np.shape(a) != np.shape(b):
        raise InputError(f"`a` and `b` must pair up, found shapes {np.shape(a)} and {np.shape(b)}.")
    return mean(np.subtract(b, a, dtype=np.float64), problem, **settings)


def median(values: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]) -> Interval:
    """Median over cells (mean of the middle two when their number is even)."""
    cells = _finite(values)
    ids, problems = number_problems(problem, len(cells))
    return bootstrap(Median(cells, ids, problems), problems, **settings)[0]


def spearman(x: ArrayLike, y: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]) -> Interval:
    """Spearman rank correlation over cells; the estimate is exact, see RankCorrelation for the interval."""
    if np.shape(x) != np.shape(y):
        raise InputError(f"`x` and `y` must pair up, found shapes {np.shape(x)} and {np.shape(y)}.")
    x, y = _finite(x), _finite(y)
    ids, problems = number_problems(problem, len(x))
    statistic = RankCorrelation(x, y, ids, problems)
    found = bootstrap(statistic, problems, **settings)[0]
    return replace(found, estimate=statistic.exact)


def pearson(x: ArrayLike, y: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]) -> Interval:
    """Pearson correlation over cells; NaN where a measure is constant."""
    if np.shape(x) != np.shape(y):
        raise InputError(f"`x` and `y` must pair up, found shapes {np.shape(x)} and {np.shape(y)}.")
    x, y = _finite(x), _finite(y)
    ids, problems = number_problems(problem, len(x))
    return bootstrap(Correlation(x, y, ids, problems), problems, **settings)[0]


def pass_at_k(samples: int, correct: ArrayLike, k: int) -> Array:
    """Unbiased Pass@K of each problem, ``1 - C(n - c, k) / C(n, k)`` (paper Fig. 6), from c correct of n samples.

    Raises:
        InputError: fewer samples than K, or more correct ones than samples.
    """
    right = np.asarray(correct, dtype=float)
    if not 1 <= k <= samples:
        raise InputError(
            f"`k` is {k} with {samples} samples a problem; Pass@K needs at least K samples: draw samples={max(k, 1)}"
        )
    if ((right < 0) | (right > samples)).any():
        raise InputError(
            f"`correct` must lie between 0 and the {samples} samples, found {right.min():g} to {right.max():g}"
        )
    wrong = samples - right
    missed = np.where(wrong >= k, wrong, k)
    log_missed = (
        gammaln(missed + 1) - gammaln(missed - k + 1) - gammaln(samples + 1) + gammaln(samples - k + 1)
    )
    return 1 - np.where(wrong >= k, np.exp(log_missed), 0.0)


class Median:
    """Exact median of the cells under problem counts: (resamples, problems) -> (resamples, 1).

    ``scipy.stats.bootstrap`` with a median would sort all cells anew in every resample. Here they are sorted
    once and cut into about sqrt(cells) blocks; one product of counts and cells per block finds the block that
    holds the middle cell of each resample, and only that block is walked through.
    """

    def __init__(self, values: Array, problem: NDArray, problems: int) -> None:
        order = np.argsort(values, kind="stable")
        self.size = max(1, round(len(values) ** 0.5))
        blocks = -(-len(values) // self.size)
        self.values = values[order]
        self.owner = np.full((blocks, self.size), problems)  # the last block is filled up with nobody's cells
        self.owner.ravel()[: len(values)] = problem[order]
        held = np.arange(blocks)[:, None] * (problems + 1) + self.owner
        per_block = np.bincount(held.ravel(), minlength=blocks * (problems + 1)).reshape(blocks, problems + 1)
        self.per_block = per_block[:, :problems].T.astype(np.float64)

    def __call__(self, counts: Array) -> Array:
        """Median of each resample."""
        upto = np.cumsum(counts @ self.per_block, axis=1)
        if not upto.shape[1]:
            return np.full((len(counts), 1), np.nan)
        cells = upto[:, -1]
        middle = (self._at(counts, upto, (cells + 1) // 2) + self._at(counts, upto, cells // 2 + 1)) / 2
        return np.where(cells > 0, middle, np.nan)[:, None]

    def _at(self, counts: Array, upto: Array, rank: Array) -> Array:
        """The value of the given 1-based rank in each resample."""
        block = np.minimum((upto < rank[:, None]).sum(axis=1), upto.shape[1] - 1)
        row = np.arange(len(counts))
        before = np.where(block > 0, upto[row, block - 1], 0.0)
        weights = np.pad(counts, ((0, 0), (0, 1)))[row[:, None], self.owner[block]]
        inside = (before[:, None] + np.cumsum(weights, axis=1) < rank[:, None]).sum(axis=1)
        return self.values[np.minimum(block * self.size + inside, len(self.values) - 1)]


class Correlation:
    """Pearson correlation of two measures under problem counts: (resamples, problems) -> (resamples, 1)."""

    def __init__(self, x: Array, y: Array, problem: NDArray, problems: int) -> None:
        # About their means and in units of their spread, so that sums of squares lose nothing to rounding.
        x, y = (divide(values - values.mean(), values.std()) for values in (x, y))
        rows = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y])
        self.sums = sums_by_problem(rows, problem, problems)

    def __call__(self, counts: Array) -> Array:
        """Correlation in each resample."""
        cells, x, y, xx, yy, xy = (counts @ self.sums).T
        with np.errstate(invalid="ignore"):
            spread = np.sqrt((cells * xx - x**2) * (cells * yy - y**2))
        return divide(cells * xy - x * y, spread)[:, None]


class RankCorrelation:
    """Spearman correlation of two measures under problem counts: (resamples, problems) -> (resamples, 1).

    Ranks are taken anew in every resample, since ranking once would hide how much the ranks themselves vary.
    To keep that affordable, each measure is first rounded to at most 64 ties of equal size, so that a
    resample is a sum of joint tables, one per problem. The rounding moves a resample by a few percent of the
    spread of all resamples. ``exact`` is the coefficient of all cells, unrounded. NaN where a measure is
    constant.
    """

    def __init__(self, x: Array, y: Array, problem: NDArray, problems: int) -> None:
        ranks = [stats.rankdata(values) for values in (x, y)]
        self.exact = _correlation(ranks[0], ranks[1])
        (row, rows), (column, columns) = (_ties(values) for values in ranks)
        self.shape = (rows, columns)
        flat = (problem * rows + row) * columns + column
        table = np.bincount(flat, minlength=problems * rows * columns)
        self.table = table.reshape(problems, rows * columns).astype(np.float32)

    def __call__(self, counts: Array) -> Array:
        """Correlation in each resample."""
        joint = (counts.astype(np.float32) @ self.table).reshape(len(counts), *self.shape)
        sides = []
        for axis in (2, 1):
            weight = joint.sum(axis=axis).astype(np.float64)  # whole numbers, exact
            rank = np.cumsum(weight, axis=1) - weight / 2  # mean rank of a tie, up to a constant
            centred = rank - divide((weight * rank).sum(axis=1), weight.sum(axis=1))[:, None]
            sides.append((centred, (weight * centred**2).sum(axis=1)))
        (x, x_squares), (y, y_squares) = sides
        along = np.matmul(joint, y.astype(np.float32)[:, :, None])[:, :, 0]
        return divide((x * along).sum(axis=1), np.sqrt(x_squares * y_squares))[:, None]


def together(*statistics: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """One statistic that holds the values of several, for intervals from one set of resamples."""
    return lambda counts: np.concatenate([statistic(counts) for statistic in statistics], axis=1)


def divide(numerator: ArrayLike, denominator: ArrayLike) -> Array:
    """``numerator / denominator`` without a warning; 0 / 0 is NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.divide(numerator, denominator, dtype=np.float64))


def number_problems(problem: ArrayLike, cells: int) -> tuple[NDArray[np.int64], int]:
    """Ids 0 .. problems - 1 for the problem labels of the cells, and how many problems there are."""
    labels = np.asarray(problem)
    if labels.shape != (cells,):
        raise InputError(
            f"`problem` must name the problem of each of the {cells} cells, found shape {labels.shape}."
        )
    names, ids = np.unique(labels, return_inverse=True)
    return ids.astype(np.int64), len(names)


def _ties(ranks: Array) -> tuple[NDArray[np.int64], int]:
    """Tie of every cell (0 = lowest) and the number of ties, at most GRID of about equal size."""
    distinct, tie = np.unique(ranks, return_inverse=True)
    if len(distinct) > GRID:
        tie = np.minimum(((ranks - 0.5) * GRID / len(ranks)).astype(np.int64), GRID - 1)
    return tie, int(tie.max(initial=0)) + 1


def _correlation(x: Array, y: Array) -> float:
    if not len(x):
        return np.nan
    x, y = x - x.mean(), y - y.mean()
    return float(divide(np.dot(x, y), np.sqrt(np.dot(x, x) * np.dot(y, y))))


def _finite(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    wrong = int((~np.isfinite(array)).sum())
    if wrong or not array.size:
        found = f"{wrong} that are NaN or infinite" if wrong else "none at all"
        raise InputError(
            f"`values` must be finite numbers, one per cell, found {found}; leave such cells out first."
        )
    return array


def _check_settings(problems: int, resamples: int, level: float) -> None:
    if problems < 1:
        raise InputError("`problem` names no problem: there is nothing to estimate from.")
    if resamples < 1:
        raise InputError(f"`resamples` must be at least 1, found {resamples}; for example resamples=1000.")
    if not 0 < level < 1:
        raise InputError(f"`level` must lie inside (0, 1), found {level}; for example level=0.95.")
