"""Work that somebody may stop: long loops ask between their steps whether they are still wanted.

    wanted_no_more = threading.Event()
    with stoppable(wanted_no_more):
        wb.decode(pair, problem)  # raises `Stopped` at the next token once the event is set

Outside of `stoppable` asking costs nothing. What was hooked or moved is put back on the way out, as after any error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event

_event: ContextVar[Event | None] = ContextVar("stop", default=None)


class Stopped(Exception):
    """The work was stopped from outside before it was done."""


@contextmanager
def stoppable(event: Event) -> Iterator[None]:
    """Meanwhile loops of this thread end with `Stopped` once the event is set."""
    token = _event.set(event)
    try:
        yield
    finally:
        _event.reset(token)


def still_wanted() -> None:
    """Asked by loops between two steps.

    Raises:
        Stopped: the work is no longer wanted.
    """
    event = _event.get()
    if event is not None and event.is_set():
        raise Stopped("stopped before it was done")
