import itertools
import math
import warnings
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from workbench import estimates
from workbench.errors import InputError
from workbench.estimates import Interval, Median, RankCorrelation, bootstrap, pass_at_k
from workbench.estimates.bootstrap import bca, draws
from workbench.estimates.statistics import divide

SETTINGS = {"resamples": 300, "seed": 3}


def clustered(problems=20, cells=10, between=1.0, within=1.0, seed=0):
    """Values and their problems: a problem's mean has the spread ``between``, its cells ``within``."""
    rng = np.random.default_rng(seed)
    problem = np.repeat(np.arange(problems), cells)
    return rng.normal(0, between, problems)[problem] + rng.normal(0, within, len(problem)), problem


def expanded(values, problem, counts):
    """Every cell as often as its problem is drawn: what the fast statistics stand for."""
    return np.repeat(values, counts[problem].astype(int))


def test_bca_is_scipys():
    values, _ = clustered(problems=30, cells=1)
    values = np.exp(values)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="BCa", rng=np.random.default_rng(7)
    ).confidence_interval
    drawn = (draws(30, 20000, 7) @ values / 30)[:, None]
    gaps = values - values.mean()
    acceleration = np.array([(gaps**3).sum() / (6 * (gaps**2).sum() ** 1.5)])
    reach = np.array([stats.norm.ppf(0.975)])
    low, high = bca(np.array([values.mean()]), drawn, np.sort(drawn, axis=0), acceleration, reach)
    assert [low[0], high[0]] == pytest.approx([theirs.low, theirs.high], rel=0.03)


def test_a_mean_reaches_at_least_as_far_as_students_interval():
    values, _ = clustered(problems=30, cells=1)
    ours = estimates.mean(values, np.arange(30), resamples=500, seed=7)
    theirs = stats.ttest_1samp(values, 0).confidence_interval()
    assert ours.estimate == pytest.approx(values.mean())
    assert theirs.low - 0.15 < ours.low < theirs.low < theirs.high < ours.high < theirs.high + 0.15


def test_intervals_cover_clustered_data_and_ignoring_the_clusters_does_not():
    covered = naive_covered = narrower = 0
    for seed in range(100):
        values, problem = clustered(problems=40, cells=8, seed=seed)
        interval = estimates.mean(values, problem, resamples=200, seed=seed)
        naive = estimates.mean(values, np.arange(len(values)), resamples=200, seed=seed)
        covered += interval.low <= 0 <= interval.high
        naive_covered += naive.low <= 0 <= naive.high
        narrower += naive.high - naive.low < interval.high - interval.low
    assert covered >= 90
    assert naive_covered <= 75
    assert narrower == 100


@pytest.mark.parametrize(("right", "of"), [(0, 20), (1, 20), (10, 20), (20, 20), (3, 100)])
def test_a_share_of_problems_that_agree_with_themselves_is_clopper_and_pearsons(right, of):
    values = np.repeat(np.arange(of) < right, 3).astype(float)  # three answers a problem, all alike
    interval = estimates.share(values, np.repeat(np.arange(of), 3))
    theirs = stats.binomtest(right, of).proportion_ci(method="exact")
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high))
    assert estimates.mean(values, np.repeat(np.arange(of), 3)) == interval


def test_a_difference_of_shares_is_bonett_and_prices_with_t():
    before, after = np.zeros(40), np.r_[np.ones(6), np.zeros(34)]
    before[-2:] = 1
    interval = estimates.share_difference(before, after, np.arange(40))
    gained, lost = 7 / 42, 3 / 42  # one more of each, of two more problems
    reach = stats.t.ppf(0.975, 39) * np.sqrt((gained + lost - (gained - lost) ** 2) / 42)
    assert interval.estimate == pytest.approx(4 / 40)
    assert (interval.low, interval.high) == pytest.approx((gained - lost - reach, gained - lost + reach))
    assert estimates.paired_difference(before, after, np.arange(40)) == interval


def test_a_p_value_is_below_the_level_where_the_interval_leaves_the_bound_out():
    values = np.random.default_rng(0).normal(0.4, 1, 40)
    theirs = stats.ttest_1samp(values, 0)
    ends = theirs.confidence_interval()
    interval = Interval(values.mean(), ends.low, ends.high)
    assert interval.p_value(0.0, units=40) == pytest.approx(theirs.pvalue)
    assert Interval(2.0, 1.0, 4.0).p_value(1.0, units=40, factor=True) == pytest.approx(0.05)
    assert Interval(0.0, -0.1, 0.1).p_value(0.0, units=40) == 1.0
    assert np.isnan(Interval(2.0, np.nan, np.nan).p_value(1.0, units=40))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_median_is_the_median_of_the_drawn_cells(data):
    problems = data.draw(st.integers(1, 5))
    cells = data.draw(st.lists(st.tuples(st.integers(-4, 4), st.integers(0, problems - 1)), min_size=1))
    values, problem = np.array([v / 2 for v, _ in cells]), np.array([p for _, p in cells])
    drawn = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=problems, max_size=problems), min_size=1))
    counts = np.array(drawn, dtype=float)
    found = Median(values, problem, problems)(counts)[:, 0]
    for row, value in zip(counts, found, strict=True):
        sample = expanded(values, problem, row)
        assert np.isnan(value) if not len(sample) else value == np.median(sample)


def test_median_of_many_cells():
    values, problem = clustered(problems=9, cells=700)
    counts = np.random.default_rng(0).multinomial(9, [1 / 9] * 9, size=20).astype(float)
    expected = [np.median(expanded(values, problem, row)) for row in counts]
    assert Median(values, problem, 9)(counts)[:, 0].tolist() == expected
    assert estimates.median(values, problem, **SETTINGS).estimate == np.median(values)


def rank_correlations(x, y, problem, counts):
    return [stats.spearmanr(expanded(x, problem, row), expanded(y, problem, row))[0] for row in counts]


def test_rank_correlation_is_exact_where_values_repeat():
    x, problem = clustered(seed=1)
    y = x + clustered(seed=2)[0]
    x, y = x.round(), y.round()
    counts = np.random.default_rng(0).multinomial(20, [1 / 20] * 20, size=15).astype(float)
    found = RankCorrelation(x, y, problem, 20)(counts)[:, 0]
    assert found == pytest.approx(rank_correlations(x, y, problem, counts), abs=1e-6)


def test_rank_correlation_of_continuous_values_differs_by_little_of_its_spread():
    x, problem = clustered(seed=1, cells=40)
    y = x + clustered(seed=2, cells=40)[0]
    counts = np.random.default_rng(0).multinomial(20, [1 / 20] * 20, size=60).astype(float)
    statistic = RankCorrelation(x, y, problem, 20)
    expected = np.array(rank_correlations(x, y, problem, counts))
    assert np.abs(statistic(counts)[:, 0] - expected).max() < 0.1 * expected.std()
    assert statistic.exact == pytest.approx(stats.spearmanr(x, y)[0])


def test_rank_correlation_of_a_constant_is_undefined():
    values, problem = clustered()
    interval = estimates.spearman(values, np.ones_like(values), problem, **SETTINGS)
    assert np.isnan([interval.estimate, interval.low, interval.high]).all()


def test_ratio_is_of_sums_not_of_cells():
    interval = estimates.ratio([1, 2, 3, 10], [1, 1, 1, 5], ["a", "a", "b", "b"], **SETTINGS)
    assert interval.estimate == 16 / 8
    assert np.isnan([interval.low, interval.high]).all()  # of two problems
    four = estimates.ratio([1, 2, 3, 10] * 4, [1, 1, 1, 5] * 4, [*"aabbccddeeffgghh"], **SETTINGS)
    assert four.low < 16 / 8 < four.high


def test_paired_difference_forgets_what_both_conditions_share():
    base, problem = clustered(between=5, within=0)
    better = base + 0.5 + clustered(between=0.1, within=0.1, seed=1)[0]
    interval = estimates.paired_difference(base, better, problem, **SETTINGS)
    assert interval.estimate == pytest.approx((better - base).mean())
    assert interval.above(0.0) is True
    assert estimates.mean(better, problem, **SETTINGS).above(base.mean()) is None


def test_one_problem_has_an_estimate_and_no_interval():
    values = [1.0, 2.0, 6.0]
    for interval in (
        estimates.mean(values, ["a"] * 3),
        estimates.median(values, ["a"] * 3),
        estimates.spearman(values, [1, 2, 3], ["a"] * 3),
    ):
        assert np.isfinite(interval.estimate)
        assert np.isnan([interval.low, interval.high]).all()
        assert interval.above(0.0) is None


@pytest.mark.filterwarnings("error")
def test_no_interval_where_too_many_resamples_are_undefined():
    held = np.zeros(20)
    held[0] = 1  # one problem in twenty holds the cells in question: a third of the resamples have none
    alone = estimates.ratio(held, held, np.arange(20), **SETTINGS)
    assert alone.estimate == 1
    assert np.isnan([alone.low, alone.high]).all()
    held[:7] = 1  # with seven all but a few have some, but seven are few
    few = estimates.ratio(held * np.arange(20), held, np.arange(20), **SETTINGS)
    assert np.isnan([few.low, few.high]).all()
    held[:8] = 1
    several = estimates.ratio(held * np.arange(20), held, np.arange(20), **SETTINGS)
    assert several.low < 3.5 < several.high


def test_equal_seeds_give_equal_intervals():
    values, problem = clustered()
    first = estimates.mean(values, problem, seed=1)
    assert first == estimates.mean(values, problem, seed=1)
    assert first != estimates.mean(values, problem, seed=2)


def test_level_widens_the_interval():
    values, problem = clustered()
    narrow, wide = (estimates.mean(values, problem, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_problem_labels_can_be_anything_hashable_and_in_any_order():
    values, problem = clustered()
    order = np.random.default_rng(0).permutation(len(values))
    shuffled = estimates.mean(values[order], np.array([f"q{p:02d}" for p in problem])[order], **SETTINGS)
    straight = estimates.mean(values, problem, **SETTINGS)
    assert (shuffled.low, shuffled.high) == pytest.approx((straight.low, straight.high))


def test_interval_says_on_which_side_of_a_value_it_lies():
    interval = Interval(2.0, 1.5, 2.5)
    assert [interval.above(value) for value in (1.0, 2.0, 3.0)] == [True, None, False]
    assert str(interval) == "2.00 [1.50, 2.50]"
    assert str(Interval(2.0, np.nan, np.nan)) == "2.00"
    with pytest.raises(InputError, match=r"`low` must not exceed `high`, found \[3.0, 1.0\]"):
        Interval(2.0, 3.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap(lambda counts: counts, 0), "`problem` names no problem"),
        (lambda: estimates.mean([1, 2], [0, 1], resamples=0), "`resamples` must be at least 1, found 0"),
        (lambda: estimates.mean([1, 2], [0, 1], level=9.5), r"`level` must lie inside \(0, 1\), found 9.5"),
        (lambda: estimates.mean([1, 2], [0]), "`problem` must name the problem of each of the 2 cells"),
        (lambda: estimates.median([1, np.nan], [0, 1]), "`values` must be finite numbers, .* found 1 that"),
        (lambda: estimates.median([], []), "`values` must be finite numbers, .* found none at all"),
        (lambda: estimates.spearman([1], [1, 2], [0]), r"`x` and `y` must pair up, found shapes \(1,\)"),
        (lambda: estimates.paired_difference([1], [1, 2], [0]), r"`a` and `b` must pair up, found shapes"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_pass_at_k_is_the_chance_that_a_draw_of_k_holds_a_right_one():
    for n, k in itertools.product((1, 4, 9), (1, 2, 4)):
        if k <= n:
            expected = [1 - comb(n - c, k) / comb(n, k) for c in range(n + 1)]
            assert np.allclose(pass_at_k(n, np.arange(n + 1), k), expected)


def test_pass_at_k_is_a_share_in_spite_of_rounding():
    for n, k in itertools.product(range(1, 65), (1, 2, 4, 8, 16, 32, 64)):
        if k <= n:
            found = pass_at_k(n, np.arange(n + 1), k)
            assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, [1], 8), r"`k` is 8 with 4 samples a problem; Pass@K needs at least K samples: draw samples=8"),
        ((4, [1], 0), r"`k` is 0"),
        ((4, [5], 2), r"`correct` must lie between 0 and the 4 samples"),
    ],
)
def test_pass_at_k_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        pass_at_k(*arguments)


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("factor", [False, True])
@pytest.mark.parametrize("pairs", [2, 5, 12])
def test_pooled_numbers_are_statsmodels_own(pairs, factor, spread):
    rng = np.random.default_rng(pairs)
    values = 0.4 + spread * rng.normal(0, 1, pairs) + 0.1 * rng.normal(0, 1, pairs)
    errors, units = rng.uniform(0.05, 0.2, pairs), rng.integers(8, 100, pairs)
    halves = errors * stats.t.ppf(0.975, units - 1)
    back = np.exp if factor else np.asarray
    intervals = [Interval(*map(float, back([v, v - h, v + h]))) for v, h in zip(values, halves, strict=True)]
    theirs = combine_effects(values, errors**2, method_re="iterated", use_t=True, maxiter=1000)
    ours = estimates.pool(intervals, units.tolist(), factor=factor)
    low, high = theirs.conf_int()[1]
    ends = (ours.interval.estimate, ours.interval.low, ours.interval.high)
    np.testing.assert_allclose(ends, back([theirs.mean_effect_re, low, high]), rtol=1e-9)
    assert ours.tau == pytest.approx(np.sqrt(theirs.tau2), abs=1e-6)
    assert ours.i2 == pytest.approx(max(0.0, theirs.i2))
    assert ours.p_alike == pytest.approx(theirs.test_homogeneity().pvalue)
    error = np.sqrt(1 / theirs.weights_re.sum())
    p = 2 * stats.t.sf(abs(theirs.mean_effect_re) / error, pairs - 1)
    assert ours.p_value(1.0 if factor else 0.0) == pytest.approx(p)
    assert [
        estimates.standard_error(i, int(n), factor=factor) for i, n in zip(intervals, units, strict=True)
    ] == (pytest.approx(errors.tolist()))


def test_pairs_without_an_interval_are_left_out_of_the_pool():
    nan = float("nan")
    known = [Interval(0.4, 0.3, 0.5), Interval(0.6, 0.4, 0.8)]
    with_others = [*known, Interval(9.0, nan, nan), Interval(5.0, 5.0, 5.0)]
    assert estimates.pool(with_others, [64] * 4) == estimates.pool(known, [64] * 2)
    alone = estimates.pool(known[:1], [64])
    assert (alone.pairs, alone.interval.estimate, np.isnan(alone.interval.low)) == (1, 0.4, True)
    assert np.isnan(alone.p_value(0.0))
    assert np.isnan(estimates.standard_error(Interval(0.5, -0.1, 2.0), 64, factor=True))
    with pytest.raises(InputError, match=r"`units` has 1 values for 2 intervals; expected one each: pool\("):
        estimates.pool(known, [64])


def test_the_smallest_effect_found_four_times_in_five():
    """By simulation: of means of 24 normal draws whose true mean is `detectable`, 80% have an interval that leaves out 0."""
    rng = np.random.default_rng(0)
    spread, count = 2.0, 24
    critical = stats.t.ppf(0.975, count - 1)
    half = critical * spread / count**0.5
    effect = Interval(0.3, 0.3 - half, 0.3 + half).detectable(units=count)
    draws = rng.normal(effect, spread, (20_000, count))
    error = draws.std(1, ddof=1) / count**0.5
    assert (draws.mean(1) - critical * error > 0).mean() == pytest.approx(0.8, abs=0.015)
    factor = Interval(1.0, math.exp(-half), math.exp(half)).detectable(units=count, factor=True)
    assert factor == pytest.approx(math.exp(effect))
    assert math.isnan(Interval(1.0, math.nan, math.nan).detectable(units=count))


@pytest.mark.parametrize("method", ["sums", "order", "correlation"])
def test_a_quotient_by_zero_has_no_interval_and_warns_of_nothing(method):
    values, seldom = np.random.default_rng(0).random(24), np.repeat([1.0, 0.0], [1, 23])

    def statistic(counts):
        return np.stack(
            [divide(counts @ values, 0 * counts[:, 0]), divide(counts @ values, counts @ seldom)], 1
        )

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = bootstrap(statistic, 24, method=method)
    assert found.estimate[0] == np.inf
    assert found.estimate[1] == pytest.approx(values.sum())
    assert np.isnan([found.low, found.high]).all()  # in a third of the resamples the one problem is not drawn
