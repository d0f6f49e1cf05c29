"""The low-entropy claim beside nulls in activations: equal to what `stratified_shift` gives, and of the right models."""

import numpy as np
import pytest
import tiny
import torch

import workbench as wb
from workbench.analysis.change_nulls import change_claims, change_nulls
from workbench.errors import InputError
from workbench.names import NULLS
from workbench.tracing.trace import against


@pytest.fixture(scope="module")
def pair():
    return tiny.pair("qwen2_5_vl", torch.float32)


@pytest.fixture(scope="module")
def problems():
    return [tiny.problem(seed=i) for i in range(16)]


@pytest.fixture(scope="module")
def nulls(pair, problems):
    same = {"twin": wb.null_pair(pair, "permuted", 0)}
    return change_nulls(pair, problems, others=same, draws=2, bins=2, resamples=50)


def test_contrasts_are_those_of_the_stratified_shift(nulls, pair, problems):
    for null in NULLS:
        traced = wb.trace(pair, problems, null=null, null_draws=2, top_k=1)
        shift = wb.stratified_shift(traced, bins=2, resamples=50)
        rows = shift.table.loc[
            (shift.table["scope"] == "without last layer") & (shift.table["kind"] == "visual")
        ]
        row = nulls.table.query(
            "condition == 'rlvr' and null == @null and kind == 'visual' and scope == 'without last layer'"
        ).iloc[0]
        assert row["contrast"] == pytest.approx(rows["ratio"].iloc[0] / rows["ratio"].iloc[-1], rel=1e-5)
        raw = nulls.table.query(
            "condition == 'rlvr' and null == 'none' and kind == 'visual' and scope == 'without last layer'"
        ).iloc[0]
        assert raw["contrast"] == pytest.approx(rows["kl"].iloc[0] / rows["kl"].iloc[-1], rel=1e-5)
        assert NULLS[null] in shift.verdict
        assert any(NULLS[null] in claim.measured for claim in shift.verdicts)


def test_beyond_is_rlvr_over_the_other_model(nulls):
    table = nulls.table.set_index(["condition", "null", "kind", "scope"])
    for (name, null, kind, scope), row in table.iterrows():
        wanted = table.loc[("rlvr", null, kind, scope), "contrast"] / row["contrast"]
        assert row["beyond"] == pytest.approx(wanted)
        assert (row["own"] == "") == (name == "rlvr")
        assert np.isfinite(row["contrast_low"])


def test_every_model_runs_twice_whatever_the_nulls(pair, problems, monkeypatch):
    from workbench.tracing import nulls as nulls_module
    from workbench.tracing import trace as trace_module

    passes = []
    for module in (nulls_module, trace_module):
        real = module.over_conversations
        monkeypatch.setattr(
            module, "over_conversations", lambda *a, real=real, **k: passes.append(1) or real(*a, **k)
        )
    change_nulls(pair, problems, draws=1, bins=2, resamples=2, batch_size=16)
    assert len(passes) == 2  # one to collect changes, one to read them all


def test_one_null_of_several_is_the_one_traced_alone(pair, problems):
    both = wb.trace(pair, problems[:4], null=["exchanged", "noise"], null_draws=2, top_k=1)
    assert len(both.kl_null) == 4
    for null in ("exchanged", "noise"):
        alone = wb.trace(pair, problems[:4], null=null, null_draws=2, top_k=1)
        torch.testing.assert_close(against(both, null).kl_null, alone.kl_null)
    with pytest.raises(InputError, match="`null` is 'covariance', and the trace holds exchanged, noise"):
        against(both, "covariance")
    with pytest.raises(
        InputError, match=r"holds the nulls exchanged, noise, and a shift is held against one"
    ):
        wb.stratified_shift(both, bins=2)
    with pytest.raises(InputError, match="`null` is '', expected one of"):
        wb.trace(pair, problems[:4], null=[])


def test_claims_name_null_and_model(nulls):
    texts = [claim.text for claim in nulls.claims]
    assert len(texts) == 2 * 3 * 2  # models, nulls, kinds
    assert sum("twin weights" in text for text in texts) == 6
    assert nulls.plot().data[0].name == "RLVR"
    assert "raw" in nulls.verdict
    assert "exchanged changes" in nulls.verdict


def test_claims_of_raw_kl_are_asked_for(nulls):
    raw = [claim for claim in change_claims(nulls.table, raw=True) if claim.measured.startswith("raw KL")]
    rows = nulls.table.loc[(nulls.table["null"] == "none") & (nulls.table["scope"] == "without last layer")]
    expected = [
        row["contrast" if row["condition"] == "rlvr" else "beyond"] for row in rows.to_dict("records")
    ]
    assert [claim.interval.estimate for claim in raw] == expected
    assert len(change_claims(nulls.table, raw=True)) == len(change_claims(nulls.table)) + len(raw)


def test_refusals(pair, problems):
    with pytest.raises(InputError, match="`problems` has one alone"):
        change_nulls(pair, problems[:1])
    with pytest.raises(InputError, match="`draws` is 0; expected at least 1"):
        change_nulls(pair, problems, draws=0)
    models = {role: tiny.model("qwen2_5_vl", seed) for role, seed in (("base", 8), ("rlvr", 9))}
    other = wb.load_pair(**models, processor=tiny.processor("qwen2_5_vl"))
    with pytest.raises(InputError, match="has another base"):
        change_nulls(pair, problems, others={"sft": other})
