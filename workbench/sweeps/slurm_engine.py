"""Cells on Slurm: array jobs through submitit. A job that is preempted or reaches its limit is queued again and goes on.

Each job has the cells of some problems. What it finishes it puts into the sweep's folder, a file a cell, written aside and
renamed; the driver collects the files, also those that came while none was running. The folder must be on a disk that all
nodes share.
"""

import json
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workbench.errors import InputError, install
from workbench.machine.hardware import usable_cores
from workbench.sweeps import worker
from workbench.sweeps.cells import Cell, by_problem
from workbench.sweeps.engines import DEATHS, Stop
from workbench.sweeps.ledger import Outcome
from workbench.sweeps.spec import parse_sweep

JOBS = 64
"""Jobs of an array, where nobody says how many; on this machine no more than it has cores for."""
POLL = 1.0
"""Seconds between two looks."""


class Shard:
    """What one job does; submitit calls it, and `checkpoint` when its time is over."""

    def __init__(self, job: worker.Job, cells: Sequence[Cell], inbox: Path) -> None:
        self.job, self.cells, self.inbox = job, list(cells), inbox

    def __call__(self) -> None:
        """Every cell that has no file yet."""
        bench = worker.Bench(self.job)
        for cell in self.cells:
            file = self.inbox / f"{cell.key}.json"
            if (self.inbox / "stop").exists():
                return
            if not file.exists():
                partial = file.with_suffix(".partial")
                partial.write_text(json.dumps(asdict(bench.run(cell))))
                partial.rename(file)

    def checkpoint(self) -> Any:
        """What is queued in its place: itself, which skips what is finished."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def on_slurm(
    job: worker.Job, cells: Sequence[Cell], folder: Path, workers: int | None, stop: Stop
) -> Generator[Outcome | None]:
    """Array jobs with the parameters under ``slurm`` in the sweep's file; ``cluster: local`` runs them on this machine.

    What a job could not compute before this driver started is tried again.

    Raises:
        InputError: submitit is not installed, there is no Slurm, or it refuses a parameter.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError(f"`engine` 'slurm' needs its extra: {install('slurm')}") from error
    inbox = folder.resolve() / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    (inbox / "stop").unlink(missing_ok=True)
    settings = dict(parse_sweep(job.text).slurm)
    cluster = settings.pop("cluster", None)
    try:
        executor = submitit.AutoExecutor(folder=folder / "logs" / "%j", cluster=cluster)
        needs = {"gpus_per_node": 1} if job.device == "cuda" else {"cpus_per_task": job.threads}
        executor.update_parameters(name="sweep", **{**needs, **settings})
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise InputError(f"`slurm` {settings}: {error}") from error
    if executor.cluster == "local" and cluster is None:
        raise InputError(
            "`engine` is 'slurm', but there is no Slurm on this machine (no `srun`); run it where there is one, with "
            "--engine local, or as jobs on this machine: slurm: {cluster: local}"
        )
    most = JOBS if executor.cluster != "local" else max(1, usable_cores() // job.threads)
    left = {cell.key: cell for cell in cells}
    for file in inbox.glob("*.json"):
        if file.stem not in left or json.loads(file.read_text())["result"] is None:
            file.unlink()  # recorded before, or to be tried again
    submissions, jobs = 0, []
    try:
        while True:
            for key in [key for key in left if (inbox / f"{key}.json").exists()]:
                del left[key]
                yield Outcome(**json.loads((inbox / f"{key}.json").read_text()))
            if not left or stop.level > 1:
                return
            if stop.level == 1:
                (inbox / "stop").touch()
            if all(submitted.done() for submitted in jobs):
                landed = any((inbox / f"{key}.json").exists() for key in left)
                if landed:
                    continue
                if stop.level:
                    return
                if submissions >= DEATHS:
                    for key in left:
                        yield Outcome(key, reason=f"its job ended, {DEATHS} times in a row")
                    return
                submissions += 1
                with executor.batch():
                    jobs = [
                        executor.submit(Shard(job, part, inbox)) for part in _shards(left, workers or most)
                    ]
                continue
            yield None
            time.sleep(POLL)
    finally:
        if left:
            (inbox / "stop").touch()
            for submitted in jobs:
                if stop.level != 1:
                    submitted.cancel(check=False)


def _shards(cells: dict[str, Cell], count: int) -> list[list[Cell]]:
    """Cells for each of so many jobs; those of a problem stay together."""
    shards: list[list[Cell]] = [[] for _ in range(count)]
    for number, group in enumerate(by_problem(list(cells.values())).values()):
        shards[number % count] += group
    return [shard for shard in shards if shard]
