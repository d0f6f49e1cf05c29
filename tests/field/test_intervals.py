"""Intervals and claims that are too sure of themselves, or compare different things."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from response_tables import responses
from synthetic import synthetic_trace

from workbench import estimates
from workbench.analysis.low_entropy import beside_controls
from workbench.analysis.shift import stratified_shift
from workbench.analysis.verdicts import Claim, adjusted, adjusted_verdict, by_chance, claim_table
from workbench.errors import InputError
from workbench.estimates import ENOUGH, FEWEST, Interval
from workbench.experiments.outcomes import summarise_responses
from workbench.interventions import default_matrix
from workbench.studies.claims import MARGIN, WHY, outcome_claims


def covered(truth: float, intervals: list[Interval]) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def test_no_difference_seen_is_not_no_difference():
    """From an interval of zero width where no problem differs."""
    for problems in (2, 7, 16, 100):
        found = estimates.paired_difference(np.ones(problems), np.ones(problems), np.arange(problems))
        assert found.estimate == 0
        assert found.low < 0 < found.high
    hundred = estimates.share_difference(np.ones(100), np.ones(100), np.arange(100))
    assert 0.02 < hundred.high < 0.04  # three problems in a hundred could have changed unseen


def test_all_right_is_not_certainly_all_right():
    """From an accuracy of 100 [100, 100] percent."""
    found = estimates.mean(np.ones(50), np.arange(50))
    assert (found.low, found.high) == (pytest.approx(0.025 ** (1 / 50)), 1.0)
    samples = estimates.share(np.ones(50 * 16), np.repeat(np.arange(50), 16))
    assert samples == found  # sixteen answers to one problem are one problem


def test_equal_values_of_no_known_range_have_no_interval():
    """From zero width where nothing says how far a value could have been."""
    assert np.isnan(estimates.mean(np.full(20, 2.5), np.arange(20)).low)
    assert np.isnan(estimates.median(np.full(20, 2.5), np.arange(20)).low)


@pytest.mark.parametrize("problems", [16, 100])
def test_a_rare_gain_is_covered(problems):
    """From an interval that misses a gain of 1% of problems in most samples (.15 of 16 problems, .62 of 100)."""
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        gained = rng.random(problems) < 0.01
        found.append(estimates.paired_difference(np.zeros(problems), gained, np.arange(problems)))
    assert covered(0.01, found) >= 0.93


@pytest.mark.parametrize("problems", [8, 16, 64])
def test_skewed_sums_are_covered(problems):
    """From a ratio of lognormal sums whose interval is too narrow (.88 of 8 problems, .91 of 16)."""
    rng, found = np.random.default_rng(problems), []
    for _ in range(400):
        one, two = rng.lognormal(0, 1, (2, problems))
        found.append(estimates.ratio(one, two, np.arange(problems)))
    assert covered(1.0, found) >= 0.93


def test_a_problem_without_cells_is_not_a_problem():
    """From counting problems that hold none of the cells in question."""
    weight = np.r_[np.ones(FEWEST - 1), np.zeros(93)]
    values = np.random.default_rng(0).normal(size=100)
    assert np.isnan(estimates.ratio(values * weight, weight, np.arange(100)).low)
    weight[FEWEST - 1] = 1
    assert np.isfinite(estimates.ratio(values * weight, weight, np.arange(100)).low)


def test_few_problems_decide_nothing():
    """From "the claim holds" of three problems."""
    claim = Claim("x", "Table 0", "points", Interval(5.0, 4.0, 6.0), ENOUGH)
    assert (claim.verdict, claim.holds) == ("holds", True)
    few = replace(claim, problems=ENOUGH - 1)
    assert (few.verdict, few.holds) == ("has too few problems", None)
    assert np.isnan(few.p)
    three = stratified_shift(synthetic_trace(problems=3, tilt=3.0), resamples=50)
    assert {verdict.verdict for verdict in three.verdicts} == {"has too few problems"}
    assert "has too few problems on this pair" in three.verdict


def test_many_verdicts_say_how_many_chance_would_decide():
    """From forty verdicts of which two hold because forty were tried."""
    rng = np.random.default_rng(0)
    values = [rng.normal(0, 1, 64) for _ in range(38)] + [rng.normal(1, 1, 64) for _ in range(2)]
    claims = [Claim(f"{i}", "x", "x", estimates.mean(v, np.arange(64)), 64) for i, v in enumerate(values)]
    ps = adjusted(claims)
    left = [adjusted_verdict(claim, p) for claim, p in zip(claims, ps, strict=True)]
    assert all(later >= claim.p for later, claim in zip(ps, claims, strict=True))
    assert left[-2:] == ["holds", "holds"]
    assert set(left[:-2]) == {"is undecided"}
    raw = sum(claim.holds is not None for claim in claims)
    assert raw > 2  # chance decided some
    assert by_chance(claims).startswith(
        "40 claims were tested, each at 5%: with nothing behind any of them, about 2.0 would"
    )
    assert f"{raw} are decided; after Holm's adjustment for all 40, 2 stay so" in by_chance(claims)
    table = claim_table(claims)
    assert ((table["p"] < 0.05) == table["verdict"].isin(["holds", "does NOT hold"])).all()


def test_a_patch_compares_visual_cells_with_visual_cells():
    """From a patch of all positions that is compared with tokens as if it were of visual ones."""
    matrix = default_matrix(8)
    for name in ("patch, low", "patch, high"):
        assert matrix[name].positions is None  # visual where there are any: replay/test_patching.py
        everywhere = matrix[f"{name}, all positions"]
        assert everywhere == replace(matrix[name], positions="all")


def test_claims_say_which_cells_each_side_touched_and_why_a_margin():
    """From "without harm: holds" of 0 [0, 0], by a margin that nobody explains, low against high of unlike cells."""
    same = [[1, 1]] * 64
    table = responses(base=same, rlvr=same, **{"patch, low": same, "patch, high": same})
    cells = {"base": 0, "rlvr": 0, "patch, low": 40, "patch, high": 960}
    table["cells"] = table["cells_visual"] = table["intervention"].map(cells)
    no_drift = pd.DataFrame({"intervention": [], "scope": []})
    found = {claim.claim: claim for claim in outcome_claims(table, no_drift) if "greedy" in claim.measured}
    harm = found["low-entropy activations can be the base's without harm"]
    assert harm.verdict == "is undecided"
    assert harm.interval.low < MARGIN < 0 < harm.interval.high
    assert WHY[MARGIN] in harm.why
    assert "a loss beyond" in harm.why
    against = found["low is better than high, by patch"]
    assert (against.kind, against.cells) == ("visual", (64 * 40, 64 * 960))
    row = claim_table([against]).iloc[0]
    assert (row["cells"], row["cells_other"], row["kind"]) == (2560, 61440, "visual")


def test_shifting_most_is_tested_as_a_shape_and_not_by_its_ends():
    """From "low-entropy cells shift most" where the second and third fifth shift more than the first."""
    trace = synthetic_trace(problems=32, visual=40, seed=2)
    humped = (trace.entropy_base - 1.6).abs()  # nats; the middle of strata 1 and 2 of five, counted from 0
    trace = replace(trace, kl=0.03 * (-humped).exp() * (1 + trace.kl))
    shift = stratified_shift(trace, kinds=["visual"], resamples=300)
    found = {
        claim.key["test"]: claim
        for claim in shift.verdicts
        if (claim.key["measure"], claim.key["scope"]) == ("kl", "without last layer")
    }
    assert found["ends"].holds is True  # the ends alone say so
    assert found["peak"].holds is False
    assert found["peak"].key["other"] in ("1", "2")
    assert f"stratum {found['peak'].key['other']} shifts most, not the lowest (clearly so)" in shift.verdict
    falling = stratified_shift(synthetic_trace(problems=32, tilt=2.0), kinds=["visual"], resamples=300)
    assert "of all strata the lowest shifts most (clearly so), and from one to the next the shift falls" in (
        falling.verdict
    )


def test_the_headline_has_the_control_without_rl():
    """From a headline that leaves out what training without RL shows."""
    rows = [
        {"condition": name, "kind": "visual", "scope": "without last layer", "state": state}
        | Interval(estimate, estimate - 0.1, estimate + 0.1).columns("beyond")
        for name, estimate, state in (
            ("rlvr", 1.0, ""),
            ("permuted", 1.5, "holds"),
            ("sft", 1.04, "is undecided"),
        )
    ]
    line = beside_controls("Low-entropy claim holds.", rows, ["permuted"])
    assert line == (
        "Low-entropy claim holds; beside sft weights 1.04x [0.94, 1.14], by which a shift of RLVR's own is undecided."
    )
    assert beside_controls("It holds.", None, []).endswith("not compared with training without RL.")


def test_tables_name_the_ends_of_every_interval_alike():
    """From columns called low and high of nobody knows what."""
    table = responses(base=[[0, 1]] * 20, rlvr=[[1, 1]] * 20)
    summary = summarise_responses(table, samples=1, pass_at=[1])
    claims = claim_table([Claim("x", "x", "x", Interval(1.0, 0.5, 2.0), 20)])
    for frame in (summary, claims):
        ends = [name for name in frame if str(name).endswith(("low", "high"))]
        assert ends
        assert {str(name).rpartition("_")[0] for name in ends} <= set(frame.columns)


def test_a_share_that_is_off_by_rounding_is_a_share():
    """From Pass@K of -4e-16, a sum of products that are none, which ended a run after all its decoding."""
    ids, near = np.arange(16), np.r_[-4.44e-16, np.ones(15)]
    assert estimates.share(near, ids) == estimates.share(near.clip(0, 1), ids)
    assert estimates.share_difference(near, np.ones(16), ids).estimate == pytest.approx(1 / 16)
    with pytest.raises(InputError, match=r"lie in \[0, 1\]"):
        estimates.share(near - 0.01, ids)
