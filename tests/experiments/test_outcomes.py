"""Summaries of responses and drift against small cases worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from response_tables import responses
from scipy.stats import binomtest

from workbench.errors import InputError
from workbench.experiments.outcomes import drift_table, mcnemar, summarise_responses


def test_accuracies_and_differences():
    table = responses(
        base=[[0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]],
        rlvr=[[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]],
        tokens=[[1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]],
    )
    summary = summarise_responses(table, samples=2, pass_at=(1, 2)).set_index(["intervention", "measure"])
    assert summary.loc[("base", "greedy"), "estimate"] == 0.25
    assert summary.loc[("base", "Pass@1"), "estimate"] == pytest.approx(0.25)
    assert summary.loc[("base", "Pass@2"), "estimate"] == 0.5
    row = summary.loc[("tokens", "greedy")]
    assert (row["estimate"], row["vs_rlvr"], row["vs_base"]) == (0.75, 0.25, 0.5)
    assert row["vs_rlvr_low"] <= 0.25 <= row["vs_rlvr_high"]
    assert row["vs_rlvr_mcnemar"] == 1.0
    assert np.isnan(summary.loc[("rlvr", "greedy"), "vs_rlvr"])
    assert summary.loc[("rlvr", "greedy"), "vs_base"] == 0.25


def test_a_missing_response_is_refused():
    table = responses(base=[[1, 1], [0, 0]], rlvr=[[1, 1], [1, 1]]).iloc[:-1]
    with pytest.raises(
        InputError, match="`responses` lacks some of the 1 samples or the greedy response of 'rlvr'"
    ):
        summarise_responses(table, samples=1, pass_at=(1,))


def test_mcnemar_is_the_binomial_test_of_discordant_problems():
    a = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    b = np.array([1, 1, 0, 1, 1, 1, 1, 1, 0, 0])
    assert mcnemar(a, b) == pytest.approx(binomtest(5, 6).pvalue)
    assert mcnemar(a, a) == 1.0


def test_drift_pairs_before_and_after_and_leaves_out_empty_strata():
    drift = pd.DataFrame(
        {
            "problem": [*"abcdefghi"],
            "intervention": "tokens",
            "scope": "last layer",
            "stratum": "low",
            "before": [*np.linspace(1.0, 2.0, 8), np.nan],
            "kl": [*np.linspace(0.5, 1.0, 8), np.nan],
        }
    )
    row = drift_table(drift, resamples=50).iloc[0]
    assert (row["problems"], row["before"], row["kl"], row["change"]) == pytest.approx((8, 1.5, 0.75, -0.75))
    assert row["change_low"] <= -0.75 <= row["change_high"]
