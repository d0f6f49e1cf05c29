"""Figures of a training: what emerges over its checkpoints, and which weights it changed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.selection import ATTRIBUTED, Strata, low_note
from workbench.views.markup import in_figure
from workbench.views.panels import cell_texts, diverging_scale, error_bars, finish
from workbench.views.tables import NothingToDraw, bucket, kind_name, number

LINES = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#8C564B",
    "#D55E00",
    "#56B4E9",
    "#332288",
    "#999933",
    "#882255",
)
BESIDE = "other trainings, by name"
LARGEST = 5
"""Curves of a group that are drawn."""
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
CONTRIBUTIONS = (
    "direct contribution to KL(base‖model) at low-entropy cells, thousandths of a nat<br>"
    + low_note(ATTRIBUTED)
)
MEASURES = {
    "relative": ("Relative weight change", "norm of the change over the norm of the base's weight"),
    "norm": ("Size of the weight change", "norm of the change"),
    "effective_rank": ("Effective rank of the weight change", "exp of the entropy of its singular values"),
}


_NEEDED = (
    *("condition", "step", "measure", "kind", "scope", "stratum"),
    *("estimate", "estimate_low", "estimate_high", "problems"),
)
"""Columns of ``Emergence.table`` that its curves are drawn from."""


def emergence_curves(table: pd.DataFrame, *, kind: str | None = None, scope: str | None = None) -> go.Figure:
    """A panel for answers, shift by entropy stratum, shift over noise, contrast, and each further group, over RL's steps.

    Of a group the five curves that end farthest from 0. What has no step, such as controls, stands to the right of the last
    one. ``table`` is ``Emergence.table``.

    Raises:
        NothingToDraw: no such tokens or layers.
    """
    if missing := [column for column in _NEEDED if column not in table]:
        raise InputError(f"`table` lacks {missing}; give `follow_training(...).table`")
    whole = table.loc[(table["kind"] == "") & (table["scope"] == "")]
    answers = [*dict.fromkeys(whole["measure"])]
    most = max(
        (m for m in answers if m != "greedy"), key=lambda m: int(m.removeprefix("Pass@")), default="greedy"
    )
    groups = [*dict.fromkeys(table.loc[table["kind"] == "", "scope"])][1:]
    kinds = [*dict.fromkeys(table.loc[table["kind"] != "", "kind"])]
    kind = kind or ("visual" if "visual" in kinds else (kinds or [""])[0])
    scopes = [*dict.fromkeys(table.loc[table["kind"] == kind, "scope"])]
    scope = scope or ("without last layer" if "without last layer" in scopes else (scopes or [""])[0])
    cells = table.loc[(table["kind"] == kind) & (table["scope"] == scope)]
    if cells.empty:
        raise NothingToDraw(f"`table` has no {kind!r} tokens, {scope!r}; it holds {kinds} and {scopes}")
    strata = sorted(set(cells.loc[cells["measure"] == "kl", "stratum"]))
    outer = [strata[0], strata[-1]]
    panels: list[tuple[str, str, list[tuple[str, pd.DataFrame]]]] = [
        (
            "answers",
            "share right",
            [(m, whole.loc[whole["measure"] == m]) for m in dict.fromkeys(("greedy", "Pass@1", most))],
        ),
        ("shift by base entropy", "KL(base‖model), nats", _by_stratum(cells, "kl", strata, strata)),
        ("shift over matched noise", "KL over KL of noise", _by_stratum(cells, "ratio", outer, strata)),
        (
            "lowest over highest stratum",
            "factor",
            [
                (name, cells.loc[cells["measure"] == measure])
                for measure, name in (("contrast", "KL"), ("contrast_ratio", "KL over noise"))
            ],
        ),
        *(
            (in_figure(group), "nats" if group == "contributions" else "estimate", _largest(table, group))
            for group in groups
        ),
    ]
    rows = -(-len(panels) // 2)
    figure = make_subplots(
        rows,
        2,
        subplot_titles=[title for title, *_ in panels],
        horizontal_spacing=0.24,
        vertical_spacing=0.38 / rows,
    )
    styles = _styles([name for *_, lines in panels for name, _ in lines])
    for place, (_, unit, lines) in enumerate(panels):
        at: dict[str, Any] = {"row": place // 2 + 1, "col": place % 2 + 1}
        _panel(figure, lines, styles, _legend(figure, place), at)
        figure.update_yaxes(title_text=in_figure(unit), rangemode="tozero", **at)
    figure.update_layout(height=230 + 350 * rows, width=1240, showlegend=True)
    figure.update_layout(margin={"t": 120, "b": 120, "r": 190})
    problems = int(table["problems"].to_numpy().max())
    return finish(
        figure,
        "What emerges over the steps of RL",
        f"{kind_name(kind)}, {scope}; {problems} problems; 95% intervals over problems; right of the steps: {BESIDE}; "
        f"arrows: off the scale<br>{low_note(Strata(int(max(strata)) + 1))}",
    )


def _legend(figure: go.Figure, place: int) -> str:
    """Puts a legend to the right of a panel, the first having place 0; its name."""
    suffix = str(place + 1) if place else ""
    room = {axis: figure.to_dict()["layout"][f"{axis}axis{suffix}"]["domain"] for axis in "xy"}
    beside = {"x": room["x"][1] + 0.005, "xanchor": "left", "y": room["y"][1], "yanchor": "top"}
    figure.update_layout({f"legend{suffix}": {**beside, "orientation": "v", "font": {"size": 11}}})
    return f"legend{suffix}"


def _by_stratum(
    cells: pd.DataFrame, measure: str, chosen: Sequence[int], strata: Sequence[int]
) -> list[tuple[str, pd.DataFrame]]:
    rows = cells.loc[cells["measure"] == measure]
    return [(f"stratum {bucket(s, strata)}", rows.loc[rows["stratum"] == s]) for s in chosen]


def _largest(table: pd.DataFrame, group: str) -> list[tuple[str, pd.DataFrame]]:
    """The curves of a group that end farthest from 0."""
    rows = table.loc[(table["kind"] == "") & (table["scope"] == group)]
    last = rows.loc[(rows["condition"] == "rl") & (rows["step"] == rows["step"].max())]
    names = last.sort_values("estimate", key=abs, ascending=False, kind="stable")["measure"][:LARGEST]
    return [(name, rows.loc[rows["measure"] == name]) for name in names]


def further_heatmap(table: pd.DataFrame, group: str = "contributions") -> go.Figure:
    """A group of further measures by checkpoint, controls at the right; ``table`` is ``Emergence.table``.

    Raises:
        NothingToDraw: no such group.
    """
    rows = table.loc[(table["kind"] == "") & (table["scope"] == group)]
    if not group or rows.empty:
        raise NothingToDraw(f"`table` has no group {group!r}; ask `follow_training` for it by `further`")
    steps = rows["step"].map("step {:.0f}".format)
    rows = rows.assign(at=rows["condition"].where(rows["condition"] != "rl", steps))
    names, places = ([*dict.fromkeys(rows[column])] for column in ("measure", "at"))
    cells = rows.set_index(["measure", "at"])[Interval.names("estimate")]
    cells = cells.loc[pd.MultiIndex.from_product([names, places])].to_numpy(float)
    what, times = (CONTRIBUTIONS, 1e3) if group == "contributions" else ("estimate", 1.0)
    cells = times * cells.reshape(len(names), len(places), 3)
    scale = diverging_scale(cells[..., 0])
    cells[np.abs(cells) < 1e-9 * scale["cmax"]] = 0.0  # rounding where a model is compared with itself
    heatmap = go.Heatmap(
        z=cells[..., 0],
        x=[in_figure(place) for place in places],
        y=[in_figure(name) for name in names],
        customdata=cells,
        hovertemplate="%{y}, %{x}<br>%{customdata[0]:.4g} (%{customdata[1]:.4g} – %{customdata[2]:.4g})<extra></extra>",
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
    )
    figure = go.Figure(heatmap)
    figure.add_trace(cell_texts(heatmap, [[number(v, 2) for v in line] for line in cells[..., 0]], scale))
    figure.update_xaxes(type="category", showgrid=False, ticks="")
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, ticks="")
    figure.update_layout(coloraxis=scale, height=190 + 26 * len(names))
    caption = f"{what}<br>mean of {int(rows['problems'].max())} problems; right of the steps: {BESIDE}"
    return finish(figure, f"{in_figure(group.capitalize())} over the steps of RL", caption)


def _styles(names: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, symbol and dash by name: strata along a scale, the rest apart."""
    strata_names = [name for name in dict.fromkeys(names) if name.startswith("stratum")]
    levels = [0.9 * i / max(1, len(strata_names) - 1) for i in range(len(strata_names))]
    shades = [str(shade) for shade in sample_colorscale("Cividis", levels)]
    others = [name for name in dict.fromkeys(names) if name not in strata_names]
    colours = dict(zip(strata_names, shades, strict=True)) | {
        n: LINES[i % len(LINES)] for i, n in enumerate(others)
    }
    return {n: (c, SYMBOLS[i % 5], DASHES[i % 5]) for i, (n, c) in enumerate(colours.items())}


def _panel(
    figure: go.Figure,
    lines: Sequence[tuple[str, pd.DataFrame]],
    styles: dict[str, tuple[str, str, str]],
    legend: str,
    at: dict[str, Any],
) -> None:
    """Lines over RL's steps, and the controls as points beside them; ``legend`` is that of this panel."""
    both = pd.concat([rows for _, rows in lines])
    steps = sorted({*both.loc[both["condition"] == "rl", "step"].astype(int)})
    controls = [str(name) for name in dict.fromkeys(both["condition"]) if name != "rl"]
    beside = {name: steps[-1] * (1 + 0.16 * (i + 1)) for i, name in enumerate(controls)}
    low, high = _room(both)
    for name, rows in lines:
        colour, symbol, dash = styles[name]
        for part, mode in (
            (rows["condition"] == "rl", "lines+markers"),
            (rows["condition"] != "rl", "markers"),
        ):
            points = rows.loc[part]
            points = points.dropna(subset=["estimate"])
            if mode == "markers":
                points = points.loc[points["estimate"].between(low, high)]
            x = [beside.get(c, s) for c, s in zip(points["condition"], points["step"], strict=True)]
            figure.add_scatter(
                x=x,
                y=points["estimate"],
                error_y=error_bars(points, "estimate"),
                mode=mode,
                name=name,
                legendgroup=f"{legend} {name}",
                legend=legend,
                showlegend=mode != "markers",
                line={"color": colour, "dash": dash, "width": 2},
                marker={"color": colour, "symbol": symbol, "size": 8},
                customdata=points.loc[:, Interval.names("estimate")].to_numpy(float),
                hovertemplate="%{y:.4g} (%{customdata[1]:.4g} – %{customdata[2]:.4g})<extra>"
                + in_figure(name)
                + "</extra>",
                **at,
            )
    outside = both.loc[~both["estimate"].between(low, high) & both["estimate"].notna()]
    if len(outside):
        _off_scale(figure, outside, beside, (low, high), at)
        figure.update_yaxes(range=[min(low, 0.0), high], **at)
    figure.update_xaxes(
        tickvals=[*steps, *beside.values()],
        ticktext=[*map(str, steps), *(in_figure(name) for name in controls)],
        tickangle=-40,
        title_text="step of RL; right of it: other trainings" if controls else "step of RL",
        **at,
    )


def _room(rows: pd.DataFrame) -> tuple[float, float]:
    """Ends of a panel: RL's curves with their intervals, and as far again for the trainings beside them."""
    own = rows.loc[rows["condition"] == "rl", [*Interval.names("estimate")]].to_numpy(float)
    least, most = float(np.nanmin(own, initial=0.0)), float(np.nanmax(own, initial=0.0))
    spare = 0.5 * (most - least)
    return least - (spare if least < 0 else 0.0), most + spare


def _off_scale(
    figure: go.Figure,
    rows: pd.DataFrame,
    beside: Mapping[str, float],
    room: tuple[float, float],
    at: dict[str, Any],
) -> None:
    """An arrow at a panel's edge, with the numbers, for a training that lies far outside what RL's curves need."""
    for above, part in rows.groupby(rows["estimate"] > room[1]):
        for name, own in part.groupby("condition", sort=False):
            values = own["estimate"].to_numpy(float)
            ends = [number(float(value), 2) for value in (values.min(), values.max())]
            figure.add_scatter(
                x=[beside[str(name)]],
                y=[room[1] - 0.04 * (room[1] - room[0]) if above else room[0] + 0.04 * (room[1] - room[0])],
                mode="markers+text",
                marker={"color": "#57606a", "symbol": "arrow-up" if above else "arrow-down", "size": 11},
                text=[ends[0] if ends[0] == ends[1] else "–".join(ends)],
                textposition="middle left",
                textfont={"size": 10},
                showlegend=False,
                hovertemplate=" to ".join(ends) + f", off the scale<extra>{in_figure(name)}</extra>",
                **at,
            )
