"""Which Ray cluster a sweep is on: asked before it is joined, said when it is, and watched while it is used.

1. Ray tries a cluster that does not answer for minutes and then ends the process. So a socket is tried first, which knows
   the reason when nobody listens, and then another process joins, which can be ended when it takes too long.
2. A driver whose raylet died waits for ever. So its doors and Ray's list of living nodes are looked at now and then.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.errors import InputError

KNOCK = 5.0
"""Seconds that a socket may take to open."""
JOIN = 20.0
"""Seconds that a cluster may take to be joined."""
WATCH = 4.0
"""Seconds between two looks at a cluster."""
MISSES = 3
"""Looks in a row that find it gone, until it counts as lost."""
TRIAL = (
    "import sys, ray; print('here', flush=True); "
    "ray.init(address=sys.argv[1] or None, log_to_driver=False); ray.nodes(); ray.shutdown()"
)
"""Joins a cluster and leaves it, as a process; ``here``: Ray itself is imported, which may take long."""

Door = tuple[str, str, int]
"""What listens, and where."""


@dataclass(eq=False)
class Cluster:
    """A cluster that this process has joined or started."""

    said: str
    """Which, in a sentence."""
    doors: list[Door]
    node: str
    """The driver's; empty where it is none of the cluster's machines."""
    ours: bool
    """Whether to leave it in the end."""
    _looked: float = field(default_factory=time.monotonic)
    _misses: int = 0
    _asker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "ray-nodes"))

    def watch(self) -> None:
        """Look whether it is still there, unless that was just done.

        Raises:
            InputError: it is not, the last `MISSES` times.
        """
        if time.monotonic() - self._looked < WATCH:
            return
        self._looked = time.monotonic()
        trouble = next(filter(None, map(knock, self.doors)), "") or self._dead()
        self._misses = self._misses + 1 if trouble else 0
        if self._misses >= MISSES:
            raise InputError(
                f"`engine` ray: the cluster is lost: {trouble}. What was finished is kept: see Ray's logs (in /tmp/ray), start "
                "it again (ray start), and `workbench sweep resume ... --engine ray` goes on"
            )

    def leave(self) -> None:
        """Let go of it; a private one ends."""
        import ray

        self._asker.shutdown(wait=False, cancel_futures=True)
        if self.ours:
            ray.shutdown()

    def _dead(self) -> str:
        """Why the driver's node is not among the living, or nothing."""
        import ray

        try:
            nodes = self._asker.submit(ray.nodes).result(timeout=KNOCK)
        except Exception as error:  # whatever Ray raises when it has lost its head
            return f"it does not say which nodes live ({type(error).__name__}: {error})".replace(": )", ")")
        alive = {node["NodeID"] for node in nodes if node["Alive"]}
        return "" if not self.node or self.node in alive else f"this machine's node {self.node[:8]} is dead"


def join() -> Cluster:
    """The cluster that this process has joined already, that RAY_ADDRESS names, or that runs here; else one of its own.

    Raises:
        InputError: it can't be joined or started; says why.
    """
    import ray

    if ray.is_initialized():
        return _joined("the Ray that this process had joined before", ours=False)
    named = os.environ.get("RAY_ADDRESS", "")
    address = named or _running_here()
    private = address in ("", "local")
    if not private:
        _try(address, named)
    try:
        ray.init(address="local" if private else named or None, include_dashboard=False, log_to_driver=False)
    except Exception as error:  # Ray raises whatever its parts raise
        where = (
            "a Ray of this machine's own can't be started"
            if private
            else f"the cluster at {address} can't be joined"
        )
        raise InputError(f"`engine` ray: {where}: {' '.join(str(error).split())}") from error
    if private:
        return _joined(
            "a Ray of this machine's own, which ends with the sweep (RAY_ADDRESS=host:port joins a cluster)"
        )
    source = "which RAY_ADDRESS names" if named else "which runs on this machine"
    return _joined(f"the cluster at {address}, {source}")


def _joined(what: str, *, ours: bool = True) -> Cluster:
    import ray

    resources = ray.cluster_resources()
    counts = ", ".join(f"{resources.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
    client = os.environ.get("RAY_ADDRESS", "") if ours else ""
    if "://" in client:
        door = _host_and_port(client)
        return Cluster(f"Ray: {what}: {counts}", [("the head", *door)] if door else [], "", ours)
    doors, node = list[Door](), ""
    with suppress(Exception):  # a client's process, which has no node
        context = ray.get_runtime_context()
        node = context.get_node_id()
        (own,) = (entry for entry in ray.nodes() if entry["NodeID"] == node)
        doors.append(("the raylet of this machine", own["NodeManagerAddress"], int(own["NodeManagerPort"])))
        if head := _host_and_port(context.gcs_address):
            doors.append(("the head", *head))
    return Cluster(f"Ray: {what}: {counts}", doors, node, ours)


def knock(door: Door) -> str:
    """Why a socket can't be opened, or nothing."""
    what, host, port = door
    try:
        socket.create_connection((host, port), timeout=KNOCK).close()
    except OSError as error:
        return f"{what} ({host}:{port}) does not answer: {error.strerror or error}"
    return ""


def _try(address: str, named: str) -> None:
    """Join a cluster from another process.

    Raises:
        InputError: it can't be done, or not in time.
    """
    door = _host_and_port(address)
    reason = knock(("its head", *door)) if door else ""
    output = ""
    if not reason:
        code, output = _joined_elsewhere(named)
        if code == 0:
            return
        reason = f"no answer in {JOIN:g} s" if code is None else ""
    reason = ": ".join(filter(None, (reason, _reason(output))))
    if "InvalidAuthToken" in output or "AuthenticationError" in output:
        reason += (
            "; say RAY_AUTH_MODE=token, and give the cluster's token (`ray get-auth-token` there) in RAY_AUTH_TOKEN or in "
            "~/.ray/auth_token"
        )
    raise InputError(
        f"`engine` ray: the cluster at {address} can't be joined: {reason}. Expected RAY_ADDRESS=host:port of a cluster that "
        "runs (ray start --head), or RAY_ADDRESS=local for one of this machine's own"
    )


def _joined_elsewhere(named: str) -> tuple[int | None, str]:
    """How a process ended that joined a cluster, and what it said; None: it had to be ended."""
    with subprocess.Popen(
        [sys.executable, "-c", TRIAL, named],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as trial:  # fmt: skip
        assert trial.stdout is not None
        before = b""
        while (line := trial.stdout.readline()) and line != b"here\n":
            before += line
        try:
            after, _ = trial.communicate(timeout=JOIN)
            code: int | None = trial.returncode
        except subprocess.TimeoutExpired as error:
            trial.kill()
            after, code = error.stdout or b"", None
    return code, (before + after).decode(errors="replace")


def _reason(said: str) -> str:
    """The line of Ray's that tells what went wrong, without its stamp: an exception, else the first complaint."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines()
    telling = [
        line
        for line in lines
        if re.search(r"[Ff]ailed|Error\b|[Cc]ould not", line) and "local IP" not in line
    ]
    if not telling:
        return ""
    complaint = telling[-1 if "Traceback" in said else 0]
    return re.sub(r"^(\[[^]]*\]|[-\d]+ [\d:,]+\t\w+) *\S+:\d+(:| --) *", "", complaint).strip().rstrip(".")


def _running_here() -> str:
    """The address of the cluster that `ray start` last started on this machine, where Ray keeps it; empty if there is none."""
    home = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir())
    try:
        return (home / "ray" / "ray_current_cluster").read_text().strip()
    except OSError:
        return ""


def _host_and_port(address: Any) -> tuple[str, int] | None:
    """Of ``host:port`` and ``ray://host:port``."""
    host, _, port = str(address).rpartition("://")[2].rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None
