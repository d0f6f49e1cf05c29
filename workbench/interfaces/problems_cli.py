"""`workbench problems`, which says how a file will be read, and `workbench rejudge`, which judges kept responses anew."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.errors import InputError
from workbench.interfaces.columns import Columns, column_mapping
from workbench.interfaces.flags import Commands

problems = Commands(help="Files of problems, before any model is asked.")
_TABLE = Path("tables") / "responses.parquet"
_NEW = "responses_rejudged"


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.add_typer(problems, name="problems")
    app.command()(rejudge)


@problems.command("check")
def check(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="A file, a folder, a set's name, or hf:owner/name.")
    ],
    split: Annotated[str, typer.Option(help="Split of the problem set.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Read so many; the default is all.", min=1)] = None,
    columns: Columns = None,
    show: Annotated[int, typer.Option(help="So many problems, as a model will see them.", min=0)] = 3,
    html: Annotated[
        Path | None, typer.Option(help="Also write these to a page, with their pictures.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Of every video at most, evenly spaced in time.", min=1)] = 16,
) -> None:
    """Read a file of problems as a study would: what is in it, what is left out and why, and its first problems."""
    if html is not None and html.is_dir():
        raise InputError(f"`--html` {html} is a folder; name a file: --html {html / 'page.html'}")
    if html is not None and not html.absolute().parent.is_dir():
        raise InputError(
            f"`--html` {html}: no folder {str(html.parent)!r}; name a file in a folder that is there: --html page.html"
        )
    from workbench.problems.check import page_of, shown
    from workbench.problems.problem import load_problems

    listed = load_problems(source, split=split, limit=limit, columns=column_mapping(columns), frames=frames)
    for problem in listed[:show]:
        typer.echo(f"{shown(problem)}\n")
    typer.echo(listed.told)
    if html is not None:
        html.write_text(page_of(listed, show), encoding="utf-8")
        typer.echo(f"Page     {html}")


def rejudge(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Folder of a study, an ablation or exported tables of a sweep."),
    ],
    problems: Annotated[
        str | None,
        typer.Option(help="The set that was asked; the default is what the run's spec.json names."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the set.")] = None,
    limit: Annotated[int | None, typer.Option(help="How many problems of the set.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of generated sets.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the table that lies there.")
    ] = False,
) -> None:
    """Judge a run's responses anew, without decoding: writes a table beside the old one and says what changed, by which rule."""
    table, new = _tables(run, overwrite)
    arguments = {"problems": problems, "split": split, "limit": limit, "seed": seed}
    source = {**_source(run), **{name: value for name, value in arguments.items() if value is not None}}
    if "problems" not in source:
        raise InputError(
            f"`run` {run}: its spec.json does not name the problems; name them: workbench rejudge {run} --problems shapes"
        )
    import pandas as pd

    from workbench.problems.problem import load_problems
    from workbench.problems.rejudge import rejudge as judge

    called = {
        name: source[name] for name in ("split", "limit", "seed", "frames") if source.get(name) is not None
    }
    columns = column_mapping(source.get("columns"))
    verdicts = judge(pd.read_parquet(table), load_problems(source["problems"], columns=columns, **called))
    verdicts.table.to_parquet(partial := new.with_suffix(".partial"), index=False)
    partial.rename(new)
    changes = new.with_name(f"{_NEW}_changed.csv")
    verdicts.changed.to_csv(changes, index=False)
    typer.echo(verdicts.told)
    for row in verdicts.rules.to_dict("records"):
        typer.echo(f"  {row['how']}: {row['newly_right']} newly right, {row['newly_wrong']} newly wrong")
    typer.echo(f"Table    {new}\nChanged  {changes}")


def _tables(run: Path, overwrite: bool) -> tuple[Path, Path]:
    """The table of responses of a run, and where the new one goes."""
    places = [run / _TABLE, run / _TABLE.name, run] if run.is_dir() else [run]
    table = next((place for place in places if place.is_file() and place.suffix == ".parquet"), None)
    if table is None:
        what = "no such folder" if not run.exists() else f"no {_TABLE}"
        raise InputError(
            f"`run` {run}: {what}; expected the folder of a run that kept responses, or its table: workbench rejudge runs/study"
        )
    new = table.with_name(f"{_NEW}.parquet")
    if new.exists() and not overwrite:
        raise InputError(f"`run` {run}: {new.name} is there already; replace it with --overwrite")
    return table, new


def _source(run: Path) -> dict[str, Any]:
    """What a run's spec.json says of its problems; nothing where there is none."""
    file = run / "spec.json"
    if not file.is_file():
        return {}
    try:
        spec = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"`run` {run}: spec.json can't be read ({error}); name the problems with --problems"
        ) from error
    settings = spec.get("settings") if isinstance(spec, dict) else None
    seed = settings.get("seed") if isinstance(settings, dict) else None
    return {**(spec.get("source") or {}), **({"seed": seed} if isinstance(seed, int) else {})}
