"""What the tests of real schedulers share: waiting, ports, and a sweep's driver in a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from sweep_runs import recorded

from workbench.errors import InputError
from workbench.sweeps.ledger import Ledger


class Driver:
    """`workbench sweep ...` in a process, and what it says."""

    def __init__(
        self, home: Path, env: Mapping[str, str], *arguments: str, within: Sequence[str] = ()
    ) -> None:
        self.file, self.begun = home / f"driver{len(list(home.glob('driver*')))}.txt", time.monotonic()
        with self.file.open("w") as said:
            self.popen = subprocess.Popen(
                [*within, sys.executable, "-m", "workbench.interfaces.cli", "sweep", *arguments],
                stdout=said, stderr=said, cwd=home, env=env,
            )  # fmt: skip

    @property
    def said(self) -> str:
        """Everything so far."""
        return " ".join(self.file.read_text(errors="replace").split())

    def end(self, seconds: float = 150) -> int:
        """Its exit code, once it ends."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            pytest.fail(f"the driver still runs after {seconds} s; it said: {self.said}")


def cells(home: Path) -> Counter[str]:
    """How many cells of the sweep in ``out`` have which status; none until it is planned."""
    with suppress(InputError):
        return Counter(recorded(home / "out").values())
    return Counter()


def workers(home: Path) -> list[str]:
    """Who computed the cells, or failed to."""
    with Ledger(home / "out") as book:
        return [told["worker"] or "" for _, told, _ in book.outcomes() if told["status"] != "pending"]


def until(condition: Callable[[], object], seconds: float = 60, every: float = 0.1) -> bool:
    """Whether something became true in time."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(every)
    return bool(found)


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for made in sockets:
            made.bind(("127.0.0.1", 0))
        return [made.getsockname()[1] for made in sockets]
    finally:
        for made in sockets:
            made.close()


def standins(env: Mapping[str, str], seconds: float) -> dict[str, str]:
    """The environment of a driver whose cells, and those of the jobs that it starts, are stand-ins of so many seconds."""
    support = Path(__file__).parent
    paths = [support / "standin_site", support, support.parents[1], env.get("PYTHONPATH", "")]
    return {
        **env,
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, paths))),
        "WORKBENCH_STANDIN": "1",
        "STANDIN_SECONDS": str(seconds),
        "COLUMNS": "200",
    }
