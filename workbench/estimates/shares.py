"""Shares, such as accuracy, Pass@K and agreement, and what a condition changes of them, clustered by problem.

A share is a mean of values from 0 to 1. Its spread says too little where few problems differ, so these intervals don't
rest on resamples: of `Settings` they take the level alone.

``share`` (Korn and Graubard 1998):

1. The effective number of trials is that of independent ones which would make the share as uncertain as the spread
   between problems does, less what t at that many problems asks for.
2. Where fewer than FEWEST problems differ from all right (or all wrong), that spread is hardly known: every problem
   then counts as one trial at most, fewer where they weigh unequally (Kish).
3. Clopper and Pearson's exact interval for so many trials. Where every problem is all right or all wrong and weighs the
   same, this is the exact binomial interval of problems.

``share_difference`` (Bonett and Price 2012): one problem is added that gained everything and one that lost everything,
then the interval is t's. Where at least FEWEST problems differ between the conditions, the two added gained and lost as
much as the most that was seen.
"""

from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, gammaln, ndtri, stdtrit

from workbench.errors import InputError
from workbench.estimates.interval import FEWEST, Array, Interval, Intervals, Settings
from workbench.estimates.statistics import divide, finite, number_problems, sums_by_problem

_ROUNDING = 1e-9


def share(values: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]) -> Interval:
    """Mean over cells of values from 0 to 1; ``problem`` (cells,) is the label of each cell's problem.

    Raises:
        InputError: values outside [0, 1].
    """
    rows = finite(values)
    if rows.min() < -_ROUNDING or rows.max() > 1 + _ROUNDING:
        raise InputError(
            f"`values` of a share must lie in [0, 1], found {rows.min():g} to {rows.max():g}; use mean(values, problem)."
        )
    rows = rows.clip(0, 1)
    ids, problems = number_problems(problem, len(rows))
    sums = sums_by_problem(np.stack([rows, np.ones_like(rows)]), ids, problems)
    return shares(sums[:, :1], sums[:, 1:], level=settings.get("level", 0.95))[0]


def shares(amount: Array, weight: Array, *, level: float = 0.95) -> Intervals:
    """Shares from sums over the cells of each problem, both (problems, statistics), amounts at most the weights.

    NaN ends with fewer than two problems that weigh anything, and a NaN estimate with none.
    """
    total = weight.sum(axis=0)
    estimate = np.clip(divide(amount.sum(axis=0), total), 0, 1)
    speaking = (weight > 0).sum(axis=0)
    trials = _trials(amount, weight, estimate, speaking, level)
    usable = (speaking >= 2) & np.isfinite(trials)
    safe = np.where(usable, trials, 1.0)
    right = np.where(usable, estimate, 0.5) * safe
    # An end that no share can pass has no quantile; it is its own bound.
    low = np.where(right > 0, betaincinv(right, safe - right + 1, (1 - level) / 2), 0.0)
    high = np.where(right < safe, betaincinv(right + 1, safe - right, (1 + level) / 2), 1.0)
    low, high = np.minimum(low, estimate), np.maximum(high, estimate)
    return Intervals(estimate, np.where(usable, low, np.nan), np.where(usable, high, np.nan))


def _trials(amount: Array, weight: Array, estimate: Array, speaking: Array, level: float) -> Array:
    """(statistics,) effective number of independent trials."""
    total = weight.sum(axis=0)
    freedom = np.maximum(speaking - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = speaking / freedom * ((amount - estimate * weight) ** 2).sum(axis=0) / total**2
        alike = total**2 / (weight**2).sum(axis=0)  # Kish: problems, if they weighed the same
        spread = estimate * (1 - estimate) / variance
    nothing, everything = (np.abs(amount - end * weight) <= _ROUNDING * weight for end in (0.0, 1.0))
    differing = (~np.where(estimate < 0.5, nothing, everything) & (weight > 0)).sum(axis=0)
    shrunk = (ndtri((1 + level) / 2) / stdtrit(freedom, (1 + level) / 2)) ** 2
    few = differing < FEWEST
    clustered = shrunk * np.where(np.isnan(spread), alike, np.where(few, np.minimum(spread, alike), spread))
    whole = (nothing | everything).all(axis=0)  # every problem is one trial
    return np.where(whole, alike, clustered)


def share_difference(
    a: ArrayLike, b: ArrayLike, problem: ArrayLike, **settings: Unpack[Settings]
) -> Interval:
    """Mean of ``b - a`` over pairs of values from 0 to 1 (the same question or sample under two conditions).

    Raises:
        InputError: values outside [0, 1], or that don't pair up.
    """
    before, after = finite(a), finite(b)
    if before.shape != after.shape:
        raise InputError(f"`a` and `b` must pair up, found shapes {before.shape} and {after.shape}.")
    both = np.concatenate([before, after])
    if both.min() < -_ROUNDING or both.max() > 1 + _ROUNDING:
        raise InputError(
            f"`a` and `b` must lie in [0, 1], found {both.min():g} to {both.max():g}; "
            "use paired_difference(a, b, problem)."
        )
    ids, problems = number_problems(problem, len(before))
    sums = sums_by_problem(np.stack([after - before, np.ones_like(before)]), ids, problems)
    return share_change(sums[:, 0], sums[:, 1], level=settings.get("level", 0.95))


def share_change(change: Array, weight: Array, *, level: float = 0.95) -> Interval:
    """What is gained of a share: from sums (problems,) of the changes and of the weights of each problem's cells."""
    here = weight > 0
    change, weight = change[here], weight[here]
    problems = len(change)
    if not problems:
        return Interval(np.nan, np.nan, np.nan)
    total, own = weight.sum(), change / weight
    estimate = float(change.sum() / total)
    if problems < 2:
        return Interval(estimate, np.nan, np.nan)
    differing = int((np.abs(own) > _ROUNDING).sum())
    most = 1.0 if differing < FEWEST else float(np.abs(own).max())
    alike = float(total**2 / (weight**2).sum())
    squares = float(((change - estimate * weight) ** 2).sum() / total**2) * alike**2 + alike * estimate**2
    middle = alike * estimate / (alike + 2)
    variance = max((squares + 2 * most**2) / (alike + 2) - middle**2, 0.0)
    reach = stdtrit(problems - 1, (1 + level) / 2) * np.sqrt(variance / (alike + 2))
    low, high = middle - reach, middle + reach
    low, high = max(min(low, estimate), -1.0), min(max(high, estimate), 1.0)
    return Interval(estimate, float(low), float(high))


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
    return np.clip(1 - np.where(wrong >= k, np.exp(log_missed), 0.0), 0.0, 1.0)
