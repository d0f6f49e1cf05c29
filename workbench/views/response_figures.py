"""Figures of divergence along responses."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.views.markup import in_figure
from workbench.views.null_figures import OTHERS, STYLES
from workbench.views.panels import COLOURS, diverging_scale, error_bars, finish, token_text
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


def token_bars(tokens: pd.DataFrame, most: int = 20) -> go.Figure:
    """The tokens that hold most of RLVR's divergence: their share of it, and their mean change of log-probability.

    ``tokens`` is that of ``Divergence``.

    Raises:
        NothingToDraw: nothing diverges.
    """
    rows = tokens.loc[tokens["condition"] == tokens["condition"].iloc[0]].head(most).iloc[::-1]
    if not np.isfinite(rows["share"].to_numpy(float)).any():
        raise NothingToDraw("`tokens` has no divergence: the two models agree")
    scale = diverging_scale(rows["dlogp"])
    scale["colorbar"]["title"] = {"text": "dlogp, nats"}
    figure = go.Figure(
        go.Bar(
            x=rows["share"],
            y=[token_text(token, 20) for token in rows["token"]],
            orientation="h",
            marker={"color": rows["dlogp"], "coloraxis": "coloraxis"},
            customdata=rows[["positions", "jensen_shannon", "dlogp"]],
            hovertemplate="%{y}: %{x:.1%} of the divergence, %{customdata[0]} positions, mean %{customdata[1]:.3g} nats, "
            "dlogp %{customdata[2]:.3g}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="share of the whole divergence", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(type="category", title_text="token")
    figure.update_layout(coloraxis=scale, height=170 + 22 * len(rows))
    return finish(
        figure,
        "Tokens that carry the divergence",
        "Summed Jensen-Shannon divergence where they were drawn; colour: mean log p RLVR − log p base",
    )


def response_example(positions: pd.DataFrame, problem: str | None = None, sample: int = 0) -> go.Figure:
    """The divergence of one response position by position, its tokens below; the first response unless told.

    Raises:
        NothingToDraw: no such response.
    """
    own = positions.loc[positions["condition"] == positions["condition"].iloc[0]]
    problem = str(own["problem"].iloc[0]) if problem is None else problem
    rows = own.loc[(own["problem"] == problem) & (own["sample"] == sample)]
    if rows.empty:
        raise NothingToDraw(f"`positions` has no response {sample} to {problem!r}")
    texts = [
        [token_text(row[name], 20) for name in ("token", "top1_base", "top1_rlvr")]
        for _, row in rows.iterrows()
    ]
    figure = go.Figure(
        go.Bar(
            x=rows["position"],
            y=rows["jensen_shannon"],
            marker={"color": COLOURS["rlvr"]},
            customdata=[[*text, value] for text, value in zip(texts, rows["dlogp"], strict=True)],
            hovertemplate="%{customdata[0]} at %{x}: %{y:.3g} nats, dlogp %{customdata[3]:.3g}<br>base would say "
            "%{customdata[1]}, RLVR %{customdata[2]}<extra></extra>",
        )
    )
    figure.update_xaxes(
        tickvals=rows["position"],
        ticktext=[text[0] for text in texts],
        tickangle=-90,
        title_text="token that was drawn",
    )
    figure.update_yaxes(title_text="Jensen-Shannon divergence, nats", rangemode="tozero")
    figure.update_layout(height=420, width=max(600, 120 + 16 * len(rows)))
    return finish(figure, "Divergence along one response", f"response {sample} to {token_text(problem, 60)}")
