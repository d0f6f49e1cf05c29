"""What a command says while it works and when it ends: progress, warnings, refusals. Results alone go to standard output."""

import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from workbench.errors import InputError

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""
PAUSE = 30.0
"""Seconds between two lines on one stage where standard error is a file."""


def quiet() -> None:
    """Keep the progress bars of the libraries below out of the way of ours; they look once, when imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@contextmanager
def refusals() -> Iterator[None]:
    """Bad input ends a command with what is wrong with it, and with status 2."""
    try:
        yield
    except InputError as error:
        typer.echo(f"workbench: {error}", err=True)
        sys.exit(2)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings are a line each, without the place in the code that a person at the terminal can do nothing with."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def interruptible(
    said: str = "\nInterrupted. What was finished is kept: the same command goes on from there.",
) -> Iterator[None]:
    """Ctrl-C ends a long job with a sentence instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(said, err=True)
        raise typer.Exit(130) from None


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Progress on standard error: a bar a stage with an estimate of the time left; where that is a file, a line now and then."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        with interruptible():
            yield _lines()
        return
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with interruptible(), Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield update


def _lines() -> Progress:
    """A line when a stage is done, and on the way now and then, with about how long it will take."""
    last: dict[str, float] = {}
    begun: dict[str, float] = {}

    def update(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        since = last.setdefault(what, now)
        start = begun.setdefault(what, now)
        if done >= total or now - since > PAUSE:
            last[what] = math.inf if done >= total else now
            if since == math.inf:  # that it is done was said before
                return
            left = (now - start) * (total - done) / max(1, done)
            estimate = f", about {math.ceil(left / 60)} min left" if 0 < done < total and now > start else ""
            typer.echo(f"{what}: {done} of {total}{estimate}", err=True)

    return update


def say_where(places: Mapping[str, Path]) -> None:
    """Where what a command wrote lies, a line each."""
    width = max(map(len, places), default=0)
    typer.echo("\n".join(f"{name:{width}}  {path}" for name, path in places.items()))
