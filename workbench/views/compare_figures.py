"""Figures of several pairs side by side: a number of each and what they show together, layers by relative depth, shares."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from workbench.estimates import Interval
from workbench.names import MARKS, SCOPES
from workbench.views.markup import COLOURS, in_figure
from workbench.views.panels import band, bucket_labels, finish, log_axis, measure_names
from workbench.views.tables import NothingToDraw, kind_name, number

MARKERS = {
    "yes": (COLOURS["replay"], "circle"),
    "no": (COLOURS["rlvr"], "x"),
    "open": (COLOURS["null"], "circle-open"),
}
"""Of a verdict's mark: colour and symbol."""
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
DASHES, SYMBOLS = ("solid", "dash", "dot", "dashdot"), ("circle", "diamond", "square", "triangle-up")
BANDED = 4
"""Pairs beyond which bands would hide each other; intervals are then read by pointing."""
POOLED = "together"


def forest(rows: pd.DataFrame, pooled: Mapping[str, Any], *, bound: float) -> go.Figure:
    """One number of every pair with its interval, and a diamond for what they show together below.

    Args:
        rows: of one number, columns pair, estimate with its ends, verdict, scale and unpooled (`claims_by_pair`).
        pooled: the row of that number in `pooled_claims`.
        bound: of the claim, a dotted line.

    Raises:
        NothingToDraw: no finite number.
    """
    known = rows.loc[np.isfinite(rows["estimate"].to_numpy(float))]
    if known.empty:
        raise NothingToDraw("`rows` holds no finite number")
    log = bool((known["scale"] == "factor").all() and (known["estimate"] > 0).all() and bound > 0)
    figure, labels = go.Figure(), [in_figure(pair) for pair in known["pair"]]
    for mark, (colour, symbol) in MARKERS.items():
        part = known.loc[[MARKS.get(verdict, "open") == mark for verdict in known["verdict"]]]
        if len(part):
            texts = [
                in_figure(f"{row['verdict']}{'; not pooled: ' * bool(row['unpooled'])}{row['unpooled']}")
                for row in part.to_dict("records")
            ]
            marker = {"color": colour, "symbol": symbol, "size": 10, "line": {"width": 1.6, "color": colour}}
            figure.add_trace(
                _points(part, [in_figure(pair) for pair in part["pair"]], texts, marker, log=log)
            )
    together = pd.DataFrame([dict(pooled)])
    if isfinite(float(pooled["estimate"])):
        marker = {"color": COLOURS["base"], "symbol": "diamond", "size": 13}
        text = f"{pooled['verdict']}; I² {pooled['i2']:.0%}; {pooled['pooled']} pairs"
        labels.append(f"<b>{POOLED}</b>")
        figure.add_trace(_points(together, labels[-1:], [text], marker, log=log))
    figure.add_vline(x=bound, line={"color": COLOURS["null"], "dash": "dot"})
    figure.update_yaxes(
        categoryorder="array", categoryarray=labels[::-1], range=[-0.6, len(labels) - 0.4], showgrid=False
    )
    figure.update_xaxes(type="log" if log else "linear", title_text="a factor (log)" if log else None)
    if log:
        _log_ticks(figure, [bound, *_ends(known), *_ends(together)])
    figure.update_layout(height=190 + 26 * len(labels), showlegend=False)
    caption = f"filled: holds, cross: does not, hollow: undecided; dotted: the bound {bound:g}; 95% intervals"
    return finish(figure, in_figure(str(pooled["measured"])), caption)


def by_depth(depths: pd.DataFrame, *, kind: str, measure: str = "kl") -> go.Figure:
    """A number by relative depth (layers passed over all), a line a pair; a larger mark is the last layer, the model's output.

    ``depths``: columns pair, kind, depth, and the measure with its ends.

    Raises:
        NothingToDraw: no such tokens.
    """
    rows = depths.loc[(depths["kind"] == kind) & np.isfinite(depths[measure].to_numpy(float))]
    if rows.empty:
        raise NothingToDraw(f"`depths` holds no finite {measure!r} of {kind!r} tokens")
    figure, pairs = go.Figure(), list(dict.fromkeys(rows["pair"]))
    for pair, (colour, dash, symbol) in zip(pairs, _styles(), strict=False):
        part = rows.loc[rows["pair"] == pair].sort_values("depth")
        known = part.dropna(subset=Interval.names(measure))
        if len(pairs) <= BANDED and len(known) > 1:
            between = band(known["depth"], known[f"{measure}_low"], known[f"{measure}_high"], colour, 0.14)
            figure.add_trace(between.update(legendgroup=pair))
        figure.add_scatter(
            x=part["depth"],
            y=part[measure],
            mode="lines+markers",
            name=in_figure(pair),
            legendgroup=pair,
            line={"color": colour, "dash": dash, "width": 2},
            marker={
                "color": colour,
                "symbol": symbol,
                "size": [12 if depth == 1 else 6 for depth in part["depth"]],
            },
            customdata=part.loc[:, [*Interval.names(measure), "layer"]].to_numpy(float),
            hovertemplate="layer %{customdata[3]:.0f}: %{y:.4g} (%{customdata[1]:.4g} – %{customdata[2]:.4g})"
            f"<extra>{in_figure(pair)}</extra>",
        )
    figure.update_xaxes(title_text="relative depth: layers passed over all layers", range=[0, 1.04])
    name, title = measure_names(measure)
    figure.update_yaxes(title_text=title)
    if (rows[measure] > 0).any():
        log_axis(figure, rows[measure].tolist())
    figure.update_layout(height=480, showlegend=True)
    ends = "; bands: 95% intervals" if len(pairs) <= BANDED else "; point at a mark for its 95% interval"
    return finish(figure, f"{name} by relative depth, {kind_name(kind)}", f"large mark: the last layer{ends}")


def same_total(shares: pd.DataFrame, *, kind: str, scope: str) -> go.Figure:
    """The share of the total KL in each entropy stratum, one bar a pair, all of the same length.

    ``shares``: columns pair, kind, scope, stratum, and share with its ends; every pair with the same strata.

    Raises:
        NothingToDraw: no such tokens.
    """
    rows = shares.loc[(shares["kind"] == kind) & (shares["scope"] == scope)]
    rows = rows.loc[np.isfinite(rows["share"].to_numpy(float))]
    if rows.empty:
        raise NothingToDraw(f"`shares` holds no share of {kind!r} tokens, {scope}")
    rows = rows.assign(part=rows["share"] / rows.groupby("pair")["share"].transform("sum"))
    figure, strata = go.Figure(), sorted(set(rows["stratum"]))
    names = [label.replace("<br>", " ") for label in bucket_labels(pd.DataFrame({"stratum": strata}))]
    pairs = [in_figure(pair) for pair in dict.fromkeys(rows["pair"])]
    for place, (stratum, name) in enumerate(zip(strata, names, strict=True)):
        part = rows.loc[rows["stratum"] == stratum]
        level = place / max(1, len(strata) - 1)
        (colour,) = sample_colorscale("Cividis", level, colortype="tuple")
        figure.add_bar(
            y=[in_figure(pair) for pair in part["pair"]],
            x=100 * part["part"],
            orientation="h",
            name=name,
            marker={"color": "rgb({:.0f},{:.0f},{:.0f})".format(*(255 * value for value in colour))},
            text=[f"{value:.0%}" if value >= 0.06 else "" for value in part["part"]],
            textfont={"color": "#000000" if np.dot(colour, (0.299, 0.587, 0.114)) > 0.45 else "#ffffff"},
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            customdata=100 * part.loc[:, ["share_low", "share_high"]].to_numpy(float),
            hovertemplate="%{y}: %{x:.1f}% (%{customdata[0]:.1f} – %{customdata[1]:.1f})<extra>"
            + name
            + "</extra>",
        )
    figure.update_xaxes(title_text="percent of the pair's total KL(base‖RLVR)", range=[0, 100])
    figure.update_yaxes(categoryorder="array", categoryarray=pairs[::-1], showgrid=False)
    figure.update_layout(
        barmode="stack", height=210 + 34 * len(pairs), showlegend=True, legend_traceorder="normal"
    )
    where = SCOPES.get(scope, scope)
    title = f"Several RLVR models, same total: where the KL lies, {kind_name(kind)}, {where}"
    return finish(figure, title, "strata of base entropy, from the lowest to the highest")


def _points(
    rows: pd.DataFrame, labels: Sequence[str], texts: Sequence[str], marker: dict[str, Any], *, log: bool
) -> go.Scatter:
    """Estimates with their intervals; an end that a log axis lacks is drawn a thousandth of the estimate."""
    middle, low, high = (rows[column].to_numpy(float) for column in Interval.names("estimate"))
    below = np.maximum(low, middle / 1000) if log else low
    return go.Scatter(
        x=middle,
        y=labels,
        error_x={
            "array": np.nan_to_num(high - middle),
            "arrayminus": np.nan_to_num(middle - below),
            "thickness": 1.6,
            "width": 4,
        },
        mode="markers",
        marker=marker,
        customdata=[
            [f"{number(e)} [{number(a)}, {number(b)}]", text]
            for e, a, b, text in zip(middle, low, high, texts, strict=True)
        ],
        hovertemplate="%{y}: %{customdata[0]}<br>%{customdata[1]}<extra></extra>",
    )


def _styles() -> Iterator[tuple[str, str, str]]:
    """Colour, dash and symbol of one line after another; 28 differ."""
    for dash, symbol in cycle(zip(DASHES, SYMBOLS, strict=True)):
        for colour in LINES:
            yield colour, dash, symbol


def _ends(rows: pd.DataFrame) -> list[float]:
    return [float(v) for v in rows[Interval.names("estimate")].to_numpy(float).ravel() if np.isfinite(v)]


def _log_ticks(figure: go.Figure, values: Sequence[float]) -> None:
    """Round ticks at 1, 2 and 5 over every positive value; fewer where they reach far."""
    logs = np.log10([value for value in values if value > 0])
    low, high = float(logs.min()) - 0.06, float(logs.max()) + 0.06
    digits = (
        (1,) if high - low > 2 else (1, 2, 5) if high - low > 0.7 else (1, 1.2, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    )
    ticks = [d * 10.0**e for e in range(int(np.floor(low)), int(np.ceil(high)) + 1) for d in digits]
    ticks = [tick for tick in ticks if low <= np.log10(tick) <= high]
    figure.update_xaxes(range=[low, high], tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
