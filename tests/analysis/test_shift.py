from dataclasses import FrozenInstanceError, replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from scipy import stats
from synthetic import synthetic_trace

from workbench.analysis.shift import KEYS, ShiftTable, stratified_shift, top_prediction_shift
from workbench.errors import InputError
from workbench.tracing.agreement import AGREEMENT, agreement_by_layer
from workbench.tracing.cells import KINDS, MEASURES
from workbench.tracing.lens_trace import LensTrace

SETTINGS = {"resamples": 200, "seed": 5}
ENDS = ("", "_low", "_high")


@pytest.fixture(scope="module")
def trace() -> LensTrace:
    return synthetic_trace(problems=20, tilt=1.0, last_tilt=-1.0)


@pytest.fixture(scope="module")
def spoken() -> LensTrace:
    """With tokens of every kind."""
    return synthetic_trace(problems=20, response=6, tilt=1.0, last_tilt=-1.0)


@pytest.fixture(scope="module")
def shift(trace) -> ShiftTable:
    return stratified_shift(trace, **SETTINGS)


def cells_of(trace: LensTrace, kind: str, scope: str, layer: int) -> pd.DataFrame:
    cells = trace.to_dataframe()
    cells["entropy_change"] = cells["entropy_rlvr"] - cells["entropy_base"]
    cells = cells if kind == "all" else cells[cells["kind"] == kind]
    if scope == "layer":
        return cells[cells["layer"] == layer]
    return cells[cells["layer"] != trace.depth - 1] if scope == "without last layer" else cells


def quantiles(cells: pd.DataFrame) -> pd.Series:
    return cells.groupby("layer")["entropy_base"].transform(lambda e: pd.qcut(e, 5, labels=False))


def fractions(cells: pd.DataFrame) -> pd.Series:
    largest = cells.groupby(["layer", "prompt"])["entropy_base"].transform("max")
    return np.ceil(cells["entropy_base"] / largest * 5).clip(lower=1) - 1


def verdict(
    shift: ShiftTable,
    measure: str,
    scope: str = "without last layer",
    kind: str = "visual",
    test: str = "ends",
):
    where = {"test": test, "measure": measure, "scope": scope, "kind": kind}
    (found,) = [v for v in shift.verdicts if where.items() <= v.key.items()]
    return found


@pytest.mark.parametrize(("by", "cut"), [("quantile", quantiles), ("fraction", fractions)])
def test_every_estimate_is_what_pandas_computes(spoken, by, cut):
    table = stratified_shift(spoken, by=by, resamples=2).table
    assert set(table["strata_by"]) == {by}
    groups = table.groupby(["scope", "layer", "kind"], sort=False)
    assert len(groups) == (spoken.depth + 2) * len(KINDS)
    for (scope, layer, kind), rows in groups:
        cells = cells_of(spoken, kind, scope, layer)
        grouped = cells.groupby(cut(cells))
        kl, null = grouped["kl"], grouped["kl_null"]
        expected = {
            "cells": kl.size(),
            "problems": grouped["problem"].nunique(),
            "entropy_low": grouped["entropy_base"].min(),
            "entropy_high": grouped["entropy_base"].max(),
            "kl": kl.mean(),
            "kl_null": null.mean(),
            "ratio": kl.mean() / null.mean(),
            "median_kl": kl.median(),
            "total_kl": kl.sum(),
            "share": kl.sum() / cells["kl"].sum(),
            **{name: grouped[name].mean() for name in ("entropy_change", "top1_agreement", "cosine")},
        }
        assert rows["stratum"].tolist() == list(range(5))
        for name, values in expected.items():
            nothing = 0 if name in ("cells", "problems", "total_kl", "share") else np.nan
            values = values.reindex(range(5), fill_value=nothing).to_numpy(float)
            assert rows[name].to_numpy() == pytest.approx(values, rel=1e-5, nan_ok=True)


def test_table_has_the_promised_columns(shift, trace):
    assert list(shift.table.columns) == [*KEYS, *(f"{m}{end}" for m in MEASURES for end in ENDS)]
    assert shift.table["layer"].tolist()[:25:5] == [0, 1, 2, 3, -1]
    assert list(shift.correlations.columns) == [
        "scope",
        "layer",
        "kind",
        "measure",
        "cells",
        "rho",
        "rho_low",
        "rho_high",
    ]
    assert (shift.bins, shift.level, shift.resamples, shift.depth) == (5, 0.95, 200, 4)
    assert shift.provenance["pair"] == "synthetic"
    assert shift.provenance["shift"] == {
        "by": "quantile",
        "bins": 5,
        "resamples": 200,
        "level": 0.95,
        "seed": 5,
    }


def test_estimates_lie_in_their_intervals_and_shares_sum_to_one(shift):
    for measure in MEASURES:
        low, high = shift.table[f"{measure}_low"], shift.table[f"{measure}_high"]
        here = low.notna()
        assert here.mean() > 0.9
        assert (low <= high)[here].all()
        inside = (shift.table[measure] >= low) & (shift.table[measure] <= high)
        assert inside[here].mean() > 0.95
    sums = shift.table.groupby(["scope", "layer", "kind"])["share"].sum()
    assert sums.to_numpy() == pytest.approx(1)


def test_correlations_are_scipys(shift, trace):
    for row in shift.correlations.itertuples():
        cells = cells_of(trace, row.kind, row.scope, row.layer)
        measure = cells["kl"] / cells["kl_null"] if row.measure == "ratio" else cells[row.measure]
        assert row.cells == len(cells)
        assert row.rho == pytest.approx(stats.spearmanr(cells["entropy_base"], measure)[0], abs=1e-4)
    pooled = shift.correlations.query("scope == 'without last layer' and kind == 'visual'")
    found = pooled.set_index("measure")
    assert found.loc["kl", "rho_high"] < -0.3
    assert abs(found.loc["kl_null", "rho"]) < 0.2


def test_planted_claim_is_found_and_the_last_layer_told_apart(shift):
    for measure in ("kl", "ratio"):
        assert verdict(shift, measure).holds is True
        assert verdict(shift, measure).interval.estimate == pytest.approx(np.exp(0.8), rel=0.15)
        assert verdict(shift, measure, "last layer").holds is False
        assert verdict(shift, measure, kind="all").holds is True
    assert verdict(shift, "kl", "all layers").interval.estimate < verdict(shift, "kl").interval.estimate
    assert shift.verdict.startswith(
        "Low-entropy claim holds on this pair (visual tokens, without the last layer): "
        "against matched noise the lowest stratum shifts 2."
    )
    assert verdict(shift, "kl", "last layer").text.startswith(
        "low-entropy cells shift more than high-entropy ones (section 3, entropy): does NOT hold; raw KL, lowest over highest "
        "fifth (a factor), visual tokens, last layer alone: 0."
    )


@pytest.mark.parametrize(
    ("planted", "raw", "against_noise"),
    [
        ({"tilt": -1.0}, False, False),
        ({"tilt": -1.0, "null_tilt": -2.0}, False, True),
        ({"tilt": 1.0, "null_tilt": 2.0}, True, False),
        ({"tilt": 1.0, "null_tilt": 1.0}, True, None),
        ({"seed": 2}, None, None),
    ],
)
def test_raw_kl_and_its_ratio_to_noise_are_judged_apart(planted, raw, against_noise):
    shift = stratified_shift(synthetic_trace(problems=20, **planted), kinds=["visual"], **SETTINGS)
    assert verdict(shift, "kl").holds is raw
    assert verdict(shift, "ratio").holds is against_noise
    words = {True: "holds", False: "does NOT hold", None: "is undecided"}
    assert f"Low-entropy claim {words[against_noise]} on this pair" in shift.verdict
    factor = verdict(shift, "ratio").interval.estimate
    assert f"against matched noise the lowest stratum shifts {factor:.2f}x [" in shift.verdict
    assert f"where it {words[raw]}" in shift.verdict


def test_the_headline_names_a_last_layer_that_changes_the_verdict():
    shift = stratified_shift(synthetic_trace(problems=20, last_tilt=3.0), kinds=["visual"], **SETTINGS)
    assert "is undecided on this pair (visual tokens, without the last layer)" in shift.verdict
    factor = verdict(shift, "ratio", "all layers").interval.estimate
    assert f"; counting the last layer {factor:.2f}x [" in shift.verdict


def test_intervals_resample_problems_not_cells():
    alike, unlike = (
        stratified_shift(synthetic_trace(spread=spread), kinds=["all"], **SETTINGS).table
        for spread in (0.1, 1.0)
    )
    width = {
        name: (t["kl_high"] - t["kl_low"]) / t["kl"] for name, t in (("alike", alike), ("unlike", unlike))
    }
    assert (width["unlike"] > 3 * width["alike"]).mean() > 0.9
    trace = synthetic_trace(problems=8)
    one_problem = tuple(replace(info, problem_id=f"p{i // 4}") for i, info in enumerate(trace.prompts))
    paired = stratified_shift(replace(trace, prompts=one_problem), kinds=["all"], **SETTINGS)
    assert paired.table["problems"].max() == 2


@pytest.mark.filterwarnings("error")
def test_equal_models_shift_nothing(trace):
    zero = replace(trace, kl=0 * trace.kl, kl_null=0 * trace.kl_null, entropy_rlvr=trace.entropy_base)
    shift = stratified_shift(zero, kinds=["all", "visual"], **SETTINGS)
    assert shift.verdict == (
        "Low-entropy claim cannot be tested on this pair (visual tokens, without the last layer): "
        "the two models agree to within rounding (largest KL 0 nats), so nothing shifts."
    )
    assert {v.holds for v in shift.verdicts} == {None}
    assert (shift.table[["kl", "median_kl", "total_kl", "entropy_change"]] == 0).all(axis=None)
    assert shift.table[["kl_low", "kl_high", "median_kl_low"]].isna().all(axis=None)  # never of zero width
    assert shift.table[["ratio", "share"]].isna().all(axis=None)
    rounding = stratified_shift(replace(trace, kl=trace.kl * 1e-7), kinds=["visual"], **SETTINGS)
    assert "so nothing shifts" in rounding.verdict


@pytest.mark.filterwarnings("error")
def test_one_problem_is_undecided():
    shift = stratified_shift(synthetic_trace(problems=1, tilt=3.0), **SETTINGS)
    assert (
        "has too few problems on this pair (visual tokens, without the last layer): one problem, so no interval; "
        in shift.verdict
    )
    assert {v.holds for v in shift.verdicts} == {None}
    assert shift.table["kl"].notna().all()
    assert shift.table[[f"{m}{end}" for m in MEASURES for end in ENDS[1:]]].isna().all(axis=None)
    assert agreement_by_layer(synthetic_trace(problems=1))["kl_low"].isna().all()


@pytest.mark.filterwarnings("error")
def test_without_null_draws_the_raw_claim_stands_alone():
    shift = stratified_shift(synthetic_trace(problems=20, draws=0, tilt=1.0), **SETTINGS)
    assert shift.table[[f"{m}{end}" for m in ("kl_null", "ratio") for end in ENDS]].isna().all(axis=None)
    assert verdict(shift, "kl").holds is True
    assert verdict(shift, "ratio").holds is None
    assert shift.verdict.endswith(
        "the highest; no null was drawn, so what entropy alone does to KL stays in."
    )
    assert shift.correlations.query("measure != 'kl'")["rho"].isna().all()


@pytest.mark.filterwarnings("error")
def test_strata_without_cells_are_nan_and_undecided(trace):
    level = replace(trace, entropy_base=trace.entropy_base / 100 + 3)
    shift = stratified_shift(level, by="fraction", kinds=["visual"], **SETTINGS)
    lowest = shift.table[shift.table["stratum"] == 0]
    assert (lowest["cells"] == 0).all()
    assert lowest[["kl", "median_kl", "entropy_low", "cosine"]].isna().all(axis=None)
    assert (lowest["total_kl"] == 0).all()
    assert shift.verdict.endswith(": the lowest fifth of the entropy range holds no cells.")
    flat = stratified_shift(
        replace(trace, entropy_base=0 * trace.entropy_base + 3), kinds=["visual"], **SETTINGS
    )
    assert flat.verdict.endswith("(visual tokens, without the last layer): the highest fifth holds no cells.")
    assert flat.correlations["rho"].isna().all()


def test_text_only_pairs_are_judged_on_all_tokens():
    shift = stratified_shift(synthetic_trace(problems=20, visual=0, special=0, tilt=1.0), bins=2, **SETTINGS)
    assert set(shift.table["kind"]) == {"all", "text"}
    assert "holds on this pair (all tokens, without the last layer): against matched noise" in shift.verdict


def test_a_trace_of_the_last_layer_alone_has_no_other_scope():
    shift = stratified_shift(synthetic_trace(layers=[3]), **SETTINGS)
    assert set(shift.table["scope"]) == {"layer", "all layers"}
    assert "(visual tokens, all layers)" in shift.verdict


def test_a_trace_without_the_last_layer_says_nothing_of_it():
    shift = stratified_shift(synthetic_trace(layers=[0, 2]), kinds=["visual"], **SETTINGS)
    assert {v.key["scope"] for v in shift.verdicts} == {"all layers", "without last layer"}
    assert shift.table.query("scope == 'layer'")["layer"].unique().tolist() == [0, 2]


def test_kinds_with_fewer_positions_than_strata_are_left_out():
    shift = stratified_shift(synthetic_trace(problems=2, special=1), bins=4, **SETTINGS)
    assert shift.table["kind"].unique().tolist() == ["all", "visual", "text"]


def test_equal_seeds_give_equal_tables(trace):
    first, again, other = (
        stratified_shift(trace, kinds=["visual"], resamples=50, seed=seed) for seed in (5, 5, 6)
    )
    pd.testing.assert_frame_equal(again.table, first.table)
    pd.testing.assert_frame_equal(again.correlations, first.correlations)
    assert again.verdict == first.verdict
    assert not other.table["median_kl_low"].equals(first.table["median_kl_low"])
    assert other.table["kl"].equals(first.table["kl"])


def test_agreement_by_layer_is_what_pandas_computes(spoken):
    agreement = agreement_by_layer(spoken, **SETTINGS)
    assert list(agreement.columns) == [
        *("layer", "kind", "cells", "problems"),
        *(f"{m}{end}" for m in AGREEMENT for end in ENDS),
    ]
    assert len(agreement) == spoken.depth * len(KINDS)
    for row in agreement.to_dict("records"):
        cells = cells_of(spoken, row["kind"], "layer", row["layer"])
        assert (row["cells"], row["problems"]) == (len(cells), 20)
        for measure in AGREEMENT:
            assert row[measure] == pytest.approx(cells[measure].mean(), rel=1e-5)
            assert row[f"{measure}_low"] < row[measure] < row[f"{measure}_high"]


def test_top_predictions_side_by_side(trace):
    table = top_prediction_shift(trace, prompt=3, positions=[4, 0], layers=[2])
    assert table[["layer", "position", "kind"]].values.tolist() == [[2, 4, "visual"], [2, 0, "special"]]
    one = trace.select(prompt=3)
    row = table.iloc[0]
    assert row["token"] == f"w{one.token_id[4]}"
    for model in ("base", "rlvr"):
        ids = getattr(one, f"top_ids_{model}")[2, 4].tolist()
        chances = getattr(one, f"top_probs_{model}")[2, 4].tolist()
        assert row[f"{model}_top1"] == f"w{ids[0]}"
        assert row[f"{model}_probability"] == pytest.approx(chances[0])
        assert row[f"{model}_top"] == " · ".join(f"w{i} {p:.2f}" for i, p in zip(ids, chances, strict=True))
    assert row["top1_agreement"] == (row["base_top1"] == row["rlvr_top1"])
    for name in ("topk_overlap", "kl", "entropy_base", "entropy_rlvr"):
        assert row[name] == pytest.approx(float(getattr(one, name)[2, 4]))


def test_top_predictions_of_a_whole_prompt(trace):
    table = top_prediction_shift(trace)
    assert len(table) == 4 * 26
    assert table["layer"].tolist()[:27] == [0] * 26 + [1]
    assert table["position"].tolist()[:26] == list(range(26))


def test_shift_table_shows_its_verdict_first_and_escapes_text(shift):
    assert repr(shift).startswith(
        "ShiftTable(5 strata by quantile, 4 layers, 20 problems, tokens: all, visual, "
    )
    assert repr(shift).endswith(shift.verdict)
    page = replace(shift, verdict="<script>alert(1)</script>")._repr_html_()
    assert page.startswith("<p><strong>&lt;script&gt;alert(1)&lt;/script&gt;</strong></p>")
    assert "<script>" not in page
    assert "95% intervals from 200 resamples of problems" in page


def test_shift_table_gives_a_copy_and_a_figure(shift):
    copy = shift.to_dataframe()
    copy["kl"] = 0.0
    assert (shift.table["kl"] > 0).all()
    assert isinstance(shift.plot(), go.Figure)
    assert isinstance(shift.plot(kind="text", measure="ratio"), go.Figure)


def test_shift_table_is_frozen_and_checked(shift):
    with pytest.raises(FrozenInstanceError):
        shift.bins = 4
    with pytest.raises(InputError, match=r"`table` must hold the columns .* build it with stratified_shift"):
        replace(shift, table=shift.table.drop(columns="share"))
    with pytest.raises(InputError, match="`table` must hold the strata 0 to 3, as `bins` says"):
        replace(shift, bins=4)
    with pytest.raises(InputError, match="`verdicts` is empty"):
        replace(shift, verdicts=())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": 1}, "`bins` must be a whole number of at least 2, found 1"),
        ({"bins": 1000}, "`bins` asks for 1000 strata, but a layer has only 520 cells of kind 'all'"),
        (
            {"bins": 50, "kinds": ["special"]},
            "`bins` asks for 50 strata, but a layer has only 40 cells of kind 'special'",
        ),
        ({"by": "rank"}, r"`by` must be one of \('quantile', 'fraction'\), found 'rank'"),
        (
            {"kinds": ["visual", "image"]},
            r"`kinds` must be a list of some of \('all', .* found \['visual', 'image'\]",
        ),
        ({"kinds": "visual"}, "`kinds` must be a list of some of .* found 'visual'"),
        ({"kinds": []}, r"`kinds` must be a list of some of .* found \[\]"),
        ({"kinds": ["text"]}, "`kinds` must hold 'visual' or 'all', which the one-line verdict is about"),
        ({"resamples": 0}, "`resamples` must be at least 1, found 0"),
        ({"level": 1.5}, r"`level` must lie inside \(0, 1\), found 1.5"),
    ],
)
def test_bad_arguments(trace, arguments, message):
    with pytest.raises(InputError, match=message):
        stratified_shift(trace, **arguments)


def test_empty_traces(trace):
    nothing = synthetic_trace(layers=[])
    for table in (stratified_shift, agreement_by_layer):
        with pytest.raises(
            InputError, match="`trace` is empty: 0 layers, 312 positions; trace at least one problem"
        ):
            table(nothing)
    with pytest.raises(
        InputError, match="`kinds` asks for 'visual', but the trace holds no such position; leave it out"
    ):
        agreement_by_layer(synthetic_trace(visual=0), kinds=["visual"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": 20}, "`prompt` is 20, but the trace holds prompts 0 to 19"),
        ({"positions": [3, 26]}, r"`positions` asks for \[26\], but the trace holds 0 to 25"),
        ({"layers": [-1]}, r"`layers` asks for \[-1\], but the trace holds 0 to 3; .* layers=\[0\]"),
    ],
)
def test_top_predictions_that_were_not_traced(trace, arguments, message):
    with pytest.raises(InputError, match=message):
        top_prediction_shift(trace, **arguments)
