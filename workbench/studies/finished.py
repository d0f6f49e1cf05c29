"""A finished study read from its folder, as far as it can be: what it was made with, its tables, and what it lacks, in words."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.analysis.pooled_claims import NEEDED, WORDS, texts
from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.runs import MANIFEST, check_run

ANSWERS = ["intervention", "measure", "problems", *Interval.names("estimate"), *Interval.names("vs_rlvr")]
SHARES = ["scope", "kind", "stratum", "strata_by", *Interval.names("share")]
DEPTHS = ["layer", "kind", "problems", *Interval.names("kl")]
READ = {"claims": NEEDED, "shift": SHARES, "agreement": DEPTHS, "ablation": ANSWERS}
"""Tables that are compared, and the columns without which they can't be."""
TEXTS = {*WORDS, "intervention", "measure", "scope", "kind", "strata_by"}
WHOLE = {"problems", "layer", "stratum"}
BESIDES = {"p", "p_adjusted", "detectable"}
"""Of these tables the columns of text and of whole numbers, and numbers that may be there; what else is needed are numbers."""
COUNTS = {
    "parameters": ("pair", "base", "parameters"),
    "problems": ("problems", "count"),
    "answers": ("settings", "answers"),
    "samples": ("settings", "samples"),
    "strata": ("settings", "bins"),
    "null_draws": ("settings", "null_draws"),
    "seed": ("settings", "seed"),
    "resamples": ("settings", "resamples"),
}
"""Numbers of a specification, and where they stand."""
PARTS = {"interventions": "ablation", "perturbation": "perturbation", "null models": "nulls"}
"""Parts of a study that may be left out, and a table that each has."""
_CALL = "compare('runs/shapes', 'runs/smol')"


@dataclass(frozen=True)
class Finished:
    """One run: its specification, the tables that could be read, and why others are not there."""

    folder: Path
    spec: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    lacks: Mapping[str, str]
    """Table, part or setting -> why it is not there."""
    notes: Sequence[str] = ()
    """What else keeps it from being compared, in words."""

    @property
    def pair(self) -> Mapping[str, Any]:
        """What the run says of its models."""
        return _mapping(self.spec.get("pair"))

    @property
    def name(self) -> str:
        """Of the pair; of the folder, where the pair is named by its two models alone."""
        name = str(self.pair.get("pair") or "")
        return self.folder.resolve().name if not name or "->" in name else name

    @property
    def models(self) -> tuple[str, str] | None:
        """Digests of both models' weights; None where the run does not tell."""
        weights = [_mapping(self.pair.get(role)).get("weights") for role in ("base", "rlvr")]
        return (str(weights[0]), str(weights[1])) if all(weights) else None

    @property
    def ids(self) -> tuple[str, str]:
        """What both models are called, with the checkpoint that plays the RLVR model."""
        base, rlvr = (_text(_mapping(self.pair.get(role)).get("id")) for role in ("base", "rlvr"))
        return base, f"{rlvr}@{_text(self.pair.get('checkpoint'))}"

    def same_models(self, other: "Finished") -> bool:
        """Whether two runs have equal weights; where one does not tell, whether its models are called the same."""
        if self.models is not None and other.models is not None and self.kind == other.kind:
            return self.models == other.models
        return all(self.ids[0]) and self.ids == other.ids

    @property
    def kind(self) -> str:
        """``study`` or ``sweep``."""
        return str(self.spec.get("kind") or "study")

    @property
    def depth(self) -> int | None:
        """Decoder layers: those that were traced, which a study does with all."""
        table = self.tables.get("agreement")
        return None if table is None or table.empty else max(map(int, table["layer"])) + 1

    @property
    def facts(self) -> dict[str, Any]:
        """One row of the table of pairs, without its name."""
        base, rlvr = (_mapping(self.pair.get(role)) for role in ("base", "rlvr"))
        problems, settings, versions = (
            _mapping(self.spec.get(k)) for k in ("problems", "settings", "made_with")
        )
        libraries = _mapping(self.pair.get("libraries"))
        found = {name: _at(self.spec, path) for name, path in COUNTS.items()}
        counts = {name: value if _is_number(value) else None for name, value in found.items()}
        if "answers" not in settings and settings.get("interventions"):
            counts["answers"] = counts["problems"]
        return {
            "base": _text(base.get("id")),
            "rlvr": _text(rlvr.get("id")),
            "family": _text(base.get("family")),
            "parameters": counts["parameters"],
            "depth": self.depth,
            "dtype": _text(base.get("dtype")),
            "controls": _text(list(_mapping(settings.get("controls")))),
            "problems": counts["problems"],
            "answers": counts["answers"],
            "problem_set": _text(problems.get("digest")),
            "source": _source(self.spec.get("source")),
            **{name: counts[name] for name in ("samples", "strata", "null_draws", "seed", "resamples")},
            "lacking": ", ".join(self.lacks),
            "workbench": " ".join(
                filter(None, (_text(versions.get(key)) for key in ("workbench", "commit")))
            ),
            "torch": _text(versions.get("torch") or libraries.get("torch")),
            "transformers": _text(versions.get("transformers") or libraries.get("transformers")),
            "folder": str(self.folder),
        }


def read_runs(
    folders: Sequence[str | Path], others: Callable[[Path], "list[Finished] | None"] = lambda folder: None
) -> list[Finished]:
    """Finished studies, in that order.

    Args:
        folders: of runs.
        others: reads a run of another kind, which may hold several pairs; None where the folder is none.

    Raises:
        InputError: fewer than two, a folder given twice, one that is no finished run, or without any table that is compared.
    """
    for folder in folders:
        if not isinstance(folder, str | Path):
            raise InputError(f"`runs` holds {folder!r}; expected folders of finished studies: {_CALL}")
    paths = [Path(folder) for folder in folders]
    found: list[Finished] = []
    known = {path: others(path) for path in paths}
    for path in paths:
        if known[path] is not None:
            continue
        try:
            check_run(path)
        except InputError as error:
            state = "exists, but is no finished run" if path.is_dir() else "is no folder"
            raise InputError(
                f"`runs` {path} {state}; expected a folder that `workbench study` wrote, which has a {MANIFEST}, or that of a "
                f"finished sweep: {_CALL}"
            ) from error
    places = [path.resolve() for path in paths]
    if twice := [path for path in paths if places.count(path.resolve()) > 1]:
        raise InputError(
            f"`runs` holds {str(twice[0])!r} twice; a run counts once, so give folders of different pairs: {_CALL}"
        )
    for path in paths:
        found += known[path] or [_read(path)]
    if len(found) < 2:
        given = f"holds one run, {str(folders[0])!r}" if folders else "is empty"
        raise InputError(
            f"`runs` {given}; expected the folders of two or more finished studies, of different pairs: {_CALL}"
        )
    return found


def labels(runs: Sequence[Finished], names: Sequence[str] | None) -> list[str]:
    """A name a run, all different: those given, else the pairs', with the folder where two have the same.

    Raises:
        InputError: not one name a run, or one twice.
    """
    if names is not None:
        if len(names) != len(runs) or len({*names}) != len(names) or not all(names):
            raise InputError(
                f"`names` is {list(names)} for {len(runs)} runs; expected one each, all different: compare('runs/a', 'runs/b', "
                "names=['a', 'b'])"
            )
        return [str(name) for name in names]
    own = [run.name for run in runs]
    for describe in (lambda run: run.folder.resolve().name, lambda run: str(run.folder)):
        own = [
            f"{run.name} ({describe(run)})" if own.count(name) > 1 else name
            for run, name in zip(runs, own, strict=True)
        ]
    return own


def _read(folder: Path) -> Finished:
    try:
        spec = _mapping(json.loads((folder / "spec.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(
            f"`runs` {folder}: its spec.json can't be read ({error}); expected a finished run with {MANIFEST} and spec.json: "
            f"{_CALL}"
        ) from error
    tables, lacks = {}, {}
    for name, path in COUNTS.items():
        value = _at(spec, path)
        if value is not None and not _is_number(value):
            lacks[name] = f"spec.json: `{'.'.join(path)}` is {shortened(value)}; expected a number"
    for name, needed in READ.items():
        try:
            table = pd.read_parquet(folder / "tables" / f"{name}.parquet")
        except FileNotFoundError:
            if name not in PARTS.values():
                lacks[name] = f"the run has no table {name}"
            continue
        except Exception as error:  # whatever ails one file must not cost the other pairs
            lacks[name] = f"the table {name} can't be read ({type(error).__name__})"
            continue
        absent = [column for column in needed if column not in table]
        if absent:
            lacks[name] = f"the table {name} is of another version: it has no {', '.join(absent)}"
        elif table.empty:
            lacks[name] = f"the table {name} is empty"
        else:
            try:
                tables[name] = _sound(table, needed)
            except ValueError as error:
                lacks[name] = f"tables/{name}.parquet, {error}"
    if not tables:
        raise InputError(
            f"`runs` {folder} has nothing to compare: {'; '.join(lacks.values())}; expected a run of `workbench study`: {_CALL}"
        )
    reasons = {**_mapping(spec.get("left out")), **_mapping(spec.get("skipped"))}
    for part, table in PARTS.items():
        if not (folder / "tables" / f"{table}.parquet").exists():
            lacks[part] = str(reasons.get(part) or "not asked for")
    return Finished(folder, spec, tables, lacks)


def _sound(table: pd.DataFrame, needed: Sequence[str]) -> pd.DataFrame:
    """The table with numbers where they are expected, and text; ValueError says which cell is neither, or which interval none."""
    sound = table.copy()
    for name, column in table.items():
        if name in TEXTS:
            sound[name] = texts(column)
        elif name in needed or name in BESIDES:
            sound[name] = _numbers(column, whole=name in WHOLE)
    for low, high in (Interval.names(measure)[1:] for measure in needed):
        if low in needed and (wrong := (sound[low] > sound[high]).to_numpy()).any():
            row = int(wrong.argmax())
            ends = f"{sound[low].iloc[row]:g} exceeds `{high}` {sound[high].iloc[row]:g}"
            raise ValueError(f"row {row}: `{low}` {ends}; expected an interval")
    return sound


def _numbers(column: pd.Series, *, whole: bool) -> NDArray[Any]:
    cells = column.tolist()
    for row, cell in enumerate(cells):
        # Beyond 2**53 a float is no count, and an integer of Arrow's may not fit.
        if not _is_number(cell) or (whole and not (float(cell).is_integer() and abs(cell) < 2**53)):
            what = "a whole number" if whole else "a number"
            raise ValueError(f"row {row}: `{column.name}` is {shortened(cell)}; expected {what}")
    return np.array(cells, dtype=int if whole else float)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _at(spec: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = spec
    for key in path:
        value = _mapping(value).get(key)
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _source(value: Any) -> str:
    """Where problems came from, in one line."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name} {_text(part)}" for name, part in value.items() if part not in (None, {}, [])
        )
    return _text(value)
