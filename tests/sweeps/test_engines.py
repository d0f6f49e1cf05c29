"""The other engines give the same tables: Ray, with an actor and a node that die, and Slurm through submitit's stand-ins."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sweep_standin
from sweep_runs import contents, recorded, spec

import workbench
from workbench.errors import InputError
from workbench.machine import hardware as machine
from workbench.sweeps import slurm_engine, slurm_jobs, worker
from workbench.sweeps.cells import plan_cells
from workbench.sweeps.driver import resume_sweep, run_sweep
from workbench.sweeps.ledger import Ledger
from workbench.sweeps.spec import parse_sweep

SUPPORT = str(Path(sweep_standin.__file__).parent)
PROJECT = str(Path(workbench.__file__).parents[1])


def test_an_unknown_engine_is_refused(home):
    with pytest.raises(InputError, match="`engine` is 'dask'; expected local, ray or slurm"):
        run_sweep(spec(home), home / "out", engine="dask")


@pytest.mark.parametrize("engine", ["ray", "slurm"])
def test_an_engine_that_is_not_installed_is_told_with_its_extra(engine, home, monkeypatch):
    monkeypatch.setitem(sys.modules, {"ray": "ray", "slurm": "submitit"}[engine], None)
    with pytest.raises(InputError, match=rf"pip install -e \"\.\[{engine}\]\""):
        run_sweep(spec(home), home / "out", engine=engine)


class Mended(sweep_standin.Bench):
    def run(self, cell):
        return super().run(replace(cell, intervention="good"))


class TestSlurm:
    @pytest.fixture(autouse=True)
    def _debug(self, monkeypatch):
        pytest.importorskip("submitit")
        monkeypatch.setattr(slurm_jobs, "BENCH", sweep_standin.Bench)
        monkeypatch.setattr(slurm_engine, "POLL", 0)

    def test_same_tables(self, home):
        file = spec(home, "{bad: {patch: {layers: 2}}, t: {replay: {}}}")
        run_sweep(file, home / "local", workers=1)
        file.write_text(file.read_text() + "\nslurm: {cluster: debug}")
        last = run_sweep(file, home / "slurm", engine="slurm", workers=2)
        assert (last.done, last.failed) == (15, 5)
        assert contents(home / "slurm") == contents(home / "local")

    def test_what_came_while_no_driver_ran_is_collected(self, home, monkeypatch):
        file = spec(home, slurm="{cluster: debug}")
        run_sweep(file, home / "out", engine="slurm", workers=1)
        with Ledger(home / "out", write=True) as book, book.base:
            book.base.execute("DELETE FROM outcomes")
            book.base.execute("DELETE FROM results")
        monkeypatch.setattr(slurm_jobs, "BENCH", None)  # nothing runs
        assert resume_sweep(home / "out", engine="slurm").done == 20

    def test_cells_whose_jobs_end_without_them_fail(self, home, monkeypatch):
        monkeypatch.setattr(slurm_jobs.Shard, "__call__", lambda self: None)
        last = run_sweep(spec(home, slurm="{cluster: debug}"), home / "out", engine="slurm", workers=1)
        assert last.failed == 20

    def test_failed_cells_are_run_again(self, home, monkeypatch):
        file = spec(home, "{bad: {patch: {layers: 2}}}", slurm="{cluster: debug}")
        assert run_sweep(file, home / "out", engine="slurm", workers=1).failed == 5
        monkeypatch.setattr(slurm_jobs, "BENCH", Mended)
        last = resume_sweep(home / "out", engine="slurm", workers=1, retry_failed=True)
        assert (last.done, last.failed, last.now) == (15, 0, 5)

    def test_a_job_whose_time_is_over_goes_on_where_it_was(self, home, tmp_path):
        sweep = parse_sweep(spec(home).read_text())
        cells = plan_cells(sweep, "cpu")[:4]
        inbox = tmp_path / "inbox"
        inbox.mkdir()
        shard = slurm_jobs.Shard(worker.Job(spec(home).read_text(), "cpu", 0, 1), cells, inbox, inbox / "at")
        assert shard.checkpoint() is None, "no cell was finished: more of the same would not help"
        shard.landed = 1
        (inbox / f"{cells[0].key}.json").write_text("done before")
        again = shard.checkpoint()
        again.function()
        assert (inbox / f"{cells[0].key}.json").read_text() == "done before"
        assert {file.stem for file in inbox.glob("*.json")} == {cell.key for cell in cells}

    def test_without_slurm_it_is_not_run_here_unless_asked(self, home, monkeypatch):
        monkeypatch.setenv("PATH", str(home))  # no srun
        with pytest.raises(InputError, match=r"there is no Slurm on this machine.*cluster: local"):
            run_sweep(spec(home), home / "out", engine="slurm")

    def test_a_wrong_parameter_is_told(self, home):
        with pytest.raises(InputError, match="`slurm`"):
            run_sweep(
                spec(home, slurm="{cluster: debug, slurm_partitoin: gpu}"), home / "out", engine="slurm"
            )


class TestRay:
    @pytest.fixture
    def cluster(self, monkeypatch):
        ray = pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        from workbench.sweeps import ray_engine

        monkeypatch.setattr(ray_engine, "BENCH", sweep_standin.Bench)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        path = os.pathsep.join([SUPPORT, PROJECT, os.environ.get("PYTHONPATH", "")])
        ray.init(
            address=cluster.address,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": path, "STANDIN_SECONDS": "0.05"}},
        )
        yield cluster
        ray.shutdown()
        cluster.shutdown()

    def test_same_tables_though_an_actor_and_a_node_die(self, home, cluster):
        file = spec(home, "{bad: {patch: {layers: 2}}, t: {replay: {tau: [0.2, 0.4, 0.6]}}}")
        run_sweep(file, home / "local", workers=1)
        doomed = cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        killed = []

        def kill(progress):
            workers = {told["worker"] for _, told, _ in outcomes(home / "ray") if told["worker"]}
            if not killed and workers:
                killed.append(workers.pop())
                os.kill(int(killed[0].split(":")[1]), signal.SIGKILL)
            elif len(killed) == 1 and progress.done > 12:
                killed.append("node")
                cluster.remove_node(doomed, allow_graceful=False)

        last = run_sweep(file, home / "ray", engine="ray", workers=2, progress=kill)
        assert len(killed) == 2
        assert last.done + last.failed == last.cells
        assert contents(home / "ray") == contents(home / "local")
        assert json.dumps(recorded(home / "ray")) == json.dumps(recorded(home / "local"))


def outcomes(folder: Path):
    with Ledger(folder) as book:
        return list(book.outcomes())


def test_cores_are_counted():
    assert 1 <= machine.usable_cores() <= (os.cpu_count() or 1)
