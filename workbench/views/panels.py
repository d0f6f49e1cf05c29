"""The parts that figures are made of: colours, template, axes, bands, colour scales.

Okabe-Ito colours, told apart by dash, marker or hatching too, so that they survive colour blindness and a
black-and-white printer; Cividis for magnitudes, which is even in grey.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.colors import sample_colorscale

from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.views.markup import COLOURS, in_figure
from workbench.views.tables import bucket, last_layer, number, visible

DASHES = {
    "rlvr": "dash",
    "null": "dot",
    "ratio": "dashdot",
    "text": "dash",
    "special": "dot",
    "response": "longdash",
    "all": "dashdot",
}
MARKERS = {
    "rlvr": "diamond",
    "null": "x",
    "ratio": "triangle-up",
    "text": "square",
    "special": "diamond",
    "response": "cross",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MEASURES = {  # measure -> (name, axis title with unit)
    "kl": ("KL", "KL(base‖RLVR), nats"),
    "kl_null": ("Matched-noise KL", "KL(base‖base + noise), nats"),
    "ratio": ("KL over noise", "observed KL / null KL"),
    "median_kl": ("Median KL", "median KL(base‖RLVR), nats"),
    "total_kl": ("Total KL", "sum of KL(base‖RLVR), nats"),
    "share": ("Share of the total KL", "share of total KL"),
    "entropy_change": ("Entropy change", "entropy RLVR − base, nats"),
    "top1_agreement": ("Top-1 agreement", "positions with the same top token"),
    "topk_overlap": ("Top-k overlap", "shared part of the top-k sets"),
    "cosine": ("Residual cosine", "cosine of the two residuals"),
}
UNDECIDED = "#e1e4e8"
"""Of cells whose interval holds 0."""
NIGHT = "#14181d"
"""The paper of dark figures."""
LOGARITHMIC = ("kl", "kl_null", "ratio", "median_kl", "total_kl")
FRACTIONS = ("share", "top1_agreement", "topk_overlap")


TOP = 116
"""Height of what stands above a panel, in pixels."""


def template(*, dark: bool = False) -> go.layout.Template:
    """The shared look, for white or for dark paper."""
    ink, grid, paper = ("#e6e8eb", "#3a4048", "rgba(0,0,0,0)") if dark else ("#1f2328", "#e1e4e8", "#ffffff")
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "tickcolor": grid,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "automargin": True,
        "title": {"standoff": 10},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": ink},
            "paper_bgcolor": paper,
            "plot_bgcolor": "rgba(0,0,0,0)",
            "title": {"x": 0, "xref": "paper", "yref": "container", "y": 0.97, "yanchor": "top"},
            "margin": {"l": 70, "r": 24, "t": TOP, "b": 60},
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        }
    )


CAPTION = 116
"""Characters of a caption's line that a figure of usual width has room for."""
LINE = 16
"""Height of a caption's line, in pixels."""
SOFT = "<br >"
"""A line's end that only the width asks for: plotly breaks there, a page that breaks its lines itself puts a space."""


def measure_names(measure: str) -> tuple[str, str]:
    """Name and axis title of a measure; InputError for an unknown one."""
    if measure not in MEASURES:
        raise InputError(f"`measure` is {measure!r}, not one of {list(MEASURES)}")
    return MEASURES[measure]


def layer_label(layer: int, last: int) -> str:
    """ "6", "7 (last)"."""
    return f"{layer} (last)" if layer == last else str(layer)


def bucket_labels(rows: pd.DataFrame) -> list[str]:
    """The axis labels of the rows' strata, on two lines."""
    return [bucket(stratum, rows["stratum"]).replace(" ", "<br>") for stratum in rows["stratum"]]


def cell_text(cell: np.ndarray, *, interval: bool) -> str:
    """What a heatmap cell says: the estimate and, if there is room and there is one, its interval below."""
    estimate, low, high = cell[:3]
    if not interval or np.isnan(low) or np.isnan(high):
        return number(estimate)
    between = " to " if low < 0 else "–"
    return f"{number(estimate)}<br><span style='font-size:10px'>{number(low, 2)}{between}{number(high, 2)}</span>"


def token_text(token: str, width: int = 11) -> str:
    """A token as plotly text: shortened, and escaped because plotly reads tags and entities."""
    token = visible(token)
    return in_figure(token if len(token) <= width else token[: width - 1] + "…")


def cell_texts(heatmap: go.Heatmap, texts: Sequence[Sequence[str]], scale: Mapping) -> go.Scatter:
    """The texts of a heatmap's cells as a trace of their own, black or white, whichever reads better.

    Plotly's own cell text is grey on grey in the middle of a scale.
    """
    z, columns, rows = (np.asarray(heatmap[axis]) for axis in ("z", "x", "y"))
    levels = (z.astype(float) - scale["cmin"]) / (scale["cmax"] - scale["cmin"])
    x, y, text, ink = [], [], [], []
    for row, line in enumerate(texts):
        for column, cell in enumerate(line):
            if np.isfinite(levels[row, column]):
                level = float(np.clip(levels[row, column], 0, 1))
                (colour,) = sample_colorscale(scale["colorscale"], level, colortype="tuple")
                x.append(columns[column])
                y.append(rows[row])
                text.append(cell)
                ink.append("#000000" if np.dot(colour, (0.299, 0.587, 0.114)) > 0.45 else "#ffffff")
    return go.Scatter(
        x=x,
        y=y,
        text=text,
        mode="text",
        textfont={"size": 11, "color": ink},
        hoverinfo="skip",
        showlegend=False,
    )


def colour_scale(measure: str, values: Iterable[float], *, log: bool) -> dict:
    """A colour axis for the values, on a log scale if asked; the ratio's diverges from 1."""
    usable = np.array([value for value in values if np.isfinite(value) and (value > 0 or not log)])
    low, high = float(usable.min()), float(usable.max())
    if log:
        low, high = math.log10(low), math.log10(high)
    if log and measure == "ratio":
        high = max(abs(low), abs(high))
        low = -high
    elif not log and low >= 0:
        low = 0.0
    if high - low < 1e-6:  # one value only: still a scale with room around it
        low, high = low - 0.5, high + 0.5
    ticks = np.linspace(low, high, 5)
    return {
        "colorscale": "PuOr" if measure == "ratio" else "Cividis",
        "cmin": low,
        "cmax": high,
        "colorbar": {
            "thickness": 10,
            "outlinewidth": 0,
            "xpad": 4,
            "tickfont": {"size": 11},
            "tickvals": ticks,
            "ticktext": [number(10**tick if log else tick) for tick in ticks],
        },
    }


def diverging_scale(values: ArrayLike) -> dict:
    """A colour axis that diverges from 0, as far to either side."""
    most = float(np.nanmax(np.abs(np.asarray(values, float)))) or 1.0
    ticks = np.linspace(-most, most, 5)
    bar = {"thickness": 10, "outlinewidth": 0, "tickvals": ticks, "ticktext": [number(t) for t in ticks]}
    return {"colorscale": "PuOr", "cmin": -most, "cmax": most, "colorbar": bar}


def error_bars(rows: pd.DataFrame, measure: str) -> dict:
    """Plotly's ``error_y`` for a measure and its interval; nothing is drawn where that is NaN."""
    middle, low, high = (rows[column].to_numpy(float) for column in Interval.names(measure))
    return {
        "array": high - middle,
        "arrayminus": middle - low,
        "symmetric": False,
        "thickness": 1.5,
        "width": 4,
    }


def band(
    x: Iterable[float], low: Iterable[float], high: Iterable[float], colour: str, opacity: float = 0.15
) -> go.Scatter:
    """What lies between two lines, as a trace without an outline, a legend entry or a label; ``colour`` is like ``#0072b2``."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    along = [*x]
    return go.Scatter(
        x=[*along, *along[::-1]],
        y=[*high, *[*low][::-1]],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},{opacity:g})",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )


def curves(lines: Mapping[str, tuple[pd.DataFrame, str, str]], depth: int | None) -> go.Figure:
    """Lines with bands by layer; the last layer stands apart, as points with error bars.

    ``lines``: name -> (rows, measure, style), where the style is a key of ``COLOURS``.
    """
    layers = sorted({int(layer) for rows, *_ in lines.values() for layer in rows["layer"]})
    last = last_layer(layers, depth)
    figure = go.Figure()
    for name, (part, measure, style) in lines.items():
        part = part.sort_values("layer")
        below, final = part.loc[part["layer"] != last], part.loc[part["layer"] == last]
        colour, dash, symbol = COLOURS[style], DASHES.get(style, "solid"), MARKERS.get(style, "circle")
        complete = below.dropna(subset=Interval.names(measure))
        between = band(
            complete["layer"], complete[f"{measure}_low"], complete[f"{measure}_high"], colour, 0.18
        )
        figure.add_trace(between.update(legendgroup=name))
        for place, mode in ((below, "lines+markers"), (final, "markers")):
            figure.add_scatter(
                x=place["layer"],
                y=place[measure],
                error_y=error_bars(place, measure) if place is final else None,
                mode=mode,
                name=name,
                legendgroup=name,
                showlegend=len(place) > 0 and (place is below or below.empty),
                line={"color": colour, "dash": dash, "width": 2},
                marker={"color": colour, "symbol": symbol, "size": 8},
                customdata=place.loc[:, Interval.names(measure)].to_numpy(float),
                hovertemplate=f"{name}: %{{y:.4g}} (%{{customdata[1]:.4g}} – %{{customdata[2]:.4g}})"
                "<extra></extra>",
            )
    step = 1 if len(layers) <= 12 else 4
    ticks = [x for x in layers if x != last and (step == 1 or (x % step == 0 and last - x >= step / 2))]
    ticks += [last] if last in layers else []
    labels = [f"{tick}<br>last" if tick == last else str(tick) for tick in ticks]
    axis = {"tickvals": ticks, "ticktext": labels, "range": [layers[0] - 0.5, layers[-1] + 0.5]}
    figure.update_xaxes(title_text="decoder layer", showgrid=False, **axis)
    if last in layers:
        shade = {"fillcolor": COLOURS["null"], "opacity": 0.14, "line_width": 0, "layer": "below"}
        figure.add_vrect(x0=last - 0.5, x1=last + 0.5, **shade)
    return figure.update_layout(height=400, showlegend=True, hovermode="x unified")


def log_axis(figure: go.Figure, values: Iterable[float]) -> None:
    """Make y logarithmic, reaching over every positive value given, with round numbers as ticks."""
    logs = np.log10([value for value in values if value > 0])
    low, high = float(logs.min()), float(logs.max())
    pad = max(0.08 * (high - low), 0.05)
    low, high = low - pad, high + pad
    if high - low > 1:
        digits = (1,) if high - low > 3 else (1, 2, 5)
        ticks = np.array([d * 10.0**e for e in range(math.floor(low), math.ceil(high)) for d in digits])
    else:  # less than a factor of ten: equal steps, the largest round ones that give four ticks or more
        steps = (d * 10.0**e for e in range(math.ceil(high), math.floor(low) - 3, -1) for d in (5, 2, 1))
        step = next(step for step in steps if (10**high - 10**low) / step >= 4)
        ticks = step * np.arange(math.ceil(10**low / step), math.floor(10**high / step) + 1)
    ticks = ticks[(ticks >= 10**low) & (ticks <= 10**high)]
    title = f"{figure['layout']['yaxis']['title']['text']} (log)"
    texts = [f"{tick:.3g}" for tick in ticks]
    figure.update_yaxes(type="log", range=[low, high], tickvals=ticks, ticktext=texts, title_text=title)


def finish(figure: go.Figure, title: str, subtitle: str) -> go.Figure:
    """Give a panel the shared look, its title and its caption, lines of which are broken where they would run out of it."""
    lines = [broken(line) for line in subtitle.split("<br>")]
    caption = "<br>".join(SOFT.join(parts) for parts in lines)
    text = {"text": title, "subtitle": {"text": caption, "font": {"size": 12}}}
    more = LINE * sum(len(parts) - 1 for parts in lines)
    if more:
        layout: Any = figure["layout"]
        top = layout["margin"]["t"] or TOP
        figure.update_layout(height=(layout["height"] or 450) + more, margin={"t": top + more})
    return figure.update_layout(template=template(), title=text)


def broken(line: str) -> list[str]:
    """A caption's line in lines of at most `CAPTION` characters, broken behind a semicolon, else a comma, else a word."""
    lines = []
    while len(line) > CAPTION:
        ends = [line.rfind(mark, 0, CAPTION) + len(mark) for mark in ("; ", ", ", " ")]
        end = next((end for end in ends if end > CAPTION // 2), CAPTION)
        lines.append(line[:end].rstrip())
        line = line[end:]
    return [*lines, line]
