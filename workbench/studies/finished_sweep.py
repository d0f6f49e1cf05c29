"""A finished sweep read from its tables, one run a pair and problem set: what its conditions answered, for `compare`.

A sweep traces nothing, so that shares, layers and claims of a study stand in words among what it lacks. Of its responses:

1. samples of several seeds count together, and greedy answers as their mean over seeds;
2. a condition is compared with the plain RLVR model on the problems that all samples of both finished for;
3. accuracy and its difference are those of `ablate`'s summary: exact at the effective number of problems, paired by problem.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import InputError
from workbench.estimates import pass_at_k, share, share_difference
from workbench.experiments.outcomes import PASS_AT
from workbench.studies.finished import READ, Finished

LEDGER, TABLES = "ledger.sqlite", "tables"
NEEDED = ("pair", "problems", "problem", "intervention", "seed", "sample", "correct")
_CALL = "compare('runs/shapes', 'runs/grid')"


def read_sweep_runs(folder: Path) -> list[Finished] | None:
    """The runs of a sweep's folder, or of its exported tables; None where the folder is no sweep.

    Raises:
        InputError: its tables are not written, or can't be read, or hold no response.
    """
    home = next((place for place in (folder / TABLES, folder) if _manifest(place)), None)
    if home is None:
        if (folder / LEDGER).is_file():
            raise InputError(
                f"`runs` {folder} is a sweep whose tables are not written; write them, with what is finished so far: workbench "
                f"sweep export {folder}"
            )
        return None
    about = _manifest(home)
    try:
        responses = pd.read_parquet(home / "responses.parquet")
        cells = pd.read_parquet(home / "cells.parquet", columns=["pair", "problems", "status"])
    except Exception as error:  # whatever ails a file
        raise InputError(
            f"`runs` {folder}: its tables can't be read ({type(error).__name__}); write them again: workbench sweep export "
            f"{folder}"
        ) from error
    absent = [column for column in NEEDED if column not in responses]
    if absent or responses.empty:
        wrong = f"lacks {', '.join(absent)}" if absent else "is empty"
        raise InputError(
            f"`runs` {folder}: its table of responses {wrong}; expected a finished sweep: {_CALL}"
        )
    called = _called([*dict.fromkeys(responses["pair"].tolist())])
    several = len({*responses["problems"].tolist()}) > 1
    runs = []
    for pair, label in responses[["pair", "problems"]].drop_duplicates().itertuples(index=False, name=None):
        rows = responses.loc[(responses["pair"] == pair) & (responses["problems"] == label)]
        name = f"{called[pair]}, {label}" if several else called[pair]
        runs.append(_run(folder, about, name, str(pair), str(label), rows, cells))
    return runs


def _manifest(folder: Path) -> dict[str, Any]:
    """What a sweep's tables say they are of; empty: these are none."""
    try:
        content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    files = content.get("files") if isinstance(content, dict) else None
    return content if isinstance(files, dict) and {"cells.parquet", "responses.parquet"} <= {*files} else {}


def _run(
    folder: Path,
    about: Mapping[str, Any],
    name: str,
    pair: str,
    label: str,
    responses: pd.DataFrame,
    cells: pd.DataFrame,
) -> Finished:
    sweep = about.get("sweep") or {}
    models = (sweep.get("pairs") or {}).get(pair) or {}
    samples = len(set(responses["sample"]) - {-1}) * responses["seed"].nunique()
    table, short = pd.DataFrame(_outcomes(responses)), []
    here = cells.loc[(cells["pair"] == pair) & (cells["problems"] == label)]
    if missing := int((here["status"] != "done").sum()):
        short.append(
            f"Unfinished: {missing} of {len(here)} cells of {pair} have no result; problems without one are left out."
        )
    roles = {role: {"id": models.get(role)} for role in ("base", "rlvr")}
    named = {"pair": name, "checkpoint": models.get("checkpoint")}
    versions = sweep.get("versions") or {}
    spec = {
        "kind": "sweep",
        "pair": {**named, **roles, "libraries": versions},
        "problems": {"count": responses["problem"].nunique()},
        "source": (sweep.get("problems") or {}).get(label) or label,
        "settings": {"samples": samples},
        "made_with": {"workbench": (about.get("made_with") or {}).get("workbench")},
    }
    lacks = {name: "a sweep has no such table" for name in READ if name != "ablation"}
    return Finished(folder, spec, {"ablation": table}, lacks, tuple(short))


def _called(pairs: list[str]) -> dict[str, str]:
    """Pairs that are named by two places by the last part of each, where that tells them apart."""
    short = {pair: " → ".join(Path(place).name for place in pair.split(" -> ")) for pair in pairs}
    return {
        pair: name if [*short.values()].count(name) == 1 else pair.replace("->", "→")
        for pair, name in short.items()
    }


def _outcomes(responses: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """A row a condition and measure, in the columns that a study's table of answers has."""
    by_condition = {str(name): _scores(rows) for name, rows in responses.groupby("intervention", sort=False)}
    plain = by_condition.get("rlvr")
    names = _short_names([*by_condition])
    for name, scores in by_condition.items():
        for measure in scores.columns:
            own = scores[measure].dropna()
            row: dict[str, Any] = {"intervention": names[name], "measure": measure, "problems": len(own)}
            row |= share(own.to_numpy(), np.arange(len(own))).columns("estimate")
            both = None
            if plain is not None and name != "rlvr" and measure in plain:
                both = pd.concat([plain[measure], scores[measure]], axis=1, keys=["before", "after"]).dropna()
            if both is not None and len(both):
                before, after = both["before"].to_numpy(), both["after"].to_numpy()
                row |= share_difference(before, after, np.arange(len(both))).columns("vs_rlvr")
                row["problems"] = len(both)
            else:
                row |= dict.fromkeys(("vs_rlvr", "vs_rlvr_low", "vs_rlvr_high"), np.nan)
            yield row


def _scores(rows: pd.DataFrame) -> pd.DataFrame:
    """(problems, measures): shares of 1; NaN where a problem lacks some seed or sample that others have."""
    drawn = rows.loc[rows["sample"] >= 0]
    right = drawn.pivot_table(index="problem", columns=["seed", "sample"], values="correct", aggfunc="first")
    whole = right.dropna()
    count = right.shape[1]
    greedy = rows.loc[rows["sample"] == -1].pivot_table(
        index="problem", columns="seed", values="correct", aggfunc="first"
    )
    measures = {"greedy": greedy.dropna().astype(float).mean(axis=1)}
    correct = whole.astype(int).sum(axis=1)
    for k in (k for k in PASS_AT if k <= count):
        measures[f"Pass@{k}"] = pd.Series(pass_at_k(count, correct.to_numpy(), k), index=correct.index)
    return pd.DataFrame(measures)


def _short_names(names: list[str]) -> dict[str, str]:
    """Conditions of a default matrix as studies call them ("tokens, low" for "m: tokens, low"), where that tells them apart."""
    ends = {name: name.partition(": ")[2] or name for name in names}
    return {name: end if [*ends.values()].count(end) == 1 else name for name, end in ends.items()}
