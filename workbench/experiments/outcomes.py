"""What interventions changed: accuracies, Pass@K and drift, with intervals clustered by problem. Tables in, tables out."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from workbench.errors import InputError
from workbench.estimates import (
    Interval,
    mean,
    paired_difference,
    pass_at_k,
    share,
    share_difference,
)

PASS_AT = (1, 2, 4, 8, 16, 32, 64)
DRIFT = (
    *("intervention", "model", "scope", "stratum", "problems", "before"),
    *Interval.names("kl"),
    *Interval.names("change"),
)
"""Columns of a table of drift."""
REFERENCES = ("rlvr", "base")
"""Conditions that every other one is compared with, problem by problem."""


def summarise_responses(responses: pd.DataFrame, *, samples: int, pass_at: Sequence[int]) -> pd.DataFrame:
    """Accuracy of every intervention, and its paired differences to the plain models.

    Args:
        responses: columns problem, intervention, sample (-1: greedy) and correct; every problem under every condition.
        samples: sampled responses per problem and condition.
        pass_at: K of Pass@K.

    Returns:
        One row per intervention and measure: ``greedy``, ``Pass@K``. estimate, estimate_low, estimate_high (shares of 1);
        for each reference ``vs_rlvr``, ``vs_rlvr_low``, ``vs_rlvr_high``; for greedy also ``vs_rlvr_mcnemar``, the p value of
        McNemar's exact test on discordant problems. ``problems`` counts them.

    Raises:
        InputError: a problem is missing under some condition.
    """
    by_condition = scores(responses, samples=samples, pass_at=pass_at)
    number, models = len(set(responses["problem"])), _models(responses)
    clusters, rows = np.arange(number), []
    for name, measures in by_condition.items():
        for measure, values in measures.items():
            row: dict[str, Any] = {"intervention": name, **models.get(name, {})}
            row |= {"measure": measure, "problems": number}
            row |= share(values, clusters).columns("estimate")
            for reference in REFERENCES:
                if reference in by_condition and reference != name:
                    other = by_condition[reference][measure]
                    row |= share_difference(other, values, clusters).columns(f"vs_{reference}")
                    if measure == "greedy":
                        row[f"vs_{reference}_mcnemar"] = mcnemar(other, values)
            rows.append(row)
    return pd.DataFrame(rows)


def scores(
    responses: pd.DataFrame, *, samples: int, pass_at: Sequence[int]
) -> dict[str, dict[str, np.ndarray]]:
    """Intervention -> measure (``greedy``, ``Pass@K``) -> (problems,) shares of 1, problems in order of appearance.

    Raises:
        InputError: missing columns, or a problem that is missing under some condition.
    """
    missing = {"problem", "intervention", "sample", "correct"} - {*responses.columns}
    if missing or responses.empty:
        raise InputError(
            f"`responses` lacks {', '.join(sorted(missing)) or 'rows'}; give the table of that name of `ablate(...)`"
        )
    by_condition: dict[str, dict[str, np.ndarray]] = {}
    order = list(dict.fromkeys(responses["problem"]))
    for name in dict.fromkeys(responses["intervention"]):
        rows = responses.loc[responses["intervention"] == name]
        wide = rows.pivot(index="problem", columns="sample", values="correct").reindex(order)
        if list(wide.columns) != list(range(-1, samples)) or wide.isna().to_numpy().any():
            raise InputError(
                f"`responses` lacks some of the {samples} samples or the greedy response of {name!r}; every problem must "
                "be answered under every condition"
            )
        right = wide.to_numpy(bool)
        measures = {"greedy": right[:, 0].astype(float)}
        measures |= {f"Pass@{k}": pass_at_k(samples, right[:, 1:].sum(1), k) for k in pass_at}
        by_condition[str(name)] = measures
    return by_condition


def changes(
    responses: pd.DataFrame,
    name: str,
    *,
    against: str = "rlvr",
    measure: str = "greedy",
    by: str | None = None,
) -> pd.DataFrame:
    """What a condition changes against another, in points, over all problems or by a column such as ``family``.

    Columns: part (a value of `by`, or "all"), problems, accuracy (percent) and change, each with its 95% interval over problems.

    Raises:
        InputError: a missing column or condition, or responses that are not complete.
    """
    if by is not None and by not in responses:
        raise InputError(f"`responses` lacks the column {by!r}; it has {list(responses.columns)}")
    samples, rows = len(set(responses["sample"])) - 1, []
    ks = [int(measure.removeprefix("Pass@"))] if measure != "greedy" else []
    here = responses.loc[responses["intervention"].isin([name, against])]
    parts = [("all", here)] if by is None else list(here.groupby(by, sort=False))
    for part, own in parts:
        by_condition = scores(own, samples=samples, pass_at=ks)
        if missing := {name, against} - {*by_condition}:
            raise InputError(f"`responses` lacks the conditions {sorted(missing)}; it has {[*by_condition]}")
        before, after = (by_condition[condition][measure] for condition in (against, name))
        row: dict[str, Any] = {"part": part, "problems": len(after)}
        row |= share(after, np.arange(len(after))).times(100).columns("accuracy")
        interval = share_difference(before, after, np.arange(len(after)))
        rows.append(row | interval.times(100).columns("change"))
    return pd.DataFrame(rows)


def _models(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Which model answers under each intervention, where the table says so."""
    if "model" not in table:
        return {}
    pairs = table.drop_duplicates("intervention")
    return {
        str(name): {"model": str(model)}
        for name, model in zip(pairs["intervention"], pairs["model"], strict=True)
    }


def accuracy_rows(summary: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """A summary as text, per intervention its ``name`` and ``cells``.

    These are greedy accuracy, its difference to plain RLVR, Pass@1, its difference, and McNemar's p for greedy.
    """

    def points(row: pd.Series, name: str) -> str:
        value, bottom, top = (100 * float(row.get(column, np.nan)) for column in Interval.names(name))  # pyright: ignore[reportArgumentType]
        return "–" if np.isnan(value) else f"{value:.1f} [{bottom:.1f}, {top:.1f}]"

    for name in dict.fromkeys(summary["intervention"]):
        rows = summary.loc[summary["intervention"] == name].set_index("measure")
        cells = []
        for measure in ("greedy", "Pass@1"):
            row = rows.loc[measure] if measure in rows.index else pd.Series(dtype=float)
            cells += [
                points(row, "estimate"),
                points(row, "vs_rlvr"),
            ]
        p = rows.loc["greedy"].get("vs_rlvr_mcnemar", np.nan)
        yield {"name": name, "cells": [*cells, "–" if np.isnan(p) else f"{p:.3f}"]}


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """The two-sided p value of McNemar's exact test that a and b (0 or 1 for each problem) are right equally often."""
    gained, lost = int(((b > 0) & (a <= 0)).sum()), int(((a > 0) & (b <= 0)).sum())
    return 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost).pvalue)


def drift_table(drift: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Mean KL (nats) to the target over problems, before and after each intervention, and the paired change.

    ``drift`` has one row per problem, intervention, scope and stratum, with ``before`` and ``kl``; a problem without
    cells in a stratum has NaN there and is left out. ``change`` is negative where an intervention pulled the
    activations closer. Intervals resample problems. Without cells in any problem the table has no rows.
    """
    rows, models = [], _models(drift)
    for key, part in drift.dropna(subset=["kl", "before"]).groupby(
        ["intervention", "scope", "stratum"], sort=False
    ):
        name, scope, stratum = cast(tuple[str, str, str], key)
        before, after = np.asarray(part["before"], float), np.asarray(part["kl"], float)
        clusters = np.arange(len(part))
        row: dict[str, Any] = {
            "intervention": name,
            **models.get(name, {}),
            **({"kind": part["kind"].iloc[0]} if "kind" in part else {}),
            "scope": scope,
            "stratum": stratum,
            "problems": len(part),
            "before": before.mean(),
        }
        row |= mean(after, clusters, resamples=resamples, seed=seed).columns("kl")
        row |= paired_difference(before, after, clusters, resamples=resamples, seed=seed).columns("change")
        rows.append(row)
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=pd.Index(DRIFT))
