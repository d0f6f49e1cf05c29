"""Cells on a Ray cluster: an actor per worker. Dead actors and nodes lose the cell they were at, which another is given."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import InputError, install
from workbench.sweeps.cells import Cell
from workbench.sweeps.engines import STARTS, Schedule, Stop
from workbench.sweeps.ledger import Outcome
from workbench.sweeps.worker import Bench, Job

BENCH: type = Bench
"""What an actor is."""


def on_ray(
    job: Job, cells: Sequence[Cell], folder: Path, workers: int | None, stop: Stop
) -> Generator[Outcome | None]:
    """The cluster that RAY_ADDRESS names or that runs on this machine, else one of this machine's own.

    Pairs and problem sets must lie on every node, where the sweep's file says. Workers' logs are Ray's.

    Raises:
        InputError: Ray is not installed, or no actor can start.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise InputError(f"`engine` 'ray' needs its extra: {install('ray')}") from error
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        needs: dict[str, Any] = (
            {"num_gpus": 1, "num_cpus": 1}
            if job.device == "cuda"
            else {"num_gpus": 0, "num_cpus": job.threads}
        )
        held = ray.cluster_resources()
        most = held.get("GPU", 0) if job.device == "cuda" else held.get("CPU", 0) / job.threads
        actor_of = ray.remote(**needs)(BENCH)
        schedule, died = Schedule(cells), 0
        waiting: dict[Any, tuple[Any, Cell | None]] = {}  # what an actor is asked, and the cell it has

        def start() -> None:
            actor = actor_of.remote(job)
            waiting[actor.__ray_ready__.remote()] = actor, None

        for _ in range(max(1, min(workers or int(most), len(cells)))):
            start()
        while (schedule and stop.level == 0) or any(cell for _, cell in waiting.values()):
            if stop.level > 1:
                return
            done, _ = ray.wait(list(waiting), timeout=0.5)
            if not done:
                yield None
                continue
            actor, cell = waiting.pop(done[0])
            try:
                outcome = ray.get(done[0])
            except RayError as error:
                died = died + 1 if cell is None else 0
                if died >= STARTS:
                    raise InputError(f"no actor can start: {error}") from error
                failed = schedule.give_back(cell) if cell is not None else None
                if failed is not None:
                    yield failed
                if schedule and stop.level == 0:
                    start()
                continue
            following = schedule.take(cell) if stop.level == 0 else None
            if following is not None:
                waiting[actor.run.remote(following)] = actor, following
            yield outcome if cell is not None else None
    finally:
        if ours:
            ray.shutdown()
