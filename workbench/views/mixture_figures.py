"""Figures of two models that decode together: accuracy over the share of replaced tokens, and over gamma."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.views.panels import COLOURS, finish

_CRITERIA = {
    "divergence": ("#0072B2", "circle"),
    "dlogp": ("#E69F00", "diamond"),
    "entropy": ("#CC79A7", "square"),
    "low_divergence": ("#7F7F7F", "x"),
    "random": ("#000000", "cross"),
}
_DIRECTIONS = {"base": "RLVR's tokens into the base", "rlvr": "the base's tokens into RLVR"}


def accuracy_by_share(
    table: pd.DataFrame, *, measure: str = "Pass@1", published: pd.DataFrame | None = None
) -> go.Figure:
    """Accuracy over the share of tokens replaced, both directions, a line a criterion.

    Args:
        table: of `crossing_table`.
        measure: ``greedy`` or ``Pass@1``.
        published: share (0 to 1), accuracy (0 to 1) and label of points of other models, for the first panel.
    """
    rows = table.loc[table["measure"] == measure]
    figure = make_subplots(
        1, 2, subplot_titles=[*_DIRECTIONS.values()], shared_yaxes=True, horizontal_spacing=0.05
    )
    for column, host in enumerate(_DIRECTIONS, start=1):
        where: Any = {"row": 1, "col": column}
        for criterion, (colour, symbol) in _CRITERIA.items():
            part = rows.loc[(rows["host"] == host) & (rows["criterion"] == criterion)].sort_values("replaced")
            middle = 100 * part["estimate"]
            figure.add_scatter(
                x=100 * part["replaced"],
                y=middle,
                error_y={
                    "array": 100 * part["estimate_high"] - middle,
                    "arrayminus": middle - 100 * part["estimate_low"],
                    "thickness": 1,
                },
                mode="lines+markers",
                name=criterion.replace("_", " "),
                legendgroup=criterion,
                showlegend=column == 1,
                line={"color": colour},
                marker={"color": colour, "symbol": symbol, "size": 9},
                **where,
            )
        for name in ("base", "rlvr"):
            plain = float(rows.loc[rows["intervention"] == name, "estimate"].iloc[0])
            label = "RLVR" if name == "rlvr" else name
            figure.add_hline(
                y=100 * plain,
                line={"color": COLOURS[name], "dash": "dot"},
                annotation_text=label,
                annotation_position="top left",
                **where,
            )
    if published is not None:
        for label, part in published.sort_values("share").groupby("label"):
            figure.add_scatter(
                x=100 * part["share"],
                y=100 * part["accuracy"],
                mode="lines+markers+text",
                text=[""] * (len(part) - 1) + [str(label)],
                textposition="top right",
                name=f"published, {label}",
                showlegend=False,
                line={"color": "#D55E00", "dash": "dot"},
                marker={"symbol": "star-open", "size": 11},
                row=1,
                col=1,
            )
    figure.update_xaxes(title_text="tokens replaced, percent", rangemode="tozero")
    figure.update_yaxes(title_text=f"{measure}, percent", col=1)
    below = {"orientation": "h", "y": -0.2, "yanchor": "top"}
    figure.update_layout(height=580, showlegend=True, legend=below, margin={"t": 120, "b": 130})
    problems = int(rows["problems"].iloc[0])
    note = f"{problems} problems, bars: 95% intervals over problems; thresholds taken from other problems"
    return finish(figure, "Accuracy by share of replaced tokens", note).update_layout(legend=below)


def accuracy_by_gamma(table: pd.DataFrame, *, chosen: float, split: str) -> go.Figure:
    """Accuracy over gamma.

    Args:
        table: measure, gamma, estimate, estimate_low, estimate_high (shares of 1) and problems; greedy, Pass@1 and the largest
            Pass@K are drawn.
        chosen: the gamma that is marked.
        split: what the problems are of.
    """
    figure = go.Figure()
    ks = [
        int(str(name).removeprefix("Pass@"))
        for name in set(table["measure"])
        if str(name).startswith("Pass@")
    ]
    measures = dict.fromkeys(["greedy", "Pass@1", f"Pass@{max(ks)}"])
    for number, (measure, colour) in enumerate(
        zip(measures, ("#6A3D9A", "#E69F00", "#0072B2"), strict=False)
    ):
        part = table.loc[table["measure"] == measure].sort_values("gamma")
        middle = 100 * part["estimate"]
        figure.add_scatter(
            x=part["gamma"] + 0.02 * (number - 1),  # side by side, so that the bars can be told apart
            y=middle,
            error_y={
                "array": 100 * part["estimate_high"] - middle,
                "arrayminus": middle - 100 * part["estimate_low"],
                "thickness": 1.2,
            },
            mode="lines+markers",
            name=measure,
            line={"color": colour},
            marker={"symbol": ("circle", "diamond", "square")[number], "size": 9},
        )
    figure.add_vline(x=0, line={"color": COLOURS["rlvr"], "dash": "dot"}, annotation_text="RLVR")
    figure.add_vline(x=-1, line={"color": COLOURS["base"], "dash": "dot"}, annotation_text="base")
    figure.add_vline(
        x=chosen, line={"color": "#7F7F7F"}, annotation_text="chosen", annotation_position="bottom right"
    )
    figure.update_xaxes(title_text="gamma (0: RLVR, -1: base)")
    figure.update_yaxes(title_text="percent of problems")
    figure.update_layout(height=480, showlegend=True)
    problems = int(table["problems"].iloc[0])
    return finish(
        figure, "Accuracy by gamma", f"{problems} {split} problems, bars: 95% intervals over problems"
    )
