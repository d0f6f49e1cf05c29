"""Figures of null models in weights: the shift of RLVR by entropy stratum, beside that of random changes."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.estimates import Interval
from workbench.names import NULLS, SCOPES
from workbench.views.markup import in_figure
from workbench.views.panels import COLOURS, bucket_labels, error_bars, finish, log_axis
from workbench.views.tables import NothingToDraw, kind_name, strata_note

STYLES = {
    "rlvr": (COLOURS["rlvr"], "solid", "circle"),
    "permuted": (COLOURS["null"], "dot", "x"),
    "gaussian": ("#6A3D9A", "dash", "square"),
}
OTHERS = ("#E69F00", "#56B4E9", "#CC79A7", "#8C564B")
"""For further pairs; none is the colour of base, RLVR or replay."""


def null_figures(table: pd.DataFrame) -> dict[str, go.Figure]:
    """All figures of null models, by name."""
    kinds = dict.fromkeys(table["kind"])
    return {f"nulls_{kind}": null_shift(table, kind=str(kind)) for kind in kinds}


def null_shift(table: pd.DataFrame, *, kind: str | None = None, scale: float = 1.0) -> go.Figure:
    """Mean KL by stratum of base entropy, a line for each condition, without the last layer and in the last.

    ``table`` is ``NullShift.table``; ``kind`` is its first (visual, where there are visual tokens); ``scale`` that
    of the random updates.

    Raises:
        NothingToDraw: no such tokens.
    """
    kind = str(table["kind"].iloc[0]) if kind is None else kind
    rows = table.loc[table["kind"] == kind]
    if not np.isfinite(rows["kl"].to_numpy(float)).any():
        raise NothingToDraw(f"`table` has no KL of {kind!r} tokens; it holds {sorted(set(table['kind']))}")
    scopes = list(dict.fromkeys(rows["scope"]))
    figure = make_subplots(
        1,
        len(scopes),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[SCOPES[scope] for scope in scopes],
    )
    spare = iter(OTHERS * len(set(rows["condition"])))
    for name in dict.fromkeys(rows["condition"]):
        colour, dash, symbol = STYLES[name] if name in STYLES else (next(spare), "dashdot", "triangle-up")
        for column, scope in enumerate(scopes, 1):
            part = rows.loc[(rows["condition"] == name) & (rows["scope"] == scope)].sort_values("stratum")
            draws = int(part["draws"].iloc[0])
            figure.add_scatter(
                x=bucket_labels(part),
                y=part["kl"],
                error_y=error_bars(part, "kl"),
                mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 2},
                marker={"color": colour, "symbol": symbol, "size": 9},
                name=in_figure("RLVR" if name == "rlvr" else str(name))
                + f" ({draws} draws)" * (name in ("permuted", "gaussian")),
                legendgroup=str(name),
                showlegend=column == 1,
                customdata=part.loc[:, Interval.names("kl")].to_numpy(float),
                hovertemplate="%{y:.4g} (%{customdata[1]:.4g} – %{customdata[2]:.4g})<extra></extra>",
                row=1,
                col=column,
            )
    figure.update_xaxes(type="category", title_text="base-entropy stratum of the layer")
    figure.update_yaxes(title_text="KL(base‖model), nats", col=1)
    title = figure["layout"]["yaxis"]["title"]["text"]
    log_axis(figure, rows[Interval.names("kl")].to_numpy(float).ravel())
    figure.update_yaxes(title_text="")
    figure.update_yaxes(title_text=f"{title} (log)", col=1)
    figure.update_layout(height=486, showlegend=True, margin={"t": 166}, legend={"y": 1.1})
    names = [in_figure(name) for name in dict.fromkeys(rows["condition"])]
    beside = [name for name in names if name not in STYLES]
    beside += ["random changes of weights"] if {"permuted", "gaussian"} & {*names} else []
    problems, size = int(rows["problems"].max()), "the" if scale == 1 else f"{scale:g} times the"
    return finish(
        figure,
        f"RLVR beside {' and '.join(beside)}, {kind_name(kind)}",
        f"{problems} problems; random updates {size} size of RLVR's; 95% intervals over problems<br>"
        f"{strata_note(table)}",
    )


def change_contrasts(table: pd.DataFrame, *, kind: str | None = None) -> go.Figure:
    """KL in the lowest stratum of entropy over that in the highest, as it is and over each null, a colour for each model.

    ``table`` is ``ChangeNulls.table``; ``kind`` is its first (visual, where there are visual tokens). Below the last layer.

    Raises:
        NothingToDraw: no such tokens.
    """
    kind = str(table["kind"].iloc[0]) if kind is None else kind
    rows = table.loc[(table["kind"] == kind) & (table["scope"] == "without last layer")]
    if rows.empty or not np.isfinite(rows["contrast"].to_numpy(float)).any():
        raise NothingToDraw(
            f"`table` has no contrast of {kind!r} tokens; it holds {sorted(set(table['kind']))}"
        )
    names = {
        null: "raw KL" if null == "none" else f"over {NULLS[null]}" for null in dict.fromkeys(rows["null"])
    }
    figure, spare = go.Figure(), iter(OTHERS * len(set(rows["condition"])))
    conditions = [*dict.fromkeys(rows["condition"])]
    for place, name in enumerate(conditions):
        part = rows.loc[rows["condition"] == name]
        aside = (place - (len(conditions) - 1) / 2) * 0.14
        figure.add_scatter(
            x=[list(names).index(null) + aside for null in part["null"]],
            y=part["contrast"],
            error_y=error_bars(part, "contrast"),
            mode="markers",
            marker={"color": STYLES[name][0] if name in STYLES else next(spare), "size": 10},
            name=in_figure("RLVR" if name == "rlvr" else str(name)),
            customdata=part.loc[:, Interval.names("contrast")].to_numpy(float),
            hovertemplate="%{y:.3g} (%{customdata[1]:.3g} – %{customdata[2]:.3g})<extra></extra>",
        )
    figure.add_hline(y=1, line={"color": COLOURS["null"], "width": 1.5, "dash": "dash"})
    figure.update_xaxes(
        tickvals=[*range(len(names))],
        ticktext=[name.replace(" of the ", " of the<br>") for name in names.values()],
        showgrid=False,
    )
    figure.update_yaxes(title_text="lowest stratum over highest, a factor")
    log_axis(figure, [*rows[Interval.names("contrast")].to_numpy(float).ravel(), 1.0])
    figure.update_layout(height=446, showlegend=True, margin={"t": 132})
    problems = max(rows["problems"])
    return finish(
        figure,
        f"The low-entropy claim against each null, {kind_name(kind)}",
        f"{problems} problems; below the last layer; 95% intervals over problems<br>"
        "above 1: low-entropy cells shift more, beside the null, than high-entropy ones",
    )


def cause_factors(table: pd.DataFrame) -> go.Figure:
    """What each cause does to KL in later layers, as it is and over matched noise; ``table`` is ``Causes.table``."""
    figure = go.Figure()
    for measure, name, colour, aside in (
        ("factor", "KL", COLOURS["rlvr"], -0.12),
        ("over_null", "KL over matched noise", COLOURS["null"], 0.12),
    ):
        figure.add_scatter(
            x=np.arange(len(table)) + aside,
            y=table[measure],
            error_y=error_bars(table, measure),
            mode="markers",
            marker={"color": colour, "size": 10, "symbol": "circle" if measure == "factor" else "diamond"},
            name=name,
            customdata=table.loc[:, Interval.names(measure)].to_numpy(float),
            hovertemplate="%{y:.3g} (%{customdata[1]:.3g} – %{customdata[2]:.3g})<extra></extra>",
        )
    figure.add_hline(y=1, line={"color": COLOURS["null"], "width": 1.5, "dash": "dash"})
    labels = [
        f"{in_figure(str(cause)).replace(' like ', ' like<br>')}<br>{round(change, 2) + 0.0:+.2f} nats"
        for cause, change in zip(table["cause"], table["entropy_there"], strict=True)
    ]
    figure.update_xaxes(tickvals=[*range(len(table))], ticktext=labels, tickangle=0, showgrid=False)
    figure.update_yaxes(title_text="KL, a factor")
    values = table[[*Interval.names("factor"), *Interval.names("over_null")]].to_numpy(float).ravel()
    log_axis(figure, [*values, 1.0])
    figure.update_layout(height=446, showlegend=True, margin={"t": 132})
    return finish(
        figure,
        f"One thing changed at half of the cells, {kind_name(str(table['kind'].iloc[0]))}",
        f"KL with the change over KL without, later layers but the last; {max(table['problems'])} problems<br>"
        "95% intervals over problems; below each: what the change did to the base's lens entropy at its layer",
    )
