"""Figures of the paper's tables: what was measured on a pair beside what was published, grids, families, cost.

Like ``figures``: a tidy table in, one plotly Figure out, in the look of ``panels``.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.views.markup import in_figure
from workbench.views.panels import COLOURS, UNDECIDED, cell_texts, error_bars, finish

CHANGE = Interval.names("change")
STYLES = {  # setting -> colour, marker
    "replay": (COLOURS["replay"], "circle"),
    "patch low-entropy": (COLOURS["replay"], "circle"),
    "patch high-entropy": (COLOURS["text"], "diamond"),
}


def beside_published(changes: pd.DataFrame, *, title: str, subtitle: str) -> go.Figure:
    """Changes in accuracy: published ones as hollow marks, a row a model; measured ones filled, a row a problem set.

    Args:
        changes: columns source (published, measured), row, setting, benchmark, change in points, and change_low and
            change_high (NaN where there is no interval). Published rows stand apart, because models and data are others.
        title: of the figure.
        subtitle: its caption.
    """
    rows = _needed(changes, ["source", "row", "setting", "benchmark", *CHANGE], "change")
    order = [*dict.fromkeys(rows.loc[rows["source"] == "measured", "row"])]
    published = [*dict.fromkeys(rows.loc[rows["source"] == "published", "row"])]
    places = {name: i for i, name in enumerate(reversed(published))}
    gap = len(published) + (0.6 if published else 0)
    places |= {name: gap + i for i, name in enumerate(reversed(order))}
    settings = [*dict.fromkeys(rows["setting"])]
    figure = go.Figure()
    for index, setting in enumerate(settings):
        colour, symbol = STYLES[setting]
        offset = 0.16 * ((len(settings) - 1) / 2 - index)
        for source in ("measured", "published"):
            part = rows.loc[(rows["setting"] == setting) & (rows["source"] == source)]
            if part.empty:
                continue
            middle, low, high = (part[c].to_numpy(float) for c in CHANGE)
            hollow = source == "published"
            figure.add_scatter(
                x=middle,
                y=[places[name] + offset for name in part["row"]],
                error_x={"array": high - middle, "arrayminus": middle - low, "thickness": 1.5, "width": 4},
                mode="markers",
                marker={
                    "color": colour,
                    "symbol": f"{symbol}-open" if hollow else symbol,
                    "size": 9,
                    "line": {"width": 1.8 if hollow else 0, "color": colour},
                },
                name=f"{setting}, {source}",
                text=[in_figure(b) for b in part["benchmark"]],
                hovertemplate="%{text}: %{x:+.1f} points<extra>" + f"{setting}, {source}" + "</extra>",
            )
    figure.add_vline(x=0, line={"color": COLOURS["null"], "dash": "dot"})
    if published and order:
        figure.add_hline(y=len(published) - 0.2, line={"color": COLOURS["null"], "width": 1})
    labels = [in_figure(name) for name in places]
    figure.update_yaxes(
        tickvals=[*places.values()], ticktext=labels, range=[-0.7, max(places.values()) + 0.7]
    )
    figure.update_xaxes(title_text="accuracy − RLVR model, points")
    figure.update_layout(height=190 + 34 * len(places), showlegend=True)
    return finish(figure, title, subtitle)


def settings_grid(grid: pd.DataFrame, *, measure: str, subtitle: str) -> go.Figure:
    """How settings of replay change the accuracy: tau x alpha as a heat map, then layers and iterations as points.

    Cells whose interval holds 0 are grey.

    ``grid``: columns tau, alpha, layers, iterations, change, change_low, change_high (points against plain RLVR), varied
    (``"tau x alpha"``, ``"layers"``, ``"iterations"``: the axis along which a row differs from the settings kept).
    """
    rows = _needed(grid, ["tau", "alpha", "layers", "iterations", "varied", *CHANGE], "change")
    square = rows.loc[rows["varied"] == "tau x alpha"]
    lines = [axis for axis in ("layers", "iterations") if axis in set(rows["varied"])]
    figure = make_subplots(
        1, 1 + len(lines), column_widths=[0.44, *[0.28] * len(lines)], horizontal_spacing=0.1
    )
    taus, alphas = sorted(set(square["tau"])), sorted(set(square["alpha"]))
    cells = square.set_index(["tau", "alpha"])[CHANGE]
    texts = [
        ["{:+.1f}<br>[{:+.1f}, {:+.1f}]".format(*cells.loc[(t, a), CHANGE]) for a in alphas] for t in taus
    ]
    z = cells["change"].unstack().reindex(index=taus, columns=alphas).to_numpy(float)
    most = max(1.0, float(np.nanmax(np.abs(z))))
    scale = {"colorscale": "PuOr", "cmin": -most, "cmax": most}
    heat = go.Heatmap(
        z=z,
        x=[f"{a:g}" for a in alphas],
        y=[f"{t:g}" for t in taus],
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
        hovertemplate="alpha %{x}, tau %{y}: %{z:+.2f} points<extra></extra>",
    )
    figure.add_trace(heat, 1, 1)
    low, high = (cells[c].unstack().reindex(index=taus, columns=alphas).to_numpy(float) for c in CHANGE[1:])
    undecided = (low <= 0) & (high >= 0)
    grey = go.Heatmap(
        z=np.where(undecided, 0.0, np.nan),
        x=heat.x,
        y=heat.y,
        colorscale=[[0, UNDECIDED], [1, UNDECIDED]],
        showscale=False,
        hoverinfo="skip",
        xgap=2,
        ygap=2,
    )
    figure.add_trace(grey, 1, 1)
    cells_map = go.Heatmap(heat).update(z=np.where(undecided, 0.0, z))
    figure.add_trace(cell_texts(cells_map, texts, scale), 1, 1)
    figure.update_xaxes(title_text="step size alpha", type="category", row=1, col=1)
    figure.update_yaxes(title_text="threshold tau", type="category", row=1, col=1)
    for column, axis in enumerate(lines, start=2):
        part = rows.loc[rows["varied"] == axis].sort_values(axis)
        middle, low, high = (part[c].to_numpy(float) for c in CHANGE)
        figure.add_scatter(
            x=[str(v) for v in part[axis]],
            y=middle,
            error_y={"array": high - middle, "arrayminus": middle - low, "thickness": 1.5, "width": 4},
            mode="markers",
            marker={"color": COLOURS["replay"], "size": 9},
            row=1,
            col=column,
            hovertemplate=f"{axis} %{{x}}: %{{y:+.2f}} points<extra></extra>",
        )
        figure.add_hline(y=0, line={"color": COLOURS["null"], "dash": "dot"}, row=1, col=column)  # pyright: ignore[reportArgumentType]
        title = "layers K" if axis == "layers" else axis
        figure.update_xaxes(title_text=title, type="category", row=1, col=column)
        figure.update_yaxes(title_text="points", row=1, col=column)
    # The cells say their numbers: a colour bar would repeat them.
    figure.update_layout(coloraxis={**scale, "showscale": False}, showlegend=False, height=400)
    return finish(figure, f"Settings of replay: {measure} minus plain RLVR", f"{subtitle}; grey: undecided")


def family_bars(scores: pd.DataFrame, *, subtitle: str) -> go.Figure:
    """Accuracy by problem family, a bar with its interval for each condition; how many problems stand below each family.

    ``scores``: columns condition, style (a key of ``markup.COLOURS``), axis, problems, accuracy with its interval
    (percent), and group, if families come in groups.
    """
    needed = ["condition", "style", "axis", "problems", *Interval.names("accuracy")]
    rows = _needed(scores, needed, "accuracy")
    figure = go.Figure()
    patterns = ("", "/", ".")
    for index, (name, part) in enumerate(rows.groupby("condition", sort=False)):
        families = [
            f"{in_figure(axis)}<br>{n} problems"
            for axis, n in zip(part["axis"], part["problems"], strict=True)
        ]
        figure.add_bar(
            x=[[in_figure(group) for group in part["group"]], families] if "group" in part else families,
            y=part["accuracy"],
            error_y=error_bars(part, "accuracy"),
            name=in_figure("RLVR" if name == "rlvr" else name),
            marker={"color": COLOURS[str(part["style"].iloc[0])], "pattern": {"shape": patterns[index % 3]}},
            hovertemplate="%{y:.1f}%<extra>" + in_figure(name) + "</extra>",
        )
    width = 220 + 105 * len(rows.drop_duplicates([c for c in ("group", "axis") if c in rows]))
    figure.update_yaxes(title_text="percent right", range=[0, 103])
    figure.update_xaxes(tickangle=0, showgrid=False)
    figure.update_layout(barmode="group", height=440, width=max(640, width), showlegend=True)
    return finish(figure, "Accuracy by family of problems", f"{subtitle}; 95% intervals over problems")


def cost_bars(cost: pd.DataFrame, *, subtitle: str) -> go.Figure:
    """Seconds a problem, making the intervention and decoding stacked; columns condition, what, making, decoding.

    Where there are total_low and total_high beside total, the sum has its interval.
    """
    rows = _needed(cost, ["condition", "what", "making", "decoding"], "decoding")
    figure = go.Figure()
    labels = [in_figure(f"{c}, {w}") for c, w in zip(rows["condition"], rows["what"], strict=True)]
    ends = error_bars(rows, "total") if {"total_low", "total_high"} <= {*rows} else None
    for part, colour, pattern in (("making", COLOURS["replay"], "/"), ("decoding", COLOURS["rlvr"], "")):
        figure.add_bar(
            error_x=ends if part == "decoding" else None,  # of both, where the bar ends
            y=labels,
            x=rows[part],
            orientation="h",
            name={"making": "making the intervention", "decoding": "decoding"}[part],
            marker={"color": colour, "pattern": {"shape": pattern}},
            hovertemplate="%{y}: %{x:.3f} s<extra>" + part + "</extra>",
        )
    figure.update_xaxes(title_text="seconds a problem", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        barmode="stack", height=190 + 32 * len(rows), showlegend=True, legend_traceorder="normal"
    )
    return finish(figure, "Cost of replay beside plain decoding", subtitle)


def plan_bars(plan: pd.DataFrame, *, subtitle: str) -> go.Figure:
    """Seconds of a card a problem on a log axis, a colour a way of computing; columns pair, what, seconds."""
    rows = _needed(plan, ["pair", "what", "seconds"], "seconds")
    figure = go.Figure()
    for what, colour in zip(dict.fromkeys(rows["what"]), (COLOURS["base"], COLOURS["ratio"]), strict=False):
        part = rows.loc[rows["what"] == what]
        figure.add_scatter(
            y=[in_figure(pair) for pair in part["pair"]],
            x=part["seconds"],
            mode="markers",
            name=in_figure(what),
            marker={
                "color": colour,
                "size": 12,
                "symbol": "circle" if colour == COLOURS["base"] else "diamond",
            },
            hovertemplate="%{y}: %{x:,.0f} s<extra>" + in_figure(what) + "</extra>",
        )
    figure.update_xaxes(title_text="seconds of a card a problem (log)", type="log")
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=190 + 36 * rows["pair"].nunique(), showlegend=True)
    return finish(figure, "Seconds of a card for all cells of a problem", subtitle)


def coverage_bars(coverage: pd.DataFrame, *, subtitle: str) -> go.Figure:
    """Who solves which problems with any of its samples: columns comparison, part, share (percent)."""
    rows = _needed(coverage, ["comparison", "part", "share"], "share")
    figure = go.Figure()
    styles = {
        "both": ("#9aa5b1", ""),
        "only the first": ("#c3b1dc", "/"),  # light, so that black text reads on them
        "only the second": ("#f2d08b", "\\"),
        "neither": ("#e1e4e8", "."),
    }
    for part, (colour, pattern) in styles.items():
        here = rows.loc[rows["part"] == part]
        figure.add_bar(
            y=[in_figure(c) for c in here["comparison"]],
            x=here["share"],
            orientation="h",
            name=part,
            marker={"color": colour, "pattern": {"shape": pattern, "fillmode": "overlay", "solidity": 0.12}},
            text=[f"<b>{share:.1f}</b>" if share >= 2 else "" for share in here["share"]],
            textfont={"color": "#000000"},
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            hovertemplate="%{y}, " + part + ": %{x:.1f}%<extra></extra>",
        )
    figure.update_xaxes(title_text="percent of problems", range=[0, 100])
    figure.update_yaxes(autorange="reversed")
    comparisons = len(set(rows["comparison"]))
    figure.update_layout(
        barmode="stack", height=210 + 46 * comparisons, showlegend=True, legend_traceorder="normal"
    )
    return finish(figure, "Coverage: problems solved by at least one sample", subtitle)


def _needed(table: pd.DataFrame, columns: Sequence[str], value: str) -> pd.DataFrame:
    missing = [column for column in columns if column not in table]
    if missing or not len(table) or not np.isfinite(table[value].to_numpy(float)).any():
        raise InputError(
            f"`table` lacks {', '.join(missing) or f'rows with a finite {value!r}'}; it needs the columns {[*columns]}"
        )
    return table
