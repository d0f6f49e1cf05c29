"""A bench as one page that needs no kernel and fetches nothing: the explorer and what was tried; what computes is greyed out."""

from typing import TYPE_CHECKING

from workbench.live.state import prompt_data, shown_effect, whole_state
from workbench.views.explorer import bench_page

if TYPE_CHECKING:
    from workbench.live.session import Bench


def page_of(bench: "Bench") -> str:
    """The whole page."""
    content = {"data": prompt_data(bench), "state": whole_state(bench), "effect": shown_effect(bench)}
    return bench_page(content, f"Bench: {bench.prompt.problem_id} ({bench.pair.name})")
