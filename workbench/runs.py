"""Run folders: built in a hidden work folder beside their place, moved there when whole, a manifest last.

An interrupted run leaves nothing half-written at its place, and finds in the work folder what it had finished. Place and
work folder belong to one process at a time. Nothing that is no run is ever deleted.
"""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from workbench import __version__
from workbench.columns import describe
from workbench.digests import digest_of, file_digest, versions
from workbench.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"
"""A run's last file: the digest of every other one, by its path. Its presence says that the run is whole."""
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
"""What file managers leave in every folder that they show."""


def check_output(out: Path, *, overwrite: bool = False) -> None:
    """Refuse, before any work, a run folder that can't be made; an empty folder is as good as none.

    Raises:
        InputError: `out` is a file, holds anything but a run, holds a run and `overwrite` is False, or can't be written.
    """
    if out.exists() or out.is_symlink():
        _check_replaceable(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.parent / f".{out.name}.{secrets.token_hex(4)}.probe"
        probe.write_bytes(b"workbench")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"`out` {out} can't be written ({error.strerror or error}); name a folder you may write to: out='my-run'"
        ) from error


def check_run(run: Path) -> None:
    """Refuse what is no finished run.

    Raises:
        InputError: with what was expected.
    """
    if _manifest(run) is None:
        state = "exists, but is no finished run" if run.is_dir() else "is no folder"
        raise InputError(
            f"`run` {run} {state}; expected one of `workbench study` or `workbench ablate`, which has a {MANIFEST}: "
            "run='runs/study'"
        )


def _check_replaceable(out: Path, overwrite: bool) -> None:
    """Refuse what is neither an empty folder nor, with `overwrite`, a run and nothing but a run."""
    another = f"name another folder: out={str(out.with_name(f'{out.name}-2'))!r}"
    if not out.is_dir():
        raise InputError(f"`out` {out} is a file; expected a folder that does not exist yet: {another}")
    listed = _manifest(out)
    if not any(_files(out)):
        return
    if listed is None:
        examples = ", ".join(sorted(path.name for path in out.iterdir())[:3])
        raise InputError(
            f"`out` {out} exists and is no run of the workbench (it holds {examples}); nothing in it will be touched, {another}"
        )
    files = {path.relative_to(out).as_posix(): path for path in _files(out)}
    if foreign := sorted(files.keys() - listed):
        raise InputError(
            f"`out` {out} exists and holds a run and files that are none of it ({', '.join(foreign[:3])}), which replacing it "
            f"would delete; move them, or {another}"
        )
    if not overwrite:
        size = sum(path.stat().st_size for path in files.values() if path.exists())
        raise InputError(
            f"`out` {out} exists: a run of {len(files)} files, {size / 1e6:.1f} MB. Replace it, which deletes them once the new "
            f"run is whole, with overwrite=True, or {another}"
        )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if not path.is_dir() and path.name not in _LITTER)


def _manifest(out: Path) -> set[str] | None:
    """Paths of a run's files, its manifest among them; None for what is no run."""
    try:
        listed = json.loads((out / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(listed, dict) and "spec.json" in listed
    return {Path(name).as_posix() for name in listed} | {MANIFEST} if whole else None


@contextmanager
def run_folder(out: Path, kind: str, spec: Any, *, overwrite: bool = False) -> Iterator[Path]:
    """A context manager: a work folder for a run. Fill its subfolder ``run``, which is moved to `out` at the end.

    The work folder is named after the digest of `spec`, everything that can change the result, so that the same call
    finds it again after an interruption.

    Raises:
        InputError: what `check_output` refuses, another process that makes this run or one at `out`, or the disk is full.
    """
    check_output(out, overwrite=overwrite)
    out = out.resolve() if out.is_symlink() else out
    work = out.parent / f".{kind}-{digest_of([spec, versions()])}.partial"
    at_work = (
        f"another run is being made at `out` {out}; wait for it, or name another folder: out={f'{out}-2'!r}"
    )
    alike = (
        f"`out` {out}: another run is at work on the same settings, in {work.parent}, and would come out equal; wait for it, or "
        "change a setting: seed=1"
    )
    with alone(out.parent / f".{out.name}.lock", at_work), alone(work.with_suffix(".lock"), alike):
        check_output(out, overwrite=overwrite)  # the last one there may just have finished
        try:
            work.mkdir(exist_ok=True)
            shutil.rmtree(work / "run", ignore_errors=True)
            (work / "run").mkdir()
            yield work
            files = sorted(p for p in (work / "run").rglob("*") if p.is_file())
            manifest = {p.relative_to(work / "run").as_posix(): file_digest(p) for p in files}
            write_json(work / "run" / MANIFEST, manifest)
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


@contextmanager
def alone(file: Path, otherwise: str) -> Iterator[None]:
    """A context manager: meanwhile no other process is in one with the same file, which is gone afterwards.

    A process that dies lets go of it.

    Raises:
        InputError: another one is; says `otherwise`.
    """
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(otherwise) from error
    except OSError as error:
        raise InputError(
            f"`out` in {file.parent} can't be locked ({error.strerror or error}); name a folder on another disk: out='my-run'"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # while it is held, so that whoever opened it meanwhile sees that it is gone
            file.unlink()
        lock.release()


def kept(
    folder: Path | None, spec: Any, names: Sequence[str], make: "Callable[[], Sequence[pd.DataFrame]]"
) -> "list[pd.DataFrame]":
    """The tables that `make` returns, by `names`; found again in `folder` where an equal `spec` was finished before.

    `spec` is everything that can change them beside the code that computes (`digests.versions`): the pair's provenance holds both
    models' weights and configs, and how its processor reads. Without a folder they are always made.
    """
    if folder is None:
        return [*make()]
    import pandas as pd

    key = digest_of([spec, versions()])
    files = [folder / f"{key}.{name}.parquet" for name in names]
    if not all(file.exists() for file in files):
        for file, table in zip(files, make(), strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(
                f".{os.getpid()}-{secrets.token_hex(4)}.partial"
            )  # others may make the same
            table.to_parquet(partial, index=False)
            partial.replace(file)
    return [pd.read_parquet(file) for file in files]


def write_tables(folder: Path, tables: "dict[str, pd.DataFrame]", *, large: tuple[str, ...] = ()) -> None:
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
