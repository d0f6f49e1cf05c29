"""Uncertainty: an estimate and its interval, clustered by problem, by one method a kind of number.

Cells of one problem (its layers and positions, its samples) are not independent, so problems are the units. Which method
serves a kind was chosen by simulation (``tests/perf/coverage.py``; the table is in ``analyses/LOG.md``): each covers at
least 93% where it says 95%, from 8 problems on.

====================================  =============================================================================
mean, ratio of sums, slope, contrast  `bootstrap` with ``method="sums"``: the widest of jackknife t, the same with
                                      skewness taken out, and an expanded BCa bootstrap
rank and linear correlation           ``method="correlation"``: the wider of jackknife t on Fisher's scale and the
                                      expanded percentile bootstrap
median, half-time                     ``method="order"``: the expanded percentile bootstrap
accuracy, Pass@K, agreement           `share`: Clopper and Pearson's exact interval at the effective number of
                                      problems (Korn and Graubard)
difference of two accuracies          `share_difference`: Bonett and Price's adjusted interval, with t
any of these, of several pairs        `pool`: Paule and Mandel's variance between pairs, Hartung and Knapp's interval with t
====================================  =============================================================================

Fewer than ``FEWEST`` problems have no interval, shares apart, which are exact at any number of at least two: bounds are
NaN, never 0. Fewer than ``ENOUGH`` decide no claim. No interval has zero width: where all problems agree, a share has its
exact bound and anything else NaN.

    from workbench import estimates
    print(estimates.mean([0.1, 0.3, 0.2, 0.4] * 4, problem=range(16)))    # 0.25 [0.18, 0.33]
    print(estimates.share([1, 1, 1, 1] * 4, problem=range(16)))           # 1.00 [0.79, 1.00]

A new statistic is a function of counts (resamples, problems), how often each problem is drawn: copy `ratio`.
"""

from workbench.estimates.bootstrap import bootstrap
from workbench.estimates.interval import ENOUGH, FEWEST, Array, Interval, Intervals, Settings
from workbench.estimates.kinds import mean, median, paired_difference, pearson, ratio, spearman
from workbench.estimates.pooling import Pooled, pool, standard_error
from workbench.estimates.shares import pass_at_k, share, share_change, share_difference, shares
from workbench.estimates.statistics import (
    Correlation,
    Median,
    RankCorrelation,
    divide,
    number_problems,
    sums_by_problem,
    together,
)

__all__ = [
    "ENOUGH",
    "FEWEST",
    "Array",
    "Correlation",
    "Interval",
    "Intervals",
    "Median",
    "Pooled",
    "RankCorrelation",
    "Settings",
    "bootstrap",
    "divide",
    "mean",
    "median",
    "number_problems",
    "paired_difference",
    "pass_at_k",
    "pearson",
    "pool",
    "ratio",
    "share",
    "share_change",
    "share_difference",
    "shares",
    "spearman",
    "standard_error",
    "sums_by_problem",
    "together",
]
