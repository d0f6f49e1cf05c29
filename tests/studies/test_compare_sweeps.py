"""Finished sweeps beside studies: what their conditions answered is compared, and what they lack is named."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.meta_analysis import combine_effects
from sweep_runs import STANDIN, furnish, spec

import workbench as wb
from workbench.errors import InputError
from workbench.estimates import ENOUGH, pass_at_k, share_difference
from workbench.studies.compare_answers import answers_by_pair
from workbench.sweeps import engines
from workbench.sweeps.driver import run_sweep

PATCH = "patch: {patch: {layers: 2}}, m: {matrix: {layers: 2}}"


def sweep(home, out, text, **keys):
    """A sweep of two pairs on workers that compute nothing."""
    grid = spec(home, f"{{{text}}}", ("rlvr", "other"), **keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "WORKER", (sys.executable, STANDIN))
        run_sweep(grid, out)
    wb.export_sweep(out)
    return out


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = furnish(tmp_path_factory.mktemp("sweeps"))
    rows = [json.dumps({"id": f"q{i}", "question": f"How many? {i}", "answer": "3"}) for i in range(ENOUGH)]
    (home / "mine.jsonl").write_text("\n".join(rows))
    shutil.copytree(home / "rlvr", home / "other")
    (home / "other" / "model.safetensors").write_bytes(b"other" * 100)
    return home


@pytest.fixture(scope="module")
def grid(home):
    return sweep(home, home / "grid", PATCH, seeds="[0, 1]", samples=2)


def made_study(folder, ids=("base", "rlvr"), **tables):
    """A folder as a study leaves it, with some of its tables."""
    (folder / "tables").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"spec.json": "0"}')
    pair = {
        "pair": folder.name,
        "base": {"id": ids[0], "weights": "a"},
        "rlvr": {"id": ids[1], "weights": folder.name},
    }
    (folder / "spec.json").write_text(json.dumps({"pair": pair, "problems": {"count": 64, "digest": "x"}}))
    for name, table in tables.items():
        table.to_parquet(folder / "tables" / f"{name}.parquet", index=False)
    return folder


def summary(change=0.1):
    rows = []
    for name, moved in (("base", -0.2), ("rlvr", np.nan), ("patch", change), ("tokens, low", change)):
        ends = {"vs_rlvr": moved, "vs_rlvr_low": moved - 0.05, "vs_rlvr_high": moved + 0.04}
        middle = {"estimate": 0.5, "estimate_low": 0.4, "estimate_high": 0.6}
        rows.append({"intervention": name, "measure": "Pass@1", "problems": 64, **middle, **ends})
    return pd.DataFrame(rows)


def test_a_sweeps_pairs_stand_side_by_side(grid):
    comparison = wb.compare(grid)
    assert comparison.pairs["pair"].tolist() == ["base → rlvr", "base → other"]
    assert comparison.pairs["samples"].tolist() == [4, 4]
    responses = pd.read_parquet(grid / "tables" / "responses.parquet")
    for title, rows in responses.groupby("pair"):
        pair = f"base → {title.rpartition('/')[2]}"
        scores = {}
        for name, part in rows.loc[rows["sample"] >= 0].groupby("intervention"):
            right = part.groupby("problem")["correct"].sum()
            scores[name] = pass_at_k(4, right.to_numpy(), 2)
        theirs = share_difference(scores["rlvr"], scores["patch"], np.arange(ENOUGH))
        own = comparison.answers.loc[comparison.answers["pair"] == pair].set_index("measured")
        row = own.loc["Pass@2, patch − rlvr, points"]
        ours = [row[f"estimate{end}"] for end in ("", "_low", "_high")]
        np.testing.assert_allclose(ours, 100 * np.array([theirs.estimate, theirs.low, theirs.high]))
        assert row["accuracy"] == pytest.approx(100 * scores["patch"].mean())
    assert (comparison.pooled_answers["pooled"] == 2).any()
    assert "Pass@4, base − rlvr, points" in set(comparison.pooled_answers["measured"])
    for row in comparison.pooled_answers.to_dict("records"):
        part = comparison.answers.loc[comparison.answers["measured"] == row["measured"]]
        part = part.loc[part["unpooled"] == ""]
        assert len(part) == row["pooled"]
        if len(part) > 1:
            pooled = combine_effects(
                part["estimate"].to_numpy(),
                part["standard_error"].to_numpy() ** 2,
                method_re="iterated",
                use_t=True,
                maxiter=1000,
            )
            assert row["estimate"] == pytest.approx(pooled.mean_effect_re)
            # Of equal estimates statsmodels' I^2 is 1 less the degrees of freedom over a Q of rounding errors, of either sign.
            expected = max(0.0, pooled.i2) if pooled.q > 1e-9 else 0.0
            assert row["i2"] == pytest.approx(expected)


def test_a_sweep_beside_studies(grid, home, tmp_path):
    claims = pd.DataFrame(
        [
            {
                "claim": "c",
                "measured": "m",
                "estimate": 1.0,
                "estimate_low": 0.5,
                "estimate_high": 1.5,
                "expected": "above 0",
                "problems": 64,
                "verdict": "holds",
            }
        ]
    )
    study = made_study(tmp_path / "study", ablation=summary(), claims=claims)
    comparison = wb.compare(study, grid / "tables")
    assert len(comparison.pairs) == 3
    for what in (
        "Pass@1, patch − rlvr, points",
        "Pass@1, tokens, low − rlvr, points",
    ):  # of a matrix, as studies call it
        rows = comparison.answers.loc[comparison.answers["measured"] == what]
        assert len(rows) == 3
        assert rows["pair"].tolist()[0] == "study"
    notes = " ".join(comparison.notes)
    assert "Missing: claims" in notes
    assert "(a sweep has no such table)" in notes
    assert "Problems unknown" in notes
    assert "One base model" not in notes
    page = comparison.save(tmp_path / "page.html").read_text()
    assert 'id="answers"' in page
    twin = made_study(tmp_path / "twin", ids=(f"{home}/base", f"{home}/rlvr"), ablation=summary(0.3))
    both = wb.compare(twin, grid, study)
    assert any("twin" in note and "pooled once" in note for note in both.notes)
    row = both.answers.query("measured == 'Pass@1, patch − rlvr, points'")
    assert row["unpooled"].tolist() == ["", "the same models as twin", "", ""]
    greedy = both.answers.query("measured == 'greedy, patch − rlvr, points'")  # which the study lacks
    assert not greedy["unpooled"].str.contains("same models").any()


def test_what_failed_is_named_and_left_out(home, tmp_path):
    out = sweep(home, tmp_path / "failing", "patch: {patch: {layers: 2}}, bad: {patch: {layers: 3}}")
    comparison = wb.compare(out)
    assert sum(f"Unfinished: {ENOUGH} of {4 * ENOUGH} cells" in note for note in comparison.notes) == 2
    assert set(comparison.answers["claim"]) == {"base", "rlvr", "patch"}


def test_several_problem_sets_are_runs_of_their_own(home, tmp_path):
    (home / "more.jsonl").write_text(
        "\n".join(json.dumps({"id": f"r{i}", "question": f"More? {i}", "answer": "3"}) for i in range(4))
    )
    out = sweep(home, tmp_path / "two", "patch: {patch: {layers: 2}}")
    text = (home / "s.yaml").read_text().replace("mine.jsonl]", f"mine.jsonl, {home}/more.jsonl]")
    (home / "s.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "WORKER", (sys.executable, STANDIN))
        run_sweep(home / "s.yaml", out)
    wb.export_sweep(out)
    comparison = wb.compare(out)
    assert comparison.pairs["problems"].tolist() == [ENOUGH, 4, ENOUGH, 4]
    assert comparison.counted == "2 pairs in 4 runs"


def test_what_is_no_finished_sweep_is_refused(grid, tmp_path):
    bare = shutil.copytree(grid, tmp_path / "bare", ignore=shutil.ignore_patterns("tables"))
    with pytest.raises(
        InputError, match=rf"is a sweep whose tables are not written; .*workbench sweep export {bare}"
    ):
        wb.compare(bare, grid)
    broken = shutil.copytree(grid, tmp_path / "broken")
    (broken / "tables" / "responses.parquet").write_text("no parquet")
    with pytest.raises(InputError, match=r"broken: its tables can't be read .*workbench sweep export"):
        wb.compare(broken, grid)
    empty = shutil.copytree(grid, tmp_path / "empty")
    table = pd.read_parquet(empty / "tables" / "responses.parquet")
    table.iloc[:0].to_parquet(empty / "tables" / "responses.parquet")
    with pytest.raises(InputError, match="its table of responses is empty; expected a finished sweep"):
        wb.compare(empty, grid)


def test_no_conditions_no_answers():
    assert answers_by_pair({}, {}).empty
