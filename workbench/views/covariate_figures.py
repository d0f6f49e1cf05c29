"""Figures of covariates: the shift by stratum of every quantity, simple beside partial correlations, lens and tuned lens."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.estimates import Interval
from workbench.names import QUANTITIES, SCOPES
from workbench.selection import Strata, low_note
from workbench.views.markup import in_figure
from workbench.views.panels import COLOURS, curves, error_bars, finish, log_axis
from workbench.views.tables import NothingToDraw, bucket, kind_name

PARTS = {"simple": (COLOURS["base"], "circle"), "partial": (COLOURS["rlvr"], "diamond-open")}
TITLES = {"kl": "KL", "kl_null": "KL of matched noise", "ratio": "KL over matched noise"}
MEASURES = {"kl": ("KL(base‖RLVR)", "rlvr", "solid"), "kl_null": ("matched noise", "null", "dot")}
_COLUMNS = 4


def strata_panels(
    strata: pd.DataFrame, *, kind: str | None = None, scope: str = "without last layer"
) -> go.Figure:
    """Mean KL by stratum of every quantity, a panel each, beside its matched-noise null.

    ``strata`` holds rows of `stratified_by` of several quantities; ``kind`` is its first.

    Raises:
        NothingToDraw: no such rows.
    """
    kind = str(strata["kind"].iloc[0]) if kind is None and len(strata) else kind
    rows = strata.loc[(strata["kind"] == kind) & (strata["scope"] == scope)]
    if not np.isfinite(rows["kl"].to_numpy(float)).any():
        raise NothingToDraw(f"`strata` has no KL of {kind!r} tokens in scope {scope!r}")
    names = list(dict.fromkeys(rows["quantity"]))
    lines = -(-len(names) // _COLUMNS)
    titles = [in_figure(QUANTITIES.get(str(name), str(name))) for name in names]
    figure = make_subplots(
        lines,
        _COLUMNS,
        shared_yaxes=True,
        subplot_titles=titles,
        horizontal_spacing=0.03,
        vertical_spacing=0.36 / lines,
    )
    for place, name in enumerate(names):
        part = rows.loc[rows["quantity"] == name].sort_values("stratum")
        for measure, (title, colour, dash) in MEASURES.items():
            figure.add_scatter(
                x=_labels(part),
                y=part[measure],
                error_y=error_bars(part, measure),
                mode="lines+markers",
                line={"color": COLOURS[colour], "dash": dash, "width": 2},
                marker={
                    "color": COLOURS[colour],
                    "symbol": "x" if measure == "kl_null" else "circle",
                    "size": 7,
                },
                name=title,
                legendgroup=measure,
                showlegend=place == 0,
                customdata=part.loc[:, Interval.names(measure)].to_numpy(float),
                hovertemplate="%{y:.4g} (%{customdata[1]:.4g} – %{customdata[2]:.4g})<extra></extra>",
                row=place // _COLUMNS + 1,
                col=place % _COLUMNS + 1,
            )
    figure.update_xaxes(type="category", tickangle=0, tickfont={"size": 10})
    figure.update_yaxes(title_text="nats")
    log_axis(figure, rows[[*Interval.names("kl"), *Interval.names("kl_null")]].to_numpy(float).ravel())
    figure.update_yaxes(title_text="")
    figure.update_yaxes(title_text="nats (log)", col=1)
    figure.update_layout(height=150 + 270 * lines, showlegend=True)
    problems = f"{int(rows['problems'].max())} problems"
    low = low_note(Strata(int(strata["stratum"].to_numpy().max()) + 1, of="the quantity"))
    caption = f"{kind_name(str(kind))}, {SCOPES.get(scope, scope)}; {problems}; 95% intervals<br>{low}"
    return _finished(figure, "Shift by stratum of each quantity", caption)


def correlation_forest(
    correlations: pd.DataFrame,
    *,
    kind: str | None = None,
    outcomes: Sequence[str] | None = None,
    scope: str = "without last layer",
) -> go.Figure:
    """Simple beside partial rank correlations of what shifts with every quantity; a panel for each outcome.

    ``correlations`` is what `rank_correlations` returned; ``kind`` is its first, ``outcomes`` all.

    Raises:
        NothingToDraw: no such rows.
    """
    kind = str(correlations["kind"].iloc[0]) if kind is None and len(correlations) else kind
    rows = correlations.loc[(correlations["kind"] == kind) & (correlations["scope"] == scope)]
    panels = [*dict.fromkeys(rows["outcome"])] if outcomes is None else [*outcomes]
    rows = rows.loc[rows["outcome"].isin(panels)]
    if not np.isfinite(rows["simple"].to_numpy(float)).any():
        raise NothingToDraw(f"`correlations` has none of {panels} for {kind!r} tokens in scope {scope!r}")
    names = list(dict.fromkeys(rows["quantity"]))[::-1]
    titles = [_title(outcome) for outcome in panels]
    figure = make_subplots(1, len(panels), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03)
    for column, outcome in enumerate(panels, 1):
        part = rows.loc[rows["outcome"] == outcome].set_index("quantity").reindex(names)
        for place, (what, (colour, symbol)) in zip((0.14, -0.14), PARTS.items(), strict=True):
            middle, low, high = (part[name].to_numpy(float) for name in Interval.names(what))
            figure.add_scatter(
                x=middle,
                y=np.arange(len(names)) + place,
                error_x={"array": high - middle, "arrayminus": middle - low, "thickness": 1.5, "width": 3},
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 9},
                name=f"{what}{', all others held equal' * (what == 'partial')}",
                legendgroup=what,
                showlegend=column == 1,
                hovertemplate="%{x:.3f}<extra></extra>",
                row=1,
                col=column,
            )
        figure.add_vline(x=0, line={"color": COLOURS["null"], "dash": "dot"}, row=1, col=column)  # pyright: ignore[reportArgumentType]
    labels = [in_figure(QUANTITIES.get(str(name), str(name))) for name in names]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=labels, range=[-0.5, len(names) - 0.5])
    figure.update_xaxes(title_text="rank correlation", nticks=4, tickangle=0, matches="x")
    figure.update_layout(height=230 + 46 * len(names), showlegend=True)
    where = f"{kind_name(str(kind))}, {SCOPES.get(scope, scope)}, layer held fixed"
    caption = f"{where}; {int(rows['problems'].max())} problems; 95% intervals over problems"
    return _finished(figure, "Entropy, or what goes with it?", caption, 13 if len(panels) <= _COLUMNS else 10)


def fidelity_curves(fidelity: pd.DataFrame, *, problems: int) -> go.Figure:
    """KL of the model's own prediction from plain and translated lens by layer; ``fidelity`` is that of `lens_fidelity`."""
    parts = {name: fidelity.loc[fidelity["lens"] == name] for name in ("plain", "translated")}
    lines = {
        "plain lens": (parts["plain"], "kl", "base"),
        "translated": (parts["translated"], "kl", "replay"),
    }
    figure = curves(lines, len(set(fidelity["layer"])))
    figure.update_yaxes(title_text="KL(final‖lens), nats", rangemode="tozero")
    caption = f"base model, every position of {problems} problems that nothing was fitted on; 95% intervals"
    return finish(figure, "How far the lens is from the model's own prediction", caption)


def _labels(part: pd.DataFrame) -> list[str]:
    """The value of each stratum where it has one only, else which it is."""
    if part["value_low"].tolist() == part["value_high"].tolist():
        return [f"{value:.3g}" for value in part["value_low"]]
    return [bucket(stratum, part["stratum"]).replace(" ", "<br>") for stratum in part["stratum"]]


def _title(outcome: str) -> str:
    """What shifts, and below it in which pair."""
    one, minus, other = outcome.partition(" − ")
    if minus:
        return f"{in_figure(TITLES.get(one, one))}: RLVR −<br>{in_figure(other.partition(', ')[2] or other)}"
    measure, comma, pair = outcome.partition(", ")
    return in_figure(TITLES.get(measure, measure)) + f"<br>{in_figure(pair)}" * bool(comma)


def _finished(figure: go.Figure, title: str, caption: str, size: int = 13) -> go.Figure:
    """The shared look, with the legend below: panel titles stand where it would be."""
    figure = finish(figure, title, caption)
    legend = {"y": -80 / (figure.layout.height - 180), "yanchor": "top"}  # pyright: ignore[reportAttributeAccessIssue]
    figure.update_annotations(font_size=size)
    return figure.update_layout(margin={"b": 110, "t": 125}, legend=legend)
