"""Figures of weight changes by layer, and of whether they tell where outputs change."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import InputError
from workbench.views.emergence_figures import LINES, MEASURES, SYMBOLS
from workbench.views.markup import in_figure
from workbench.views.panels import cell_texts, colour_scale, error_bars, finish
from workbench.views.tables import NothingToDraw, number


def weight_heatmap(table: pd.DataFrame, *, measure: str = "relative") -> go.Figure:
    """One measure of the weight changes by part and decoder layer; ``table`` is ``weight_table(pair)``.

    Raises:
        InputError: an unknown measure.
        NothingToDraw: no matrix in a decoder layer.
    """
    if measure not in MEASURES:
        raise InputError(f"`measure` is {measure!r}; expected one of {', '.join(MEASURES)}")
    rows = table.loc[(table["layer"] >= 0) & (table["columns"] > 1)]
    if not np.isfinite(rows[measure].to_numpy(float)).any():
        raise NothingToDraw(f"`table` has no {measure!r} of a matrix in a decoder layer")
    parts = [*dict.fromkeys(rows["part"])]
    wide = rows.pivot(index="part", columns="layer", values=measure).reindex(parts)
    scale = colour_scale(measure, wide.to_numpy(float).ravel(), log=False)
    heatmap = go.Heatmap(
        z=wide.to_numpy(float),
        x=[str(layer) for layer in wide.columns],
        y=[in_figure(part) for part in parts],
        coloraxis="coloraxis",
        hovertemplate="layer %{x}, %{y}: %{z:.4g}<extra></extra>",
        xgap=2,
        ygap=2,
    )
    figure = go.Figure(heatmap)
    figure.add_trace(
        cell_texts(heatmap, [[number(v, 2) for v in line] for line in wide.to_numpy(float)], scale)
    )
    figure.update_xaxes(type="category", title_text="decoder layer", showgrid=False, ticks="")
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, ticks="")
    figure.update_layout(coloraxis=scale, height=190 + 36 * len(parts))
    name, unit = MEASURES[measure]
    return finish(figure, f"{name} by module", f"{unit}; {len(rows)} matrices of the decoder")


def prediction_scatter(outputs: pd.DataFrame, *, subtitle: str = "") -> go.Figure:
    """Relative change of every linear module's output over that of its weight, own and total."""
    rows = outputs.loc[np.isfinite(outputs["own"]) & np.isfinite(outputs["relative"])]
    if rows.empty:
        raise NothingToDraw("`outputs` has no linear module whose weight is known")
    figure = make_subplots(
        1, 2, horizontal_spacing=0.1, subplot_titles=["its own weight's doing", "in the running models"]
    )
    for column, change in enumerate(("own", "total"), 1):
        for index, (place, part) in enumerate(
            (("decoder", rows.loc[rows["layer"] >= 0]), ("elsewhere", rows.loc[rows["layer"] < 0]))
        ):
            figure.add_scatter(
                x=part["relative"],
                y=part[change],
                error_y=error_bars(part, change),
                mode="markers",
                name=place,
                legendgroup=place,
                showlegend=column == 1,
                marker={"color": LINES[index], "symbol": SYMBOLS[index], "size": 8},
                text=[in_figure(name) for name in part["module"]],
                hovertemplate="%{text}<br>weight %{x:.3g}, output %{y:.3g}<extra></extra>",
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text="relative weight change", row=1, col=column)
    figure.update_yaxes(title_text="relative change of output", col=1)
    figure.update_layout(height=470, showlegend=True, margin={"t": 150}, legend={"y": 1.1})
    problems = int(rows["problems"].max())
    caption = subtitle or f"{len(rows)} linear modules, {problems} problems; 95% intervals over problems"
    return finish(figure, "Weight changes and what they do to outputs", caption)
