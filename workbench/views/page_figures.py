"""Figures inside a page: data and layout as JSON, and the place where ``report.js`` draws each."""

import json
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import plotly.io
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from workbench.views.panels import SOFT, template

TOP = template().to_plotly_json()["layout"]["margin"]["t"]
"""Pixels above a figure for its title and caption, which the page sets itself."""


def templates() -> dict[str, Any]:
    """The look on light and on dark paper."""
    return {name: template(dark=name == "dark").to_plotly_json() for name in ("light", "dark")}


def plotly_js() -> Markup:
    """plotly.js, as it goes into a script element."""
    return Markup(get_plotlyjs())


def bare(figures: Mapping[str, go.Figure]) -> dict[str, Any]:
    """The figures without title, caption and template: the page sets these itself."""
    bared = {}
    for name, figure in figures.items():
        plain = json.loads(str(plotly.io.to_json(figure)))
        for key in ("title", "template"):
            plain["layout"].pop(key)
        plain["layout"] |= {"margin": {"l": 60, "r": 12, "t": 40, "b": 50}, "height": _height(figure)}
        bared[name] = plain
    return bared


def placed(
    name: str, figures: Mapping[str, go.Figure], wide: bool = False, *, title: str | None = None
) -> Markup:
    """The place where a figure is drawn, with title and caption; nothing where there is no such figure.

    ``title`` stands in place of the figure's own, as plain text.
    """
    if name not in figures:
        return Markup()
    own = figures[name]["layout"]["title"]
    # The page breaks its lines itself.
    caption = str(own["subtitle"]["text"]).replace(SOFT, " ").replace("<br>", "; ")
    return Markup(
        '<figure><h3>{text}</h3><div class="scroll{wide}"><div class="plot" data-figure="{name}" role="img" '
        'aria-label="{text}. {caption}" style="height:{height}px"></div></div>'
        "<figcaption>{caption}</figcaption></figure>"
    ).format(
        text=own["text"] if title is None else title,
        caption=caption,
        name=name,
        height=_height(figures[name]),
        wide=" wide" if wide else "",
    )


def _height(figure: go.Figure) -> int:
    """Pixels of a figure in the page, where title and caption are not part of it."""
    return int(figure.to_dict()["layout"]["height"]) - TOP + 40
