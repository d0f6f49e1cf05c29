"""Sweeps on a real Slurm: jobs that are killed, refused, cut off by their limit, and left behind by a driver that died.

The driver is the command itself, in a process of its own; the cells are stand-ins, except in the first test.
"""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from real import Driver, cells, standins, until, workers
from slurm import Slurm
from sweep_runs import contents, furnish, spec

from workbench.sweeps.driver import run_sweep

pytest.importorskip("submitit")
GRID = "{t: {replay: {tau: [0.2, 0.4]}}}"


def started(tmp_path_factory: pytest.TempPathFactory, *, accounting: bool) -> Iterator[Slurm]:
    slurm = Slurm(tmp_path_factory.mktemp("slurm"), accounting=accounting)
    yield slurm
    slurm.stop()


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Iterator[Slurm]:
    """Without accounting: `sacct` does not answer."""
    yield from started(tmp_path_factory, accounting=False)


@pytest.fixture(scope="module")
def accounted(tmp_path_factory) -> Iterator[Slurm]:
    yield from started(tmp_path_factory, accounting=True)


def run(slurm: Slurm, home: Path, *arguments: str, seconds: float = 0.0) -> Driver:
    return Driver(
        home, standins(slurm.env, seconds), "run", "s.yaml", "--out", "out", "--engine", "slurm", *arguments
    )


def landed(home: Path) -> int:
    return len(list((home / "out" / "inbox").glob("*.json")))


def kill(slurm: Slurm, job: str) -> None:
    slurm.run("scancel", "--signal=KILL", "--full", job)


@pytest.fixture(scope="module", autouse=True)
def limited(bare, tmp_path_factory) -> tuple[Driver, Path]:
    """A sweep whose job meets its limit, which takes a minute at least: it begins before all tests, and is looked at last."""
    home = furnish(tmp_path_factory.mktemp("limited"))
    spec(home, "{t: {replay: {}}}", slurm="{timeout_min: 1, slurm_signal_delay_s: 40}")
    return run(bare, home, "--workers", "1", seconds=4), home


# --- what it gives ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """A sweep of the bundled pair, and the tables of a run on this machine."""
    home = tmp_path_factory.mktemp("shapes")
    (home / "s.yaml").write_text(
        "pairs: [shapes]\nproblems: [{source: shapes, limit: 2}]\ndevice: cpu\nsamples: 2\n"
        "interventions: {p: {patch: {}}, t: {replay: {iterations: 2}}}\n"
    )
    last = run_sweep(home / "s.yaml", home / "local", workers=1)
    assert (last.done, last.failed) == (last.cells, 0)
    return home, contents(home / "local")


@pytest.mark.parametrize("kind", ["bare", "accounted"])
def test_tables_are_those_of_this_machine(kind, measured, request):
    home, tables = measured
    slurm = request.getfixturevalue(kind)
    driver = Driver(home, slurm.env, "run", "s.yaml", "--out", kind, "--engine", "slurm", "--workers", "2")
    assert driver.end() == 0, driver.said
    assert contents(home / kind) == tables


# --- what may happen to it -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bare", "accounted"])
def test_a_job_that_is_killed_is_replaced(kind, home, request):
    slurm = request.getfixturevalue(kind)
    run_sweep(spec(home, GRID), home / "local", workers=1)
    driver = run(slurm, home, "--workers", "2", seconds=0.7)
    assert until(lambda: landed(home) > 2), driver.said
    kill(slurm, slurm.running(home)[0])
    assert driver.end(90) == 0, driver.said
    assert contents(home / "out") == contents(home / "local")


def test_kills_count_in_a_row_alone(bare, home):
    spec(home, "{t: {replay: {tau: [0.2, 0.4, 0.6, 0.8]}}}")
    driver = run(bare, home, "--workers", "1", seconds=0.5)
    for _ in range(5):
        before = landed(home)
        assert until(lambda: landed(home) > before and bare.running(home)), driver.said  # noqa: B023
        kill(bare, bare.running(home)[0])
        assert until(lambda: not bare.running(home))
    assert driver.end() == 0, driver.said
    assert cells(home) == {"done": 30}


def test_a_cell_that_ends_its_jobs_fails_alone_and_status_names_who_had_it(bare, home):
    rows = (home / "mine.jsonl").read_text().splitlines()
    (home / "mine.jsonl").write_text(rows[0])
    spec(home, "{fatal: {patch: {layers: 2}}, t: {replay: {}}}")
    driver = run(bare, home, "--workers", "1")
    assert driver.end() == 1, driver.said
    assert cells(home) == {"done": 3, "failed": 1}
    assert all(workers(home))
    status = Driver(home, standins(bare.env, 0), "status", "out")
    assert status.end() == 0
    assert re.search(r"its job ended, 5 times in a row: FAILED .*; logs in", status.said)
    assert re.search(r"worker job \d+: 1 cells", status.said)
    assert "worker :" not in status.said


def test_what_slurm_refuses_is_said_in_its_words(bare, home):
    spec(home, slurm="{slurm_partition: nowhere}")
    driver = run(bare, home)
    assert driver.end() == 2, driver.said
    said = driver.said
    assert "Slurm refused the jobs: sbatch: error: " in said
    assert "nvalid partition" in said
    assert "'slurm_partition': 'nowhere'" in said
    assert "Traceback" not in said
    assert cells(home) == {"pending": 20}


def test_jobs_of_a_driver_that_was_killed_are_adopted(bare, home):
    run_sweep(spec(home, GRID), home / "local", workers=1)
    driver = run(bare, home, "--workers", "2", seconds=1.0)
    assert until(lambda: landed(home) > 1 and len(bare.running(home)) == 2), driver.said
    driver.popen.kill()
    driver.popen.wait()
    before = bare.jobs(home)
    left = 20 - landed(home)
    assert left > 10
    again = Driver(home, standins(bare.env, 1.0), "resume", "out", "--engine", "slurm", "--workers", "2")
    assert again.end() == 0, again.said
    assert "2 jobs of an earlier driver still have" in again.said
    assert bare.jobs(home) == before, "cells were queued again though their jobs still ran"
    assert contents(home / "out") == contents(home / "local")


def test_jobs_that_died_with_their_driver_are_replaced(bare, home):
    spec(home, GRID)
    driver = run(bare, home, "--workers", "1", seconds=1.0)
    assert until(lambda: landed(home) > 1), driver.said
    driver.popen.kill()
    driver.popen.wait()
    bare.run("scancel", *bare.running(home))
    again = Driver(home, standins(bare.env, 0), "resume", "out", "--engine", "slurm", "--workers", "1")
    assert again.end() == 0, again.said
    assert cells(home) == {"done": 20}


def test_ctrl_c_finishes_the_cells_under_way(bare, home):
    spec(home, GRID)
    driver = run(bare, home, "--workers", "1", seconds=1.5)
    assert until(lambda: landed(home) > 0), driver.said
    driver.popen.send_signal(signal.SIGINT)
    assert driver.end(60) == 130, driver.said
    assert 0 < cells(home)["done"] < 20
    assert not bare.jobs(home, "running,pending")
    again = Driver(home, standins(bare.env, 0), "resume", "out", "--engine", "slurm", "--workers", "1")
    assert again.end() == 0, again.said
    assert cells(home) == {"done": 20}


# --- limits ----------------------------------------------------------------------------------------------


def test_a_job_that_meets_its_limit_goes_on_where_it_was(limited):
    """A limit of a minute, told 40 seconds before it: the job queues itself again and computes no cell twice."""
    driver, home = limited
    assert driver.end(200) == 0, driver.said
    assert cells(home) == {"done": 15}
    names = set(workers(home))
    assert len(names) > 1, "it was never cut off"
    assert len({name.partition("(job ")[2] for name in names}) == 1, "another job took its place"


def test_a_job_without_requeues_is_replaced_and_its_cell_has_not_failed(bare, home):
    spec(home, GRID, slurm="{requeues: 0, timeout_min: 5}")
    driver = run(bare, home, "--workers", "1", seconds=1.0)
    assert until(lambda: landed(home) > 1), driver.said
    bare.run("scancel", "--signal=USR2", bare.running(home)[0])  # as Slurm does before the limit
    assert driver.end() == 0, driver.said
    assert cells(home) == {"done": 20}
    assert len({name.partition("(job ")[2] for name in workers(home)}) == 2


def test_limits_have_stated_defaults(bare, home):
    spec(home, "{t: {replay: {}}}")
    driver = run(bare, home, "--workers", "1", seconds=0.5)
    assert until(lambda: bare.running(home)), driver.said
    assert bare.ask("squeue", "-h", "-j", *bare.running(home), "-o", "%l").split() == ["1:00:00"]
    assert driver.end() == 0, driver.said
    (home / "s.yaml").write_text((home / "s.yaml").read_text() + "\nslurm: {requeues: often}")
    again = Driver(home, standins(bare.env, 0), "run", "s.yaml", "--out", "other", "--engine", "slurm")
    assert again.end() == 2
    assert "requeues is 'often'; expected a number of times: slurm: {requeues: 10}" in " ".join(
        again.said.split()
    )
