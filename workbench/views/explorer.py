"""The explorer inside a page: its scripts, and the element that they fill."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from workbench.views.explorer_data import Answers, pack
from workbench.views.explorer_neighbours import with_neighbours
from workbench.views.pages import inline_json, render, source

if TYPE_CHECKING:
    from workbench.tracing.follow import Followed
    from workbench.tracing.lens_trace import LensTrace
    from workbench.tracing.neighbours import Neighbours

SHARED = tuple(
    f"explorer{part}.js" for part in ("_neighbours", "_cells", "_parts", "_lists", "_chart", "_search", "")
)
"""Scripts of the explorer, which pages and the widget of a live bench share."""
SCRIPTS = (*SHARED, "explorer_page.js")
BENCH = ("bench_parts.js", "bench.js")
"""Scripts of a bench, after those of the explorer."""


def embed(
    traces: "Sequence[LensTrace]",
    top_k: int,
    followed: "Followed | None" = None,
    answers: Answers | None = None,
    neighbours: "Neighbours | None" = None,
) -> Markup:
    """The element that the explorer's script fills, with its data, for a page that has its style and script.

    ``traces`` hold one prompt each: the first so many prompts of what ``followed`` and ``neighbours`` are of. ``answers``: the
    models', by problem.
    """
    count = 0 if followed is None else min(len(followed.problem_ids), len(traces))
    curves: list[Any] = [followed.select(prompt=index) for index in range(count)] if followed else []
    packed = pack(traces, top_k, curves, answers)
    if neighbours is not None:
        packed = with_neighbours(packed, neighbours)
    element = '<div class="lens"><script type="application/json">{}</script></div>'
    return Markup(element).format(inline_json(packed))


def bench_page(content: Any, title: str) -> str:
    """A bench on a page of its own; ``content``: its ``data``, ``state`` and ``effect``, as the widget has them."""
    element = '<div class="lens bench"><script type="application/json">{}</script></div>'
    return render(
        "explorer.html.j2",
        title=title,
        css=source("explorer.css", "bench.css"),
        explorer=Markup(element).format(inline_json(content)),
        js=source(*SHARED, *BENCH, "explorer_page.js"),
    )


def bench_module() -> tuple[str, str]:
    """The bench as one ES module that renders a widget, and its style."""
    return str(source(*SHARED, *BENCH, "bench_module.js")), str(source("explorer.css", "bench.css"))
