"""A prompt as a notebook shows it: its pictures under their grids, its tokens in the colours of their kinds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.views import markup
from workbench.views.pictures import data_uri
from workbench.views.tables import visible

if TYPE_CHECKING:
    from workbench.models.prompts import EncodedPrompt

VIEWS, TOKENS = 8, 400
"""Pictures and tokens of a prompt that are shown; of further ones the number."""


def prompt_html(prompt: "EncodedPrompt", kinds: Sequence[str]) -> str:
    """Every picture under its grid of visual tokens, and every token in the colour of its kind."""
    counts = {kind: list(kinds).count(kind) for kind in dict.fromkeys(kinds)}
    legend = " ".join(markup.chip(f"{count:,} {kind}", kind) for kind, count in counts.items())
    views = {}
    for view, ((frames, rows, columns), image) in enumerate(zip(prompt.grids, prompt.images, strict=False)):
        if view < VIEWS:
            caption = f"picture {view + 1}: {rows} × {columns} tokens" + f", {frames} frames" * (frames > 1)
            views[caption] = markup.picture(data_uri(image, side=224), image.size, (rows, columns))
    left = (
        f"{len(prompt.grids) - len(views)} pictures are not shown" if len(views) < len(prompt.grids) else ""
    )
    return (
        markup.paragraph(f"{prompt.problem_id}: {len(prompt):,} positions")
        + f"<p>{legend}</p>"
        + (markup.side_by_side(views) if views else "")
        + (markup.paragraph(left) if left else "")
        + f'<div style="line-height:1.7">{"".join(_chips(prompt, kinds))}</div>'
    )


def _chips(prompt: "EncodedPrompt", kinds: Sequence[str]) -> list[str]:
    """A chip a token, but one for all visual tokens in a row that belong to one picture."""
    chips: list[str] = []
    views, position = prompt.visual_index.tolist(), 0
    while position < len(kinds) and len(chips) < TOKENS:
        end = position + 1
        if kinds[position] == "visual":
            while end < len(kinds) and kinds[end] == "visual" and views[end] == views[position]:
                end += 1
        text = visible(prompt.tokens[position])
        if end - position > 1:
            text, place = f"▦ {end - position:,} × {text}", f"positions {position} to {end - 1}"
            text += f", picture {views[position] + 1}"
        else:
            place = f"position {position}"
        chips.append(markup.chip(text, kinds[position], f"{place}, {kinds[position]}"))
        position = end
    if position < len(kinds):
        chips.append(f" … and {len(kinds) - position:,} more positions")
    return chips
