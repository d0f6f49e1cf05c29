"""Claims: the verdict follows from the interval alone, and the numbers from tables worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from response_tables import responses
from synthetic import synthetic_trace

from workbench.analysis.shift import stratified_shift
from workbench.analysis.verdicts import Claim, claim_table
from workbench.estimates import Interval
from workbench.studies.claims import MARGIN, outcome_claims, shift_claims
from workbench.tracing.agreement import agreement_by_layer

NAN = float("nan")


@pytest.mark.parametrize(
    ("interval", "bound", "above", "verdict"),
    [
        (Interval(2, 1.5, 3), 1, True, "holds"),
        (Interval(2, 1.5, 3), 1, False, "does NOT hold"),
        (Interval(2, 0.5, 3), 1, True, "is undecided"),
        (Interval(-3, -4, -1), 0, False, "holds"),
        (Interval(-3, -4, -1), 0, True, "does NOT hold"),
        (Interval(-1, -1.4, 1), MARGIN, True, "holds"),
        (Interval(2, NAN, NAN), 1, True, "is undecided"),
        (Interval(NAN, NAN, NAN), 1, True, "cannot be tested"),
    ],
)
def test_a_verdict_follows_from_the_interval(interval, bound, above, verdict):
    claim = Claim("x", "Table 0", "points", interval, 64, bound, above)
    assert claim.verdict == verdict
    row = claim_table([claim]).iloc[0]
    assert row["verdict"] == verdict
    assert row["expected"] == f"{'above' if above else 'below'} {bound:g}"


def test_an_obstacle_leaves_a_claim_untested():
    claim = Claim("x", "Table 0", "points", Interval(2, 1, 3), 64, obstacle="one problem, so no interval")
    assert (claim.holds, claim.verdict) == (None, "cannot be tested")
    assert "one problem" in str(claim)


def test_claims_of_a_shift_with_a_known_tilt():
    trace = synthetic_trace(problems=20, tilt=2.0, last_tilt=-2.0, null_tilt=2.0)
    found = shift_claims(stratified_shift(trace, resamples=200), agreement_by_layer(trace, resamples=50))
    raw = {c.measured: c for c in found if c.measured.startswith("raw KL, lowest over highest")}
    below, last = (
        next(c for m, c in raw.items() if "visual" in m and end in m) for end in ("without", "alone")
    )
    assert (below.verdict, last.verdict) == ("holds", "does NOT hold")
    assert below.bound == 1.0
    differ = [c for c in found if "predictions" in c.place]
    share = (
        agreement_by_layer(trace, resamples=50)
        .query("layer == 3 and kind == 'visual'")["top1_agreement"]
        .item()
    )
    assert differ[0].interval.estimate == pytest.approx(100 * (1 - share))


def drift(change: float, problems: int = 20) -> pd.DataFrame:
    rows = [
        {
            "intervention": "tokens, low",
            "scope": "without last layer",
            "stratum": s,
            "problems": problems,
            "change": change,
            "change_low": change - 0.001,
            "change_high": change + 0.001,
        }
        for s in ("low", "high")
    ]
    return pd.DataFrame(rows)


def test_claims_of_outcomes_are_paired_differences_in_points():
    always, never, half = [[1, 1, 1]] * 20, [[0, 0, 0]] * 20, [[1, 1, 0]] * 20
    table = responses(
        base=never,
        rlvr=half,
        **{"tokens, low": always, "tokens, high": half, "patch, low": half, "patch, high": never},
    )
    found = {(c.claim, c.measured.partition(",")[0]): c for c in outcome_claims(table, drift(-0.01))}
    assert found["RLVR makes the model reason better", "greedy"].interval.estimate == 100
    assert found["RLVR makes the model reason better", "Pass@1"].interval.estimate == 50
    replay = found["replay improves the RLVR model", "Pass@1"]
    assert (replay.interval.estimate, replay.verdict) == (50, "holds")
    assert (
        found["replay improves the RLVR model", "greedy"].verdict == "is undecided"
    )  # both are always right
    kept = found["low-entropy activations can be the base's without harm", "greedy"]
    assert (kept.interval.estimate, kept.verdict) == (
        0,
        "is undecided",
    )  # 20 problems exclude no loss of 1.5 points
    assert "a loss beyond 13.5 points is excluded" in kept.why
    assert found["putting in the base's high-entropy activations does harm", "greedy"].verdict == "holds"
    assert found["RLVR narrows coverage", "Pass@2"].verdict == "does NOT hold"
    assert not any("self-smoothing" in claim for claim, _ in found)  # it was not run
    assert all(c.verdict == "holds" for c in found.values() if c.place == "section 4")


def test_one_problem_has_no_verdict():
    table = responses(base=[[0, 0]], rlvr=[[1, 1]])
    found = outcome_claims(table, drift(-0.1, 1))
    assert {c.verdict for c in found} == {"has too few problems"}
    assert all(np.isnan(c.interval.low) for c in found if c.place == "Table 2")
