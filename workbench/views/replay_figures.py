"""Figures of amortised replay: how an adapter was trained, and what it reaches beside replay optimised step by step."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.estimates import Interval
from workbench.views.markup import in_figure
from workbench.views.panels import COLOURS, band, finish, log_axis
from workbench.views.tables import NothingToDraw

if TYPE_CHECKING:
    from workbench.replay.learned_tokens import LearnedTokens

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

    ``table``: columns name, iteration, estimate, estimate_low, estimate_high, in nats; names as in ``amortised.losses_beside``.
    """
    optimised = table["name"] == "optimised"
    steps, one_pass = table.loc[optimised], table.loc[~optimised]
    figure = go.Figure()
    figure.add_trace(
        band(steps["iteration"], steps["estimate_low"], steps["estimate_high"], COLOURS["replay"])
    )
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
        figure.add_trace(band(ends, [row["estimate_low"]] * 2, [row["estimate_high"]] * 2, colour))
        figure.add_scatter(
            x=np.linspace(ends[0], ends[1], 12),
            y=[row["estimate"]] * 12,
            mode="lines",
            line={"color": colour, "dash": dash, "width": 2.5},
            name=in_figure(row["name"]),
        )
    figure.update_xaxes(title_text="iterations of the optimisation")
    figure.update_yaxes(title_text="replay's loss, nats")
    log_axis(figure, table[Interval.names("estimate")].to_numpy(float).ravel())
    figure.update_layout(height=480, showlegend=True)
    return finish(figure, "One pass against optimisation", subtitle)


def learned_tokens(learned: "LearnedTokens") -> go.Figure:
    """The loss by iteration, and beside it the length of x over each visual grid (frames side by side) and at text."""
    norms, grid = learned.tokens.norm(dim=1).numpy(), learned.grid.numpy()
    placed = grid[:, 0] >= 0
    text, where = norms[~placed], learned.places.nonzero()[:, 0].numpy()[~placed]
    norms, grid = norms[placed], grid[placed]
    first = np.ones(min(len(grid), 1), dtype=bool)
    starts = np.flatnonzero(np.r_[first, (np.diff(grid, axis=0) < 0).any(1) & (grid[1:].sum(1) == 0)])
    views = np.searchsorted(starts, np.arange(len(grid)), side="right") - 1
    titles = ["loss"] + [f"‖x‖, image {i + 1}" for i in range(len(starts))] + ["‖x‖, text"] * bool(len(text))
    figure = make_subplots(1, len(titles), subplot_titles=titles)
    figure.add_scatter(
        x=np.arange(len(learned.losses)),
        y=learned.losses.numpy(),
        mode="lines+markers",
        line={"color": COLOURS["rlvr"]},
        name="loss",
        row=1,
        col=1,
    )
    for view in range(len(starts)):
        here = views == view
        t, rows, columns = grid[here].T
        image = np.full((rows.max() + 1, (t.max() + 1) * (columns.max() + 1)), np.nan)
        image[rows, t * (columns.max() + 1) + columns] = norms[here]
        figure.add_heatmap(z=image, coloraxis="coloraxis", row=1, col=view + 2, name=titles[view + 1])
        figure.update_yaxes(autorange="reversed", scaleanchor=f"x{view + 2}", row=1, col=view + 2)
    if len(text):
        figure.add_bar(x=where, y=text, marker_color=COLOURS["rlvr"], name="text", row=1, col=len(titles))
        figure.update_xaxes(title_text="position", row=1, col=len(titles))
    figure.update_xaxes(title_text="iteration", row=1, col=1)
    figure.update_yaxes(title_text="loss, nats", row=1, col=1)
    figure.update_layout(
        coloraxis={"colorscale": "Cividis", "colorbar": {"title": {"text": "‖x‖"}}}, showlegend=False
    )
    how = learned.replay
    subtitle = (
        f"{how.site}, {how.select}, tau {how.tau:g}, alpha {how.alpha:g}, {len(learned.loss_layers)} layers"
    )
    return finish(figure, f"Learnt tokens of {learned.problem_id}", subtitle).update_layout(height=420)
