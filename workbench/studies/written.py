"""What a study leaves in its run folder: tables, figures, the trace, the page, and what it was made of."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.analysis.shift import ShiftTable, top_prediction_shift
from workbench.analysis.verdicts import claim_table
from workbench.runs import made_with, write_json, write_tables
from workbench.studies.parts import Attempts, Progress
from workbench.studies.report import write_report
from workbench.tracing.follow import Followed
from workbench.tracing.lens_trace import LensTrace
from workbench.views import shift_figures as figures
from workbench.views.figure_files import write_figures
from workbench.views.null_figures import null_figures
from workbench.views.outcome_figures import ablation_figures
from workbench.views.perturbation_figures import perturbation_figures

if TYPE_CHECKING:
    from workbench.studies.study import Study

TABLED_PROBLEMS = 6
"""Problems whose top predictions are tabulated and pictured."""


def write_study(
    found: "Study",
    built: Path,
    spec: dict[str, Any],
    attempts: Attempts,
    follow_on: Callable[[], Followed],
    begun: float,
    tell: Progress,
) -> str | None:
    """The run folder's files; why there are no pictures, if there are none."""
    every = (found.ablation, found.perturbation, found.nulls, found.reading)
    parts = [part for part in every if part is not None]
    tables = _tables(found.trace, found.shift, found.agreement) | {"claims": claim_table(found.claims)}
    for part in parts:
        tables |= part.tables()
    found.trace.save(built / "trace")
    write_tables(built / "tables", tables, large=("cells", "responses"))
    tell("drawing the figures", 0, 1)
    pictures = _drawn(found, attempts)
    drawn = {name: figure for figures in pictures.values() for name, figure in figures.items()}
    hint = attempts.at("figures", lambda: write_figures(drawn, built / "figures")) if drawn else None
    tell("drawing the figures", 1, 1)
    spec |= {"made_with": made_with(), "seconds": round(time.time() - begun, 1)}
    followed = attempts.at("probabilities of followed tokens", follow_on)
    attempts.at(
        "report", lambda: _page(found, built / "report.html", spec, pictures, followed, attempts.skipped)
    )
    write_json(built / "spec.json", spec | ({"skipped": attempts.skipped} if attempts.skipped else {}))
    if attempts.traces:
        (built / "tracebacks.txt").write_text("\n".join(attempts.traces), encoding="utf-8")
    return hint


def _drawn(found: "Study", attempts: Attempts) -> dict[str, dict[str, Any]]:
    """The figures of each part, of those that can be drawn."""
    shift, depth, ablation = found.shift, found.trace.depth, found.ablation
    moved, nulls = found.perturbation, found.nulls
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "shift": lambda: figures.study_figures(shift.table, shift.correlations, found.agreement, depth=depth),
        "top predictions": lambda: _grids(found.trace),
    }
    if ablation:
        ways["interventions"] = lambda: ablation_figures(ablation.summary, ablation.drift, low=ablation.low)
    if moved:
        ways["perturbation"] = lambda: perturbation_figures(moved.table, moved.slopes)
    if found.reading:
        ways["reading"] = found.reading.figures
    if nulls:
        ways["null models"] = lambda: null_figures(nulls.table)
    pictures = {what: attempts.at(f"figures of {what}", make) for what, make in ways.items()}
    return {what: figures for what, figures in pictures.items() if figures is not None}


def _page(
    found: "Study",
    file: Path,
    spec: Mapping[str, Any],
    drawn: Mapping[str, Any],
    followed: Followed | None,
    skipped: Mapping[str, str],
) -> Path:
    """The report, with the sections whose figures can be drawn."""
    ablation = found.ablation if "interventions" in drawn else None
    moved = found.perturbation if "perturbation" in drawn else None
    nulls = found.nulls if "null models" in drawn else None
    return write_report(
        file,
        trace=found.trace,
        shift=found.shift,
        agreement=found.agreement,
        followed=followed,
        claims=found.claims,
        outcomes=(ablation.summary, ablation.drift) if ablation else None,
        responses=ablation.responses if ablation else None,
        perturbation=(moved.table, moved.slopes) if moved else None,
        nulls=nulls.table if nulls else None,
        reading=found.reading if "reading" in drawn else None,
        left_out={**spec.get("left out", {}), **skipped},
        spec=spec,
    )


def _tables(traced: LensTrace, shift: ShiftTable, agreement: pd.DataFrame) -> dict[str, pd.DataFrame]:
    top = [top_prediction_shift(traced, prompt=i) for i in range(len(traced.prompts[:TABLED_PROBLEMS]))]
    keys = pd.DataFrame([dict(verdict.key) for verdict in shift.verdicts])
    return {
        "shift": shift.table,
        "correlations": shift.correlations,
        "agreement": agreement,
        "verdicts": pd.concat([keys.drop(columns="kind"), claim_table(shift.verdicts)], axis=1),
        "top_predictions": pd.concat(top),
        "cells": traced.to_dataframe(),
    }


def _grids(traced: LensTrace) -> dict[str, Any]:
    """The first problem's top predictions in its text, as a grid."""
    return {
        "top_predictions": figures.prediction_grid(top_prediction_shift(traced, prompt=0), depth=traced.depth)
    }
