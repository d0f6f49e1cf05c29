"""Every column of every table is described once: none undescribed, none described that is absent."""

import json

import pandas as pd
import pytest
from study_copies import copy_study

import workbench as wb
from workbench.columns import ENDS, describe, described, tables_known
from workbench.estimates import Interval
from workbench.experiments.agent import run_agents
from workbench.models.bundled import checkpoints_of, controls_of
from workbench.problems.shapes_contents import contents

SMALL = {"resamples": 20}
SHORT = {"samples": 2, "max_new_tokens": 40}
INTERVENTIONS = {"patch, low": wb.Patch(layers=5, threshold="quantile")}


@pytest.fixture(scope="module")
def pair():
    return wb.load_pair("shapes")


@pytest.fixture(scope="module")
def problems():
    return wb.load_problems("shapes", limit=4)


@pytest.fixture(scope="module")
def run(pair, problems, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "study"
    settings = {
        "interventions": INTERVENTIONS,
        "perturbed": True,
        "controls": controls_of(pair),
        "null_draws": 1,
    }
    return wb.study(pair, problems[:2], out, **settings, **SMALL, **SHORT)


@pytest.fixture(scope="module")
def twin(run, tmp_path_factory):
    """The same run, of a pair of another name."""
    return copy_study(run.folder, tmp_path_factory.mktemp("twin") / "run", pair="twin")


@pytest.fixture(scope="module")
def results(pair, problems, run, twin):
    """A result of every kind, on the bundled pair."""
    trace = wb.trace(pair, problems[:2])
    ladder = checkpoints_of(pair)
    steps = [step for step in ladder if isinstance(step, int)]
    picked = {step: ladder[step] for step in (0, steps[-2], steps[-1])}
    scene = wb.load_problems("shapes-agent", limit=1)[0]
    return [
        run,
        trace,
        wb.stratified_shift(trace, bins=3, **SMALL),
        wb.change_nulls(pair, problems, draws=1, **SMALL),
        wb.causes(pair, problems, null_draws=1, **SMALL),
        wb.follow(pair, problems[:1], wb.trace(pair, problems[:1]), tokens=2),
        wb.compare(run.folder, twin),
        run.ablation,
        run.perturbation,
        run.nulls,
        wb.attribute(pair, problems[:2], metrics=["kl"], **SMALL),
        wb.follow_training(problems[:2], picked, **SMALL, **SHORT),
        wb.compare_weights(pair, problems[:1], **SMALL),
        wb.divergence(pair, problems[:2], **SMALL, **SHORT),
        near := wb.read_neighbours(pair, problems[:1], wb.LatentLens.build(pair, ["red circle blue cross"])),
        wb.neighbour_shift(near, wb.trace(pair, problems[:1]), bins=2),
        wb.try_replay(pair, problems[0], layers=2, threshold="quantile", **SHORT),
        wb.run_agent(
            pair, scene, turns=2, intervention=wb.Replay(layers=2, threshold="quantile", iterations=2)
        ),
    ]


@pytest.fixture(scope="module")
def frames(pair, problems, tmp_path_factory):
    """The tables that functions return as they are, and those that only the command line writes."""
    cells = wb.cell_table(pair, problems)
    near = wb.read_neighbours(pair, problems[:2], wb.LatentLens.build(pair, ["red circle blue cross"]), k=5)
    scenes = wb.load_problems("shapes-agent", limit=1)
    return {
        "agents": run_agents(pair, scenes, tmp_path_factory.mktemp("pages"), turns=1)["agents"],
        "cell_table": cells,
        "stratified_by": wb.stratified_by(cells, "entropy_base", **SMALL),
        "neighbour_fidelity": wb.neighbour_fidelity(near, **SMALL),
        "cell_names": wb.cell_names(
            {"latent lens": near}, {problem.id: contents(problem.id) for problem in problems[:2]}, **SMALL
        ),
        "reading_fidelity": wb.reading_fidelity(pair, problems[:2], [wb.LogitLens()], **SMALL),
        "rank_correlations": wb.rank_correlations(cells, **SMALL),
    }


def test_every_result_describes_all_its_columns(results):
    for result in results:
        columns = result.columns
        assert len(columns), type(result).__name__
        bare = columns.loc[columns["meaning"] == ""]
        assert bare.empty, f"{type(result).__name__}: {bare[['table', 'column']].to_dict('records')}"


def test_no_column_is_described_that_no_table_has(results, frames, run):
    found = {(row["table"], row["column"]) for result in results for row in result.columns.to_dict("records")}
    found |= {(row["table"], row["column"]) for row in describe(frames).to_dict("records")}
    tables = {table for table, _ in found}
    assert set(tables_known()) == tables
    described_ = {(table, c.name) for table in tables for c in described(table, optional=False)}
    assert described_ - found == set()
    assert describe(frames)["meaning"].ne("").all()


def test_columns_stand_in_the_order_of_the_tables(run):
    for file in sorted((run.folder / "tables").glob("*.parquet")):
        assert list(pd.read_parquet(file)) == [c.name for c in described(file.stem)], file.stem


def test_a_run_says_what_its_columns_mean(run):
    written = json.loads((run.folder / "tables" / "columns.json").read_text())
    files = {file.stem: pd.read_parquet(file) for file in (run.folder / "tables").glob("*.parquet")}
    assert written.keys() == files.keys()
    for name, table in files.items():
        assert [column["column"] for column in written[name]] == list(table)
        assert all(column["meaning"] for column in written[name])


def test_a_problem_has_one_name(results, frames):
    names = {column for result in results for column in result.columns["column"]} | {
        c for f in frames.values() for c in f
    }
    assert "problem_id" not in names


def test_the_ends_of_intervals_are_called_as_tables_call_them():
    assert tuple(Interval.names("x")) == ("x", *(f"x{end}" for end in ENDS))


@pytest.mark.quick
def test_meanings_are_all_used_and_all_there():
    for table in tables_known():
        columns = [*described(table)]
        assert len({c.name for c in columns}) == len(columns), table
        assert all(c.meaning and c.meaning[-1] not in ".," for c in columns), table
