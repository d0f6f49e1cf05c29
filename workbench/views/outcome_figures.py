"""Figures of interventions: what was learnt, and what it changed in the answers.

Like ``figures``: a result or a tidy table in, one plotly Figure out, in the look of ``panels``.
"""

from itertools import count

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.selection import LOW, low_note
from workbench.views.markup import in_figure
from workbench.views.panels import COLOURS, DASHES, MARKERS, band, finish

LINES = ("#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F", "#8C564B", "#B8A200", "#6A3D9A", "#000000")
"""For conditions that have no colour of their own; none is the green of replay."""
SYMBOLS = ("triangle-up", "square", "x", "cross", "star", "triangle-down", "pentagon")


def ablation_figures(summary: pd.DataFrame, drift: pd.DataFrame, *, low: str = "") -> dict[str, go.Figure]:
    """All figures of an ablation, by name; ``low`` is `Ablation.low`, what names of conditions call low."""
    figures = {
        f"accuracy_against_{plain}": accuracy_differences(summary, against=plain, low=low)
        for plain in ("rlvr", "base")
    }
    figures["pass_at_k"] = pass_at_k_curves(summary, low=low)
    for scope in dict.fromkeys(drift["scope"]):
        figures[f"drift_{str(scope).replace(' ', '_')}"] = drift_bars(drift, scope=str(scope))
    return figures


def accuracy_differences(summary: pd.DataFrame, *, against: str = "rlvr", low: str = "") -> go.Figure:
    """Accuracy of every intervention minus that of a plain model, with intervals: greedy and Pass@1 side by side.

    ``summary`` is ``Ablation.summary``; ``against`` one of ``outcomes.REFERENCES``; ``low`` is `Ablation.low`.
    """
    column = f"vs_{against}"
    rows = _needed(summary, ["intervention", "measure", column, f"{column}_low", f"{column}_high"]).dropna(
        subset=[column]
    )
    measures = [m for m in ("greedy", "Pass@1") if m in set(rows["measure"])]
    names = list(dict.fromkeys(rows["intervention"]))[::-1]
    figure = go.Figure()
    for measure, colour, symbol, offset in zip(
        measures, ("#6A3D9A", "#E69F00"), ("circle", "diamond"), (0.13, -0.13), strict=False
    ):
        part = rows.loc[rows["measure"] == measure].set_index("intervention").reindex(names)
        middle, lower, upper = (
            100 * part[c].to_numpy(float) for c in (column, f"{column}_low", f"{column}_high")
        )
        figure.add_scatter(
            x=middle,
            y=np.arange(len(names)) + offset,
            error_x={"array": upper - middle, "arrayminus": middle - lower, "thickness": 1.5, "width": 4},
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9},
            name=measure,
            text=names,
            hovertemplate="%{text}: %{x:.1f} points<extra>" + measure + "</extra>",
        )
    figure.add_vline(x=0, line={"color": COLOURS["null"], "dash": "dot"})
    labels = [_label(name, rows) for name in names]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=labels)
    figure.update_xaxes(title_text=f"accuracy − plain {'RLVR' if against == 'rlvr' else against}, points")
    figure.update_layout(height=170 + 34 * len(names), showlegend=True)
    problems = int(rows["problems"].iloc[0])
    return finish(
        figure,
        f"Accuracy of each intervention minus plain {'RLVR' if against == 'rlvr' else against}",
        f"{problems} problems, 95% intervals over problems" + f"<br>{low}" * bool(low),
    )


def pass_at_k_curves(summary: pd.DataFrame, *, low: str = "") -> go.Figure:
    """Pass@K by K, a line with a band for every condition (plain models thick); ``low`` is `Ablation.low`."""
    rows = _needed(summary, ["intervention", "measure", *Interval.names("estimate")])
    rows = rows.loc[[str(measure).startswith("Pass@") for measure in rows["measure"]]]
    rows = rows.assign(k=[int(str(measure).removeprefix("Pass@")) for measure in rows["measure"]])
    figure, spare = go.Figure(), count()
    for name, part in rows.groupby("intervention", sort=False):
        part, plain = part.sort_values("k"), name in ("base", "rlvr")
        style = "replay" if name == "tokens, low" else str(name)
        number = 0 if style in COLOURS else next(spare)
        colour = COLOURS[style] if style in COLOURS else LINES[number % len(LINES)]
        symbol = "circle" if style in COLOURS else SYMBOLS[number % len(SYMBOLS)]
        if plain:
            figure.add_trace(band(part["k"], part["estimate_low"], part["estimate_high"], colour))
        figure.add_scatter(
            x=part["k"],
            y=part["estimate"],
            mode="lines+markers",
            name=_label(name, rows),
            line={
                "color": colour,
                "width": 3 if plain else 1.8,
                "dash": DASHES.get(style, "solid") if plain else "dot",
            },
            marker={"symbol": MARKERS.get(style, symbol), "size": 9},
            customdata=part[["estimate_low", "estimate_high"]].to_numpy(float),
            hovertemplate="%{y:.3f} (%{customdata[0]:.3f} – %{customdata[1]:.3f})",
        )
    figure.update_xaxes(title_text="K (log)", type="log", tickvals=sorted(rows["k"].unique()))
    figure.update_yaxes(title_text="Pass@K")
    figure.update_layout(height=600, hovermode="x unified", showlegend=True, margin={"t": 170})
    problems = int(summary["problems"].iloc[0])
    return finish(
        figure,
        "Pass@K",
        f"{problems} problems, unbiased estimate, bands: 95% intervals of the plain models"
        + f"<br>{low}" * bool(low),
    )


def drift_bars(drift: pd.DataFrame, *, scope: str = "without last layer") -> go.Figure:
    """KL to the target's activations at low- and high-entropy cells, for every intervention."""
    rows = _needed(drift, ["intervention", "scope", "stratum", "before", "kl", "kl_low", "kl_high"])
    rows = rows.loc[rows["scope"] == scope]
    figure = go.Figure()
    for stratum, colour, pattern in (("low", COLOURS["visual"], ""), ("high", COLOURS["text"], "/")):
        part = rows[rows["stratum"] == stratum]
        figure.add_bar(
            x=[_label(name, rows) for name in part["intervention"]],
            y=part["kl"],
            error_y={"array": part["kl_high"] - part["kl"], "arrayminus": part["kl"] - part["kl_low"]},
            marker={"color": colour, "pattern": {"shape": pattern}},
            offsetgroup=stratum,
            name=f"{stratum} entropy",
        )
        figure.add_scatter(
            x=[_label(name, rows) for name in part["intervention"]],
            y=part["before"],
            mode="markers",
            marker={"color": colour, "symbol": "line-ew-open", "size": 24, "line": {"width": 2.5}},
            offsetgroup=stratum,
            name=f"{stratum} entropy, before",
        )
    figure.update_yaxes(title_text="KL(target ‖ learner), nats", rangemode="tozero")
    figure.update_layout(barmode="group", scattermode="group", height=500, showlegend=True, margin={"t": 156})
    figure.update_xaxes(tickangle=-60)
    problems = f"{int(rows['problems'].max())} problems, 95% intervals; " if "problems" in rows else ""
    kind = "/".join(map(str, dict.fromkeys(rows["kind"]))) if "kind" in rows else "visual"
    return finish(
        figure,
        f"Drift with each intervention in place, {scope}",
        f"{kind} tokens; {problems}short lines: before the intervention<br>learner: the model that is intervened on, RLVR but "
        "where marked<br>target: the one it is pulled to, the other model; for self-smoothing itself, undisturbed<br>"
        f"{low_note(LOW, 'low entropy')}, whatever an intervention selects; high: the others",
    )


def _label(name: object, rows: pd.DataFrame) -> str:
    """A condition's name, marked where it acts on the base beside others that act on the RLVR model."""
    models = set(rows.loc[rows["intervention"] == name, "model"]) if "model" in rows else set()
    return in_figure(name) + " (on the base)" * (models == {"base"} and name != "base")


def _needed(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    missing = [column for column in columns if column not in table]
    if missing or table.empty:
        raise InputError(
            f"`table` lacks {', '.join(missing) or 'rows'}; give one of the tables of `ablate(...)`"
        )
    return table
