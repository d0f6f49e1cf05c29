"""Figures of the perturbation study: log perplexity against drift, and the slopes of one on the other."""

from contextlib import suppress

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.estimates import Interval
from workbench.names import ALL, CLEAN, FITS, OUTCOMES, SCOPES, STRATA
from workbench.selection import LOW, low_note
from workbench.views.markup import in_figure
from workbench.views.panels import COLOURS, band, finish
from workbench.views.tables import NothingToDraw, outcome_of, slope_text

LOOKS = {"correct": (COLOURS["base"], "circle"), "incorrect": (COLOURS["ratio"], "diamond")}
NAMES = {"correct": "right response", "incorrect": "wrong response", "margin": "wrong − right"}
BINS = 16
"""Parts that the draws are shown in, by their drift."""
SHADES = {"low": (COLOURS["visual"], "circle"), "high": (COLOURS["text"], "square")}
_LOW_NOTE = f"{low_note(LOW)}; high: the others"


def perturbation_figures(table: pd.DataFrame, slopes: pd.DataFrame) -> dict[str, go.Figure]:
    """All figures of a perturbation study, by name; what its draws do not determine is left out."""
    figures = {}
    with suppress(NothingToDraw):
        figures["perplexity_against_drift"] = perplexity_against_drift(table, slopes)
    with suppress(NothingToDraw):
        figures["perplexity_slopes"] = slope_forest(slopes)
    return figures


def perplexity_against_drift(
    table: pd.DataFrame,
    slopes: pd.DataFrame,
    *,
    kind: str = ALL,
    scope: str = "without last layer",
) -> go.Figure:
    """Log perplexity of both responses against drift at low- and at high-entropy cells, each problem's mean taken out.

    Points are medians of equally many draws by drift, with quartiles; lines are the slopes within problems, bands their
    intervals. The tables are those of `Perturbation`.

    Raises:
        NothingToDraw: no draws of that kind and scope.
    """
    inside = (table["scope"] == scope) & ((kind == ALL) | table["kind"].isin([kind, CLEAN]))
    rows = table.loc[inside].dropna(subset=["drift_low", "drift_high"])
    if rows.empty or not (rows["kind"] != CLEAN).any():
        raise NothingToDraw(f"`table` has no draws of kind {kind!r} and scope {scope!r}")
    lines = {
        (stratum, outcome): _slope(
            slopes, kind=kind, scope=scope, stratum=stratum, outcome=outcome, method="within"
        )
        for stratum in STRATA
        for outcome in LOOKS
    }
    titles = [
        "<br>".join(
            [
                f"{stratum}-entropy cells",
                *(f"<sub>{NAMES[o]}: {slope_text(lines[stratum, o])} nats per nat</sub>" for o in LOOKS),
            ]
        )
        for stratum in STRATA
    ]
    figure = make_subplots(1, 2, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.06)
    for column, stratum in enumerate(STRATA, 1):
        x = _within(rows[f"drift_{stratum}"].to_numpy(float), rows)
        for outcome, (colour, symbol) in LOOKS.items():
            figure.add_trace(_medians(x, _within(outcome_of(rows, outcome), rows), colour, symbol), 1, column)
        reach = np.quantile(x, [0.005, 0.995])
        for outcome, (colour, _) in LOOKS.items():
            _line(figure, column, reach, lines[stratum, outcome], outcome, colour)
        figure.update_xaxes(title_text="drift − problem's mean, nats", row=1, col=column)
    figure.update_yaxes(title_text="log perplexity − problem's mean, nats", row=1, col=1)
    figure.update_layout(height=520, showlegend=True)
    problems, what = rows["problem"].nunique(), "all disturbances" if kind == ALL else _kind(kind)
    caption = (
        f"{what}, {SCOPES.get(scope, scope)}; {problems} problems, {len(rows):,} inputs, in {BINS} parts by drift<br>points: "
        f"medians, with quartiles; lines: slopes within problems, 95% intervals<br>{_LOW_NOTE}"
    )
    return _finished(figure, "Perplexity against drift", caption).update_layout(margin={"t": 190}, height=595)


def slope_forest(
    slopes: pd.DataFrame, *, scope: str = "without last layer", method: str = "within"
) -> go.Figure:
    """Slopes of log perplexity on drift with intervals, by kind of disturbance, stratum and outcome.

    Filled: one stratum's drift alone; open: low and high together. ``slopes`` is ``Perturbation.slopes``.

    Raises:
        NothingToDraw: no slopes by that method in that scope.
    """
    rows = slopes.loc[(slopes["scope"] == scope) & (slopes["method"] == method)]
    if not np.isfinite(rows["slope"].to_numpy(float)).any():
        raise NothingToDraw(f"`slopes` has none by method {method!r} in scope {scope!r}")
    kinds = list(dict.fromkeys(rows["kind"]))[::-1]
    figure = make_subplots(
        1,
        3,
        shared_yaxes=True,
        subplot_titles=[NAMES[outcome] for outcome in OUTCOMES],
        horizontal_spacing=0.04,
    )
    for column, outcome in enumerate(OUTCOMES, 1):
        place = 0.3
        for fit in FITS:
            for stratum in STRATA:
                colour, symbol = SHADES[stratum]
                part = rows.loc[
                    (rows["outcome"] == outcome) & (rows["stratum"] == stratum) & (rows["fit"] == fit)
                ]
                part = part.set_index("kind").reindex(kinds)
                slope, low, high = (part[name].to_numpy(float) for name in Interval.names("slope"))
                figure.add_scatter(
                    x=slope,
                    y=np.arange(len(kinds)) + place,
                    error_x={"array": high - slope, "arrayminus": slope - low, "thickness": 1.5, "width": 3},
                    mode="markers",
                    marker={"color": colour, "symbol": symbol + "-open" * (fit == "joint"), "size": 8},
                    name=f"{stratum}-entropy drift" + ", the other held equal" * (fit == "joint"),
                    legendgroup=f"{stratum} {fit}",
                    showlegend=column == 1,
                    hovertemplate="%{x:.3g}<extra></extra>",
                    row=1,
                    col=column,
                )
                place -= 0.2
        figure.add_vline(x=0, line={"color": COLOURS["null"], "dash": "dot"}, row=1, col=column)  # pyright: ignore[reportArgumentType]
    labels = [_kind(str(kind)) for kind in kinds]
    figure.update_yaxes(tickvals=list(range(len(kinds))), ticktext=labels, range=[-0.5, len(kinds) - 0.5])
    figure.update_xaxes(title_text="nats per token per nat of drift", nticks=6)
    figure.update_layout(height=220 + 74 * len(kinds), showlegend=True)
    caption = (
        f"{method}, {SCOPES.get(scope, scope)}; {rows['problems'].max()} problems, "
        f"{rows['rows'].max():,} inputs; 95% intervals over problems<br>{_LOW_NOTE}"
    )
    return _finished(figure, "Slopes of log perplexity on drift", caption)


def _medians(x: np.ndarray, y: np.ndarray, colour: str, symbol: str) -> go.Scatter:
    """Medians of y with its quartiles, at the median x of BINS equally full parts of x."""
    parts = [part for part in np.array_split(np.argsort(x, kind="stable"), BINS) if len(part)]
    low, middle, high = (np.array([np.quantile(y[part], q) for part in parts]) for q in (0.25, 0.5, 0.75))
    return go.Scatter(
        x=[np.median(x[part]) for part in parts],
        y=middle,
        error_y={"array": high - middle, "arrayminus": middle - low, "thickness": 1.2, "width": 0},
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 7},
        showlegend=False,
        hovertemplate="%{x:.3g}: %{y:.3g}<extra></extra>",
    )


def _line(figure: go.Figure, column: int, x: np.ndarray, found: Interval, outcome: str, colour: str) -> None:
    """A slope through the origin with its band."""
    if np.isfinite(found.low):
        at = [x[0], 0, x[1]]
        between = band(at, [found.high * a for a in at], [found.low * a for a in at], colour, 0.25)
        figure.add_trace(between, 1, column)
    figure.add_scatter(
        x=x,
        y=found.estimate * x,
        mode="lines",
        line={"color": colour, "width": 3, "dash": "solid" if outcome == "correct" else "dash"},
        name=NAMES[outcome],
        legendgroup=outcome,
        showlegend=column == 1,
        row=1,
        col=column,
    )


def _finished(figure: go.Figure, title: str, caption: str) -> go.Figure:
    """The shared look, with the legend below: panel titles stand where it would be."""
    figure = finish(figure, title, caption)
    legend = {"y": -90 / (figure.layout.height - 190), "yanchor": "top"}  # pyright: ignore[reportAttributeAccessIssue]
    return figure.update_layout(margin={"b": 130, "t": 100}, legend=legend)


def _kind(kind: str) -> str:
    """A kind of disturbance for readers: what a table calls ``patches`` are cells of the picture that were blanked."""
    return {ALL: "all kinds", "patches": "blanked cells"}.get(kind, in_figure(kind))


def _within(values: np.ndarray, rows: pd.DataFrame) -> np.ndarray:
    return values - pd.Series(values).groupby(rows["problem"].to_numpy()).transform("mean").to_numpy()


def _slope(slopes: pd.DataFrame, **where: str) -> Interval:
    rows = slopes.loc[slopes["fit"] == "alone"]
    for name, value in where.items():
        rows = rows.loc[rows[name] == value]
    return Interval.in_row(rows.iloc[0].to_dict(), "slope")
