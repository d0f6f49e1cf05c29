"""Every analysis runs on the bundled pair, leaves what it promises, and refuses what it can't show."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from browser import chromium
from typer.testing import CliRunner

from workbench.errors import InputError
from workbench.interfaces.cli import app
from workbench.studies.paper import Given, Options, find_analyses

HOME = Path(__file__).parents[2] / "analyses"
FEWER = {"cross_sampling": 2, "scenarios": 2, "table5_grid": 3}
"""Problems of those that ask the same ones under many conditions or turns; 6 of the others."""
NAMES = [path.stem for path in sorted(HOME.glob("*.py")) if not path.stem.startswith("_")]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return Given(Options(limit=6, samples=2, cache=tmp_path_factory.mktemp("cache")))


def analysis(name: str):
    return find_analyses(HOME, names=[name])[0]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_leaves_a_page_a_table_and_a_manifest(name, given, tmp_path):
    one, limit = analysis(name), FEWER.get(name, 6)
    given = Given(replace(given.options, limit=limit)) if name in FEWER else given
    assert not one.up_to_date(given, tmp_path)
    found, _ = one.make(given, tmp_path, images=())
    assert len(pd.read_csv(tmp_path / f"{name}.csv")) == len(found.table) > 0
    page = (tmp_path / f"{name}.html").read_text()
    assert 'src="plotly.min.js"' in page
    assert all(figure.data for figure in found.figures.values())
    for figure in found.figures.values():
        assert figure.layout.title.text
        assert figure.layout.title.subtitle.text
    told = json.loads((tmp_path / f"{name}.json").read_text())
    assert told["options"]["limit"] == limit
    assert told["pair"]["rlvr"]["id"] == "shapes/rlvr"
    assert told["seconds"] > 0
    assert [claim["verdict"] for claim in told["claims"]] == [claim.verdict for claim in found.claims]
    assert str(Path.home()) not in json.dumps(told)
    assert one.up_to_date(given, tmp_path)
    assert not one.up_to_date(Given(replace(given.options, limit=5)), tmp_path)


@pytest.mark.parametrize("path", sorted(HOME.glob("*.py")), ids=lambda p: p.stem)
def test_scripts_are_short(path):
    assert len(path.read_text().splitlines()) <= 80


def test_a_script_has_a_command_line(tmp_path):
    call = [sys.executable, "-m", "analyses.top_predictions", "--limit", "3", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*call, "--cache", str(tmp_path / "cache")],
        cwd=HOME.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "RLVR changes what the lens predicts" in done.stdout
    assert (tmp_path / "out" / "top_predictions.png").exists() == (chromium() is not None)


def test_workbench_figures_skips_what_is_up_to_date(tmp_path, monkeypatch):
    monkeypatch.chdir(HOME.parent)
    call = [
        "figures",
        "radar",
        "--limit",
        "6",
        "--samples",
        "1",
        "--out",
        str(tmp_path),
        "--cache",
        str(tmp_path / "c"),
    ]
    first = CliRunner().invoke(app, call)
    assert (first.exit_code, "radar: made" in first.output) == (0, True)
    before = (tmp_path / "radar.json").stat().st_mtime_ns
    assert "radar: up to date" in CliRunner().invoke(app, call).output
    assert (tmp_path / "radar.json").stat().st_mtime_ns == before
    assert "radar: made" in CliRunner().invoke(app, [*call, "--force"]).output
    lost = CliRunner().invoke(app, [*call, "--problems", "nowhere.tsv"])
    assert (lost.exit_code, "nowhere.tsv" in str(lost.exception or lost.output)) != (0, False)
    unknown = CliRunner().invoke(app, ["figures", "radr"])
    assert isinstance(unknown.exception, InputError)
    assert "there is no analysis 'radr' (did you mean 'radar'?)" in str(unknown.exception)


# --- runs that don't fit ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(given, tmp_path_factory):
    """A run folder as `workbench study` leaves it, cut down to what analyses read."""
    home = tmp_path_factory.mktemp("run")
    found = given.ablation()
    (home / "tables").mkdir()
    for name, table in found.tables().items():
        table.to_parquet(home / "tables" / f"{name}.parquet")
    given.trace.save(home / "trace")
    (home / "manifest.json").write_text("{}")
    return home


@pytest.mark.parametrize(
    "name", ["alternatives", "table1_patching", "figure6_pass_at_k", "entropy_shift", "cost"]
)
def test_it_draws_a_finished_run(name, run, given, tmp_path):
    found, _ = analysis(name).make(Given(Options(run=run)), tmp_path, images=())
    direct = analysis(name).analyse(given)
    shared = [column for column in ("change", "estimate", "kl") if column in found.table]
    pd.testing.assert_frame_equal(found.table[shared], direct.table[shared])


def test_a_run_without_a_table_is_named(run, tmp_path):
    (tmp_path / "tables").mkdir()
    (run / "tables" / "responses.parquet").rename(tmp_path / "kept.parquet")
    try:
        with pytest.raises(
            InputError, match=r"`--run` .* holds no table 'responses' \(it holds .*leave `--run` out"
        ):
            analysis("alternatives").analyse(Given(Options(run=run)))
    finally:
        (tmp_path / "kept.parquet").rename(run / "tables" / "responses.parquet")


def altered(run: Path, folder: Path, change) -> Path:
    (folder / "tables").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"spec.json": ""}')
    for name in ("responses", "drift"):
        table = change(pd.read_parquet(run / "tables" / f"{name}.parquet"))
        table.to_parquet(folder / "tables" / f"{name}.parquet")
    return folder


def test_a_run_without_an_intervention_says_which(run, tmp_path):
    part = altered(run, tmp_path / "run", lambda table: table[table["intervention"] != "patch, high"])
    with pytest.raises(
        InputError, match=r"lacks the interventions \['patch, high'\] \(it holds .*'patch, low'"
    ):
        analysis("table1_patching").analyse(Given(Options(run=part)))


def test_a_run_without_a_column_says_which(run, tmp_path):
    part = altered(run, tmp_path / "run", lambda table: table.drop(columns="correct", errors="ignore"))
    with pytest.raises(InputError, match="`responses` lacks correct"):
        analysis("alternatives").analyse(Given(Options(run=part)))


def test_one_problem_gives_points_without_intervals_and_says_so(run, tmp_path):
    def one(table):
        return table[table["problem"] == table["problem"].iloc[0]] if "problem" in table else table

    part = altered(run, tmp_path / "run", one)
    found = analysis("alternatives").analyse(Given(Options(run=part)))
    assert found.claims
    assert all("one problem, so no interval" in str(claim) for claim in found.claims)


def test_equal_weights_are_refused_before_anything_runs(tmp_path):
    from workbench.organism.recipes import WEIGHTS

    same = str(WEIGHTS / "base")
    with pytest.raises(InputError, match=r"`--rlvr` has the weights of `--base` .* nothing shifts"):
        analysis("entropy_shift").analyse(Given(Options(base=same, rlvr=same, limit=2, cache=tmp_path)))


def test_an_analysis_that_fails_does_not_stop_the_others(run, tmp_path, monkeypatch):
    monkeypatch.chdir(HOME.parent)
    part = altered(run, tmp_path / "run", lambda table: table[table["intervention"] != "patch, high"])
    call = ["figures", "table1_patching", "radar", "--run", str(part), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 2
    assert "table1_patching: `--run`" in done.output
    assert "radar: made" in done.output
