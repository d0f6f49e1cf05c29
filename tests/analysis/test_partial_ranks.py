"""Partial rank correlations: what is known of synthetic cells comes out, and equals an independent computation."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from workbench.analysis.partial_ranks import PartialRanks, partial
from workbench.errors import InputError
from workbench.estimates import bootstrap

PROBLEMS, CELLS = 40, 25
PROBLEM = np.repeat(np.arange(PROBLEMS), CELLS)


def drawn(seed=0, layers=1):
    """cause -> proxy, and cause -> outcome: the proxy has no link of its own."""
    rng = np.random.default_rng(seed)
    cause = rng.normal(size=(layers, len(PROBLEM)))
    proxy = cause + 0.7 * rng.normal(size=cause.shape)
    outcome = -cause + 0.7 * rng.normal(size=cause.shape)
    return cause, proxy, outcome


def fitted(quantities, outcomes, group=None, problem=PROBLEM, **settings):
    group = np.zeros(quantities.shape[1], dtype=np.int64) if group is None else group
    statistic = PartialRanks(quantities, outcomes, group, problem, PROBLEMS, **settings)
    found = bootstrap(statistic, PROBLEMS, resamples=200)
    return tuple(end.reshape(statistic.shape) for end in (found.estimate, found.low, found.high))


def test_a_proxy_is_left_with_nothing_and_a_cause_with_its_link():
    cause, proxy, outcome = drawn()
    estimate, low, high = fitted(np.concatenate([cause, proxy]), outcome)
    assert estimate[0, 0, 0, 1] < -0.5
    assert high[0, 0, 0, 1] < 0
    assert low[0, 0, 1, 1] < 0 < high[0, 0, 1, 1]
    assert abs(estimate[0, 0, 1, 1]) < 0.08
    assert high[0, 0, 1, 0] < -0.3


def test_they_equal_spearman_and_the_correlation_of_residuals_of_ranks():
    cause, proxy, outcome = drawn(1)
    quantities = np.concatenate([cause, proxy, np.round(cause * proxy)])  # with ties
    estimate, *_ = fitted(quantities, outcome)
    ranks = np.stack([stats.rankdata(row) for row in (*quantities, outcome[0])])
    for index in range(3):
        assert estimate[0, 0, 0, index] == pytest.approx(stats.spearmanr(quantities[index], outcome[0])[0])
        others = sm.add_constant(np.delete(ranks[:3], index, 0).T)
        one, two = (sm.OLS(row, others).fit().resid for row in (ranks[index], ranks[3]))
        assert estimate[0, 0, 1, index] == pytest.approx(np.corrcoef(one, two)[0, 1])


def test_a_resample_is_what_its_cells_written_out_would_be():
    cause, proxy, outcome = drawn(2)
    quantities = np.concatenate([cause, np.round(proxy)])
    counts = np.random.default_rng(0).integers(0, 3, PROBLEMS).astype(float)
    statistic = PartialRanks(quantities, outcome, np.zeros(len(PROBLEM), int), PROBLEM, PROBLEMS)
    again = np.repeat(np.arange(len(PROBLEM)), counts[PROBLEM].astype(int))
    direct = PartialRanks(
        quantities[:, again], outcome[:, again], np.zeros(len(again), int), PROBLEM[again], PROBLEMS
    )
    np.testing.assert_allclose(statistic(counts[None]), direct(np.ones((1, PROBLEMS))))


def test_pooling_holds_the_layer_fixed():
    cause, _, outcome = drawn(3, layers=2)
    shift = np.array([[0.0], [50.0]])  # between layers both rise together, within them one falls
    group = np.repeat([0, 1], len(PROBLEM))
    estimate, *_ = fitted(
        (cause + shift).reshape(1, -1), (outcome + shift).reshape(1, -1), group, np.tile(PROBLEM, 2)
    )
    assert stats.spearmanr((cause + shift).ravel(), (outcome + shift).ravel())[0] > 0.3
    assert estimate[2, 0, 0, 0] == pytest.approx(estimate[:2, 0, 0, 0].mean(), abs=1e-9)
    assert estimate[2, 0, 0, 0] < -0.7
    first, *_ = fitted(
        (cause + shift).reshape(1, -1), outcome.reshape(1, -1), group, np.tile(PROBLEM, 2), pooled=[0]
    )
    assert first[2, 0, 0, 0] == first[0, 0, 0, 0]


def test_what_is_constant_or_a_function_of_others_has_none_and_spoils_nothing():
    cause, proxy, outcome = drawn(4)
    both, *_ = fitted(np.concatenate([cause, proxy]), outcome)
    more, *_ = fitted(np.concatenate([cause, np.ones_like(cause), 2 * cause + 1, proxy]), outcome)
    assert np.isnan(more[0, 0, 1, [1, 2]]).all()
    assert np.isnan(more[0, 0, 0, 1])
    np.testing.assert_allclose(more[0, 0, 1, [0, 3]], both[0, 0, 1])


def test_singular_matrices_have_no_partial_correlation():
    matrices = np.stack([np.eye(3), np.ones((3, 3)), np.full((3, 3), np.nan)])
    found = partial(matrices)
    assert (found[0] == 0).all()
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantities": np.full((1, 1000), np.nan)}, "`quantities` must be finite"),
        (
            {"outcomes": np.ones((1, 3))},
            r"`outcomes` has shape \(1, 3\), expected \(at least 1, 1000 cells\)",
        ),
        ({"problem": PROBLEM + 1}, "`problem` must name one of 40 problems"),
    ],
)
def test_bad_input_is_refused(change, message):
    cause, _, outcome = drawn()
    given = {
        "quantities": cause,
        "outcomes": outcome,
        "group": np.zeros(len(PROBLEM), int),
        "problem": PROBLEM,
    } | change
    with pytest.raises(InputError, match=message):
        PartialRanks(*given.values(), PROBLEMS)
