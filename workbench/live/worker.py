"""One thread in which benches work, one job after another, each of which can be cancelled between two of its steps."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from workbench.stopping import Stopped, stoppable


class Job:
    """Work that waits, runs or is done; `result` waits for it."""

    def __init__(self, name: str, work: Callable[[], Any], after: Callable[["Job"], None] | None) -> None:
        self.name, self._work, self._after = name, work, after
        self._unwanted, self._future = threading.Event(), Future[Any]()
        self.done = False
        """Whether it has come to an end, whichever."""
        self.error: BaseException | None = None
        """What went wrong."""

    def cancel(self) -> None:
        """Let it end at its next step; `result` then raises `Stopped`."""
        self._unwanted.set()

    def result(self) -> Any:
        """Wait for it; an interrupt from the keyboard cancels it."""
        try:
            return self._future.result()
        except KeyboardInterrupt:
            self.cancel()
            raise

    def run(self) -> None:
        """What the worker does with it."""
        value = None
        try:
            if self._unwanted.is_set():
                raise Stopped("stopped before it began")
            with stoppable(self._unwanted):
                value = self._work()
        except BaseException as error:
            self.error = error
        self.done = True
        try:
            if self._after:  # before those who wait go on
                self._after(self)
        finally:
            if self.error is None:
                self._future.set_result(value)
            else:
                self._future.set_exception(self.error)


class _Worker:
    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def put(self, job: Job) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="bench", daemon=True)
                self._thread.start()
        self._jobs.put(job)

    def own(self) -> bool:
        return threading.current_thread() is self._thread

    def _work(self) -> None:
        while True:
            self._jobs.get().run()


_worker = _Worker()  # of the process: two benches on one pair take turns


def submit(name: str, work: Callable[[], Any], after: Callable[[Job], None] | None = None) -> Job:
    """Queue work; ``after`` is called with the job in the worker's thread, whatever became of it."""
    job = Job(name, work, after)
    if _worker.own():
        job.run()
    else:
        _worker.put(job)
    return job
