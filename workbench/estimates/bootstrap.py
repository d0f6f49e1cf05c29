"""Intervals of a statistic of problem counts, by resampling problems and by leaving each out.

1. Draw as many problems as there are, with replacement, ``resamples`` times. A resample is a row of counts: how often
   each problem was drawn. Sums over cells are ``counts @ sums_by_problem``, so means and ratios of sums cost one matrix
   product, whatever the number of cells. Equal seeds draw equal resamples.
2. Leave each problem out once (of more than ``GROUPS`` problems, groups of them): the spread of these values is the
   standard error, their skewness the acceleration. Problems whose absence changes nothing do not count as problems.
3. The interval, by ``method``. Each widens the percentiles of a sample of n to those of t at n - 1 degrees of freedom
   and variance n / (n - 1) ("expanded", Hesterberg 2015), since resamples of few problems spread too little.

   ``sums``         from the lowest to the highest end of: jackknife t; the same on a log scale, for what is positive by
                    nature (``bounds``); t with the skewness taken out (Hall 1992); BCa (Efron 1987). None alone covers in every
                    case: the first misses skewed sums, the second to fourth few problems, BCa both.
   ``correlation``  the wider of jackknife t on Fisher's scale and the percentiles.
   ``order``        the percentiles, for statistics that are not smooth, where leaving out one problem tells nothing.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from workbench.errors import InputError
from workbench.estimates.interval import FEWEST, Array, Intervals

Method = Literal["sums", "correlation", "order"]
UNDEFINED_SHARE = 0.1  # of the resamples, above which there is no interval
GROUPS = 400
_ROUNDING = 1e-12  # relative: what leaving out a problem changes by less is rounding
_CERTAIN = 1 - 1e-12  # where Fisher's scale of correlations ends


def bootstrap(
    statistic: Callable[[Array], Array],
    problems: int,
    *,
    method: Method = "sums",
    bounds: tuple[float | Array, float | Array] = (-np.inf, np.inf),
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Intervals of a statistic of problem counts.

    Args:
        statistic: maps counts (resamples, problems), how often each problem is drawn, to values (resamples,
            statistics); NaN or infinite where undefined. The estimate is its value with every problem drawn once. Counts are
            whole numbers with ``order``; otherwise also fractions.
        problems: how many problems there are.
        method: see above.
        bounds: of what the statistic can be, each a number or (statistics,); (0, inf) for what is positive.
        resamples: bootstrap resamples.
        level: coverage, inside (0, 1).
        seed: of the generator that draws the resamples.

    Returns:
        NaN bounds where fewer than FEWEST problems speak about a statistic, where too many resamples leave it
        undefined, and where all resamples agree.

    Raises:
        InputError: no problem, no resample, an unknown method or a level outside (0, 1).
    """
    _check_settings(problems, resamples, level, method)
    estimate = np.asarray(statistic(np.ones((1, problems))), dtype=np.float64)[0]
    if problems < FEWEST:
        nothing = np.full_like(estimate, np.nan)
        return Intervals(estimate, nothing, nothing)
    resampled = _defined(statistic(draws(problems, resamples, seed)))
    ordered = np.sort(resampled, axis=0)
    if method == "order":
        ends = [percentiles(ordered, *_tails(np.full(len(estimate), problems), level))]
    else:
        jackknife, middle = _defined(statistic(left_out(problems))), _defined(estimate)
        positive = np.broadcast_to(np.asarray(bounds[0]) >= 0, estimate.shape)
        ends = (
            _smooth(middle, resampled, ordered, jackknife, level, positive)
            if method == "sums"
            else _correlated(middle, ordered, jackknife, level)
        )
    low, high = _within(np.stack([one for one, _ in ends]), np.stack([two for _, two in ends]), bounds)
    unusable = (np.isnan(resampled).mean(axis=0) > UNDEFINED_SHARE) | ~(high > low)
    low[unusable] = high[unusable] = np.nan
    return Intervals(estimate, low, high)


@lru_cache(maxsize=2)
def draws(problems: int, resamples: int, seed: int) -> Array:
    """Counts (resamples, problems) of resamples with replacement; kept, since a study asks for the same ones often."""
    shares = np.full(problems, 1 / problems)
    counts = np.random.default_rng(seed).multinomial(problems, shares, size=resamples).astype(np.float64)
    counts.setflags(write=False)
    return counts


@lru_cache(maxsize=2)
def left_out(problems: int) -> Array:
    """Counts (groups, problems) that leave out each problem, or each of GROUPS random groups; all rows sum to problems."""
    order = np.random.default_rng(0).permutation(problems)
    group = order % min(problems, GROUPS)
    counts = (group != np.arange(min(problems, GROUPS))[:, None]).astype(np.float64)
    counts *= problems / counts.sum(axis=1, keepdims=True)
    counts.setflags(write=False)
    return counts


def _defined(values: Array) -> Array:
    """Values with NaN for what is infinite, which is as little defined: x / 0, where 0 / 0 is NaN."""
    found = np.asarray(values, dtype=np.float64)
    return np.where(np.isinf(found), np.nan, found)


def percentiles(ordered: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Two quantiles of each column of resampled values, sorted with NaN last, which do not count."""
    last = np.maximum(np.isfinite(ordered).sum(axis=0) - 1, 0)
    column = np.arange(ordered.shape[1])

    def at(share: Array) -> Array:
        place = np.nan_to_num(np.clip(share, 0, 1)) * last
        below = np.floor(place).astype(np.int64)
        under, over = ordered[below, column], ordered[np.minimum(below + 1, last), column]
        return under + (place - below) * (over - under)

    return at(low), at(high)


def bca(
    estimate: Array, drawn: Array, ordered: Array, acceleration: Array, reach: Array
) -> tuple[Array, Array]:
    """Ends of the bias-corrected and accelerated bootstrap, ``reach`` standard normal units to either side."""
    valid = np.isfinite(drawn).sum(axis=0)
    below = (drawn < estimate).sum(axis=0) + (drawn == estimate).sum(axis=0) / 2
    bias = ndtri((below + 0.5) / (valid + 1))
    shares = []
    for side in (bias - reach, bias + reach):
        scale = 1 - acceleration * side
        moved = bias + np.divide(side, scale, where=scale > 0, out=np.copysign(np.inf, side))
        shares.append(ndtr(moved))
    return percentiles(ordered, *shares)


def _smooth(
    estimate: Array, drawn: Array, ordered: Array, left: Array, level: float, positive: NDArray[np.bool_]
) -> list[tuple[Array, Array]]:
    speaking = _speaking(estimate, left)
    freedom = np.maximum(speaking - 1, 1)
    # n / (n - 1) more than t has: a few problems of a skewed kind hide how skewed it is.
    critical = speaking / freedom * stdtrit(freedom, (1 + level) / 2)
    gaps = left.mean(axis=0) - left  # what each problem adds
    groups = len(left)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt((groups - 1) / groups * (gaps**2).sum(axis=0))
        cubes, squares = (gaps**3).sum(axis=0), (gaps**2).sum(axis=0)
        acceleration = cubes / (6 * squares**1.5)
        # Unbiased for few problems: what is left out is the sample's own skewness, which is too small.
        skewness = cubes / groups / (squares / groups) ** 1.5 * np.sqrt(groups * (groups - 1)) / (groups - 2)
    reach = np.sqrt(speaking / freedom) * critical
    plain = estimate - critical * error, estimate + critical * error
    skewed = [
        estimate - error * _unskewed(side, skewness / np.sqrt(groups)) for side in (critical, -critical)
    ]
    several = [plain, (skewed[0], skewed[1]), bca(estimate, drawn, ordered, acceleration, reach)]
    usable = positive & (left > 0).all(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(left)
        spread = np.sqrt((groups - 1) / groups * ((logs - logs.mean(axis=0)) ** 2).sum(axis=0))
        reached = np.exp(critical * spread)
    several.append(
        (np.where(usable, estimate / reached, np.nan), np.where(usable, estimate * reached, np.nan))
    )
    few = speaking < FEWEST
    return [(np.where(few, np.nan, low), np.where(few, np.nan, high)) for low, high in several]


def _correlated(estimate: Array, ordered: Array, left: Array, level: float) -> list[tuple[Array, Array]]:
    speaking = _speaking(estimate, left)
    scaled = np.arctanh(np.clip(left, -_CERTAIN, _CERTAIN))
    critical = stdtrit(np.maximum(speaking - 1, 1), (1 + level) / 2)
    error = critical * np.sqrt((len(left) - 1) * scaled.var(axis=0))
    middle = np.arctanh(np.clip(estimate, -_CERTAIN, _CERTAIN))
    several = [
        (np.tanh(middle - error), np.tanh(middle + error)),
        percentiles(ordered, *_tails(speaking, level)),
    ]
    few = speaking < FEWEST
    return [(np.where(few, np.nan, low), np.where(few, np.nan, high)) for low, high in several]


def _speaking(estimate: Array, left: Array) -> Array:
    """(statistics,) how many problems change the statistic by their absence; 0 where it can't do without one."""
    size = np.abs(left).max(axis=0, initial=0)
    speaking = (np.abs(left - estimate) > _ROUNDING * size).sum(axis=0).astype(np.float64)
    return np.where(np.isfinite(left).all(axis=0), speaking, 0.0)


def _tails(problems: Array, level: float) -> tuple[Array, Array]:
    """The two percentiles of resampled values that make an expanded interval."""
    freedom = np.maximum(problems - 1, 1)
    tail = ndtr(-np.sqrt(problems / freedom) * stdtrit(freedom, (1 + level) / 2))
    return tail, 1 - tail


def _unskewed(t: Array, skewness: Array) -> Array:
    """Where a t value lies once Hall's cubic transformation has taken out the skewness (of the mean) is undone."""
    slope = np.where(np.abs(skewness) < 1e-6, 1.0, skewness)
    bent = 3 / slope * (np.cbrt(1 + slope * (t - slope / 6)) - 1)
    return np.where(np.abs(skewness) < 1e-6, t, bent)


def _within(lows: Array, highs: Array, bounds: tuple[float | Array, float | Array]) -> tuple[Array, Array]:
    """The lowest and the highest end of those that the statistic can reach, else its own bound."""
    least, most = bounds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without any interval
        nothing = np.isnan(lows).all(axis=0) | np.isnan(highs).all(axis=0)
        low = np.nanmin(np.where(lows > least, lows, np.nan), axis=0)
        high = np.nanmax(np.where(highs < most, highs, np.nan), axis=0)
    low = np.where(np.isnan(low), least, low)
    high = np.where(np.isnan(high), most, high)
    return np.where(nothing, np.nan, low), np.where(nothing, np.nan, high)


def _check_settings(problems: int, resamples: int, level: float, method: str) -> None:
    if problems < 1:
        raise InputError("`problem` names no problem: there is nothing to estimate from.")
    if resamples < 1:
        raise InputError(f"`resamples` must be at least 1, found {resamples}; for example resamples=1000.")
    if not 0 < level < 1:
        raise InputError(f"`level` must lie inside (0, 1), found {level}; for example level=0.95.")
    if method not in get_args(Method):
        raise InputError(f"`method` must be one of {get_args(Method)}, found {method!r}.")
