"""Run folders: built in a hidden work folder beside their place, moved there when whole, a manifest last.

An interrupted run leaves nothing half-written at its place, and finds in the work folder what it had finished.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from workbench import __version__
from workbench.columns import describe
from workbench.digests import digest_of, file_digest, versions
from workbench.errors import InputError


def check_output(out: Path, *, overwrite: bool = False) -> None:
    """Refuse, before any work, a run folder that exists or can't be made.

    Raises:
        InputError: says which, and what to do.
    """
    if out.exists() and not (overwrite and out.is_dir()):
        kind = "exists" if out.is_dir() else "is a file"
        raise InputError(f"`out` {out} {kind}; name another folder, or replace an old run with `--overwrite`")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.parent / f".{out.name}.probe"
        probe.write_bytes(b"workbench")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"`out` {out} can't be written ({error.strerror or error}); name a folder you may write to: `--out my-run`"
        ) from error


@contextmanager
def run_folder(out: Path, kind: str, spec: Any, *, overwrite: bool = False) -> Iterator[Path]:
    """A work folder for a run that will lie at `out`: fill its subfolder ``run``, which is moved there at the end.

    The work folder is named after the digest of `spec`, everything that can change the result, so that the same call
    finds it again after an interruption.

    Raises:
        InputError: `out` exists or can't be written, or the disk is full.
    """
    check_output(out, overwrite=overwrite)
    work = out.parent / f".{kind}-{digest_of([spec, versions()])}.partial"
    try:
        work.mkdir(exist_ok=True)
        shutil.rmtree(work / "run", ignore_errors=True)
        (work / "run").mkdir()
        yield work
        files = sorted(p for p in (work / "run").rglob("*") if p.is_file())
        manifest = {str(p.relative_to(work / "run")): file_digest(p) for p in files}
        write_json(work / "run" / "manifest.json", manifest)
        _put(work / "run", out)
    except OSError as error:
        raise InputError(
            f"`out` {out} could not be written: {error.strerror or error}. Nothing that was there before has changed; "
            "free some space or name another folder, and the same command goes on where it stopped"
        ) from error
    finally:
        if not any(path.is_file() for path in work.rglob("*")):  # nothing to go on from
            shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)


def kept(
    folder: Path | None, spec: Any, names: Sequence[str], make: Callable[[], Sequence[pd.DataFrame]]
) -> list[pd.DataFrame]:
    """The tables that `make` returns, by `names`; found again in `folder` where an equal `spec` was finished before.

    `spec` is everything that can change them beside the code that computes (`digests.versions`): the pair's provenance holds both
    models' weights and configs, and how its processor reads. Without a folder they are always made.
    """
    if folder is None:
        return [*make()]
    key = digest_of([spec, versions()])
    files = [folder / f"{key}.{name}.parquet" for name in names]
    if not all(file.exists() for file in files):
        for file, table in zip(files, make(), strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            table.to_parquet(partial := file.with_suffix(".partial"), index=False)
            partial.rename(file)
    return [pd.read_parquet(file) for file in files]


def write_tables(folder: Path, tables: dict[str, pd.DataFrame], *, large: tuple[str, ...] = ()) -> None:
    """Every table as parquet, and as CSV unless it is `large`; ``columns.json`` says what their columns mean."""
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
        if name not in large:
            table.to_csv(folder / f"{name}.csv", index=False)
    meanings = {
        name: describe({name: table}).drop(columns="table").to_dict("records")
        for name, table in tables.items()
    }
    write_json(folder / "columns.json", meanings)


def made_with() -> dict[str, str | None]:
    """Versions of the workbench and its libraries, and the commit it runs from."""
    packages = ("torch", "transformers", "nnsight", "numpy", "pandas", "plotly")
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {"workbench": __version__, "commit": commit, **{p: version(p) for p in packages}}


def _put(built: Path, out: Path) -> None:
    """Move the finished run to its place; an old one goes only after the new one is there."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    built.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Readable JSON; what JSON does not know becomes text."""
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")
