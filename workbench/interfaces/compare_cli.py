"""`workbench compare`: finished studies and sweeps of several pairs on one page."""

import time
from pathlib import Path
from typing import Annotated

import typer

from workbench.errors import InputError
from workbench.interfaces.terminal import say_where

_CALL = "compare('runs/shapes', 'runs/smol'"


def compare(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUNS", help="Folders of finished studies or sweeps, of different pairs."),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(help="What to call the pairs, with commas between; the default is their own."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Page to write; the default is runs/ with the command's name, date and time."),
    ] = None,
    tables: Annotated[Path | None, typer.Option(help="Also write the tables into this folder.")] = None,
) -> None:
    """Set finished studies and sweeps of several pairs side by side: every claim by pair, and what they show together."""
    page = out or Path("runs") / time.strftime("compare-%Y%m%d-%H%M%S.html")
    if page.is_dir():
        raise InputError(
            f"`out` {page} is a folder; name a file: {_CALL}, out={str(page / 'compare.html')!r})"
        )
    if tables is not None and tables.is_file():
        raise InputError(
            f"`tables` {tables} is a file; name a folder: {_CALL}, tables={str(tables) + '-2'!r})"
        )
    from workbench.runs import write_tables
    from workbench.studies.compare import compare as run

    comparison = run(*(runs or ()), names=None if names is None else [n.strip() for n in names.split(",")])
    where = {"Page": comparison.save(page)}
    if tables is not None:
        tables.parent.mkdir(parents=True, exist_ok=True)
        write_tables(tables, comparison.tables())
        where["Tables"] = tables
    for line in (comparison.verdict, *comparison.notes):
        typer.echo(line)
    say_where(where)
