"""Cells on Slurm: array jobs through submitit. A job that is preempted or reaches its limit is queued again and goes on.

Each job has the cells of some problems. What it finishes it puts into the sweep's folder, a file a cell, written aside and
renamed; the driver collects the files, also those that came while none was running. The folder must be on a disk that all
nodes share.

1. Jobs that an earlier driver left behind are taken over; their cells are given to nobody else while they run.
2. A job that is over with cells left is submitted again, at once and for as long as jobs get on. `DEATHS` in a row that got
   nowhere cost the cell that the last was at, or all its cells, where it had begun none.
3. What Slurm refuses, what jobs wait for and that Slurm does not answer is said in its own words.
"""

import json
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import InputError, install
from workbench.machine.hardware import usable_cores
from workbench.sweeps import worker
from workbench.sweeps.cells import Cell, by_problem
from workbench.sweeps.engines import DEATHS, Stop
from workbench.sweeps.ledger import Outcome
from workbench.sweeps.slurm_jobs import REQUEUES, TIME, Fleet, Part, Refused
from workbench.sweeps.slurm_queue import Queue
from workbench.sweeps.spec import parse_sweep

JOBS = 64
"""Jobs of an array, where nobody says how many; on this machine no more than it has cores for."""
POLL = 1.0
"""Seconds between two looks into the folder."""
AGAIN = 30.0
"""Seconds until jobs that Slurm refused while others run are submitted again."""


def on_slurm(
    job: worker.Job, cells: Sequence[Cell], folder: Path, workers: int | None, stop: Stop
) -> Generator[Outcome | str | None]:
    """Array jobs with the parameters under ``slurm`` in the sweep's file; ``cluster: local`` runs them on this machine.

    What a job could not compute before this driver started is tried again.

    Raises:
        InputError: submitit is not installed, there is no Slurm, it refuses a parameter or the jobs, or stops answering.
    """
    fleet, most = _fleet(job, folder)
    (fleet.inbox / "stop").unlink(missing_ok=True)
    pending = {cell.key: cell for cell in cells}
    for file in fleet.inbox.glob("*.json"):
        if file.stem not in pending or json.loads(file.read_text())["result"] is None:
            file.unlink()  # recorded before, or to be tried again
    parts, others = fleet.adopt(pending)
    driver = _Driver(fleet, pending, parts, workers or most, stop)
    try:
        yield from driver.run(others)
    finally:
        if pending:
            (fleet.inbox / "stop").touch()
            if stop.level != 1:
                fleet.cancel(driver.parts)
        fleet.forget(driver.parts if pending else [])


class _Driver:
    """Which part is with which job, until no cell is left."""

    def __init__(
        self, fleet: Fleet, left: dict[str, Cell], parts: list[Part], count: int, stop: Stop
    ) -> None:
        self.fleet, self.left, self.parts, self.count, self.stop = fleet, left, parts, count, stop
        with_jobs = {cell.key for part in parts for cell in part.cells}
        fresh = {key: cell for key, cell in left.items() if key not in with_jobs}
        self.waiting = [Part(shard) for shard in _shards(fresh, max(1, count - len(parts)))]
        self.refused = float("-inf")
        self.refusals: set[str] = set()

    def run(self, others: list[Part]) -> Iterator[Outcome | str | None]:
        """Outcomes, and what a person should know; ``others``: parts of earlier drivers that nobody wants any more."""
        yield from self._adopted(others)
        while True:
            yield from self.fleet.look(self.parts)
            over = [part for part in self.parts if self.fleet.over(part)]
            yield from self._landed()  # after that look, so that what came with a job's end is among it
            if not self.left or self.stop.level > 1:
                return
            for part in over:
                self.parts.remove(part)
                yield from self._ended(part)
            if self.stop.level == 1:
                self._finish()
                if not self.parts:
                    return
            elif self.waiting and len(self.parts) < self.count and time.monotonic() - self.refused > AGAIN:
                yield from self._submit()
                continue
            if not self.left:
                return
            yield None
            time.sleep(POLL)

    def _finish(self) -> None:
        """Jobs end after the cell that they are at; those that have not begun need not begin."""
        if not (file := self.fleet.inbox / "stop").exists():
            file.touch()
            self.fleet.cancel(self.parts, waiting=True)

    def _adopted(self, others: list[Part]) -> Iterator[Outcome | str | None]:
        """Which jobs of earlier drivers still run; those that nobody wants are ended."""
        if not self.parts and not others:
            return
        yield from self.fleet.look([*self.parts, *others])
        running = [part for part in self.parts if part.job and not self.fleet.over(part)]
        if running:
            cells = sum(len(part.cells) for part in running)
            yield f"{len(running)} jobs of an earlier driver still have {cells} of the cells; waiting for them"
        self.fleet.cancel([part for part in others if part.job and not self.fleet.over(part)])

    def _landed(self) -> Iterator[Outcome]:
        """What came into the folder."""
        with os.scandir(self.fleet.inbox) as files:
            keys = [file.name[:-5] for file in files if file.name.endswith(".json")]
        fresh = {key for key in keys if key in self.left}
        if not fresh:
            return
        if self.fleet.queue is not None:
            self.fleet.queue.touch()
        for part in self.parts:
            part.landed = part.landed or any(cell.key in fresh for cell in part.cells)
        for key in fresh:
            del self.left[key]
            yield Outcome(**json.loads((self.fleet.inbox / f"{key}.json").read_text()))

    def _ended(self, part: Part) -> Iterator[Outcome]:
        """Cells whose job is over are given to another, or have failed."""
        rest = [cell for cell in part.cells if cell.key in self.left]
        if not rest or self.stop.level:
            return
        deaths = 0 if part.landed else part.deaths + 1
        if deaths >= DEATHS:
            at = self.fleet.at(part)
            guilty = [cell for cell in rest if cell.key == at] or rest
            where = "" if len(guilty) == 1 else ", before its first cell"
            ending = self.fleet.ending(part)
            advice = "; a cell takes longer than `timeout_min`" if "TIMEOUT" in ending else ""
            log = self.fleet.folder / "logs" / part.job
            for cell in guilty:
                del self.left[cell.key]
                reason = f"its job ended, {DEATHS} times in a row{where}: {ending}{advice}; logs in {log}"
                yield Outcome(cell.key, reason=reason, worker=f"job {part.job}")
            rest, deaths = [cell for cell in rest if cell.key in self.left], 0
        if rest:
            self.waiting.append(Part(rest, deaths))

    def _submit(self) -> Iterator[str]:
        """Hand as many parts to Slurm as may run."""
        free = self.count - len(self.parts)
        now, later = self.waiting[:free], self.waiting[free:]
        try:
            self.fleet.submit(now)
        except Refused as error:
            if not self.parts:
                raise InputError(
                    f"`slurm` {_settings(self.fleet.job)}: Slurm refused the jobs: {error}; mend what the sweep's file says "
                    f"under `slurm`, and run it again, which keeps every result: workbench sweep run sweep.yaml --out "
                    f"{self.fleet.folder} --engine slurm"
                ) from error
            self.refused = time.monotonic()
            if str(error) not in self.refusals:
                self.refusals.add(str(error))
                yield f"Slurm refused {len(now)} more jobs: {error}; trying again while others run"
            return
        self.parts += now
        self.waiting = later


def _fleet(job: worker.Job, folder: Path) -> tuple[Fleet, int]:
    """What submits jobs, and how many of them unless somebody says."""
    try:
        import submitit
    except ImportError as error:
        raise InputError(f"`engine` 'slurm' needs its extra: {install('slurm')}") from error
    settings = _settings(job)
    original = {**settings}
    cluster, requeues = settings.pop("cluster", None), settings.pop("requeues", REQUEUES)
    name = settings.pop("slurm_job_name", settings.pop("name", "sweep"))
    if not isinstance(requeues, int) or requeues < 0:
        raise InputError(
            f"`slurm` requeues is {requeues!r}; expected a number of times: slurm: {{requeues: {REQUEUES}}}"
        )
    if "slurm_time" in settings:
        raise InputError(
            f"`slurm` slurm_time is {settings['slurm_time']!r}; say the limit in minutes: slurm: {{timeout_min: {TIME}}}"
        )
    needs = {"gpus_per_node": 1} if job.device == "cuda" else {"cpus_per_task": job.threads}
    try:
        executor = submitit.AutoExecutor(
            folder=folder / "logs" / "%j", cluster=cluster, slurm_max_num_timeout=requeues
        )
        executor.update_parameters(name=name, **{"timeout_min": TIME, **needs, **settings})
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
        raise InputError(f"`slurm` {original}: {error}") from error
    if executor.cluster == "local" and cluster is None:
        raise InputError(
            "`engine` is 'slurm', but there is no Slurm on this machine (no `srun`); run it where there is one, with "
            "--engine local, or as jobs on this machine: slurm: {cluster: local}"
        )
    real = executor.cluster == "slurm"
    most = JOBS if executor.cluster != "local" else max(1, usable_cores() // job.threads)
    return Fleet(executor, job, folder, str(name), Queue() if real else None), most


def _settings(job: worker.Job) -> dict[str, Any]:
    """What the sweep's file says under ``slurm``."""
    return dict(parse_sweep(job.text).slurm)


def _shards(cells: Mapping[str, Cell], count: int) -> list[list[Cell]]:
    """Cells for each of so many jobs; those of a problem stay together."""
    shards: list[list[Cell]] = [[] for _ in range(count)]
    for number, group in enumerate(by_problem(list(cells.values())).values()):
        shards[number % count] += group
    return [shard for shard in shards if shard]
