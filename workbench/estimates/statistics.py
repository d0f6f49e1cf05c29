"""Statistics of problem counts, for ``bootstrap``: how often each problem is drawn -> what is measured."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from workbench.errors import InputError
from workbench.estimates.interval import Array

GRID = 64  # ties that a rank correlation's resamples are rounded to


def sums_by_problem(values: ArrayLike, problem: ArrayLike, problems: int) -> Array:
    """Sums of ``values`` (..., cells) over the cells of each problem: (problems, ...)."""
    rows = np.asarray(values, dtype=np.float64)
    ids = np.asarray(problem)
    flat = rows.reshape(-1, rows.shape[-1])
    sums = np.stack([np.bincount(ids, weights=row, minlength=problems) for row in flat], axis=-1)
    return sums.reshape(problems, *rows.shape[:-1]).astype(np.float64, copy=False)


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
        slots = np.arange(blocks)[:, None] * (problems + 1) + self.owner
        per_block = np.bincount(slots.ravel(), minlength=blocks * (problems + 1)).reshape(
            blocks, problems + 1
        )
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


def finite(values: ArrayLike) -> Array:
    """The values as an array.

    Raises:
        InputError: NaN or infinite ones, or none.
    """
    array = np.asarray(values, dtype=np.float64)
    wrong = int((~np.isfinite(array)).sum())
    if wrong or not array.size:
        fault = f"{wrong} that are NaN or infinite" if wrong else "none at all"
        raise InputError(
            f"`values` must be finite numbers, one per cell, found {fault}; leave such cells out first."
        )
    return array
