"""Figures of readings: what each names rightly by layer, how faithful it is, and the low-entropy claim under each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.views.markup import in_figure
from workbench.views.null_figures import OTHERS
from workbench.views.panels import COLOURS, error_bars, finish
from workbench.views.tables import NothingToDraw, first_kind

STYLES = (
    (COLOURS["base"], "circle"),
    (OTHERS[0], "square"),
    (COLOURS["replay"], "diamond"),
    (OTHERS[2], "triangle-up"),
)
"""A colour and a marker for each reading, in order."""
PANELS = {"base": "base", "rlvr": "RLVR", "change": "RLVR − base"}


def naming_curves(names: pd.DataFrame, *, words: int = 1) -> go.Figure:
    """Cells that a reading names rightly, beyond chance, by layer: base, RLVR, and the change; ``names`` is of `cell_names`.

    Raises:
        NothingToDraw: no rows of so many words.
    """
    rows = names.loc[names["words"] == words]
    if not np.isfinite(rows["beyond"].to_numpy(float)).any():
        raise NothingToDraw(f"`names` has no cells for {words} words; it holds {sorted(set(names['words']))}")
    titles = [PANELS[model] for model in PANELS]
    figure = _by_layer(rows, "beyond", "model", tuple(PANELS), titles)
    figure.update_yaxes(title_text="right minus chance, share of cells", tickformat=".0%", col=1)
    figure.update_yaxes(tickformat=".0%")
    says = "its first word" if words == 1 else f"one of {words} words"
    caption = f"{int(rows['cells'].max()):,} visual tokens that show something, {int(rows['problems'].max())} problems; right: "
    caption += f"{says} names part of it;<br>chance: as often it names what other cells show; 95% intervals over problems"
    return finish(figure, "Visual tokens that each reading names rightly", caption)


def fidelity_by_reading(fidelity: pd.DataFrame) -> go.Figure:
    """KL of each model's own prediction from what a reading says by layer; ``fidelity`` is of `reading_fidelity`."""
    models = tuple(dict.fromkeys(fidelity["model"]))
    figure = _by_layer(fidelity, "kl", "model", models, [PANELS[str(model)] for model in models])
    figure.update_yaxes(title_text="KL(final‖reading), nats", rangemode="tozero", col=1)
    caption = "every position of the problems, on which nothing was fitted; 95% intervals over problems"
    return finish(figure, "How far each reading is from the model's own prediction", caption)


def claim_forest(claims: Mapping[str, Sequence[Any]]) -> go.Figure:
    """Factors, lowest over highest stratum, of claims by what they are about; a line for each reading."""
    figure = go.Figure()
    names = [reading for readings in claims.values() for reading, _ in readings]
    order = list(dict.fromkeys(names))[::-1]
    for (what, readings), shift, symbol, colour in zip(
        claims.items(), (0.12, -0.12), ("circle", "diamond"), (COLOURS["base"], COLOURS["rlvr"]), strict=False
    ):
        middle, low, high = (
            np.array([getattr(claim.interval, end) for _, claim in readings])
            for end in ("estimate", "low", "high")
        )
        figure.add_scatter(
            x=middle,
            y=[order.index(reading) + shift for reading, _ in readings],
            error_x={"array": high - middle, "arrayminus": middle - low, "thickness": 1.5, "width": 3},
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 10},
            name=in_figure(what),
            hovertemplate="%{x:.3g}<extra></extra>",
        )
    figure.add_vline(x=1, line={"color": COLOURS["null"], "dash": "dot"})  # pyright: ignore[reportArgumentType]
    figure.update_yaxes(
        tickvals=list(range(len(order))),
        ticktext=[in_figure(n) for n in order],
        range=[-0.6, len(order) - 0.4],
    )
    figure.update_xaxes(
        title_text="shift of the lowest fifth over that of the highest (a factor)",
        type="log",
        tickformat=".2~g",
    )
    figure.update_layout(height=240 + 50 * len(order), showlegend=True)
    problems = max(claim.problems for readings in claims.values() for _, claim in readings)
    caption = "visual tokens, without the last layer; right of 1: low-entropy cells shift more; "
    caption += f"{problems} problems at most; 95% intervals"
    return finish(figure, "The low-entropy claim under each reading", caption)


def neighbours_by_entropy(table: pd.DataFrame, *, kind: str | None = None, reading: str) -> go.Figure:
    """Share of nearest states that changed by stratum of base entropy, and what noise changes; ``table`` is of `neighbour_shift`.

    Raises:
        NothingToDraw: no cells of the kind below the last layer.
    """
    kind = kind or first_kind(table)
    rows = table.loc[(table["scope"] == "without last layer") & (table["kind"] == kind)].sort_values(
        "stratum"
    )
    if not len(rows):
        raise NothingToDraw(f"`table` has no {kind} cells below the last layer")
    strata = rows["stratum"] + 1
    figure = go.Figure()
    for measure, name, colour, dash in (
        ("changed", "RLVR", COLOURS["rlvr"], "solid"),
        ("changed_null", "matched noise", COLOURS["null"], "dot"),
    ):
        if np.isfinite(rows[measure].to_numpy(float)).any():
            figure.add_scatter(**_curve(rows, strata, measure, name, colour), line_dash=dash)
    figure.update_xaxes(title_text="stratum of base entropy, lowest first", tickvals=strata)
    figure.update_yaxes(title_text="nearest states that changed", tickformat=".0%", rangemode="tozero")
    figure.update_layout(height=420, showlegend=True)
    caption = f"{kind} tokens, without the last layer, {in_figure(reading)}; share of the base's nearest text states that are "
    caption += f"not RLVR's<br>{int(rows['problems'].max())} problems, 95% intervals"
    return finish(figure, f"Nearest text states by base entropy, {kind} tokens", caption)


def neighbours_by_layer(table: pd.DataFrame, *, kind: str | None = None, reading: str) -> go.Figure:
    """Share of nearest states that changed by layer, in the lowest and the highest stratum; ``table`` is of `neighbour_shift`.

    Raises:
        NothingToDraw: no cells of the kind.
    """
    kind = kind or first_kind(table)
    rows = table.loc[(table["scope"] == "layer") & (table["kind"] == kind)]
    if not len(rows):
        raise NothingToDraw(f"`table` has no {kind} cells")
    figure = go.Figure()
    for stratum, name, (colour, symbol) in zip(
        (0, rows["stratum"].max()), ("lowest entropy", "highest entropy"), STYLES, strict=False
    ):
        part = rows.loc[rows["stratum"] == stratum].sort_values("layer")
        figure.add_scatter(**_curve(part, part["layer"], "changed", name, colour, symbol))
    figure.update_xaxes(title_text="decoder layer")
    figure.update_yaxes(title_text="nearest states that changed", tickformat=".0%", rangemode="tozero")
    figure.update_layout(height=420, showlegend=True)
    caption = f"{kind} tokens, {in_figure(reading)}; {int(rows['problems'].max())} problems, 95% intervals"
    return finish(figure, f"Nearest text states by layer, {kind} tokens", caption)


def neighbour_fidelity(fidelity: pd.DataFrame) -> go.Figure:
    """Cosine of the nearest state by layer, and text that is recognised as itself; of `tracing.fidelity.neighbour_fidelity`."""
    rows = fidelity.loc[fidelity["model"] == "base"]
    figure = go.Figure()
    for (kind, measure, name), (colour, symbol) in zip(
        (
            ("text", "own", "text recognised as itself"),
            ("text", "cosine", "cosine, text"),
            ("visual", "cosine", "cosine, visual"),
        ),
        STYLES,
        strict=False,
    ):
        part = rows.loc[rows["kind"] == kind].sort_values("layer")
        if len(part):
            figure.add_scatter(**_curve(part, part["layer"], measure, name, colour, symbol))
    figure.update_xaxes(title_text="decoder layer")
    figure.update_yaxes(title_text="share of positions, or cosine", rangemode="tozero")
    figure.update_layout(height=420, showlegend=True)
    caption = "base; share of text positions whose nearest state is of the token that stands there; 95% intervals over problems"
    return finish(figure, "How near the nearest states are", caption)


def neighbour_figures(table: pd.DataFrame, reading: str) -> dict[str, go.Figure]:
    """Both figures of every kind in the table, by name."""
    kinds = dict.fromkeys(table["kind"])
    ways = {"entropy": neighbours_by_entropy, "layer": neighbours_by_layer}
    return {
        f"neighbours_by_{by}_{kind}": draw(table, kind=kind, reading=reading)
        for kind in kinds
        for by, draw in ways.items()
    }


def _by_layer(
    rows: pd.DataFrame, measure: str, by: str, values: Sequence[str], titles: Sequence[str]
) -> go.Figure:
    """Panels side by side, a line for each reading."""
    figure = make_subplots(1, len(values), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    readings = dict.fromkeys(rows["reading"])
    for place, reading in enumerate(readings):
        colour, symbol = STYLES[place % len(STYLES)]
        for column, value in enumerate(values, 1):
            part = rows.loc[(rows["reading"] == reading) & (rows[by] == value)].sort_values("layer")
            figure.add_scatter(
                **_curve(
                    part,
                    part["layer"] + 0.08 * (place - (len(readings) - 1) / 2),
                    measure,
                    in_figure(str(reading)),
                    colour,
                    symbol,
                ),
                legendgroup=str(reading),
                showlegend=column == 1,
                row=1,
                col=column,
            )
    layers = sorted(set(rows["layer"]))
    step = max(1, len(layers) // 8)
    figure.update_xaxes(
        title_text="decoder layer", tickvals=layers[::step], ticktext=[str(x) for x in layers[::step]]
    )
    figure.add_hline(y=0, line={"color": COLOURS["null"], "dash": "dot"})  # pyright: ignore[reportArgumentType]
    return figure.update_layout(height=440, showlegend=True, margin={"t": 150}, legend={"y": 1.12})


def _curve(
    rows: pd.DataFrame, x: Any, measure: str, name: str, colour: str, symbol: str = "circle"
) -> dict[str, Any]:
    """A measure and its intervals along something, as one trace."""
    return {
        "x": x,
        "y": rows[measure],
        "error_y": error_bars(rows, measure),
        "mode": "lines+markers",
        "line_color": colour,
        "line_width": 2,
        "marker": {"color": colour, "symbol": symbol, "size": 8},
        "name": name,
        "hovertemplate": "%{y:.3g}<extra></extra>",
    }
