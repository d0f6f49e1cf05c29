"""Slopes recover what was planted, within problems, by every method; verdicts follow their intervals."""

import numpy as np
import pandas as pd
import pytest

from workbench.estimates import Interval
from workbench.experiments import slopes as module
from workbench.experiments.slopes import METHODS, headline, judge, slope_table
from workbench.names import FITS, OUTCOMES


def planted(
    problems: int = 16,
    draws: int = 8,
    *,
    correct: tuple[float, float] = (2.0, 0.0),
    incorrect: tuple[float, float] = (-1.0, 0.0),
    strength: float = 0.0,
    noise: float = 0.1,
    seed: int = 0,
) -> pd.DataFrame:
    """Nats that follow low and high drift with the slopes given, problems far apart; ``strength`` moves all alike."""
    rng, rows = np.random.default_rng(seed), []
    for problem in range(problems):
        levels, own = rng.normal(0, 0.3, 2), rng.normal(0, 0.2, (2, 2))
        for kind, amount, draw in [
            ("none", 0.0, 0),
            *((k, a, d) for k in ("pixels", "patches") for a in (0.1, 0.3) for d in range(1, draws + 1)),
        ]:
            low = abs(rng.normal()) + 10 * strength * amount
            high = 0.5 * low + abs(rng.normal())
            said = [
                level + (a + c) * low + (b + d) * high + strength * 20 * amount + noise * rng.normal()
                for level, (c, d), (a, b) in zip(levels, own, (correct, incorrect), strict=True)
            ]
            for scope in ("without last layer", "last layer"):
                rows.append(
                    (f"p{problem}", "", kind, amount, draw, scope, low - 3 * problem, high, *said, 9, 9)
                )
    names = "problem family kind strength draw scope drift_low drift_high nats_correct nats_incorrect"
    return pd.DataFrame(rows, columns=[*names.split(), "tokens_correct", "tokens_incorrect"])


@pytest.fixture(scope="module")
def found():
    return slope_table(planted(), resamples=200)


@pytest.fixture
def quick(monkeypatch):
    """Without mixed models, for tests that are about something else."""
    nothing = Interval(np.nan, np.nan, np.nan)
    monkeypatch.setattr(module, "_mixed", lambda sample, strata, level: [nothing] * len(strata))


def pick(slopes: pd.DataFrame, **where) -> pd.Series:
    rows = slopes
    for name, value in ({"kind": "all", "scope": "last layer", "fit": "alone"} | where).items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("outcome", "slope"), [("correct", 2.0), ("incorrect", -1.0), ("margin", -3.0)])
def test_a_planted_slope_is_found_by_every_method(found, method, outcome, slope):
    for kind in ("all", "pixels", "patches"):
        row = pick(found[0], kind=kind, stratum="low", outcome=outcome, method=method)
        assert row["slope"] == pytest.approx(slope, abs=0.2)
        assert row["slope_low"] - 0.05 < slope < row["slope_high"] + 0.05
        assert 0.05 < row["slope_high"] - row["slope_low"] < 0.6
        assert row["problems"] == 16
        assert row["rows"] == 16 * (33 if kind == "all" else 17)


@pytest.mark.parametrize("method", METHODS)
def test_the_joint_fit_gives_each_stratum_its_own_part(found, method):
    alone = pick(found[0], stratum="high", outcome="correct", method=method)
    joint = pick(found[0], stratum="high", outcome="correct", method=method, fit="joint")
    if method != "mixed":  # which has no variance of slopes to find in what is borrowed
        assert alone["slope"] > 0.4
    assert joint["slope"] == pytest.approx(0.0, abs=0.2)
    assert joint["slope_low"] - 0.05 < 0 < joint["slope_high"] + 0.05


def test_what_a_strength_does_to_everything_vanishes_at_equal_strength(quick):
    slopes = slope_table(planted(8, 3, correct=(0, 0), strength=1.0), resamples=50)[0]
    within, equal = (
        pick(slopes, stratum="low", outcome="correct", method=method)
        for method in ("within", "equal strength")
    )
    assert within["slope_low"] > 0.5
    assert abs(equal["slope"]) < 0.3


def test_per_problem_slopes_are_those_of_numpy(found):
    table = planted()
    rows = found[1]
    here = rows[
        (rows["kind"] == "pixels") & (rows["scope"] == "last layer") & (rows["problem"] == "p3")
    ].set_index(["stratum", "outcome", "fit"])["slope"]
    part = table[
        (table["problem"] == "p3") & table["kind"].isin(["none", "pixels"]) & (table["scope"] == "last layer")
    ]
    x = part[["drift_low", "drift_high"]].to_numpy()
    y = part["nats_correct"].to_numpy()
    assert here["low", "correct", "alone"] == pytest.approx(np.polyfit(x[:, 0], y, 1)[0])
    assert here["high", "correct", "alone"] == pytest.approx(np.polyfit(x[:, 1], y, 1)[0])
    both = np.linalg.lstsq(np.column_stack([np.ones(len(y)), x]), y, rcond=None)[0]
    assert here["low", "correct", "joint"] == pytest.approx(both[1])
    assert here["high", "correct", "joint"] == pytest.approx(both[2])
    mean = rows[(rows["kind"] == "all") & (rows["scope"] == "last layer") & (rows["fit"] == "joint")]
    mean = mean[(mean["stratum"] == "low") & (mean["outcome"] == "margin")]["slope"].mean()
    whole = pick(found[0], stratum="low", outcome="margin", method="per problem", fit="joint")
    assert whole["slope"] == pytest.approx(mean)


def test_the_table_has_every_combination(found):
    keys = found[0].groupby(["kind", "scope", "stratum", "outcome", "method", "fit"]).size()
    assert (keys == 1).all()
    assert (
        len(keys) == 3 * 2 * 2 * len(OUTCOMES) * len(METHODS) * len(FITS) - 2 * 2 * 2 * 3
    )  # joint mixed: all


def test_drift_that_never_changes_or_follows_the_other_leaves_nan(quick):
    table = planted(4, 3)
    still = slope_table(table.assign(drift_low=0.3), resamples=10)[0]
    assert still.loc[still["stratum"] == "low", Interval.names("slope")].isna().all(axis=None)
    high = still[(still["stratum"] == "high") & (still["fit"] == "alone") & (still["method"] == "within")]
    assert high["slope"].notna().all()
    tied = slope_table(table.assign(drift_high=table["drift_low"]), resamples=10)[0]
    assert tied.loc[(tied["fit"] == "joint") & (tied["method"] != "mixed"), "slope"].isna().all()
    assert "the draws do not determine this slope" in headline(judge(still))


def test_a_mixed_model_that_cannot_be_fitted_is_nan():
    still = slope_table(planted(3, 1).assign(drift_low=0.3, drift_high=0.3), resamples=10)[0]
    assert still.loc[still["method"] == "mixed", Interval.names("slope")].isna().all(axis=None)


def test_problems_without_cells_are_left_out(quick):
    table = planted(5, 3)
    table.loc[table["problem"] == "p1", "drift_high"] = np.nan
    slopes = slope_table(table, resamples=10)[0]
    assert set(slopes["problems"]) == {4}
    assert set(slope_table(table.assign(drift_low=np.nan), resamples=10)[0]["kind"]) == set()


def test_verdicts_follow_the_claim(found, quick):
    verdicts = judge(found[0])
    assert {v.verdict for v in verdicts if v.key["fit"] == "alone"} == {"holds"}
    line = headline(verdicts)
    assert "for the right response it holds (+" in line
    assert "for the wrong response it holds (-" in line
    against = judge(slope_table(planted(16, 3, correct=(-2, 0), incorrect=(1, 0)), resamples=50)[0])
    assert {v.verdict for v in against if v.key["fit"] == "alone" and v.key["method"] != "mixed"} == {
        "does NOT hold"
    }
    open_ = judge(slope_table(planted(16, 3, correct=(0, 0), incorrect=(0, 0), noise=1.0), resamples=50)[0])
    assert "is undecided" in {v.verdict for v in open_}


def test_one_problem_is_undecided_and_says_why():
    slopes = slope_table(planted(problems=1), resamples=10)[0]
    assert slopes.loc[slopes["method"] != "mixed", "slope"].notna().all()
    assert slopes[["slope_low", "slope_high"]].isna().all(axis=None)
    verdicts = judge(slopes)
    assert {v.holds for v in verdicts} == {None}
    assert "has too few problems (one problem, so no interval)" in headline(verdicts)


def test_a_verdict_reads_as_a_sentence():
    row = {"kind": "all", "scope": "without last layer", "stratum": "low", "outcome": "incorrect"}
    row |= {"method": "within", "fit": "alone", "problems": 20} | Interval(-0.4, -0.6, -0.2).columns("slope")
    (verdict,) = judge(pd.DataFrame([row]))
    assert verdict.text == (
        "smaller low-entropy drift goes with higher perplexity of the wrong response (section 3, perturbation): holds; slope "
        "of the wrong response's nats per token on drift, within, visual tokens, without the last layer: -0.400 [-0.600, "
        "-0.200]; 20 problems"
    )
