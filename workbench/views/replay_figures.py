"""Figures of amortised replay: how an adapter was trained, and what it reaches beside replay optimised step by step."""

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.views.panels import COLOURS, band, finish, log_axis
from workbench.views.tables import NothingToDraw

LINES = ("#6A3D9A", "#E69F00", "#56B4E9", "#CC79A7")
"""For rates, and for adapters; none is the colour of base, RLVR or replay."""


def training_curves(curves: pd.DataFrame) -> go.Figure:
    """The mean loss by epoch on training (dotted) and validation prompts, a colour for each rate; ``Adapter.curves``.

    Raises:
        NothingToDraw: an adapter that was not trained.
    """
    if curves.empty:
        raise NothingToDraw(
            "`curves` has no rows; an adapter has them once it is trained: train_adapter(...)"
        )
    figure = go.Figure()
    for number, (rate, part) in enumerate(curves.groupby("rate", sort=False)):
        for split, dash, symbol in (("validation", "solid", "circle"), ("train", "dot", "x")):
            figure.add_scatter(
                x=part["epoch"],
                y=part[split],
                mode="lines+markers",
                line={"color": LINES[number % len(LINES)], "dash": dash, "width": 2},
                marker={"symbol": symbol, "size": 7},
                name=f"{split}, rate {rate:g}",
            )
    figure.update_xaxes(title_text="epoch (0: no tokens)")
    figure.update_yaxes(title_text="replay's loss, nats")
    log_axis(figure, curves[["train", "validation"]].to_numpy(float).ravel())
    figure.update_layout(height=460, showlegend=True)
    return finish(
        figure, "Training an adapter", "mean over prompts; the rate and epoch that validate best are kept"
    )


def loss_against_steps(table: pd.DataFrame, *, subtitle: str) -> go.Figure:
    """Replay's loss by iteration of the optimisation, and what adapters reach in one pass, with 95% bands.

    ``table``: columns name, iteration, estimate, low, high, in nats; names as in ``amortised.losses_beside``.
    """
    optimised = table["name"] == "optimised"
    steps, one_pass = table.loc[optimised], table.loc[~optimised]
    figure = go.Figure()
    figure.add_trace(band(steps["iteration"], steps["low"], steps["high"], COLOURS["replay"]))
    figure.add_scatter(
        x=steps["iteration"],
        y=steps["estimate"],
        mode="lines",
        line={"color": COLOURS["replay"], "width": 2.5},
        name="optimised for each prompt",
    )
    iterations = steps["iteration"].to_numpy(float)
    ends = [iterations.min(), iterations.max()]
    for number, row in enumerate(one_pass.to_dict("records")):
        colour, dash = LINES[number % len(LINES)], ("dash", "dashdot", "dot")[number % 3]
        figure.add_trace(band(ends, [row["low"]] * 2, [row["high"]] * 2, colour))
        figure.add_scatter(
            x=np.linspace(ends[0], ends[1], 12),
            y=[row["estimate"]] * 12,
            mode="lines",
            line={"color": colour, "dash": dash, "width": 2.5},
            name=escape(str(row["name"]), quote=False),
        )
    figure.update_xaxes(title_text="iterations of the optimisation")
    figure.update_yaxes(title_text="replay's loss, nats")
    log_axis(figure, table[["low", "high"]].to_numpy(float).ravel())
    figure.update_layout(height=480, showlegend=True)
    return finish(figure, "One pass against optimisation", subtitle)
