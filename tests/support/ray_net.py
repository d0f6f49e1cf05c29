"""A Ray cluster from Ray's own command line, alone in a network namespace, so that its ports are open to nobody else.

Where a namespace can't be had such tests are skipped; with WORKBENCH_REQUIRE_RAY=1 they fail.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from real import until


class Net:
    """A network with nothing but a loopback; commands prefixed with ``within`` run in it."""

    def __init__(self) -> None:
        own = [] if os.geteuid() == 0 else ["--map-root-user"]
        program = "ip link set lo up && echo up && exec sleep infinity"
        if missing := [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]:
            _lacking(f"no {', '.join(missing)} found: apt-get install util-linux iproute2")
        self.holder = subprocess.Popen(
            ["unshare", "--net", *own, "sh", "-c", program],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        assert self.holder.stdout is not None
        if (said := self.holder.stdout.readline().strip()) != "up":
            _lacking(f"no network namespace can be had ({said})")
        user = [] if not own else ["--user", "--preserve-credentials"]
        self.within = ["nsenter", f"--target={self.holder.pid}", "--net", *user]

    def stop(self) -> None:
        """Let go of it."""
        self.holder.kill()
        self.holder.wait()


class Head:
    """A cluster of one machine, with a token."""

    def __init__(self, net: Net, env: dict[str, str], port: int) -> None:
        self.net, self.address = net, f"127.0.0.1:{port}"
        self.home = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # Ray's sockets want a short path
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.env = {
            **env,
            "RAY_TMPDIR": str(self.home),
            "HOME": str(self.home),
            "RAY_raylet_start_wait_time_s": "150",
        }
        self.start()

    def start(self) -> None:
        """`ray start --head`."""
        ray = Path(sys.executable).with_name("ray")
        done = subprocess.run(
            [*self.net.within, ray, "start", "--head", f"--port={self.address[10:]}", "--node-ip-address=127.0.0.1",
             "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=80000000"],
            env=self.env | self.token, capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def processes(self) -> list[psutil.Process]:
        """Those of this cluster: never another's, as `ray stop` would take them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RAY_TMPDIR") == str(self.home) and process.pid != os.getpid():
                    found.append(process)
        return found

    def raylet(self) -> psutil.Process:
        """What gives out its work."""
        (found,) = (process for process in self.processes() if process.name() == "raylet")
        return found

    def stop(self) -> None:
        """End all of it."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        until(lambda: not self.processes(), 20)
        shutil.rmtree(self.home, ignore_errors=True)


def _lacking(said: str) -> None:
    if os.environ.get("WORKBENCH_REQUIRE_RAY") == "1":
        pytest.fail(f"{said}; WORKBENCH_REQUIRE_RAY=1")
    pytest.skip(said)
