"""Claims about coverage: paired differences of the right models, at 16 samples and at the most drawn."""

import numpy as np
import pandas as pd
import pytest

from workbench.studies.coverage_claims import coverage_claims


def answers(rates, problems=60, samples=32):
    """Of each model: always right on a share of the problems, and with a chance on the others."""
    rng = np.random.default_rng(0)
    rows = [
        {"problem": f"p{p}", "intervention": name, "sample": s, "correct": bool(rng.random() < chance)}
        for name, (always, luck) in rates.items()
        for p in range(problems)
        for chance in [1.0 if p < always * problems else luck]
        for s in range(-1, samples)
    ]
    return pd.DataFrame(rows)


RATES = {"base": (0.2, 0.2), "rlvr": (0.6, 0.0), "sft": (0.2, 0.3)}


def test_each_claim_is_about_its_own_models():
    responses = answers(RATES)
    claims = {claim.measured: claim for claim in coverage_claims(responses, ["sft"])}
    drawn = responses.loc[responses["sample"] >= 0].groupby(["intervention", "problem"])["correct"]
    once = drawn.mean().groupby("intervention").mean()
    solved = drawn.any().groupby("intervention").mean()  # at 32 of 32 samples
    for measure, rates, name, other in (
        ("Pass@1", once, "rlvr", "base"),
        ("Pass@1", once, "rlvr", "sft"),
        ("Pass@32", solved, "base", "rlvr"),
        ("Pass@32", solved, "base", "sft"),
        ("Pass@32", solved, "sft", "rlvr"),
    ):
        claim = claims[f"{measure}, {name} − {other}, points"]
        assert claim.interval.estimate == pytest.approx(100 * (rates[name] - rates[other]), abs=0.01)
    verdicts = {name: claim.verdict for name, claim in claims.items()}
    assert verdicts["Pass@1, rlvr − base, points"] == "holds"
    assert verdicts["Pass@16, base − rlvr, points"] == "holds"
    assert verdicts["Pass@16, base − sft, points"] != "holds"
    assert len(claims) == 8


def test_few_samples_have_one_measure_of_coverage_and_one_sample_none():
    assert [c.measured[:6] for c in coverage_claims(answers(RATES, samples=4))] == ["Pass@1", "Pass@4"]
    assert [c.measured for c in coverage_claims(answers(RATES, samples=1))] == ["Pass@1, rlvr − base, points"]
