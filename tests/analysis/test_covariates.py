"""Covariates: objects are those of the generator's board, strata and correlations of known tables, refusals."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from workbench.analysis.cell_table import cell_table, centre_distance, on_object
from workbench.analysis.covariates import covariate_claims, rank_correlations, role, stratified_by
from workbench.analysis.shift import stratified_shift
from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.models.loading import load_pair
from workbench.problems import shapes
from workbench.problems.problem import load_problems
from workbench.tracing.trace import trace
from workbench.tracing.tuned_lens import Translators
from workbench.views.covariate_figures import correlation_forest, fidelity_curves, strata_panels
from workbench.views.tables import NothingToDraw


@pytest.fixture(scope="module")
def pair():
    return load_pair("shapes")


@pytest.fixture(scope="module")
def problems():
    return load_problems("shapes", limit=8)


@pytest.fixture(scope="module")
def cells(pair, problems):
    return cell_table(pair, problems, translators=Translators.identity(8, 160))


def synthetic(problems=40, positions=12, layers=3, seed=0):
    """Cells whose shift follows entropy; norm goes with entropy, and has no part in it."""
    rng = np.random.default_rng(seed)
    keys = [
        (f"p{i}", layer, "visual")
        for layer in range(layers)
        for i in range(problems)
        for _ in range(positions)
    ]
    table = pd.DataFrame(keys, columns=["problem", "layer", "kind"])
    table["last_layer"] = table["layer"] == layers - 1
    entropy = rng.normal(3, 1, len(table))
    table["entropy_base"] = entropy
    table["base_norm"] = entropy + rng.normal(0, 1, len(table))
    table["kl"] = np.exp(-entropy + 0.5 * rng.normal(size=len(table)))
    table["kl_null"] = np.exp(-entropy)
    table["ratio"] = table["kl"] / table["kl_null"]
    return table.assign(entropy_change=0.0, top1_agreement=1.0, cosine=1.0)


# --- quantities ---------------------------------------------------------------------------------------


def test_object_and_background_are_the_board_of_the_generator(problems, cells):
    for index, problem in enumerate(problems):
        _, _, board = shapes.draw("test", 0, index)
        here = cells.query(f"problem == {problem.id!r} and layer == 3 and kind == 'visual'")
        places = here[["row", "column"]].to_numpy(int)
        assert (
            here["object"].tolist() == (board.color >= 0)[places[:, 0], places[:, 1]].astype(float).tolist()
        )
        assert len(here) == board.color.size
    assert cells.loc[cells["kind"] != "visual", ["row", "column", "distance", "object"]].isna().all(axis=None)


def test_a_board_that_is_known_leaves_the_fingerprint_as_it_was(problems):
    plain = replace(problems[0], metadata={k: v for k, v in problems[0].metadata.items() if k != "occupied"})
    assert "occupied" in problems[0].metadata
    assert plain.fingerprint == problems[0].fingerprint
    assert replace(plain, metadata={"chain": "other"}).fingerprint != plain.fingerprint


def test_places_in_a_picture():
    grid = torch.tensor([[0, 0, 0], [0, 1, 1], [0, 2, 2], [-1, -1, -1]])
    sizes = torch.tensor([[3, 3]] * 4)
    torch.testing.assert_close(
        centre_distance(grid, sizes), torch.tensor([1.0, 0.0, 1.0, torch.nan]), equal_nan=True
    )
    finer = torch.tensor([[0, row, column] for row in range(4) for column in range(4)])
    board = torch.tensor([[True, False], [False, True]])
    found = on_object(finer, torch.tensor([[4, 4]] * 16), board).reshape(4, 4)
    assert found.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_the_table_holds_what_a_trace_holds(pair, problems, cells):
    traced = trace(pair, problems)
    counted = sum(len(info.tokens) - 1 for info in traced.prompts) * 8
    assert len(cells) == counted
    one = cells.query(f"problem == {problems[1].id!r} and layer == 2")
    here = (traced.prompt == 1) & (traced.position < len(traced.prompts[1].tokens) - 1)
    assert one["position"].tolist() == traced.position[here].tolist()
    np.testing.assert_allclose(one["kl"], traced.kl[2, here], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(one["base_norm"], traced.base_norm[2, here], rtol=1e-5)
    np.testing.assert_allclose(one["entropy_translated"], one["entropy_base"], rtol=1e-5, atol=1e-6)
    assert one["attention"].between(0, 1).all()
    assert set(cells.loc[cells["last_layer"], "layer"]) == {7}


# --- strata and correlations --------------------------------------------------------------------------


def test_strata_of_entropy_are_those_of_the_shift(pair, problems, cells):
    strata = stratified_by(cells, "entropy_base", kinds=["visual"], resamples=50)
    shift = stratified_shift(trace(pair, problems), kinds=["visual"], resamples=50).table
    for scope in ("layer", "without last layer"):
        one, other = (part.loc[part["scope"] == scope] for part in (strata, shift))
        for name in ("kl", "kl_low", "kl_high", "ratio", "share"):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-3)
        assert one["cells"].tolist() == other["cells"].tolist()


def test_few_values_are_a_stratum_each(cells):
    strata = stratified_by(cells, "object", kinds=["visual"], resamples=50).query(
        "scope == 'without last layer'"
    )
    assert strata["value_low"].tolist() == strata["value_high"].tolist() == [0, 1]
    assert strata["cells"].sum() == 8 * 16 * 7
    visual = cells.query("kind == 'visual' and not last_layer")
    np.testing.assert_allclose(strata["kl"], visual.groupby("object")["kl"].mean())


def test_a_proxy_comes_out_as_one_and_a_cause_as_more():
    found = rank_correlations(synthetic(), ["entropy_base", "base_norm"], resamples=300)
    pooled = found.query("scope == 'without last layer'").set_index(["outcome", "quantity"])
    assert pooled.loc[("kl", "entropy_base"), "role"] == "beyond the others"
    assert pooled.loc[("kl", "base_norm"), "role"] == "as a proxy"
    assert abs(pooled.loc[("kl", "base_norm"), "partial"]) < 0.08
    assert pooled.loc[("ratio", "entropy_base"), "role"] == "not at all"
    assert pooled.loc[("kl", "entropy_base"), "cells"] == 40 * 12 * 2
    claims = covariate_claims(found)
    assert [claim.verdict for claim in claims[:2]] == ["holds", "holds"]


def test_a_difference_of_outcomes_is_paired():
    table = synthetic().assign(control=lambda t: t["kl"] * 2)
    found = rank_correlations(
        table, ["entropy_base"], outcomes=["kl"], against={"kl": "control"}, resamples=50
    )
    assert set(found["outcome"]) == {"kl", "control", "kl − control"}
    difference = found.loc[found["outcome"] == "kl − control"]
    assert (difference[["simple", "partial"]] == 0).all(axis=None)
    assert difference[["simple_low", "simple_high"]].isna().all(axis=None)  # ranks cannot differ
    assert (difference["role"] == "").all()


def test_each_kind_has_the_quantities_that_are_defined_for_it(cells):
    found = rank_correlations(cells, resamples=20)
    visual, text = (set(found.loc[found["kind"] == kind, "quantity"]) for kind in ("visual", "text"))
    assert visual - text == {"row", "column", "distance", "object"}
    assert text - visual == {"position"}
    # The identity's entropy is the lens' own, so it adds nothing.
    assert found.loc[found["quantity"] == "entropy_translated", "partial"].isna().all()
    assert found.loc[found["quantity"] == "entropy_base", "partial"].notna().all()


def test_one_problem_has_no_interval(cells):
    one = cells.loc[cells["problem"] == cells["problem"].iloc[0]]
    found = rank_correlations(one, ["entropy_base"], kinds=["visual"])
    assert found["simple_low"].isna().all()
    assert (found["role"] == "").all()
    assert all("no interval" in str(claim) for claim in covariate_claims(found))


@pytest.mark.parametrize(
    ("simple", "left", "expected"),
    [
        ((-0.5, -0.4), (-0.3, -0.1), "beyond the others"),
        ((-0.5, -0.4), (-0.1, 0.1), "as a proxy"),
        ((-0.5, -0.4), (0.1, 0.3), "reversed"),
        ((-0.1, 0.1), (0.1, 0.3), "masked"),
        ((-0.1, 0.1), (-0.1, 0.1), "not at all"),
    ],
)
def test_roles(simple, left, expected):
    intervals = [Interval(sum(ends) / 2, *ends) for ends in (simple, left)]
    assert role(*intervals, 16) == expected
    assert role(*intervals, 15) == ""


# --- figures and refusals -----------------------------------------------------------------------------


def test_figures_show_every_quantity():
    table = synthetic()
    strata = pd.concat([stratified_by(table, name, resamples=20) for name in ("entropy_base", "base_norm")])
    panels = strata_panels(strata)
    assert [note.text for note in panels.layout.annotations] == ["lens entropy", "residual norm"]
    assert len(panels.data) == 4
    found = rank_correlations(table, ["entropy_base", "base_norm"], resamples=20)
    forest = correlation_forest(found)
    assert [note.text for note in forest.layout.annotations] == ["KL", "KL over matched noise"]
    assert list(forest.layout.yaxis.ticktext) == ["residual norm", "lens entropy"]
    assert [len(trace.x) for trace in forest.data] == [2, 2, 2, 2]
    with pytest.raises(NothingToDraw, match="none of"):
        correlation_forest(found, kind="text")
    with pytest.raises(NothingToDraw, match="no KL of 'text'"):
        strata_panels(strata, kind="text")
    rows = [
        {"layer": layer, "lens": lens, "kl": 1.0, "kl_low": 0.9, "kl_high": 1.1}
        for lens in ("plain", "translated")
        for layer in range(3)
    ]
    assert "5 problems" in fidelity_curves(pd.DataFrame(rows), problems=5).layout.title.subtitle.text


def test_bad_tables_are_refused():
    table = synthetic()
    with pytest.raises(InputError, match=r"`table` lacks \['object'\]"):
        stratified_by(table, "object")
    with pytest.raises(InputError, match="'base_norm' is not finite at 1 of"):
        stratified_by(table.assign(base_norm=table["base_norm"].where(table.index > 0)), "base_norm")
    with pytest.raises(InputError, match="`kinds` asks for 'text'"):
        stratified_by(table, "base_norm", kinds=["text"])
    with pytest.raises(InputError, match="`bins` must be a whole number"):
        stratified_by(table, "base_norm", bins=1)
    with pytest.raises(InputError, match="must name each column once"):
        rank_correlations(table, ["kl"], outcomes=["kl"])
    with pytest.raises(InputError, match="must be lists of columns"):
        rank_correlations(table, "kl")
    with pytest.raises(InputError, match="no quantity that all cells"):
        rank_correlations(table.drop(columns=["entropy_base", "base_norm"]))


def test_cells_that_do_not_fit_are_refused(pair, problems):
    with pytest.raises(InputError, match="fitted on another model"):
        cell_table(pair, problems, translators=Translators.identity(3, 160))
    plain = Translators.identity(pair.depth, pair.base.hidden_size)
    for model in ("base", "rlvr"):
        foreign = replace(plain, provenance={model: {"weights": "another's"}})
        with pytest.raises(InputError, match="fitted on another model"):
            cell_table(pair, problems, translators=foreign)
    with pytest.raises(InputError, match="`problems` is empty; give at least one: cell_table"):
        cell_table(pair, [])
    small = tiny.pair("qwen2_5_vl")
    traced = trace(small, [tiny.problem("qwen2_5_vl")], null_draws=0)
    with pytest.raises(InputError, match="`traced` has 1 prompts, expected the same"):
        cell_table(pair, problems, traced=traced)
    with pytest.raises(InputError, match="no matched noise"):
        cell_table(small, [tiny.problem("qwen2_5_vl")], traced=traced)
