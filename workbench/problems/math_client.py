"""The one process that compares expressions (`math_worker`): started when first needed, ended when it takes too long.

It is a Python of its own, run by `-m` over pipes, so that nothing of the program that asks is run a second time: a script without
a main guard, a notebook and a program read from standard input may ask as any other.
"""

import atexit
import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from typing import IO, Any

from workbench.errors import InputError

STARTING = 120.0
"""Seconds that its imports may take, on a slow disk."""


class MathWorker:
    """The process, with a lock: one question at a time."""

    def __init__(self, module: str = "workbench.problems.math_worker") -> None:
        self.module = module
        self.process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._lock = threading.Lock()
        self._stderr: IO[bytes] | None = None

    def ask(self, op: str, left: str, right: str = "", *, seconds: float) -> Any:
        """What `math_worker` answers; None where it can't say, TimeoutError where it takes too long or dies over it.

        Raises:
            TimeoutError: no answer in time.
            InputError: the process can't be started.
        """
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps({"op": op, "left": left, "right": right}) + "\n")
                process.stdin.flush()
                line = self._lines.get(timeout=seconds) if seconds > 0 else None
            except (queue.Empty, OSError):
                line = None
            if line is None:
                self.stop()
                raise TimeoutError(f"no answer in {seconds:g} s")
            return json.loads(line)["result"]

    def _started(self) -> subprocess.Popen[str]:
        if self.process is not None and self._owner != os.getpid():
            self.process = None  # inherited by a fork: the pipes are the parent's
        if self.process is not None and self.process.poll() is None:
            return self.process
        self.stop()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the process)
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        try:
            process = subprocess.Popen(
                [sys.executable or "python", "-P", "-m", self.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
            )
        except OSError as error:
            raise self._failed(str(error)) from error
        self.process, self._owner, self._lines = process, os.getpid(), queue.Queue()
        threading.Thread(target=_read, args=(process, self._lines), daemon=True).start()
        try:
            ready = self._lines.get(timeout=STARTING)
        except queue.Empty:
            ready = None
        if ready is None:
            self._stderr.seek(0)
            last = self._stderr.read().decode(errors="replace").strip().splitlines()[-1:]
            self.stop()
            raise self._failed(last[0] if last else f"nothing in {STARTING:g} s")
        return process

    @staticmethod
    def _failed(why: str) -> InputError:
        return InputError(
            f"the process that compares expressions could not be started ({why}); the verifier 'math' needs it, and the packages "
            "math-verify and latex2sympy2-extended: pip install math-verify latex2sympy2-extended"
        )

    def stop(self) -> None:
        """End the process; the next question starts another."""
        process, self.process = self.process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None


def _read(process: "subprocess.Popen[str]", lines: "queue.Queue[str | None]") -> None:
    """Hand the process's lines on, and None at its end."""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.put(line)
    except ValueError:  # closed while it was read
        pass
    lines.put(None)


WORKER = MathWorker()
atexit.register(WORKER.stop)
