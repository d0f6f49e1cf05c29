"""What runs cells: processes on this machine, a Ray cluster, Slurm. Each yields outcomes; the driver alone records them.

An engine is handed a job and the cells that are pending, and gives each to a worker until it has an outcome. A worker that
dies is replaced and its cell given to another; one that kills `DEATHS` workers has failed. Which worker has which cell, and
when, changes nothing in what comes out.
"""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from workbench.errors import InputError
from workbench.machine.hardware import usable_cores
from workbench.sweeps.cells import Cell, by_problem
from workbench.sweeps.ledger import Outcome
from workbench.sweeps.worker import Job

DEATHS = 5
"""Workers that a cell may kill before it counts as failed."""
WORKER = (sys.executable, "-m", "workbench.sweeps.worker")
"""What a worker's process is started by."""
STARTS = 10
"""Workers that may die in a row before any is ready."""


@dataclass
class Stop:
    """What the person at the keyboard wants."""

    level: int = 0
    """1: finish the cells under way. 2: stop now."""


class Engine(Protocol):
    """What runs cells."""

    def __call__(
        self, job: Job, cells: Sequence[Cell], folder: Path, workers: int | None, stop: Stop
    ) -> Generator[Outcome | str | None]:
        """Outcomes as they come; a sentence that a person should read; None now and then, so that who waits can look around."""
        ...


class Schedule:
    """Which cell is next: a worker stays with its pair and problem as long as there are cells of them."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._groups = {name: deque(group) for name, group in by_problem(cells).items()}
        self._taken: Counter[tuple[str, str, str]] = Counter()
        self.deaths: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._groups)

    def take(self, last: Cell | None = None) -> Cell | None:
        """The next cell for who had `last`; None if there is none."""
        if not self._groups:
            return None
        name = (last.pair, last.problems, last.problem) if last else None
        if name not in self._groups:
            if name is not None:
                self._taken[name] -= 1
            # One that nobody works on, else the one with most left.
            alone = (group for group in self._groups if self._taken[group] <= 0)
            name = next(alone, None) or max(self._groups, key=lambda group: len(self._groups[group]))
            self._taken[name] += 1
        cell = self._groups[name].popleft()
        if not self._groups[name]:
            del self._groups[name]
        return cell

    def give_back(self, cell: Cell, worker: str) -> Outcome | None:
        """Whose worker died: it is next, or failed."""
        self.deaths[cell.key] += 1
        if self.deaths[cell.key] >= DEATHS:
            return Outcome(cell.key, reason=f"its worker died, {DEATHS} times in a row", worker=worker)
        self._groups.setdefault((cell.pair, cell.problems, cell.problem), deque()).appendleft(cell)
        return None


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


# --- processes on this machine -------------------------------------------------------------------------------


@dataclass(eq=False)
class _Process:
    """A worker's process, and the thread that hears it."""

    slot: int
    popen: subprocess.Popen[str]
    ready: bool = False
    cell: Cell | None = None
    last: Cell | None = None

    @property
    def name(self) -> str:
        """As its outcomes are signed."""
        return f"{socket.gethostname()}:{self.popen.pid}"

    def send(self, told: Mapping[str, Any]) -> None:
        try:
            assert self.popen.stdin is not None
            self.popen.stdin.write(json.dumps(told) + "\n")
            self.popen.stdin.flush()
        except OSError:
            pass  # it died; its end will be heard

    def give(self, cell: Cell) -> None:
        self.cell = self.last = cell
        self.send(asdict(cell))


@dataclass(eq=False)
class _Pool:
    """Workers in slots, each with a device or threads of its own and a log."""

    job: Job
    folder: Path
    devices: list[str] | None
    heard: "queue.Queue[tuple[_Process, dict[str, Any] | None]]" = field(default_factory=queue.Queue)
    processes: list[_Process] = field(default_factory=list)

    def start(self, slot: int) -> None:
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        threads = str(self.job.threads)
        env = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
        }
        env["TQDM_DISABLE"] = "1"
        if self.devices is not None:
            env["CUDA_VISIBLE_DEVICES"] = self.devices[slot]
        with (logs / f"worker-{slot}.log").open("a") as log:
            popen = subprocess.Popen(
                WORKER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=env,
                start_new_session=True,  # Ctrl-C is the driver's
            )
        process = _Process(slot, popen)
        self.processes.append(process)
        threading.Thread(target=self._listen, args=(process, popen.stdout), daemon=True).start()
        process.send(asdict(self.job))

    def _listen(self, process: _Process, answers: IO[str]) -> None:
        with answers:
            for line in answers:
                if line.endswith("\n"):  # else it died over it
                    self.heard.put((process, json.loads(line)))
        self.heard.put((process, None))

    def end(self, process: _Process) -> None:
        if process in self.processes:
            self.processes.remove(process)
        process.popen.kill()
        process.popen.wait()
        try:
            if process.popen.stdin is not None:
                process.popen.stdin.close()
        except OSError:
            pass


def local(
    job: Job, cells: Sequence[Cell], folder: Path, workers: int | None, stop: Stop
) -> Generator[Outcome | str | None]:
    """One process per GPU, or on the CPU as many as there are threads for.

    Raises:
        InputError: there is no GPU, or no worker can start; says the end of its log.
    """
    devices = gpus() if job.device == "cuda" else None
    most = len(devices) if devices is not None else max(1, usable_cores() // job.threads)
    if not most:
        raise InputError(
            "`device` is 'cuda', but there is no GPU; say `device: cpu`, or run it where there is one"
        )
    count = min(workers or most, len(cells), most if devices is not None else len(cells))
    schedule, pool, died = Schedule(cells), _Pool(job, folder, devices), 0
    try:
        for slot in range(count):
            pool.start(slot)
        while pool.processes and stop.level < 2:
            try:
                process, message = pool.heard.get(timeout=0.5)
            except queue.Empty:
                yield None
                continue
            if message is None:  # it is dead
                pool.end(process)
                died = died + 1 if not process.ready else 0
                if died >= STARTS:
                    raise InputError(f"no worker can start; its log {_tail(folder, process.slot)}")
                failed = schedule.give_back(process.cell, process.name) if process.cell is not None else None
                if failed is not None:
                    yield failed
                if schedule and stop.level == 0:
                    pool.start(process.slot)
                continue
            outcome = None if "ready" in message else Outcome(**message)
            process.ready, process.cell, died = True, None, 0
            following = schedule.take(process.last) if stop.level == 0 else None
            if following is not None:
                process.give(following)
            else:
                pool.end(process)  # if another's cell comes back, that one's place is filled again
            yield outcome
    finally:
        for process in list(pool.processes):
            pool.end(process)


def _tail(folder: Path, slot: int) -> str:
    log = folder / "logs" / f"worker-{slot}.log"
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return f"{log} ends with:\n" + "\n".join(lines[-8:])
