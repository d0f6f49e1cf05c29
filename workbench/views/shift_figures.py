"""Figures: tidy table in, plotly Figure out, one look for all of them (``panels``).

Every function takes a DataFrame and returns one panel; put panels side by side where you show them. Intervals
are drawn as bands or error bars, units stand on every axis, the number of problems and cells in the caption,
and the last decoder layer apart from the others, because its lens is the model's own output and behaves
unlike the rest. The title is ``layout.title.text``, the caption ``layout.title.subtitle.text``.

A table that lacks a column raises InputError, one without a finite value NothingToDraw (which is one too):
never an empty picture.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.names import NULLS
from workbench.views.panels import (
    COLOURS,
    FRACTIONS,
    LOGARITHMIC,
    MEASURES,
    bucket_labels,
    cell_text,
    cell_texts,
    colour_scale,
    curves,
    error_bars,
    finish,
    layer_label,
    log_axis,
    measure_names,
    token_text,
)
from workbench.views.tables import (
    SOURCES,
    NothingToDraw,
    bucket,
    caption,
    drawable,
    first_kind,
    kind_name,
    last_layer,
    rows_where,
    strata_note,
    strata_rows,
)

KINDS = ("visual", "text", "special", "response")
SCOPES = ("without last layer", "last layer")
ROOMY = 16
"""Up to so many layers a heatmap cell has room for its interval."""
GRID = 24
"""So many positions fit side by side in a grid of top predictions."""


def shift_heatmap(
    table: pd.DataFrame,
    *,
    kind: str | None = None,
    measure: str = "kl",
    depth: int | None = None,
) -> go.Figure:
    """One measure by layer and base-entropy stratum, each cell with its interval (on hover in deep models).

    ``table`` is ``ShiftTable.table``; ``depth`` the number of decoder layers, whose last gets its own strip
    on top (default: the highest layer in the table). KLs and their ratio are coloured on a log scale.
    """
    name, unit = measure_names(measure)
    kind = kind or first_kind(table)
    columns = [*Interval.names(measure), "cells", "entropy_low", "entropy_high"]
    rows = strata_rows(table, [measure], scope="layer", kind=kind)
    layers, strata = sorted(rows["layer"].unique()), sorted(rows["stratum"].unique())
    last = last_layer(layers, depth)
    values = rows[measure].to_numpy(float)
    log = measure in LOGARITHMIC and bool((values > 0).any())
    scale = colour_scale(measure, values, log=log)
    strips = [[last] if last in layers else [], [layer for layer in layers if layer != last]]
    strips = [strip for strip in strips if strip]
    figure = make_subplots(
        rows=len(strips),
        shared_xaxes=True,
        row_heights=[len(strip) for strip in strips],
        vertical_spacing=min(0.05, 0.3 / len(layers)),
    )
    for row, strip in enumerate(strips, start=1):
        index = pd.MultiIndex.from_product([strip, strata])
        cells = rows.set_index(["layer", "stratum"])[columns].reindex(index).to_numpy(float)
        cells = cells.reshape(len(strip), len(strata), len(columns))
        z = cells[..., 0]
        heatmap = go.Heatmap(
            z=np.log10(np.where(z <= 0, 10 ** scale["cmin"], z)) if log else z,
            x=[bucket(stratum, strata).replace(" ", "<br>") for stratum in strata],
            y=[layer_label(layer, last) for layer in strip],
            customdata=cells,
            hovertemplate="layer %{y}, stratum %{x}<br>"
            f"{name} %{{customdata[0]:.4g}} (%{{customdata[1]:.4g}} – %{{customdata[2]:.4g}})<br>"
            "base entropy %{customdata[4]:.3g} – %{customdata[5]:.3g} nats<br>"
            "%{customdata[3]:,.0f} cells<extra></extra>",
            coloraxis="coloraxis",
            xgap=2,
            ygap=2,
        )
        texts = [[cell_text(cell, interval=len(layers) <= ROOMY) for cell in line] for line in cells]
        figure.add_trace(heatmap, row=row, col=1)
        figure.add_trace(cell_texts(heatmap, texts, scale), row=row, col=1)
    figure.update_xaxes(type="category", showgrid=False, ticks="")
    figure.update_yaxes(type="category", showgrid=False, ticks="")
    figure.update_xaxes(title_text="base-entropy stratum of the layer", row=len(strips))
    figure.update_yaxes(title_text="decoder layer", row=len(strips))
    figure.update_layout(
        coloraxis=scale,
        height=216 + len(layers) * (40 if len(layers) <= ROOMY else 24),
        margin={"t": 132},
    )
    place = f"{name} by layer and entropy, {kind_name(kind)}"
    return finish(figure, place, f"{unit}; {caption(rows, each=['layer'])}<br>{strata_note(table)}")


def shift_bars(
    table: pd.DataFrame,
    *,
    kind: str = "visual",
    scope: str = "without last layer",
    depth: int | None = None,
    null: str = NULLS["noise"],
) -> go.Figure:
    """Mean KL per base-entropy stratum beside that of the null.

    ``table`` is ``ShiftTable.table``; ``scope`` one of its pooled scopes, or ``"last layer"``; ``null`` is ``ShiftTable.null``.
    """
    rows = strata_rows(table, ["kl", "kl_null"], scope=scope, kind=kind, depth=depth)
    figure = go.Figure()
    for measure, style, name, hatch in (
        ("kl", "rlvr", "observed", ""),
        ("kl_null", "null", null, "/"),
    ):
        if np.isfinite(rows[measure].to_numpy(float)).any():
            figure.add_bar(
                x=bucket_labels(rows),
                y=rows[measure],
                error_y=error_bars(rows, measure),
                name=name,
                marker={
                    "color": COLOURS[style],
                    "pattern": {"shape": hatch, "fillmode": "replace"},
                    "line": {"color": COLOURS[style], "width": 1.5},
                },
                hovertemplate=f"{name}: %{{y:.4g}} nats<extra></extra>",
            )
    figure.update_xaxes(title_text="base-entropy stratum", showgrid=False, type="category")
    figure.update_yaxes(title_text=MEASURES["kl"][1], rangemode="tozero")
    figure.update_layout(
        height=416, margin={"t": 132}, barmode="group", bargap=0.3, bargroupgap=0.08, showlegend=True
    )
    return finish(
        figure,
        f"KL and {null}, {kind_name(kind)}, {scope}",
        f"{caption(rows)}<br>{strata_note(table)}",
    )


def shift_ratio(
    table: pd.DataFrame,
    *,
    kind: str = "visual",
    scope: str = "without last layer",
    depth: int | None = None,
    null: str = NULLS["noise"],
) -> go.Figure:
    """Observed KL over the null's per base-entropy stratum; 1 means no more than it; ``null`` is ``ShiftTable.null``."""
    rows = strata_rows(table, ["ratio"], scope=scope, kind=kind, depth=depth)
    figure = go.Figure()
    figure.add_scatter(
        x=bucket_labels(rows),
        y=rows["ratio"],
        error_y=error_bars(rows, "ratio"),
        mode="markers",
        marker={"color": COLOURS["rlvr"], "size": 10, "symbol": "diamond"},
        name=f"observed / {null}",
        hovertemplate="%{y:.3g}<extra></extra>",
    )
    figure.add_hline(y=1, line={"color": COLOURS["null"], "width": 1.5, "dash": "dash"})
    figure.update_xaxes(title_text="base-entropy stratum", showgrid=False, type="category")
    figure.update_yaxes(title_text=MEASURES["ratio"][1])
    log_axis(figure, [*rows[Interval.names("ratio")].to_numpy(float).flat, 1.0])
    figure.update_layout(height=416, margin={"t": 132}, showlegend=True)
    return finish(
        figure,
        f"KL over {null}, {kind_name(kind)}, {scope}",
        f"{caption(rows)}<br>{strata_note(table)}",
    )


def layer_curves(
    agreement: pd.DataFrame, measure: str = "kl", *, kinds: Sequence[str] = KINDS, depth: int | None = None
) -> go.Figure:
    """One measure by layer, one line per token kind, with bands, from ``tracing.agreement.agreement_by_layer(trace)``."""
    name, unit = measure_names(measure)
    rows = rows_where(agreement, "agreement", ["layer", "kind", *Interval.names(measure)], kind=list(kinds))
    rows = drawable(rows, "agreement", measure)
    names = [kind for kind in kinds if kind in set(rows["kind"])]
    figure = curves({kind: (rows.loc[rows["kind"] == kind], measure, kind) for kind in names}, depth)
    figure.update_yaxes(title_text=unit)
    if measure in FRACTIONS:
        figure.update_yaxes(range=[0, 1.04], tickformat=".0%")
    elif (
        measure in LOGARITHMIC
        and 0 < np.nanmin(values := rows[measure].to_numpy(float)) < np.nanmax(values) / 20
    ):
        log_axis(figure, rows[Interval.names(measure)].to_numpy(float).flat)
    elif measure in LOGARITHMIC:
        figure.update_yaxes(rangemode="tozero")
    return finish(figure, f"{name} by layer", caption(rows, each=["layer", "kind"]))


def entropy_curves(agreement: pd.DataFrame, kind: str = "visual", *, depth: int | None = None) -> go.Figure:
    """Mean lens entropy (nats) of the base and of the RLVR model by layer, with bands, for one token kind."""
    measures = {"base": "entropy_base", "RLVR": "entropy_rlvr"}
    needed = [
        "layer",
        "kind",
        *(column for measure in measures.values() for column in Interval.names(measure)),
    ]
    rows = drawable(rows_where(agreement, "agreement", needed, kind=kind), "agreement", "entropy_base")
    figure = curves({name: (rows, m, name.lower()) for name, m in measures.items()}, depth)
    figure.update_yaxes(title_text="lens entropy, nats", rangemode="tozero")
    return finish(figure, f"Entropy by layer, {kind_name(kind)}", caption(rows, each=["layer", "kind"]))


def correlation_curves(
    correlations: pd.DataFrame, kind: str = "visual", *, depth: int | None = None
) -> go.Figure:
    """Spearman correlation of base entropy with KL, with the null's KL, and with their ratio, by layer.

    Below 0: low-entropy cells shift most. ``correlations`` is ``ShiftTable.correlations``.
    """
    names = {"kl": ("observed KL", "rlvr"), "kl_null": ("matched noise", "null"), "ratio": ("ratio", "ratio")}
    needed = ["scope", "layer", "kind", "measure", *Interval.names("rho")]
    rows = rows_where(correlations, "correlations", needed, scope="layer", kind=kind, measure=list(names))
    drawable(rows, "correlations", "rho")
    rows = rows.loc[rows["rho"].notna()]
    lines = {
        name: (rows.loc[rows["measure"] == measure], "rho", style)
        for measure, (name, style) in names.items()
        if measure in set(rows["measure"])
    }
    figure = curves(lines, depth)
    figure.add_hline(y=0, line={"color": COLOURS["null"], "width": 1})
    figure.update_yaxes(title_text="Spearman rank correlation", range=[-1.05, 1.05])
    return finish(figure, f"Entropy against KL, {kind_name(kind)}", caption(rows, each=["layer", "measure"]))


def prediction_grid(predictions: pd.DataFrame, *, depth: int | None = None) -> go.Figure:
    """Top tokens of both models by layer and position, "base → RLVR" where they differ, coloured by KL.

    ``predictions`` is ``top_prediction_shift(trace, prompt=..., positions=...)`` of one prompt; of more than
    GRID positions the last are shown. The width is fixed, so that tokens stay legible: let it scroll.
    """
    needed = ["layer", "position", "token", "base_top1", "rlvr_top1", "kl"]
    rows = drawable(rows_where(predictions, "predictions", needed), "predictions", "kl")
    if rows.duplicated(["layer", "position"]).any():
        raise InputError(f"`predictions` joins several prompts: pass one, {SOURCES['predictions']}")
    places = sorted(rows["position"].unique().tolist())
    rows = rows.loc[rows["position"].isin(places[-GRID:])]
    grid = {column: rows.pivot(index="layer", columns="position", values=column) for column in needed[2:]}
    layers, positions = grid["kl"].index, grid["kl"].columns
    last = last_layer(layers, depth)
    kl = grid["kl"].to_numpy(float)
    scale = colour_scale("kl", kl.flat, log=False)
    pairs = np.dstack([grid["base_top1"].map(token_text), grid["rlvr_top1"].map(token_text)])
    heatmap = go.Heatmap(
        z=kl,
        x=[f"{p}<br>{token_text(t)}" for p, t in zip(positions, grid["token"].iloc[0], strict=True)],
        y=[layer_label(layer, last) for layer in layers],
        customdata=pairs,
        hovertemplate="layer %{y}, position %{x}<br>base: %{customdata[0]}<br>RLVR: %{customdata[1]}<br>"
        "KL %{z:.4g} nats<extra></extra>",
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
    )
    texts = [[base if base == rlvr else f"{base}<br>→ {rlvr}" for base, rlvr in line] for line in pairs]
    figure = go.Figure([heatmap, cell_texts(heatmap, texts, scale)])
    figure.update_xaxes(
        type="category", showgrid=False, ticks="", tickangle=0, title_text="position and its token"
    )
    figure.update_yaxes(type="category", showgrid=False, ticks="", title_text="decoder layer")
    figure.update_layout(
        coloraxis=scale,
        height=230 + 42 * len(layers),
        width=190 + 92 * len(positions),
    )
    return finish(
        figure,
        f"Top predictions at positions {positions[0]} to {positions[-1]}",
        "Top token of both models, or base → RLVR where they differ; colour: KL(base‖RLVR), nats",
    )


def followed_curves(frame: pd.DataFrame, *, depth: int | None = None) -> go.Figure:
    """One token's exact probability by layer in both models, at one position.

    ``frame`` holds rows of ``Followed.to_dataframe()`` of one position and token; ``Followed.plot`` picks them.
    """
    lines = {}
    for name, model in (("Base", "base"), ("RLVR", "rlvr")):
        p = rows_where(frame, "followed", ["layer", "token", "position", "problem", f"p_{model}"])[
            f"p_{model}"
        ]
        lines[name] = frame[["layer"]].assign(p=p, p_low=np.nan, p_high=np.nan), "p", model
    figure = curves(lines, depth)
    figure.update_yaxes(title_text="probability", rangemode="tozero")
    token, position, problem = (frame[name].iloc[0] for name in ("token", "position", "problem"))
    return finish(
        figure,
        f"Probability of {token_text(token, 30)}",
        f"as next token at position {position} of {token_text(problem, 60)}",
    )


def study_figures(
    table: pd.DataFrame, correlations: pd.DataFrame, agreement: pd.DataFrame, *, depth: int | None = None
) -> dict[str, go.Figure]:
    """Every figure of a study by file name. What they cannot show (no null was drawn, say) is left out."""
    for frame, name in ((table, "table"), (correlations, "correlations"), (agreement, "agreement")):
        rows_where(frame, name, ["layer", "kind"])
    if "problems" not in correlations:
        problems = agreement.pivot_table(index="kind", values="problems", aggfunc="max")
        correlations = correlations.join(problems, on="kind")
    drawers: dict[str, Callable[[], go.Figure]] = {
        f"{measure}_by_layer": partial(layer_curves, agreement, measure, depth=depth)
        for measure in ("kl", "top1_agreement", "topk_overlap")
    }
    for kind in KINDS:
        drawers[f"entropy_by_layer_{kind}"] = partial(entropy_curves, agreement, kind, depth=depth)
        drawers[f"correlation_by_layer_{kind}"] = partial(correlation_curves, correlations, kind, depth=depth)
        for measure in ("kl", "ratio"):
            heatmap = partial(shift_heatmap, table, kind=kind, measure=measure, depth=depth)
            drawers[f"{measure}_by_layer_and_entropy_{kind}"] = heatmap
        for scope in SCOPES:
            end = f"{kind}_{scope.replace(' ', '_')}"
            drawers[f"kl_by_entropy_{end}"] = partial(shift_bars, table, kind=kind, scope=scope, depth=depth)
            drawers[f"ratio_by_entropy_{end}"] = partial(
                shift_ratio, table, kind=kind, scope=scope, depth=depth
            )
    figures = {}
    for name, draw in drawers.items():
        with suppress(NothingToDraw):
            figures[name] = draw()
    return figures
