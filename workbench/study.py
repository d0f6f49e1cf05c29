"""The main job: trace a pair on a problem set, measure the shift, and write a run folder that a browser can open.

A run is built in a hidden work folder beside `out`, named after everything that can change its result, and moved into
place when it is whole. An interrupted run therefore leaves nothing half-written at `out`, and the same call goes on
where it stopped: traces are kept every `SHARD` problems.
"""

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from workbench import __version__, figures
from workbench.errors import InputError
from workbench.pairs import ModelPair
from workbench.problems import Problem
from workbench.report import write_report
from workbench.shift import ShiftTable, agreement_by_layer, stratified_shift, top_prediction_shift
from workbench.traces import LensTrace, trace

SHARD = 32
"""Problems traced between two saves."""
TABLED_PROBLEMS = 6
"""Problems whose top predictions are tabulated and pictured."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


@dataclass(frozen=True, eq=False)
class Study:
    """A finished run: where it lies and what it found."""

    folder: Path
    trace: LensTrace
    shift: ShiftTable
    agreement: pd.DataFrame
    hint: str | None
    """Why there are no PNG figures, in one line; None when there are."""

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.folder / "report.html"

    def __repr__(self) -> str:
        return f"Study({self.folder}: {self.shift.verdict})"

    def _repr_html_(self) -> str:
        return self.shift._repr_html_()


def study(
    pair: ModelPair,
    problems: Sequence[Problem],
    out: str | Path,
    *,
    seed: int = 0,
    top_k: int = 10,
    null_draws: int = 3,
    bins: int = 5,
    resamples: int = 1000,
    batch_size: int = 8,
    notes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Study:
    """Trace, compare, report.

    Args:
        pair: what `load_pair` returned.
        problems: at least one; intervals need several.
        out: the run folder to make: spec.json, trace/, tables/, figures/, report.html, and manifest.json last.
        seed: of the null draws and of the bootstrap.
        top_k: top predictions kept per layer and position.
        null_draws: random directions per cell for the matched-noise null.
        bins: strata of base entropy.
        resamples: of the bootstrap over problems.
        batch_size: prompts per forward.
        notes: what else the spec should say, such as where the problems came from.
        overwrite: replace `out` once the new run is whole; otherwise an existing `out` is refused.
        progress: told what is going on.

    Raises:
        InputError: `out` exists or can't be written, the disk is full, or bad arguments of `trace` and `stratified_shift`.
    """
    out, tell = Path(out), progress or (lambda what, done, total: None)
    settings = {
        "seed": seed,
        "top_k": top_k,
        "null_draws": null_draws,
        "bins": bins,
        "resamples": resamples,
        "batch_size": batch_size,
    }
    spec = {
        "pair": dict(pair.provenance),
        "problems": _describe(problems),
        "settings": settings,
        **(notes or {}),
    }
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True, default=str).encode()).hexdigest()[:16]
    check_output(out, overwrite=overwrite)
    work, started = out.parent / f".study-{digest}.partial", time.time()
    try:
        work.mkdir(exist_ok=True)
        traced = _traced(pair, problems, work, settings, tell)
        tell("measuring the shift", 0, 1)
        shift = stratified_shift(traced, bins, resamples=resamples, seed=seed)
        agreement = agreement_by_layer(traced, resamples=resamples, seed=seed)
        tell("measuring the shift", 1, 1)
        built = _fresh(work / "run")
        traced.save(built / "trace")
        _write_tables(built / "tables", traced, shift, agreement)
        tell("drawing the figures", 0, 1)
        drawn = figures.study_figures(shift.table, shift.correlations, agreement, depth=traced.depth)
        drawn |= _grids(traced)
        hint = figures.write(drawn, built / "figures")
        tell("drawing the figures", 1, 1)
        spec |= {"made_with": _made_with(), "seconds": round(time.time() - started, 1)}
        write_report(built / "report.html", trace=traced, shift=shift, agreement=agreement, spec=_flat(spec))
        _write_json(built / "spec.json", spec)
        files = sorted(p for p in built.rglob("*") if p.is_file())
        _write_json(built / "manifest.json", {str(p.relative_to(built)): _digest(p) for p in files})
        _put(built, out)
    except OSError as error:
        raise InputError(
            f"`out` {out} could not be written: {error.strerror or error}. Nothing that was there before has changed; "
            "free some space or name another folder, and the same command goes on where it stopped"
        ) from error
    shutil.rmtree(work, ignore_errors=True)
    return Study(out, traced, shift, agreement, hint)


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


def _traced(
    pair: ModelPair, problems: Sequence[Problem], work: Path, settings: Mapping[str, Any], tell: Progress
) -> LensTrace:
    """The trace of all problems, shard by shard; shards of an interrupted run are read, not computed again."""
    what = "tracing both models"
    wanted = {key: settings[key] for key in ("seed", "top_k", "null_draws", "batch_size")}
    total, shards = len(problems), []
    tell(what, 0, total)
    for start in range(0, total, SHARD):
        folder = work / f"trace-{start:06d}"
        if (folder / "manifest.json").exists():
            shards.append(LensTrace.load(folder))
        else:
            part = problems[start : start + SHARD]
            shards.append(
                trace(
                    pair,
                    part,
                    **wanted,
                    progress=lambda done, _, first=start: tell(what, first + done, total),
                )
            )
            if total > SHARD:
                shards[-1].save(folder)
        tell(what, min(start + SHARD, total), total)
    if not shards:
        trace(pair, problems)  # says what is wrong with no problems
    return LensTrace.join(shards)


def _write_tables(folder: Path, traced: LensTrace, shift: ShiftTable, agreement: pd.DataFrame) -> None:
    folder.mkdir()
    top = [
        top_prediction_shift(traced, prompt=i).assign(problem=info.problem_id)
        for i, info in enumerate(traced.prompts[:TABLED_PROBLEMS])
    ]
    verdicts = [
        {
            "measure": v.measure,
            "scope": v.scope,
            "kind": v.kind,
            "holds": v.holds,
            "low_over_high": v.interval.estimate,
            "low": v.interval.low,
            "high": v.interval.high,
            "text": v.text,
        }
        for v in shift.verdicts
    ]
    tables = {
        "shift": shift.table,
        "correlations": shift.correlations,
        "agreement": agreement,
        "verdicts": pd.DataFrame(verdicts),
        "top_predictions": pd.concat(top),
        "cells": traced.to_dataframe(),
    }
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
        if name != "cells":
            table.to_csv(folder / f"{name}.csv", index=False)


def _grids(traced: LensTrace) -> dict[str, Any]:
    """The first problem's top predictions in its text, as a grid."""
    return {
        "top_predictions": figures.prediction_grid(top_prediction_shift(traced, prompt=0), depth=traced.depth)
    }


def _describe(problems: Sequence[Problem]) -> dict[str, Any]:
    listed = [(p.id, p.question, p.answer, *(image.size for image in p.images)) for p in problems]
    return {"count": len(problems), "digest": hashlib.sha256(repr(listed).encode()).hexdigest()[:16]}


def _made_with() -> dict[str, str | None]:
    packages = ("torch", "transformers", "nnsight", "numpy", "pandas", "plotly")
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {"workbench": __version__, "commit": commit, **{p: version(p) for p in packages}}


def _flat(spec: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in spec.items():
        flat |= (
            _flat(value, f"{prefix}{key} ") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
        )
    return flat


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _put(built: Path, out: Path) -> None:
    """Move the finished run to its place; an old one goes only after the new one is there."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    built.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
