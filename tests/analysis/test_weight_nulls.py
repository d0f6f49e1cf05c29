"""Null models in weights: equal in size, the pair untouched; their shift beside RLVR's, by stratum, with the same strata."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

import workbench as wb
from workbench.analysis import weight_nulls as nulls
from workbench.analysis.null_models import NULLS, named_weights, null_pair
from workbench.analysis.shift import stratified_shift
from workbench.analysis.weight_nulls import NullShift, weight_nulls
from workbench.errors import InputError
from workbench.models.anatomy import dissect
from workbench.models.loading import load_pair
from workbench.tracing.trace import trace
from workbench.views.null_figures import null_shift
from workbench.views.tables import NothingToDraw

SETTINGS = {"draws": 2, "bins": 2, "resamples": 50}


def snapshot(pair):
    return {
        role: {name: tensor.clone() for name, tensor in named_weights(getattr(pair, role).model).items()}
        for role in ("base", "rlvr")
    }


def updates(pair):
    base = named_weights(pair.base.model)
    return {
        name: weight.float() - base[name].float() for name, weight in named_weights(pair.rlvr.model).items()
    }


@pytest.fixture(scope="module")
def problems():
    return [tiny.problem(seed=i) for i in range(16)]


@pytest.mark.parametrize("kind", NULLS)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_updates_are_as_large_and_the_pair_is_untouched(pair_of, kind, family):
    pair = pair_of(family)
    trace(pair, [tiny.problem(family)], null_draws=0)  # a traced model must be copied whole, too
    before = snapshot(pair)
    null = null_pair(pair, kind, seed=3)
    after = snapshot(pair)
    assert all(torch.equal(before[r][n], after[r][n]) for r in before for n in before[r])
    assert null.base is pair.base
    assert null.rlvr.model is not pair.rlvr.model
    shared = {t.data_ptr() for t in named_weights(pair.rlvr.model).values()}
    assert not shared & {t.data_ptr() for t in named_weights(null.rlvr.model).values() if t.numel()}
    real, random = updates(pair), updates(null)
    assert real.keys() == random.keys()
    for name, update in real.items():
        assert random[name].norm().item() == pytest.approx(update.norm().item(), rel=1e-3, abs=1e-6), name
        if update.norm() > 1e-3 and update.numel() > 4:
            assert not torch.allclose(update, random[name], atol=1e-5), name
            same = [t.flatten().sort().values for t in (update, random[name])]
            assert torch.allclose(*same, atol=1e-5) == (kind == "permuted"), name
    assert null.provenance["null"] == {
        "kind": kind, "seed": 3, "scale": 1.0, "size": pytest.approx(1, abs=1e-4)
    }  # fmt: skip


def test_seeds_and_kinds_give_different_models_and_equal_ones_the_same(tiny_pair):
    made = [
        updates(null_pair(tiny_pair, kind, seed))
        for kind, seed in (("permuted", 0), ("permuted", 0), ("permuted", 1), ("gaussian", 0))
    ]
    name = next(n for n, update in made[0].items() if update.ndim == 2)
    assert torch.equal(made[0][name], made[1][name])
    assert not torch.allclose(made[0][name], made[2][name])
    assert not torch.allclose(made[0][name], made[3][name])


def test_a_null_model_computes_with_its_own_weights(tiny_pair, problems):
    prompt = tiny_pair.encode(problems[0])
    null = null_pair(tiny_pair, "gaussian")
    mine, theirs = (wb.tracing.read_residuals(a, prompt.model_inputs)[2] for a in (tiny_pair.rlvr, null.rlvr))
    assert not torch.allclose(mine, theirs, atol=1e-3)
    fresh = deepcopy(tiny_pair.base.model)
    fresh.load_state_dict(null.rlvr.model.state_dict())
    assert torch.allclose(
        wb.tracing.read_residuals(dissect(fresh), prompt.model_inputs)[2], theirs, atol=1e-6
    )


def test_tied_weights_stay_tied_and_frozen_ones_stay():
    base, rlvr = (tiny.model("qwen2", seed, tie_word_embeddings=True) for seed in (0, 1))
    with torch.no_grad():
        rlvr.model.layers[0].mlp.up_proj.weight.copy_(base.model.layers[0].mlp.up_proj.weight)
    pair = load_pair(base=base, rlvr=rlvr, processor=tiny.processor("qwen2"))
    null = null_pair(pair, "gaussian").rlvr.model
    assert null.lm_head.weight is null.model.embed_tokens.weight
    assert torch.equal(null.model.layers[0].mlp.up_proj.weight, base.model.layers[0].mlp.up_proj.weight)
    assert not torch.equal(null.model.layers[1].mlp.up_proj.weight, rlvr.model.layers[1].mlp.up_proj.weight)
    real = (rlvr.lm_head.weight - base.lm_head.weight).norm()
    assert (null.lm_head.weight - base.lm_head.weight).norm() == pytest.approx(real.item(), rel=1e-4)


def test_scale_and_half_precision():
    pair = tiny.pair(dtype=torch.bfloat16)
    made = null_pair(pair, "permuted", scale=2.0).provenance["null"]
    assert made["size"] == pytest.approx(2.0, rel=0.05)


@pytest.fixture(scope="module")
def found(tiny_pair, problems) -> NullShift:
    other = replace(null_pair(tiny_pair, "gaussian", 99), name="other")
    return weight_nulls(tiny_pair, problems, others={"sft": other, "itself": tiny_pair}, **SETTINGS)


def pick(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_the_pairs_own_numbers_are_those_of_a_shift(tiny_pair, problems, found):
    shift = stratified_shift(trace(tiny_pair, problems, top_k=1, null_draws=0), bins=2, resamples=50)
    for kind in ("visual", "text"):
        for stratum in (0, 1):
            row = pick(found.table, condition="rlvr", kind=kind, scope="without last layer", stratum=stratum)
            same = pick(shift.table, kind=kind, scope="without last layer", stratum=stratum)
            for name in ("kl", "kl_low", "kl_high", "cells", "problems", "entropy_low", "entropy_high"):
                assert row[name] == pytest.approx(same[name])
        contrast = pick(found.contrasts, condition="rlvr", kind=kind, scope="without last layer")
        verdict = next(
            v
            for v in shift.verdicts
            if v.key == {"test": "ends", "measure": "kl", "kind": kind, "scope": "without last layer"}
        )
        assert contrast["contrast"] == pytest.approx(verdict.interval.estimate)
        assert contrast["contrast_low"] == pytest.approx(verdict.interval.low)


def test_a_null_is_the_mean_of_its_draws_and_ratios_pair_up(tiny_pair, problems, found):
    where = {"kind": "visual", "scope": "last layer", "stratum": 0}
    real = pick(found.table, condition="rlvr", **where)
    strata = wb.strata.quantile_strata
    kls = []
    for draw in range(2):
        null = null_pair(tiny_pair, "permuted", nulls.problem_seed(0, f"null/{draw}"))
        seen = trace(null, problems, top_k=1, null_draws=0)
        visual = seen.kind == wb.TokenKind.VISUAL
        low = strata(seen.entropy_base[:, visual], 2)[-1] == 0
        kls.append(seen.kl[-1, visual][low].double().mean().item())
    row = pick(found.table, condition="permuted", **where)
    assert row["kl"] == pytest.approx(np.mean(kls), rel=1e-5)
    assert row["rlvr_over"] == pytest.approx(real["kl"] / np.mean(kls), rel=1e-5)
    assert [row["rlvr_over_least"], row["rlvr_over_most"]] == pytest.approx(
        sorted(real["kl"] / kl for kl in kls), rel=1e-5
    )
    assert row["draws"] == 2
    own, null = (
        pick(found.contrasts, condition=c, kind="visual", scope="last layer") for c in ("rlvr", "permuted")
    )
    assert null["beyond"] == pytest.approx(own["contrast"] / null["contrast"])
    assert null["beyond_low"] <= null["beyond"] <= null["beyond_high"]


def test_beside_itself_nothing_is_left(found):
    rows = found.table[found.table["condition"] == "itself"]
    for end in ("", "_least", "_most"):
        assert np.allclose(rows[f"rlvr_over{end}"], 1)
    assert rows[["rlvr_over_low", "rlvr_over_high"]].isna().all(axis=None)  # no problem can differ
    contrasts = found.contrasts[found.contrasts["condition"] == "itself"]
    assert np.allclose(contrasts["beyond"], 1)
    assert contrasts[["beyond_low", "beyond_high"]].isna().all(axis=None)
    assert set(contrasts["state"]) == {"is undecided"}


def test_every_condition_has_every_stratum(found):
    sizes = found.table.groupby(["condition", "kind", "scope", "stratum"]).size()
    assert (sizes == 1).all()
    assert len(sizes) == 5 * 2 * 2 * 2
    assert len(found.contrasts) == 5 * 2 * 2
    cells = found.table.groupby(["kind", "scope", "stratum"])["cells"].nunique()
    assert (cells == 1).all()
    states = found.contrasts.set_index("condition")["state"]
    assert set(states.drop("rlvr")) <= {"holds", "does NOT hold", "is undecided"}
    assert set(found.provenance["nulls"]["sizes"]) == set(NULLS)


def test_it_shows_and_draws_itself(found):
    assert "NullShift(rlvr, permuted, gaussian, sft, itself; 2 strata, 16 problems)" in repr(found)
    assert "; a permuted update of equal size " in found.verdict
    assert "<details>" in found._repr_html_()
    hostile = replace(found, verdict="<script>")._repr_html_()
    assert "<script>" not in hostile
    scaled = null_shift(found.table, scale=10).layout.title.subtitle.text
    assert "random updates 10 times the size of RLVR's" in scaled
    figure = found.plot()
    assert len(figure.data) == 5 * 2
    row = pick(found.table, condition="rlvr", kind="visual", scope="without last layer", stratum=1)
    assert figure.data[0].y[1] == pytest.approx(row["kl"])
    assert "16 problems" in figure.layout.title.subtitle.text
    assert [a.text for a in figure.layout.annotations] == ["without the last layer", "last layer alone"]
    assert len(found.plot("text").data) == 5 * 2
    with pytest.raises(NothingToDraw, match="no KL of 'special' tokens"):
        null_shift(found.table, kind="special")
    assert found.to_dataframe().equals(found.table)
    assert set(found.tables()) == {"nulls", "null_contrasts"}


def test_one_problem_has_no_intervals(tiny_pair, problems):
    alone = weight_nulls(tiny_pair, problems[:1], kinds=["gaussian"], draws=1, bins=2)
    assert alone.table[["kl_low", "rlvr_over_high"]].isna().all(axis=None)
    assert set(alone.contrasts["state"]) == {"", "has too few problems"}
    assert "one problem, so no interval" in alone.verdict


def test_text_only_pairs_have_text_tokens(pair_of):
    pair = pair_of("qwen2")
    found = weight_nulls(pair, [tiny.problem("qwen2", seed=i) for i in range(3)], draws=1, bins=2)
    assert set(found.table["kind"]) == {"text"}


def test_the_bundled_pair_shifts_more_than_a_random_change():
    pair, seen = wb.load_pair("shapes", device="cpu"), []
    found = wb.weight_nulls(
        pair,
        wb.load_problems("shapes", limit=8),
        kinds=["permuted"],
        draws=1,
        resamples=100,
        progress=lambda *at: seen.append(at),
    )
    assert {name for name, *_ in seen} == {"rlvr", "permuted 1"}
    rows = found.table[found.table["condition"] == "permuted"]
    assert (rows["rlvr_over_low"].dropna() > 1).mean() > 0.9  # eight problems: some are wide


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kinds": ["shuffled"]},
            r"`kinds` is \['shuffled'\]; expected some of permuted, gaussian, each once",
        ),
        ({"kinds": "permuted"}, "`kinds` is 'permuted'; expected some of"),
        ({"kinds": []}, "`kinds` and `others` are empty; there is nothing to compare with"),
        ({"draws": 0}, r"`draws` is 0; expected at least 1: weight_nulls\("),
        ({"bins": 1}, "`bins` must be a whole number of at least 2"),
        ({"scale": 0.0}, "`scale` is 0.0; expected a number above 0"),
        ({"problems": []}, "`problems` is empty"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(tiny_pair, problems, changes, message, monkeypatch):
    monkeypatch.setattr(nulls, "trace", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(InputError, match=message):
        weight_nulls(tiny_pair, **{"problems": problems, **changes})


def test_equal_models_and_foreign_bases_are_refused(tiny_pair, problems):
    still = replace(tiny_pair, rlvr=tiny_pair.base)
    for call in (lambda: null_pair(still), lambda: weight_nulls(still, problems)):
        with pytest.raises(InputError, match="has zero shift: its two models have equal weights"):
            call()
    foreign = replace(tiny_pair, base=tiny_pair.rlvr)
    with pytest.raises(InputError, match="`others`: 'sft' has another base than `pair`"):
        weight_nulls(tiny_pair, problems, others={"sft": foreign})
    with pytest.raises(InputError, match="`others` names a pair 'rlvr'"):
        weight_nulls(tiny_pair, problems, others={"rlvr": tiny_pair})
    with pytest.raises(InputError, match=r"`kind` is 'shuffled'; expected 'permuted' or 'gaussian'"):
        null_pair(tiny_pair, "shuffled")  # pyright: ignore[reportArgumentType]
