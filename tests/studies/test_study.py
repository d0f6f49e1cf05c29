"""The main job leaves a whole run or nothing, and goes on where it was stopped."""

import errno
import json
from dataclasses import replace

import pandas as pd
import pytest
import tiny
from browser import open_page

from workbench.errors import InputError
from workbench.models.anatomy import dissect
from workbench.replay.patching import Patch
from workbench.replay.replay import Replay
from workbench.studies import study as study_module
from workbench.studies import written
from workbench.studies.study import study


@pytest.fixture(scope="module")
def problems():
    return [replace(tiny.problem("qwen2_5_vl"), id=f"tiny/{i}", question=f"shape {i}?") for i in range(3)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No PNG: the figures' own tests draw them."""
    monkeypatch.setattr(study_module, "SHARD", 2)
    monkeypatch.setattr("kaleido.write_fig_from_object_sync", lambda *a, **k: None)


SETTINGS = {"top_k": 3, "null_draws": 1, "bins": 2, "resamples": 20}


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_folder_holds_everything(tiny_pair, problems, tmp_path):
    seen = []
    result = study(
        tiny_pair,
        problems,
        tmp_path / "run",
        **SETTINGS,
        notes={"source": "tiny"},
        progress=lambda *a: seen.append(a),
    )
    run = tmp_path / "run"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    for name in ("shift", "correlations", "agreement", "verdicts", "top_predictions"):
        table = pd.read_parquet(run / "tables" / f"{name}.parquet")
        assert len(table) == len(pd.read_csv(run / "tables" / f"{name}.csv")) > 0
    cells = pd.read_parquet(run / "tables" / "cells.parquet")
    assert len(cells) == len(result.trace.layers) * len(result.trace.prompt)
    spec = json.loads((run / "spec.json").read_text())
    assert spec["settings"] == {"seed": 0, "batch_size": 8, **SETTINGS}
    assert spec["source"] == "tiny"
    assert spec["problems"]["count"] == 3
    manifest = json.loads((run / "manifest.json").read_text())
    assert set(manifest) == set(contents(run)) - {"manifest.json"}
    assert result.report.read_text().startswith("<!doctype html>")
    assert ("tracing both models", 3, 3) in seen
    assert result.shift.verdict in repr(result)


def test_an_interrupted_run_goes_on_and_ends_like_an_undisturbed_one(
    tiny_pair, problems, tmp_path, monkeypatch
):
    whole = study(tiny_pair, problems, tmp_path / "whole", **SETTINGS)
    calls = []

    def stop(what, done, total):
        calls.append(done)
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(tiny_pair, problems, tmp_path / "broken", **SETTINGS, progress=stop)
    assert not (tmp_path / "broken").exists()
    traced = []
    real = study_module.trace
    monkeypatch.setattr(
        study_module, "trace", lambda p, part, **k: traced.append(len(part)) or real(p, part, **k)
    )
    resumed = study(tiny_pair, problems, tmp_path / "broken", **SETTINGS)
    assert traced == [1] or sum(traced) == 3
    pd.testing.assert_frame_equal(resumed.shift.table, whole.shift.table)
    first, second = contents(tmp_path / "whole"), contents(tmp_path / "broken")
    assert first["trace/cells.safetensors"] == second["trace/cells.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "whole"]


def test_interventions_join_the_report(tiny_pair, problems, tmp_path):
    matrix = {"tokens": Replay(layers=2, threshold="quantile", iterations=2), "patch": Patch(layers=2)}
    settings = {**SETTINGS, "interventions": matrix, "samples": 2, "max_new_tokens": 3}
    result = study(tiny_pair, problems, tmp_path / "run", **settings)
    tables = tmp_path / "run" / "tables"
    assert set(pd.read_parquet(tables / "responses.parquet")["intervention"]) == {"base", "rlvr", *matrix}
    assert len(pd.read_csv(tables / "ablation.csv")) == 4 * 3
    assert len(pd.read_csv(tables / "drift.csv")) == 3 * 4
    page = result.report.read_text()
    assert '<a href="#interventions">' in page
    for name in ("accuracy_against_rlvr", "pass_at_k", "drift_last_layer"):
        assert f'data-figure="{name}"' in page
        assert (tmp_path / "run" / "figures" / f"{name}.html").is_file()
    spec = json.loads((tmp_path / "run" / "spec.json").read_text())
    assert spec["settings"]["interventions"]["tokens"]["iterations"] == 2
    assert (
        '<a href="#interventions">'
        not in study(tiny_pair, problems, tmp_path / "plain", **SETTINGS).report.read_text()
    )


def old_run(folder):
    folder.mkdir()
    (folder / "old").write_text("precious")
    (folder / "manifest.json").write_text('{"old": "", "spec.json": ""}')


def test_an_existing_run_is_kept_unless_told(tiny_pair, problems, tmp_path):
    old_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"`out` .*run exists: a run of 2 files.* overwrite=True"):
        study(tiny_pair, problems, tmp_path / "run", **SETTINGS)
    assert (tmp_path / "run" / "old").read_text() == "precious"
    study(tiny_pair, problems, tmp_path / "run", **SETTINGS, overwrite=True)
    assert not (tmp_path / "run" / "old").exists()
    assert (tmp_path / "run" / "report.html").exists()


def test_a_full_disk_leaves_the_old_run_intact(tiny_pair, problems, tmp_path, monkeypatch):
    old_run(tmp_path / "run")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(written, "write_report", full)
    with pytest.raises(
        InputError, match=r"No space left on device. Nothing that was there before has changed"
    ):
        study(tiny_pair, problems, tmp_path / "run", **SETTINGS, overwrite=True)
    assert (tmp_path / "run" / "old").read_text() == "precious"


def test_fewer_problems_are_answered_than_traced(tiny_pair, problems, tmp_path):
    unanswerable = [*problems[:2], replace(problems[2], answer=None)]
    seen = []
    settings = {**SETTINGS, "interventions": {"patch": Patch(layers=2)}, "samples": 2, "max_new_tokens": 3}
    result = study(
        tiny_pair,
        unanswerable,
        tmp_path / "run",
        **settings,
        answers=2,
        progress=lambda *call: seen.append(call),
    )
    assert len(result.trace.prompts) == 3
    assert result.ablation is not None
    assert [*dict.fromkeys(result.ablation.responses["problem"])] == [p.id for p in problems[:2]]
    assert set(result.ablation.summary["problems"]) == {2}
    assert {c.problems for c in result.claims if c.place in ("interventions", "Table 1", "ablations")} <= {2}
    behind = {c.place: c.problems for c in result.claims}
    assert {2, 3} <= set(behind.values())  # those of shift say 3
    spec = json.loads((tmp_path / "run" / "spec.json").read_text())
    assert spec["settings"]["answers"] == 2
    assert spec["problems"]["count"] == 3
    page = result.report.read_text()
    assert "2 of them answered" in page
    assert "Answers, and the drift below, are of 2 problems, the first of the 3 that were traced." in page
    assert ("answering: patch", 2, 2) in seen
    assert [done for what, done, _ in seen if what == "the whole study"][-1] == 100
    whole = study(tiny_pair, problems, tmp_path / "all", **settings, answers=3)
    assert "answers" not in json.loads((tmp_path / "all" / "spec.json").read_text())["settings"]
    assert "of them answered" not in whole.report.read_text()
    assert "that were traced" not in whole.report.read_text()


REFUSED = {
    "samples": (0, "`samples` is 0; expected a whole number of at least 1"),
    "max_new_tokens": (0, "`max_new_tokens` is 0"),
    "bins": (1, "`bins` is 1; expected a whole number of at least 2"),
    "top_k": (0, "`top_k` is 0"),
    "null_draws": (-1, "`null_draws` is -1"),
    "batch_size": (0, "`batch_size` is 0"),
    "seed": (-1, "`seed` is -1"),
    "answers": (0, "`answers` is 0; expected a whole number of at least 1"),
    "interventions": ({"deep": Replay(layers=99)}, "`layers` is 99, but the models have 3 layers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_seen_before_is_refused_before(tiny_pair, problems, tmp_path, monkeypatch, name):
    monkeypatch.setattr(study_module, "trace", lambda *a, **k: pytest.fail("traced"))
    value, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        study(tiny_pair, problems, tmp_path / "run", **SETTINGS | {name: value})
    assert list(tmp_path.iterdir()) == []


def test_problems_without_answer_or_picture_are_refused_before(tiny_pair, problems, tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "trace", lambda *a, **k: pytest.fail("traced"))
    mixed = [*problems, replace(problems[0], id="tiny/9", answer=None, images=())]
    with pytest.raises(InputError, match=r"1 of 4 problems, such as 'tiny/9', have no answer to judge"):
        study(tiny_pair, mixed, tmp_path / "run", **SETTINGS, interventions={"patch": Patch(layers=2)})
    with pytest.raises(InputError, match=r"1 of 4 problems, such as 'tiny/9', have no picture to disturb"):
        study(tiny_pair, mixed, tmp_path / "run", **SETTINGS, perturbed=True)


def test_a_part_that_cannot_be_made_costs_no_other(tiny_pair, problems, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("a <b>fault</b>")

    monkeypatch.setattr(study_module, "outcome_claims", broken)
    monkeypatch.setattr(study_module, "follow", broken)
    with pytest.warns(UserWarning, match="could not be made and is left out") as told:
        result = study(
            tiny_pair,
            problems,
            tmp_path / "run",
            **SETTINGS,
            perturbed=True,  # three random answers: none is right, so that the perturbation has nothing to go on
            interventions={"patch": Patch(layers=2)},
            samples=2,
            max_new_tokens=3,
        )
    assert {*result.skipped} == {
        "perturbation",
        "claims of interventions",
        "probabilities of followed tokens",
    }
    assert "draw more" in result.skipped["perturbation"]
    assert len([w for w in told if "is left out" in str(w.message)]) == 3
    run = tmp_path / "run"
    assert (run / "tables" / "responses.parquet").is_file()
    assert (run / "tables" / "nulls.parquet").is_file()
    assert not (run / "tables" / "perturbation.parquet").exists()
    page = result.report.read_text()
    assert "Left out of this study" in page
    assert "KeyError: &#39;a &lt;b&gt;fault&lt;/b&gt;&#39;" in page
    assert json.loads((run / "spec.json").read_text())["skipped"] == dict(result.skipped)
    assert "Traceback" in (run / "tracebacks.txt").read_text()
    assert "perturbation" in repr(result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_figure_or_a_page_that_cannot_be_made_costs_no_table(tiny_pair, problems, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise InputError("nothing to draw")

    monkeypatch.setattr(written, "ablation_figures", broken)
    matrix = {"patch": Patch(layers=2)}
    how = {**SETTINGS, "interventions": matrix, "samples": 2, "max_new_tokens": 3}
    with pytest.warns(UserWarning, match="figures of interventions could not be made"):
        result = study(tiny_pair, problems, tmp_path / "run", **how)
    assert {*result.skipped} == {"figures of interventions"}
    assert "figures of interventions" in result.report.read_text()
    assert (tmp_path / "run" / "tables" / "ablation.csv").is_file()
    assert (tmp_path / "run" / "figures" / "kl_by_layer.html").is_file()
    monkeypatch.setattr(written, "write_report", broken)
    with pytest.warns(UserWarning, match="report could not be made"):
        result = study(tiny_pair, problems, tmp_path / "other", **SETTINGS)
    assert {*result.skipped} == {"report"}
    assert (tmp_path / "other" / "manifest.json").is_file()


def test_out_that_is_a_file_or_under_one(tiny_pair, problems, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        study(tiny_pair, problems, tmp_path / "file", **SETTINGS)
    with pytest.raises(InputError, match="can't be written"):
        study(tiny_pair, problems, tmp_path / "file" / "run", **SETTINGS)


def test_no_problems(tiny_pair, tmp_path):
    with pytest.raises(InputError, match="`problems` is empty"):
        study(tiny_pair, [], tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


@pytest.mark.browser
def test_a_study_with_everything_shows_claims_nulls_and_perturbation(tiny_pair, problems, tmp_path, browser):
    told = [
        replace(p, metadata={"chain": "<answer> 1</answer>", "wrong": "<answer> 2</answer>"})
        for p in problems
    ]
    control = replace(tiny_pair, rlvr=dissect(tiny.model("qwen2_5_vl", seed=3).eval()))
    result = study(
        tiny_pair,
        told,
        tmp_path / "run",
        **SETTINGS,
        perturbed=True,
        controls={"<b>control</b>": control},
        interventions={"tokens, low": Replay(layers=2, threshold="quantile", iterations=2)},
        samples=2,
        max_new_tokens=4,
    )
    claims = pd.read_parquet(tmp_path / "run" / "tables" / "claims.parquet")
    assert list(claims["claim"]) == [claim.claim for claim in result.claims]
    places = set(claims["place"])
    assert {
        "section 3, entropy",
        "section 3, perturbation",
        "null models",
        "Tables 2 to 4",
        "section 4",
    } <= places
    for name in ("perturbation", "perturbation_slopes", "nulls", "null_contrasts"):
        assert len(pd.read_parquet(tmp_path / "run" / "tables" / f"{name}.parquet"))
    assert "section 3, entropy" in result._repr_html_()
    page, trouble = open_page(browser, result.report)
    rows = page.locator("#claims tbody tr")
    assert rows.count() == len(claims)
    assert page.locator("#claims th[rowspan]").count() == len(claims.drop_duplicates(["claim", "place"]))
    shown = page.locator("#claims .state").all_text_contents()
    assert {*claims["verdict"], *claims["adjusted"]} == {"has too few problems"}  # of three
    assert shown == ["too few"] * 2 * len(claims)
    assert "<b>control</b>" in page.locator("#claims").inner_text()
    for section in ("nulls", "perturbation", "interventions"):
        plots = page.locator(f"#{section} .plot")
        assert plots.count() > 0
        for plot in plots.all():
            plot.scroll_into_view_if_needed()
            plot.locator(".main-svg").first.wait_for()
    assert "WebGL" not in page.locator("#perturbation").inner_text()
    assert trouble == []
    page.context.close()
