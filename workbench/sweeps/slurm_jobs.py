"""The jobs of a sweep on Slurm: what one does, how they are submitted, and which of them are still there.

A file for each submission, written before it, says which job has which cells: a driver that comes after a dead one finds by
it the jobs that still run, and gives their cells to nobody else.
"""

import io
import json
import os
import secrets
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench.errors import InputError
from workbench.sweeps import worker
from workbench.sweeps.cells import Cell
from workbench.sweeps.slurm_queue import Queue, Slot, run

TIME = 60
"""Minutes that a job may take (``timeout_min``)."""
REQUEUES = 10
"""Times that a job that met its limit is queued again by itself (``requeues``); after that the driver does it."""
BENCH: type = worker.Bench
"""What computes the cells of a job."""


class Shard:
    """What one job does; submitit calls it, and `checkpoint` when its time is over."""

    def __init__(self, job: worker.Job, cells: Sequence[Cell], inbox: Path, mark: Path) -> None:
        self.job, self.cells, self.inbox, self.mark, self.bench = job, list(cells), inbox, mark, BENCH
        self.landed = 0

    def __call__(self) -> None:
        """Every cell that has no file yet; `mark` says at which it is."""
        _end_by_exit()
        bench, self.landed = self.bench(self.job), 0
        called = worker_name()
        for cell in self.cells:
            file = self.inbox / f"{cell.key}.json"
            if (self.inbox / "stop").exists():
                return
            if file.exists():
                continue
            with suppress(OSError):
                self.mark.write_text(cell.key)
            outcome = replace(bench.run(cell), worker=called)
            partial = self.inbox / f"{cell.key}.{secrets.token_hex(4)}.partial"  # two jobs must not share it
            partial.write_text(json.dumps(asdict(outcome)))
            partial.rename(file)
            self.landed += 1

    def checkpoint(self) -> Any:
        """What is queued in its place: itself, which skips what is finished; nothing, where its time was too short for a cell."""
        import submitit

        return submitit.helpers.DelayedSubmission(self) if self.landed else None


def worker_name() -> str:
    """What outcomes of this process are signed with."""
    environment = os.environ
    job = environment.get("SLURM_ARRAY_JOB_ID", environment.get("SLURM_JOB_ID"))
    place = f"_{environment['SLURM_ARRAY_TASK_ID']}" if "SLURM_ARRAY_TASK_ID" in environment else ""
    return f"{socket.gethostname()}:{os.getpid()}" + (f" (job {job}{place})" if job else "")


def _end_by_exit() -> None:
    """What submitit raises when a job's time is over must end the job; raised as it is, the cell under way would have failed."""
    number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}", signal.SIGUSR2)
    with suppress(ValueError):  # not in the main thread: nobody is told there
        before = signal.getsignal(number)
        if callable(before):
            signal.signal(number, _exiting(before))


def _exiting(handler: Callable[..., Any]) -> Callable[..., Any]:
    def handle(*told: Any) -> None:
        try:
            handler(*told)
        except Exception as error:
            raise SystemExit(str(error)) from error

    return handle


@dataclass(eq=False)
class Part:
    """Cells that one job has, or is to have."""

    cells: list[Cell]
    deaths: int = 0
    """Jobs in a row that ended without a result of these cells."""
    landed: bool = False
    """Whether a result came since its job was submitted."""
    slot: Slot = ("", 0)
    job: str = ""
    handle: Any = field(default=None, repr=False)
    """submitit's, where the stand-ins for Slurm run it."""


class Refused(InputError):
    """Slurm did not take a submission."""


@dataclass(eq=False)
class Fleet:
    """The jobs of one sweep."""

    executor: Any
    """submitit's."""
    job: worker.Job
    folder: Path
    """The sweep's."""
    name: str
    """What jobs' names begin with."""
    queue: Queue | None
    """None: a stand-in for Slurm runs the jobs on this machine."""

    def __post_init__(self) -> None:
        self.inbox, self.records = self.folder.resolve() / "inbox", self.folder.resolve() / "jobs"
        for subfolder in (self.inbox, self.records):
            subfolder.mkdir(parents=True, exist_ok=True)

    def submit(self, parts: Sequence[Part]) -> None:
        """Hand parts to Slurm, as one array.

        Raises:
            Refused: Slurm's words.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        name, record = f"{self.name}-{secrets.token_hex(4)}", {}
        for place, part in enumerate(parts):
            part.slot, part.landed = (name, place), False
            record[str(place)] = [cell.key for cell in part.cells]
        file = self.records / f"{name}.json"
        _write(file, record)
        self.executor.update_parameters(name=name)
        stderr = io.StringIO()
        try:
            with redirect_stderr(stderr), self.executor.batch():
                handles = [
                    self.executor.submit(Shard(self.job, part.cells, self.inbox, self._mark(part.slot)))
                    for part in parts
                ]
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            file.unlink(missing_ok=True)
            raise Refused(" ".join((str(error) or stderr.getvalue()).split())) from error
        for part, handle in zip(parts, handles, strict=True):
            part.job = handle.job_id
            part.handle = None if self.queue is not None else handle
        if self.queue is not None:
            self.queue.touch()
        else:
            _write(file, record | {"processes": [part.job for part in parts]})

    def adopt(self, left: Mapping[str, Cell]) -> tuple[list[Part], list[Part]]:
        """Parts that earlier drivers submitted: with cells that are left, and with none. They may be over."""
        ours: list[Part] = []
        others: list[Part] = []
        for file in sorted(self.records.glob("*.json")):
            try:
                record = json.loads(file.read_text())
            except (OSError, ValueError):
                continue
            processes = record.pop("processes", [])
            for place, keys in record.items():
                cells = [left[key] for key in keys if key in left]
                job = processes[int(place)] if int(place) < len(processes) else ""
                part = Part(
                    cells, deaths=-1, slot=(file.stem, int(place)), job=job
                )  # its end is not this driver's
                (ours if cells else others).append(part)
        return ours, others

    def look(self, parts: Sequence[Part]) -> list[str]:
        """See how jobs are; what a person should know of it."""
        if self.queue is None:
            return []
        messages = self.queue.look([part.slot for part in parts])
        for part in parts:
            if part.slot in self.queue.jobs:
                part.job = self.queue.jobs[part.slot].job
        return messages

    def over(self, part: Part) -> bool:
        """Whether a part's job is over."""
        if self.queue is not None:
            return self.queue.over(part.slot)
        if part.handle is not None:
            return part.handle.done()
        return not _runs(part.job)

    def ending(self, part: Part) -> str:
        """How a part's job ended."""
        return "it ended by itself" if self.queue is None else self.queue.ending(part.slot, part.job)

    def at(self, part: Part) -> str:
        """The key of the cell that a part's job was at; empty if it had begun none."""
        try:
            return self._mark(part.slot).read_text()
        except OSError:
            return ""

    def cancel(self, parts: Sequence[Part], *, waiting: bool = False) -> None:
        """End jobs, those that are over excepted; ``waiting``: only those that have not begun."""
        for part in parts:
            if part.handle is not None and not waiting:
                part.handle.cancel(check=False)
        if self.queue is not None and (jobs := [part.job for part in parts if part.job]):
            run("scancel", "--quiet", *(["--state=PENDING"] if waiting else []), *jobs)

    def forget(self, running: Sequence[Part]) -> None:
        """Drop the files of submissions of which nothing runs."""
        names = {part.slot[0] for part in running}
        for file in self.records.iterdir():
            if not any(file.name.startswith(f"{name}.") for name in names):
                file.unlink(missing_ok=True)

    def _mark(self, slot: Slot) -> Path:
        return self.records / f"{slot[0]}.{slot[1]}.at"


def _write(file: Path, content: Any) -> None:
    """Whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    partial.rename(file)


def _runs(process: str) -> bool:
    """Whether a process of submitit's stand-in still runs, which a dead driver started."""
    import psutil

    try:
        stand_in = psutil.Process(int(process))
        return stand_in.status() != psutil.STATUS_ZOMBIE and any(
            "submitit" in part for part in stand_in.cmdline()
        )
    except (ValueError, psutil.Error):
        return False
