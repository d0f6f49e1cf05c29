"""Figures of interventions: what was learnt, and what it changed in the answers.

Like ``figures``: a result or a tidy table in, one plotly Figure out, in the look of ``panels``.
"""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.panels import COLOURS, finish

if TYPE_CHECKING:
    from workbench.replay import LearnedTokens


def learned_tokens(learned: "LearnedTokens") -> go.Figure:
    """The loss by iteration, and beside it the length of x over each visual grid (frames side by side)."""
    norms, grid = learned.tokens.norm(dim=1).numpy(), learned.grid.numpy()
    placed = grid[:, 0] >= 0
    starts = np.flatnonzero(np.r_[True, (np.diff(grid, axis=0) < 0).any(1) & (grid[1:].sum(1) == 0)])
    views = np.searchsorted(starts, np.arange(len(grid)), side="right") - 1
    titles = ["loss"] + [f"‖x‖, image {i + 1}" for i in range(len(starts))]
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
        here = placed & (views == view)
        t, rows, columns = grid[here].T
        image = np.full((rows.max() + 1, (t.max() + 1) * (columns.max() + 1)), np.nan)
        image[rows, t * (columns.max() + 1) + columns] = norms[here]
        figure.add_heatmap(z=image, coloraxis="coloraxis", row=1, col=view + 2, name=titles[view + 1])
        figure.update_yaxes(autorange="reversed", scaleanchor=f"x{view + 2}", row=1, col=view + 2)
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
