"""A worker: loads pairs and problems, computes cells one by one, and says what became of each.

Every cell is computed alone, in batches of one prompt, so that no other cell, no order and no number of workers can change a
number of it. What cells of one pair and problem have in common (encoded prompts, base targets, recorded activations, drift
without an intervention, learnt tokens) is kept from one to the next (``cache``).

As a process (``python -m workbench.sweeps.worker``) it is handed a job and then cells on its standard input, one JSON value
a line, and answers on its standard output; whatever libraries print goes to its log, the standard error. When its input
ends it stops at once.
"""

import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from workbench.conditions import Named
from workbench.errors import InputError
from workbench.sampling import Sampling
from workbench.sweeps.cells import Cell, cell_key, condition_digest, digest, drawing, load_set, pair_identity
from workbench.sweeps.ledger import Outcome
from workbench.sweeps.spec import parse_sweep, seeded

COLUMNS = {
    "responses": ("sample", "family", "text", "answer", "correct", "how", "tokens", "stopped", "replaced"),
    "drift": ("scope", "stratum", "before", "kl", "cells"),
}
"""Of the two tables of a cell; what is timed is not among them."""


@dataclass(frozen=True)
class Job:
    """What every worker of a sweep is told."""

    text: str
    """The sweep's file."""
    device: str
    """``cpu`` or ``cuda``."""
    cache: int
    """Bytes of what cells share that are kept."""
    threads: int


class Stale(InputError):
    """What a cell depends on has changed since it was planned."""


class Bench:
    """A pair and a problem set at hand, and the cells computed on them."""

    def __init__(self, job: Job) -> None:
        self.job, self.sweep = job, parse_sweep(job.text)
        self.pairs = {pair.title: pair for pair in self.sweep.pairs}
        self.sets = {problems.label: problems for problems in self.sweep.problems}
        self._loaded: dict[str, tuple[Any, Any]] = {}

    def run(self, cell: Cell) -> Outcome:
        """Compute one cell; what goes wrong is its outcome."""
        begun = time.perf_counter()
        outcome: dict[str, Any]
        try:
            result, making = self._measured(cell)
            outcome = {"result": result, "making": making}
        except Stale as error:
            outcome = {"reason": str(error), "stale": True}
        except InputError as error:
            outcome = {"reason": str(error)}
        except Exception as error:  # one cell must not cost the others
            _log(traceback.format_exc())
            outcome = {"reason": f"{type(error).__name__}: {error}"}
        worker = f"{socket.gethostname()}:{os.getpid()}"
        return Outcome(cell.key, **outcome, seconds=time.perf_counter() - begun, worker=worker)

    def _measured(self, cell: Cell) -> tuple[dict[str, Any], float]:
        from workbench.experiments.run_condition import measure

        pair, identity, conditions = self._at_hand("pair", cell.pair, lambda: self._load_pair(cell.pair))
        problems, reuse = self._at_hand(
            "problems", f"{cell.pair}/{cell.problems}", lambda: self._load_set(cell.problems)
        )
        problem, condition = problems[cell.problem], conditions[cell.intervention]
        settings = drawing(self.sweep, self.pairs[cell.pair], self.job.device)
        called = condition_digest(condition, cell.seed)
        if cell_key(identity, problem.fingerprint, called, cell.seed, digest(settings)) != cell.key:
            raise Stale(
                f"`pairs` {cell.pair}, `problems` {cell.problems}: files of the pair or of the problem, or the libraries, are "
                "not those of the plan; plan again, which keeps every cell that is the same: workbench sweep run sweep.yaml"
            )
        sampling_settings = {name: settings[name] for name in ("samples", "temperature", "max_new_tokens")}
        sampling = Sampling(**sampling_settings, seed=cell.seed, batch_size=1)
        tables = dict(
            zip(COLUMNS, measure(pair, seeded(condition, cell.seed), [problem], sampling, reuse), strict=True)
        )
        making = float(tables["responses"]["making_seconds"].iloc[0])
        return {
            name: tables[name][list(columns)].to_numpy().tolist() for name, columns in COLUMNS.items()
        }, making

    def _at_hand(self, what: str, name: str, load: Callable[[], Any]) -> Any:
        """The pair or the problems that were used last, or others in their place; what can't be loaded is tried once."""
        entry = self._loaded.get(what)
        if entry is None or entry[0] != name:
            self._loaded.pop(what, None)
            try:
                entry = name, load()
            except InputError as error:
                entry = name, error
            self._loaded[what] = entry
        if isinstance(entry[1], InputError):
            raise entry[1]
        return entry[1]

    def _load_pair(self, title: str) -> tuple[Any, str, Mapping[str, Named]]:
        import torch

        from workbench.models.loading import load_pair

        if self.job.device == "cpu":
            torch.set_num_threads(self.job.threads)
        source = self.pairs[title]
        pair = load_pair(
            source.name,
            base=source.base,
            rlvr=source.rlvr,
            checkpoint=source.checkpoint,
            dtype=source.dtype,
            device=self.job.device,
        )
        return pair, digest(pair_identity(source)), self.sweep.conditions(source, pair.depth)

    def _load_set(self, label: str) -> tuple[Mapping[str, Any], Any]:
        from workbench.cache import Reuse

        return {problem.id: problem for problem in load_set(self.sets[label])}, Reuse(self.job.cache)


def main() -> None:
    """The worker's process: a job and then cells on standard input, answers on standard output, one JSON value a line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # the driver is gone, or wants no more

    threading.Thread(target=listen, daemon=True).start()
    bench = Bench(Job(**json.loads(lines.get())))
    _say(answers, {"ready": os.getpid()})
    while True:
        cell = Cell(**json.loads(lines.get()))
        _log(f"{cell.key} {cell.pair} {cell.problem} {cell.intervention} seed {cell.seed}")
        outcome = bench.run(cell)
        _log(f"{cell.key} {outcome.status} {outcome.seconds:.3f} s {outcome.reason}")
        _say(answers, asdict(outcome))


def _log(text: str) -> None:
    """To the worker's log; a disk that is full must not cost the cell."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _say(answers: TextIO, told: Mapping[str, Any]) -> None:
    answers.write(json.dumps(told) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
