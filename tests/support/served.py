"""A Jupyter server or a voila of this environment, on loopback with a token, that ends with the test."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOKEN = "a-token-of-the-tests"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def server(command: list[str], url: str, *, home: Path, seconds: float = 120) -> Iterator[None]:
    """Runs until the block ends; ready once ``url`` answers. Nothing outside of ``home`` is read or written."""
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "JUPYTER_TOKEN": TOKEN,
    }
    log = (home / "server.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=log,
        stderr=log,
        env=environment,
        cwd=home,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + seconds
        while not answers(url):
            assert process.poll() is None, (home / "server.log").read_text()[-3000:]
            assert time.monotonic() < until, (home / "server.log").read_text()[-3000:]
            time.sleep(0.3)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
