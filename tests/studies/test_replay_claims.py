"""Claims about replay: paired differences of the right conditions, each with the effect that would have been found."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from workbench.studies.replay_claims import COMPARED, replay_claims


def made(rates, problems=40, samples=4):
    """Responses of every condition, right with a chance of its own."""
    rng = np.random.default_rng(0)
    rows = [
        {"problem": f"p{p}", "intervention": name, "sample": s, "correct": bool(rng.random() < rate)}
        for name, rate in rates.items()
        for p in range(problems)
        for s in range(-1, samples)
    ]
    return pd.DataFrame(rows)


RATES = {
    "base": 0.7,
    "rlvr": 0.3,
    "tokens, low": 0.8,
    "tokens, high": 0.3,
    "patch, low": 0.5,
    "patch, high": 0.5,
}


def test_each_claim_is_about_its_own_conditions():
    responses = made(RATES)
    claims = {claim.measured: claim for claim in replay_claims(responses)}
    drawn = responses.loc[responses["sample"] >= 0]
    once = drawn.groupby("intervention")["correct"].mean()
    any_right = drawn.groupby(["intervention", "problem"])["correct"].any().groupby("intervention").mean()
    for name, other in (
        ("tokens, low", "tokens, high"),
        ("patch, low", "patch, high"),
        ("tokens, low", "patch, low"),
        ("tokens, low", "rlvr"),
    ):
        for measure, rates in (("Pass@1", once), ("Pass@4", any_right)):
            claim = claims[f"{measure}, {name} − {other}, points"]
            assert claim.interval.estimate == pytest.approx(100 * (rates[name] - rates[other]), abs=0.01)
    undone = claims["Pass@4, tokens, low − the middle between rlvr and base, points"]
    middle = (any_right["rlvr"] + any_right["base"]) / 2
    assert undone.interval.estimate == pytest.approx(100 * (any_right["tokens, low"] - middle), abs=0.01)
    assert undone.verdict == "holds"
    assert len(claims) == 10


def test_every_undecided_one_says_what_it_would_have_found():
    responses = made(dict.fromkeys(RATES, 0.5))
    claims = replay_claims(responses)
    undecided = [claim for claim in claims if claim.verdict == "is undecided"]
    assert len(undecided) >= 7
    for claim in undecided:
        width = claim.interval.high - claim.interval.low
        effect = width / 2 * (1 + t.ppf(0.8, 39) / t.ppf(0.975, 39))
        assert claim.detectable == pytest.approx(effect)
        assert "with a power of 80% this finds" in claim.text


def test_nothing_is_undone_where_nothing_narrowed():
    claims = replay_claims(made({**RATES, "base": 0.3, "rlvr": 0.7}))
    assert claims[-1].claim == "replay undoes narrowing"
    assert claims[-1].verdict == "cannot be tested"
    assert claims[-1].obstacle.startswith("no narrowing to undo: base − rlvr is -")
    assert {*COMPARED} <= {*RATES}
