"""Figures of divergence along responses."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.views.markup import in_figure
from workbench.views.null_figures import OTHERS, STYLES
from workbench.views.panels import error_bars, finish
from workbench.views.tables import NothingToDraw

PLACES = ("start", "middle", "end")
LEAST, MOST = 1e-6, np.log(2)
"""Nats, between which shares are drawn."""


def divergence_figure(positions: pd.DataFrame, summary: pd.DataFrame) -> go.Figure:
    """How many positions diverge how far, and the mean divergence by place in the response; a line for each condition.

    The tables are those of ``Divergence``.

    Raises:
        NothingToDraw: no positions.
    """
    if positions.empty:
        raise NothingToDraw("`positions` is empty: divergence(pair, problems)")
    figure = make_subplots(1, 2, column_widths=[0.6, 0.4], horizontal_spacing=0.12)
    spare = iter(OTHERS * len(set(positions["condition"])))
    levels = np.geomspace(LEAST, MOST, 60)
    for name in dict.fromkeys(positions["condition"]):
        part = positions.loc[positions["condition"] == name]
        colour, dash, symbol = STYLES[name] if name in STYLES else (next(spare), "dashdot", "triangle-up")
        ordered = np.sort(part["jensen_shannon"].to_numpy(float))
        above = 1 - np.searchsorted(ordered, levels, side="left") / len(ordered)
        shown = {
            "name": in_figure("RLVR" if name == "rlvr" else str(name)),
            "legendgroup": str(name),
            "line": {"color": colour, "dash": dash, "width": 2},
        }
        hover = "%{y:.1%} of positions at %{x:.2g} nats or more<extra></extra>"
        figure.add_scatter(x=levels, y=above, mode="lines", hovertemplate=hover, **shown, row=1, col=1)
        chosen = (summary["condition"] == name) & (summary["measure"] == "jensen_shannon")
        rows = summary.loc[chosen].set_index("where", drop=False)
        rows = rows.loc[[place for place in PLACES if place in rows.index]]
        figure.add_scatter(
            x=rows["where"],
            y=rows["estimate"],
            error_y=error_bars(rows, "estimate"),
            mode="lines+markers",
            marker={"color": colour, "symbol": symbol, "size": 9},
            hovertemplate="%{x}: %{y:.3g} nats<extra></extra>",
            showlegend=False,
            **shown,
            row=1,
            col=2,
        )
    figure.update_xaxes(
        type="log", title_text="Jensen-Shannon divergence, nats", exponentformat="power", col=1
    )
    figure.update_yaxes(
        title_text="positions that diverge at least so far", tickformat=".0%", rangemode="tozero", col=1
    )
    figure.update_xaxes(type="category", title_text="first tenth, middle, last tenth", col=2)
    figure.update_yaxes(title_text="mean divergence, nats", rangemode="tozero", col=2)
    figure.update_layout(height=440, showlegend=True)
    own = positions.loc[positions["condition"] == positions["condition"].iloc[0]]
    return finish(
        figure,
        "Divergence along responses",
        f"{len(own):,} positions, {own['problem'].nunique()} problems; 95% intervals over problems",
    )
