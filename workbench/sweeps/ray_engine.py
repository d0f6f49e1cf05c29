"""Cells on a Ray cluster: an actor per worker. Dead actors and nodes lose the cell they were at, which another is given."""

import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import InputError, install
from workbench.sweeps.cells import Cell
from workbench.sweeps.engines import STARTS, Schedule, Stop
from workbench.sweeps.ledger import Outcome
from workbench.sweeps.ray_cluster import join
from workbench.sweeps.worker import Bench, Job

BENCH: type = Bench
"""What an actor is."""
PATIENCE = 30.0
"""Seconds until it is said that no actor has started."""


def on_ray(
    job: Job, cells: Sequence[Cell], folder: Path, workers: int | None, stop: Stop
) -> Generator[Outcome | str | None]:
    """The cluster that RAY_ADDRESS names or that runs on this machine, else one of this machine's own; which is said.

    Pairs and problem sets must lie on every node, where the sweep's file says. Workers' logs are Ray's.

    Raises:
        InputError: Ray is not installed, its cluster can't be joined or is lost, or no actor can start.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise InputError(f"`engine` 'ray' needs its extra: {install('ray')}") from error
    cluster = join()
    try:
        yield cluster.said
        needs: dict[str, Any] = (
            {"num_gpus": 1, "num_cpus": 1}
            if job.device == "cuda"
            else {"num_gpus": 0, "num_cpus": job.threads}
        )
        resources = ray.cluster_resources()
        most = resources.get("GPU", 0) if job.device == "cuda" else resources.get("CPU", 0) / job.threads
        actor_of = ray.remote(**needs)(BENCH)
        schedule, died, begun = Schedule(cells), 0, time.monotonic()
        ready = warned = False
        waiting: dict[Any, tuple[Any, Cell | None]] = {}  # what an actor is asked, and the cell it has

        def start() -> None:
            actor = actor_of.remote(job)
            waiting[actor.__ray_ready__.remote()] = actor, None

        for _ in range(max(1, min(workers or int(most), len(cells)))):
            start()
        while (schedule and stop.level == 0) or any(cell for _, cell in waiting.values()):
            if stop.level > 1:
                return
            cluster.watch()
            finished, _ = ray.wait(list(waiting), timeout=0.5)
            if not finished:
                if not ready and not warned and time.monotonic() - begun > PATIENCE:
                    warned = True
                    yield f"Ray has started no actor yet; each needs {needs}, and the cluster has {_counted(resources)}"
                yield None
                continue
            actor, cell = waiting.pop(finished[0])
            try:
                outcome = ray.get(finished[0])
            except RayError as error:
                died = died + 1 if cell is None else 0
                if died >= STARTS:
                    raise InputError(f"no actor can start: {error}") from error
                name = f"actor {getattr(error, 'actor_id', None) or 'unknown'}"
                failed = schedule.give_back(cell, name) if cell is not None else None
                if failed is not None:
                    yield failed
                if schedule and stop.level == 0:
                    start()
                continue
            ready = True
            following = schedule.take(cell) if stop.level == 0 else None
            if following is not None:
                waiting[actor.run.remote(following)] = actor, following
            yield outcome if cell is not None else None
    finally:
        cluster.leave()


def _counted(held: Mapping[str, float]) -> dict[str, float]:
    return {f"num_{kind.lower()}s": held.get(kind, 0.0) for kind in ("GPU", "CPU")}
