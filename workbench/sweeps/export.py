"""What a sweep found, as files: the same bytes whatever the order, the workers or the interruptions it was made with.

``cells`` (what became of each), ``responses``, ``drift`` and ``interventions`` (what each is called, and its settings) depend on
the cells alone; what was timed is in ``timings``. The manifest comes last: its presence means that the rest is whole.
"""

import errno
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from workbench.digests import digest_of, file_digest
from workbench.errors import InputError
from workbench.models.presets import ROLES
from workbench.runs import made_with, write_json
from workbench.sweeps.cells import Cell, settings_rows
from workbench.sweeps.driver import since_plan, unlike
from workbench.sweeps.ledger import Ledger
from workbench.sweeps.spec import parse_sweep
from workbench.sweeps.worker import COLUMNS

PORTION = 1000
"""Cells that are written together, so that memory does not grow with the sweep."""
FORMATS = ("parquet", "csv")
_TEXT, _WHOLE, _REAL = pa.string(), pa.int64(), pa.float64()
_KINDS = {
    "sample": _WHOLE,
    "seed": _WHOLE,
    "tokens": _WHOLE,
    "replaced": _WHOLE,
    "cells": _WHOLE,
    "correct": pa.bool_(),
}
_KINDS |= {name: _REAL for name in ("before", "kl", "seconds", "making_seconds")}
_NAMED = ("pair", "problems", "problem", "intervention", "seed")
TABLES = {
    "cells": (*_NAMED, "status", "reason", "key"),
    "responses": (*_NAMED, *COLUMNS["responses"]),
    "drift": (*_NAMED, *COLUMNS["drift"]),
    "timings": (*_NAMED, "seconds", "making_seconds", "worker"),
}


def export_sweep(
    folder: str | Path, out: str | Path | None = None, formats: tuple[str, ...] = FORMATS
) -> Path:
    """Write a sweep's tables, `out` or ``tables`` in its folder; returns where.

    Raises:
        InputError: no sweep there, or the folder can't be written.
    """
    folder = Path(folder)
    out = Path(out) if out is not None else folder / "tables"
    with Ledger(folder, argument="folder") as ledger:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "manifest.json").unlink(missing_ok=True)
            for kind in formats:
                _write(ledger, out, kind)
            manifest = {"files": {f.name: file_digest(f) for f in _tables_in(out)}, "made_with": made_with()}
            manifest["sweep"] = _described(ledger)
            write_json(out / "manifest.partial", manifest)
            (out / "manifest.partial").rename(out / "manifest.json")
        except OSError as error:
            advice = (
                "free some space"
                if error.errno == errno.ENOSPC
                else "name a folder that you may write to: --out"
            )
            raise InputError(f"`out` {out} can't be written ({error.strerror or error}); {advice}") from error
    return out


def _described(ledger: Ledger) -> dict[str, Any]:
    """What the tables are of, for whoever sets them beside others: pairs, problem sets, and how responses were drawn."""
    sweep, identity = parse_sweep(ledger.about["text"]), ledger.about["identity"]
    pairs = {}
    for pair in sweep.pairs:
        named = {role: pair.preset.id_of(role) if pair.preset else getattr(pair, role) for role in ROLES}
        files = digest_of(identity["pairs"][pair.title]["files"])
        pairs[pair.title] = {**named, "checkpoint": pair.checkpoint, "dtype": pair.dtype, "files": files}
    sets = {one.label: one.model_dump(mode="json") for one in sweep.problems}
    drawn = {"samples": sweep.samples, "temperature": sweep.temperature, "seeds": [*sweep.seeds]}
    return {"pairs": pairs, "problems": sets, **drawn, "versions": identity["versions"]}


def differences(a: str | Path, b: str | Path) -> dict[str, list[str]]:
    """What differs between two sweeps, in words: in their files, in what results depend on, in cells, in results."""
    with Ledger(Path(a)) as left, Ledger(Path(b)) as right:
        abouts = (left.about, right.about)
        lines = {"spec": [], "identity": [], "cells": [], "results": []}
        specs = [parse_sweep(about["text"]).model_dump(mode="json") for about in abouts]
        lines["spec"] = [*unlike(specs[0], specs[1])]
        identities = [about["identity"] | {"device": about["device"]} for about in abouts]
        lines["identity"] = [*unlike(identities[0], identities[1])]
        names = [{cell.name: cell.key for cell in ledger.cells()} for ledger in (left, right)]
        for side, one, other in ((a, *names), (b, *names[::-1])):
            only = [name for name in one if name not in other]
            lines["cells"] += [f"only in {side}: {name}" for name in only]
        same = {name for name in names[0] if name in names[1]}
        results = [_results(ledger, same) for ledger in (left, right)]
        for name in (name for name in names[0] if name in same):
            one, other = (result.get(name) for result in results)
            if one != other:
                lines["results"].append(f"{name}: {_said(one)} and {_said(other)}")
    return lines


def faults(folder: str | Path) -> list[str]:
    """What is wrong with a sweep's folder: the ledger, its results, its tables, or files that changed since the plan."""
    folder = Path(folder)
    lines: list[str] = []
    with Ledger(folder) as ledger:
        lines += [f"ledger: {line}" for line in ledger.check()]
        lines += [
            f"result {key} is not what was recorded; `workbench sweep resume {folder}` computes it again"
            for key in ledger.damaged()
        ]
        lines += since_plan(ledger)
    manifest = folder / "tables" / "manifest.json"
    if manifest.is_file():
        for name, digest in json.loads(manifest.read_text())["files"].items():
            file = manifest.parent / name
            if not file.is_file() or file_digest(file) != digest:
                lines.append(
                    f"tables/{name} is not what was written; export again: workbench sweep export {folder}"
                )
    return lines


def _write(ledger: Ledger, out: Path, kind: str) -> None:
    """All tables in one format, portion by portion, each moved to its place when whole."""
    schemas = {
        name: pa.schema([(column, _KINDS.get(column, _TEXT)) for column in columns])
        for name, columns in TABLES.items()
    }
    partial = {name: out / f"{name}.{kind}.partial" for name in TABLES}
    sinks: dict[str, Any] = {}
    if kind == "parquet":
        sinks = {name: pq.ParquetWriter(partial[name], schema) for name, schema in schemas.items()}
    else:
        for name, columns in TABLES.items():
            partial[name].write_text(",".join(columns) + "\n")
    try:
        rows = iter(ledger.outcomes())
        while portion := list(islice(rows, PORTION)):
            for name, values in _rows(portion).items():
                table = pa.Table.from_pylist(
                    [dict(zip(TABLES[name], row, strict=False)) for row in values], schema=schemas[name]
                )
                if kind == "parquet":
                    sinks[name].write_table(table)
                else:
                    with partial[name].open("a") as file:
                        table.to_pandas().to_csv(file, index=False, header=False)
    finally:
        for sink in sinks.values():
            sink.close()
    for name, file in partial.items():
        file.rename(out / f"{name}.{kind}")
    settings = pd.DataFrame([*settings_rows(parse_sweep(ledger.about["text"]))])
    # Numbers in some rows, lists or words in others:
    for column in settings.columns.intersection(["layers", "levels"]):
        settings[column] = settings[column].map(lambda value: None if value is None else json.dumps(value))
    for column in settings.columns.intersection(["threshold"]):
        settings[column] = settings[column].map(lambda value: None if pd.isna(value) else str(value))
    file = out / f"interventions.{kind}"
    settings.to_parquet(file, index=False) if kind == "parquet" else settings.to_csv(file, index=False)


def _rows(
    portion: list[tuple[Cell, dict[str, Any], dict[str, Any] | None]],
) -> dict[str, list[tuple[Any, ...]]]:
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES}
    for cell, outcome, result in portion:
        named = tuple(getattr(cell, name) for name in _NAMED)
        rows["cells"].append((*named, outcome["status"], outcome["reason"], cell.key))
        rows["timings"].append((*named, outcome["seconds"], outcome["making_seconds"], outcome["worker"]))
        for name in COLUMNS:
            rows[name] += [(*named, *row) for row in (result or {}).get(name, ())]
    return rows


def _results(ledger: Ledger, names: set[str]) -> dict[str, Any]:
    """A digest of each finished cell's result, by name."""
    return {
        cell.name: (outcome["status"], outcome["reason"], None if result is None else digest_of(result))
        for cell, outcome, result in ledger.outcomes()
        if cell.name in names
    }


def _said(result: tuple[str, str, str | None] | None) -> str:
    if result is None:
        return "absent"
    status, reason, digest = result
    return f"{status} {reason or digest or ''}".strip()


def _tables_in(out: Path) -> list[Path]:
    return sorted(f for f in out.iterdir() if f.suffix.lstrip(".") in FORMATS and f.stem != "timings")
