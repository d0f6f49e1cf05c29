"""The explorer inside a page: its scripts, and the element that they fill."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from workbench.views.explorer_data import Answers, pack
from workbench.views.pages import inline_json

if TYPE_CHECKING:
    from workbench.tracing.follow import Followed
    from workbench.tracing.lens_trace import LensTrace

SCRIPTS = tuple(f"explorer{part}.js" for part in ("_cells", "_parts", "_lists", "_chart", "_search", ""))


def embed(
    traces: "Sequence[LensTrace]",
    top_k: int,
    followed: "Followed | None" = None,
    answers: Answers | None = None,
) -> Markup:
    """The element that the explorer's script fills, with its data, for a page that has its style and script.

    ``traces`` hold one prompt each: the first so many prompts of what ``followed`` is of. ``answers``: the
    models', by problem.
    """
    count = 0 if followed is None else min(len(followed.problem_ids), len(traces))
    curves: list[Any] = [followed.select(prompt=index) for index in range(count)] if followed else []
    data = inline_json(pack(traces, top_k, curves, answers))
    return Markup('<div class="lens"><script type="application/json">{}</script></div>').format(data)
