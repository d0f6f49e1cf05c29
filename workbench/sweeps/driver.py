"""The driver of a sweep: plans its cells, lets an engine run what is pending, records every outcome as it comes.

Whatever ends it, the ledger has what was finished, and the same command goes on from there.
"""

import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import InputError
from workbench.sweeps.cells import device_of, identity_of, plan_cells
from workbench.sweeps.engines import Engine, Stop, local
from workbench.sweeps.ledger import Ledger, Outcome, driving
from workbench.sweeps.spec import Sweep, parse_sweep, read_sweep
from workbench.sweeps.worker import Job

CACHE = 2 * 1024**3
"""Bytes of what cells share that a worker keeps."""
TOGETHER = 0.2
"""Seconds that outcomes wait for others, to be recorded with them."""


@dataclass(frozen=True)
class Progress:
    """How far a sweep is."""

    cells: int
    done: int
    failed: int
    now: int
    """Finished since this driver started."""
    elapsed: float
    """Seconds since then."""
    rate: float = 0.0
    """Cells a second, since the first was finished: loading models is not among it."""
    said: tuple[str, ...] = ()
    """What the engine says, once: which cluster it is on, what its jobs wait for."""

    @property
    def left(self) -> float | None:
        """Seconds to go, at this rate."""
        todo = self.cells - self.done - self.failed
        return todo / self.rate if self.rate else None


def run_sweep(
    file: str | Path,
    out: str | Path,
    *,
    engine: str = "local",
    workers: int | None = None,
    retry_failed: bool = False,
    share: Sequence[str | Path] = (),
    cache: int = CACHE,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Run a sweep, or what is left of it.

    Args:
        file: its YAML file.
        out: its folder. Results of another plan that lie there are used where they are the same cells.
        engine: ``local``, ``ray`` or ``slurm``.
        workers: at most so many; None: one for each GPU, or as many as the CPU has cores for.
        retry_failed: also the cells that failed.
        share: folders of other sweeps, whose cells are taken over where they are the same.
        cache: bytes of what cells have in common that each worker keeps.
        progress: called now and then; without it, what the engine says is a warning.

    Raises:
        InputError: anything wrong with the file, a pair or problem set that is not on this machine, a folder that has a
            driver already or can't be written, an engine that can't start.
    """
    sweep, text = read_sweep(file), Path(file).read_text(encoding="utf-8")
    out, run = Path(out), engine_of(engine)
    with driving(out):
        device = device_of(sweep)
        identity = identity_of(sweep, device)
        cells = plan_cells(sweep, device, identity)
        about = {"text": text, "device": device, "identity": identity, "folder": os.getcwd()}
        with Ledger(out, write=True) as ledger:
            ledger.plan(cells, about)
            for other in share:
                ledger.adopt(Path(other))
            return _drive(ledger, sweep, run, workers, retry_failed, cache, progress)


def resume_sweep(
    out: str | Path,
    *,
    engine: str = "local",
    workers: int | None = None,
    retry_failed: bool = False,
    cache: int = CACHE,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Go on with the sweep in a folder, as it was planned; arguments and errors are those of `run_sweep`.

    Raises:
        InputError: also where files, code or libraries are no longer those of the plan, so that cells would be others.
    """
    out, run = Path(out), engine_of(engine)
    Ledger(out).close()  # refuses a folder without one
    with driving(out), Ledger(out, write=True) as ledger:
        if changed := since_plan(ledger):
            raise InputError(
                f"`out` {out} can't go on as it was planned in {ledger.about.get('folder', 'another folder')}: "
                f"{'; '.join(changed[:3])}. Go on there and with what it was planned with, or plan anew, which keeps every cell "
                f"that is the same: workbench sweep run sweep.yaml --out {out}"
            )
        return _drive(ledger, parse_sweep(ledger.about["text"]), run, workers, retry_failed, cache, progress)


def since_plan(ledger: Ledger) -> list[str]:
    """What of the files, the code and the libraries is not what it was when the sweep was planned, in words."""
    about = ledger.about
    sweep = parse_sweep(about["text"])
    try:
        now = identity_of(sweep, about["device"])
        lines = [f"since the plan: {line}" for line in unlike(about["identity"], now)]
        before, after = [*ledger.cells()], plan_cells(sweep, about["device"], now)
        changed = 0 if before == after else len({*before} ^ {*after})
        return lines + [f"{changed} cells would be others if planned now"] * bool(changed)
    except InputError as error:
        return [f"can't be planned again: {error}"]


def unlike(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Where two values of JSON's types differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            yield from unlike(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
    elif a != b:
        yield f"{path}: {a} and {b}"


def progress_of(ledger: Ledger, now: int = 0, elapsed: float = 0.0, rate: float = 0.0) -> Progress:
    """How far the ledger says a sweep is."""
    counts = {"done": 0, "failed": 0, "pending": 0}
    for *_, status, cells in ledger.counts():
        counts[status] += cells
    return Progress(sum(counts.values()), counts["done"], counts["failed"], now, elapsed, rate)


def _drive(
    ledger: Ledger,
    sweep: Sweep,
    engine: Engine,
    workers: int | None,
    retry_failed: bool,
    cache: int,
    progress: Callable[[Progress], None] | None,
) -> Progress:
    about = ledger.about
    ledger.forget_damaged()
    pending = ledger.pending(retry_failed=retry_failed)
    job = Job(about["text"], about["device"], cache, sweep.threads)
    begun, now, last_report = time.monotonic(), Counter(), 0.0
    warm: tuple[int, float] | None = None  # cells finished when the first were, and when that was

    def rate() -> float:
        cells, since = warm if warm is not None and now.total() > warm[0] else (0, begun)
        return (now.total() - cells) / max(1e-9, time.monotonic() - since)

    before = progress_of(ledger)
    again = before.failed if retry_failed else 0
    if pending:
        with (
            _writable(ledger.folder),
            _interruptible() as stop,
            closing(engine(job, pending, ledger.folder, workers, stop)) as outcomes,
        ):
            for outcome_batch, messages in _together(outcomes):
                ledger.record(outcome for outcome in outcome_batch if not outcome.stale)
                if stale := [outcome for outcome in outcome_batch if outcome.stale]:
                    raise InputError(f"`out` {ledger.folder}: {stale[0].reason} --out {ledger.folder}")
                now.update(outcome.status for outcome in outcome_batch)
                warm = warm or ((now.total(), time.monotonic()) if now else None)
                if progress and (messages or time.monotonic() - last_report > TOGETHER):
                    last_report = time.monotonic()
                    done, failed = before.done + now["done"], before.failed - again + now["failed"]
                    progress(
                        Progress(
                            before.cells, done, failed, now.total(), last_report - begun, rate(), messages
                        )
                    )
                elif messages:
                    warnings.warn(" ".join(messages), UserWarning, stacklevel=3)
            if stop.level:
                raise KeyboardInterrupt
    last = progress_of(ledger, now.total(), time.monotonic() - begun, rate() if now else 0.0)
    if progress:
        progress(last)
    return last


def engine_of(name: str) -> Engine:
    """The engine of a name.

    Raises:
        InputError: none, or its extra is not installed.
    """
    if name == "local":
        return local
    if name == "ray":
        from workbench.sweeps.ray_engine import on_ray

        return on_ray
    if name == "slurm":
        from workbench.sweeps.slurm_engine import on_slurm

        return on_slurm
    raise InputError(
        f"`engine` is {name!r}; expected local, ray or slurm: workbench sweep run sweep.yaml --engine local"
    )


def _together(outcomes: Iterator[Outcome | str | None]) -> Iterator[tuple[list[Outcome], tuple[str, ...]]]:
    """Outcomes in portions, so that many fast cells cost few transactions; an empty one now and then. And what was said."""
    waiting, since = list[Outcome](), time.monotonic()
    for outcome in outcomes:
        messages = (outcome,) if isinstance(outcome, str) else ()
        waiting += [outcome] if isinstance(outcome, Outcome) else []
        if messages or time.monotonic() - since > TOGETHER:
            yield waiting, messages
            waiting, since = [], time.monotonic()
    yield waiting, ()


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """A disk that is full, or gone, ends a sweep with a sentence."""
    try:
        yield
    except (ConnectionError, TimeoutError) as error:  # no disk's, though they are OSErrors
        raise InputError(
            f"`engine` lost a connection: {error}; `workbench sweep resume {folder}` goes on"
        ) from error
    except OSError as error:
        raise InputError(
            f"`out` {folder} can't be written ({error.strerror or error}); free some space, and `workbench sweep resume` goes on"
        ) from error


@contextmanager
def _interruptible() -> Iterator[Stop]:
    """Ctrl-C once: finish the cells under way. Twice: stop now."""
    stop = Stop()

    def handle(*_: object) -> None:
        stop.level += 1
        if stop.level == 1:
            os.write(2, b"\nFinishing the cells under way; Ctrl-C again stops now.\n")  # safe in a handler

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread: nobody's keyboard
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
