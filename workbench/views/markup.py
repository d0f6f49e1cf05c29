"""Small pieces of HTML and SVG that results are shown with in Jupyter: tables, curves, grids, coloured tokens.

Plain values in, text out; every text is escaped here. No scripts, no style sheet, nothing fetched. Backgrounds are
translucent and lines have the colour of the text around them, so that light and dark themes both read.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from numbers import Integral
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

COLOURS = {
    "base": "#0072B2",
    "rlvr": "#D55E00",
    "replay": "#009E73",
    "null": "#7F7F7F",
    "ratio": "#E69F00",
    "visual": "#009E73",
    "text": "#CC79A7",
    "special": "#56B4E9",
    "response": "#332288",
    "all": "#E69F00",
}
"""Of models, conditions and token kinds, here and in the figures (Okabe-Ito)."""


_PADDING = "padding:.3em .4em"


def shown(value: Any) -> str:
    """A cell's text, escaped: numbers to three digits, an en dash for what is missing."""
    if isinstance(value, str):
        return escape(value)
    if value is None:
        return "–"
    if type(value).__name__ in ("bool", "bool_"):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    from workbench.views.tables import number

    try:
        return number(float(value))
    except (TypeError, ValueError):
        return escape(str(value))


def in_figure(text: Any) -> str:
    """A text for a plotly figure, which reads tags and entities, but shows quotes as they are."""
    return escape(str(text), quote=False)


def paragraph(text: str, *, strong: bool = False) -> str:
    """Text on its own, bold where it is the line to remember."""
    return f"<p><strong>{escape(text)}</strong></p>" if strong else f"<p>{escape(text)}</p>"


def folded(summary: str, body: str) -> str:
    """HTML behind a line that opens it."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def listing(lines: Iterable[str]) -> str:
    """Texts as a list."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def facts(known: Mapping[str, Any]) -> str:
    """Names and values, one a line."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{shown(value)}</td></tr>'
        for name, value in known.items()
    )
    return _scrolled(f"<table>{rows}</table>")


def table(frame: "pd.DataFrame") -> str:
    """A table without its index: numbers to the right, texts to the left; a wide one scrolls by itself.

    Column names that are pairs share a head. An estimate m beside m_low and m_high becomes one column with its interval.
    """
    frame = with_intervals(frame)
    numeric = [not any(isinstance(value, str) for value in frame[name]) for name in frame]
    names = [name if isinstance(name, tuple) else (name,) for name in frame]
    head = "".join(
        f"<tr>{''.join(_heads(names, numeric, level))}</tr>"
        for level in range(max(map(len, names), default=0))
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{_PADDING};text-align:{"right;white-space:nowrap" if right else "left"}">{shown(value)}</td>'
            for right, value in zip(numeric, row, strict=True)
        )
        + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    )
    return _scrolled(f"<table><thead>{head}</thead><tbody>{body}</tbody></table>")


def with_intervals(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Each m, m_low, m_high as one column m of texts ``estimate [low, high]``."""
    measured = [name for name in frame if f"{name}_low" in frame and f"{name}_high" in frame]
    merged = frame.drop(columns=[f"{name}{end}" for name in measured for end in ("_low", "_high")]).astype(
        object
    )
    for name in measured:
        values = zip(*(frame[f"{name}{end}"] for end in ("", "_low", "_high")), strict=True)
        merged[name] = [_Measured(*(float(value) for value in row)) for row in values]
    return merged


@dataclass(frozen=True)
class _Measured:
    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        estimate, low, high = (shown(value) for value in (self.estimate, self.low, self.high))
        ends = "" if "–" in (estimate, low) else f" [{low}, {high}]"
        return estimate + ends


def curve(values: Sequence[float], *, name: str, colour: str = "rlvr") -> str:
    """A line through values at equal steps, from 0 or below up to the largest, with its ends in figures."""
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        return "<span>–</span>"
    width, height, pad = 200, 90, 5
    low, high = min(0.0, *finite), max(finite)
    span = (high - low) or 1.0
    step = (width - 2 * pad) / max(1, len(values) - 1)
    points = [
        f"{pad + step * i:.1f},{height - pad - (height - 2 * pad) * (value - low) / span:.1f}"
        for i, value in enumerate(values)
        if math.isfinite(value)
    ]
    zero = height - pad - (height - 2 * pad) * -low / span
    shapes = (
        f'<line x1="0" x2="{width}" y1="{zero:.1f}" y2="{zero:.1f}" stroke="currentColor" stroke-opacity=".3"/>'
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{COLOURS[colour]}" stroke-width="2"/>'
    )
    return _svg(width, height, shapes, name)


def cells(values: Sequence[Sequence[float]], *, name: str, colour: str = "replay") -> str:
    """Values over a grid as shades, 0 clear and the largest full; NaN is left out."""
    columns = max(map(len, values), default=0)
    side = max(4, min(22, 220 // max(columns, 1)))
    most = max((value for row in values for value in row if math.isfinite(value)), default=0.0) or 1.0
    shapes = "".join(
        f'<rect x="{side * x}" y="{side * y}" width="{side}" height="{side}" fill="{COLOURS[colour]}" '
        f'fill-opacity="{max(0.0, value / most):.2f}" stroke="currentColor" stroke-opacity=".25">'
        f"<title>row {y}, column {x}: {shown(float(value))}</title></rect>"
        for y, row in enumerate(values)
        for x, value in enumerate(row)
        if math.isfinite(value)
    )
    return _svg(side * columns, side * len(values), shapes, name)


def columns(shares: Mapping[Any, float], *, name: str, colour: str = "base") -> str:
    """A column for each share of 1, with its key below."""
    width, height = max(10, min(26, 320 // max(len(shares), 1))), 74
    shapes = ""
    for place, (key, share) in enumerate(shares.items()):
        x, tall = place * width, height * (share if math.isfinite(share) else 0.0)
        shapes += (
            f'<rect x="{x + 1}" y="{height - tall:.1f}" width="{width - 2}" height="{tall:.1f}" fill="{COLOURS[colour]}">'
            f"<title>{escape(str(key))}: {share:.0%}</title></rect>"
            f'<text x="{x + width / 2}" y="{height + 13}" font-size="{min(11, width - 1)}" text-anchor="middle" '
            f'fill="currentColor">{escape(str(key))}</text>'
        )
    full = width * len(shares)
    shapes += f'<path d="M0 .5H{full}M0 {height}H{full}" stroke="currentColor" stroke-opacity=".3"/>'
    return _svg(full, height + 16, shapes, name)


def stripes(rows: Sequence[Sequence[bool]], *, name: str, colour: str = "base") -> str:
    """Which of many cells are chosen: a line of marks for each row."""
    count, tall = max(map(len, rows), default=0), 12
    scale = 640 / max(count, 1) if count > 80 else 8
    path = ""
    for y, row in enumerate(rows):
        x = 0
        for full, run in groupby(row):
            length = sum(1 for _ in run)
            path += (
                f"M{x * scale:.1f} {y * tall + 1}h{length * scale:.1f}v{tall - 2}h{-length * scale:.1f}z"
                * bool(full)
            )
            x += length
    frame = "".join(f"M0 {y * tall + tall / 2}H{count * scale:.1f}" for y in range(len(rows)))
    shapes = f'<path d="{frame}" stroke="currentColor" stroke-opacity=".2"/><path d="{path}" fill="{COLOURS[colour]}"/>'
    return _svg(round(count * scale), tall * len(rows), shapes, name)


def picture(source: str, size: tuple[int, int], grid: tuple[int, int]) -> str:
    """An image (a ``data:`` URI) under the lines of a grid of (rows, columns)."""
    width = min(224, max(140, size[0]))
    height, (rows, columns) = round(width * size[1] / max(size[0], 1)), grid
    lines = "".join(f"M{width * x / columns:.1f} 0V{height}" for x in range(columns + 1))
    lines += "".join(f"M0 {height * y / rows:.1f}H{width}" for y in range(rows + 1))
    shapes = (
        f'<image href="{escape(source)}" width="{width}" height="{height}" preserveAspectRatio="none"/>'
        f'<path d="{lines}" stroke="#fff" stroke-opacity=".8"/><path d="{lines}" stroke="#000" stroke-dasharray="2 3"/>'
    )
    return _svg(width, height, shapes, f"{rows} x {columns} visual tokens")


def chip(text: str, colour: str, title: str = "") -> str:
    """A piece of text on a tint of its colour."""
    red, green, blue = (int(COLOURS[colour][i : i + 2], 16) for i in (1, 3, 5))
    return (
        f'<span title="{escape(title)}" style="background:rgba({red},{green},{blue},.28);border-radius:3px;'
        f'padding:0 3px;margin:1px;display:inline-block;white-space:pre">{escape(text)}</span>'
    )


def side_by_side(parts: Mapping[str, str]) -> str:
    """Pieces of HTML beside each other, each under its caption, as far as there is room."""
    figures = "".join(
        f'<div><div style="font-size:90%;opacity:.8;margin-bottom:4px">{escape(caption)}</div>{body}</div>'
        for caption, body in parts.items()
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px 28px;margin:8px 0">{figures}</div>'


def _svg(width: int, height: int, drawn: str, name: str) -> str:
    return (
        f'<svg role="img" aria-label="{escape(name)}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'style="max-width:100%">{drawn}</svg>'
    )


def _scrolled(body: str) -> str:
    return f'<div style="overflow-x:auto">{body}</div>'


def _heads(names: Sequence[tuple[Any, ...]], numeric: Sequence[bool], level: int) -> Iterable[str]:
    """The heads of one level; above the last, equal neighbours are one head over all their columns."""
    if level == max(map(len, names)) - 1:
        for name, right in zip(names, numeric, strict=True):
            yield f'<th style="{_PADDING};text-align:{"right" if right else "left"}">{escape(str(name[-1]))}</th>'
    else:
        for name, run in groupby(name[level] if len(name) > 1 else "" for name in names):
            span = sum(1 for _ in run)
            yield f'<th colspan="{span}" style="{_PADDING};text-align:center">{escape(str(name))}</th>'


def grids_of(values: Sequence[float], places: Sequence[Sequence[int]]) -> list[list[list[float]]]:
    """Values at (t, row, column) as grids; every frame and every further picture begins a new one."""
    grids: list[list[list[float]]] = []
    before = None
    for value, (t, row, column) in zip(values, places, strict=True):
        if t < 0:
            continue
        if before is None or t != before[0] or (row, column) <= before[1:]:
            grids.append([])
        grid = grids[-1]
        grid += [[] for _ in range(row + 1 - len(grid))]
        grid[row] += [float("nan")] * (column + 1 - len(grid[row]))
        grid[row][column] = value
        before = (t, row, column)
    return grids


def settings_text(values: Mapping[str, Any]) -> str:
    """Settings as ``name=value``, without those that are off."""
    return ", ".join(
        f"{name}={value!r}" for name, value in values.items() if value is not None and value is not False
    )
