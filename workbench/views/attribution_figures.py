"""Figures of attribution: components by layer, and exact against approximate effects of swaps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.names import METRICS
from workbench.views.panels import COLOURS, UNDECIDED, cell_texts, diverging_scale, finish
from workbench.views.tables import NothingToDraw

TITLES = {
    "direct": "Direct contributions to the change of {}",
    "noising": "What base components in the RLVR model do to {}",
    "denoising": "What RLVR components in the base model do to {}",
}
DIRECTIONS = {
    "noising": "base components in the RLVR model",
    "denoising": "RLVR components in the base model",
}
SHORT = {
    "kl": "KL",
    "logit_difference": "the logit difference",
    "log_probability": "the log probability",
    "probability": "the probability",
}
NAMES = {"attribution_patching": "attribution patching", "relp": "RelP"}
STYLES = {"attribution_patching": (COLOURS["base"], "circle"), "relp": (COLOURS["rlvr"], "diamond-open")}
ROOMY = 40
"""Up to so many cells a heat map has room for intervals."""


def component_heatmap(
    summary: pd.DataFrame,
    *,
    metric: str = "kl",
    direction: str = "direct",
    where: str = "all",
    most: float | None = None,
) -> go.Figure:
    """Mean contribution (``direct``) or effect of a swap by layer and component: a column a head, and one for MLPs.

    ``summary`` is `Attribution.summary`. Embedding, norm scale and unembedding stand in the caption. Cells whose interval holds
    0 are grey. ``most`` ends the colours (see `largest`), so that figures can share them; by default this figure's largest.

    Raises:
        InputError: an unknown direction.
        NothingToDraw: no such rows.
    """
    if direction not in TITLES:
        raise InputError(
            f"`direction` is {direction!r}; expected one of {', '.join(TITLES)}: plot(direction='direct')"
        )
    key = {"metric": metric, "direction": direction, "where": where}
    rows = summary.loc[(summary[[*key]] == pd.Series(key)).all(axis=1)]
    if not len(rows):
        raise NothingToDraw(f"`summary` has no rows with {key}; ask `attribute` for them")
    blocks = rows.loc[rows["kind"].isin(["head", "mlp"])]
    layers, heads = sorted(blocks["layer"].unique()), sorted(set(blocks["head"]) - {-1})
    columns = [*heads, -1]
    cells = blocks.set_index(["layer", "head"])[Interval.names("estimate")]
    cells = cells.reindex(pd.MultiIndex.from_product([layers, columns])).to_numpy(float)
    cells = cells.reshape(len(layers), len(columns), 3)
    times, unit, decimals = _notation(largest(rows) if most is None else most)
    cells = times * cells
    scale = diverging_scale([times * (largest(rows) if most is None else most)])
    grey = (cells[..., 1] <= 0) & (cells[..., 2] >= 0)
    heatmap = go.Heatmap(
        z=np.where(grey, np.nan, cells[..., 0]),
        x=[f"head {head}" for head in heads] + ["MLP"],
        y=[str(layer) for layer in layers],
        customdata=cells,
        hovertemplate="layer %{y}, %{x}<br>%{customdata[0]:.4g} (%{customdata[1]:.4g} – %{customdata[2]:.4g})<extra></extra>",
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
    )
    figure = go.Figure([_undecided(grey, heatmap), heatmap])
    roomy = len(columns) <= 8
    if roomy:
        texts = [
            [_text(cell, decimals, interval=cells[..., 0].size <= ROOMY) for cell in line] for line in cells
        ]
        cells_map = go.Heatmap(heatmap).update(z=np.where(grey, 0.0, cells[..., 0]))
        figure.add_trace(cell_texts(cells_map, texts, scale))
    figure.update_xaxes(type="category", showgrid=False, ticks="")
    figure.update_yaxes(type="category", showgrid=False, ticks="", title_text="decoder layer")
    figure.update_layout(coloraxis=scale, height=230 + (42 if roomy else 24) * len(layers), margin={"t": 128})
    others = rows.loc[~rows["kind"].isin(["head", "mlp", "attention bias", "vision"])]
    further = "; ".join(
        f"{row['component']} {times * row['estimate']:.{decimals}f}" for row in others.to_dict("records")
    )
    place = "" if where == "all" else f", swapped at {where} positions"
    counted = f"mean of {int(rows['problems'].max())} problems, 95% intervals; grey: the interval holds 0"
    lines = [f"{METRICS[metric]}{unit}{place}", counted, *filter(None, [further])]
    return finish(figure, TITLES[direction].format(SHORT[metric]), "<br>".join(lines))


def largest(*summaries: pd.DataFrame, metric: str | None = None) -> float:
    """The largest absolute mean of heads and MLPs in some `Attribution.summary`, of one metric or of all."""
    sizes = [0.0]
    for summary in summaries:
        rows = summary.loc[summary["kind"].isin(["head", "mlp"])]
        rows = rows if metric is None else rows.loc[rows["metric"] == metric]
        sizes.append(float(rows["estimate"].abs().max()) if len(rows) else 0.0)
    return max(sizes) or 1.0


def _notation(most: float) -> tuple[float, str, int]:
    """What numbers up to `most` are multiplied by, what that is called, and how many decimals all of them get."""
    times, unit = (1e3, ", in thousandths") if most < 0.1 else (1.0, "")
    return times, unit, int(np.clip(2 - np.floor(np.log10(times * most)), 0, 4))


def _text(cell: np.ndarray, decimals: int, *, interval: bool) -> str:
    """A cell in the figure's one notation, with its interval below where there is room."""
    estimate, low, high = (
        f"{round(float(value), decimals) + 0.0:.{decimals}f}" for value in cell[:3]
    )  # no "-0"
    if not interval or np.isnan(cell[1:3]).any():
        return "–" if np.isnan(cell[0]) else estimate
    return f"{estimate}<br><span style='font-size:10px'>{low} to {high}</span>"


def _undecided(grey: np.ndarray, like: go.Heatmap) -> go.Heatmap:
    """Grey cells, below the coloured ones."""
    return go.Heatmap(
        z=np.where(grey, 0.0, np.nan),
        x=like.x,
        y=like.y,
        colorscale=[[0, UNDECIDED], [1, UNDECIDED]],
        showscale=False,
        hoverinfo="skip",
        xgap=2,
        ygap=2,
    )


def exact_scatter(
    effects: pd.DataFrame, correlations: pd.DataFrame, *, metric: str = "kl", where: str = "all"
) -> go.Figure:
    """Approximate against exact effect of every swap of every problem, one panel a direction.

    ``effects`` and ``correlations`` are those of an `Attribution`.

    Raises:
        NothingToDraw: no such rows.
    """
    rows = (
        effects.loc[(effects["metric"] == metric) & (effects["where"] == where)] if len(effects) else effects
    )
    names = [name for name in NAMES if name in rows]
    if not len(rows) or not names:
        raise NothingToDraw(
            f"`effects` has no approximate effects of {metric!r} at {where!r}; ask `attribute` for approximations"
        )
    directions = list(dict.fromkeys(rows["direction"]))
    fits = correlations.loc[(correlations["metric"] == metric) & (correlations["where"] == where)]
    titles = []
    for direction in directions:
        swapped = rows.loc[rows["direction"] == direction]
        lines = [_told(row, swapped) for row in fits.loc[fits["direction"] == direction].to_dict("records")]
        titles.append("<br>".join([DIRECTIONS[direction], *(f"<sub>{line}</sub>" for line in lines)]))
    figure = make_subplots(1, len(directions), subplot_titles=titles)
    for column, direction in enumerate(directions, 1):
        part = rows.loc[rows["direction"] == direction]
        for name in names:
            colour, symbol = STYLES[name]
            figure.add_scatter(
                x=part["exact"],
                y=part[name],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 5, "opacity": 0.35},
                name=NAMES[name],
                legendgroup=name,
                showlegend=column == 1,
                customdata=part[["component", "problem"]].to_numpy(),
                hovertemplate="%{customdata[0]}, %{customdata[1]}<br>exact %{x:.3g}, approximate %{y:.3g}<extra></extra>",
                row=1,
                col=column,
            )
        reach = [float(part["exact"].min()), float(part["exact"].max())]
        line = {"color": "#8c959f", "dash": "dot", "width": 1}
        figure.add_scatter(
            x=reach, y=reach, mode="lines", line=line, showlegend=False, hoverinfo="skip", row=1, col=column
        )
    figure.update_xaxes(title_text="exact effect of the swap")
    figure.update_yaxes(title_text="approximation", col=1)
    figure.update_layout(height=540, margin={"t": 170, "b": 110}, legend={"y": -0.2, "yanchor": "top"})
    problems = rows["problem"].nunique()
    subtitle = (
        f"{METRICS[metric]}; every component of {problems} problems; r: Pearson, 95% intervals over problems; "
        "slope: 1 where sizes are right"
    )
    return finish(figure, f"Approximate against exact effects of swaps on {SHORT[metric]}", subtitle)


def _told(row: Mapping[str, Any], swapped: pd.DataFrame) -> str:
    """Correlation and least-squares slope of an approximation on the exact effects: a high r may hide a wrong size."""
    bounds = "" if np.isnan(row["pearson_low"]) else f" [{row['pearson_low']:.2f}, {row['pearson_high']:.2f}]"
    x, y = (swapped[column].to_numpy(float) for column in ("exact", row["approximation"]))
    spread = float(np.square(x - x.mean()).sum())
    slope = f", slope {float((x - x.mean()) @ y) / spread:.2f}" if spread > 0 else ""
    return f"{NAMES[row['approximation']]}: r = {row['pearson']:.2f}{bounds}{slope}"
