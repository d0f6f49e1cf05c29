"""Nearest text states on the explorer's page: small numbers, and every state that is shown once, with a passage around it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.views.explorer_data import base64_of, number_type
from workbench.views.tables import visible

if TYPE_CHECKING:
    from workbench.tracing.latent_lens import LatentLens
    from workbench.tracing.neighbours import Neighbours

BYTES = 4_000_000
"""Of nearest states in a page; deep models and long prompts keep fewer per cell."""
SHOWN = 8
"""States per cell, at most."""
SCALE = 10_000
"""Cosines are kept in so many parts of 1."""
BEFORE, AFTER = 28, 14
"""Characters of a passage around the word."""
MODELS = ("base", "rlvr")


def with_neighbours(packed: Mapping[str, Any], found: "Neighbours") -> dict[str, Any]:
    """What the explorer has (`pack`), and the neighbours of its prompts, the first of those in ``found``.

    ``neighbours`` has k, scale, idBytes and states, [word, layer, text before, text after] each; each problem's ``near`` has
    for both models ids into states and cosines times ``scale``, (layers, positions, k), and rank (layers, positions).
    """
    parts = [found.select(prompt=number) for number in range(len(packed["problems"]))]
    cells = sum(one.rank.numel() for one in parts)
    k = min(found.ids_base.shape[-1], SHOWN, max(1, BYTES // (16 * cells)))
    ids = {model: [getattr(one, f"ids_{model}")[..., :k].numpy() for one in parts] for model in MODELS}
    used = np.unique(np.concatenate([part.ravel() for several in ids.values() for part in several]))
    kind = number_type(len(used))
    problems = []
    for number, (problem, one) in enumerate(zip(packed["problems"], parts, strict=True)):
        near: dict[str, Any] = {"rank": base64_of(one.rank.numpy(), "<u4")}
        for model in MODELS:
            cosines = np.rint(getattr(one, f"cosines_{model}")[..., :k].numpy() * SCALE)
            places = np.searchsorted(used, ids[model][number])
            near[model] = {"ids": base64_of(places, kind), "cosines": base64_of(cosines, "<i2")}
        problems.append({**problem, "near": near})
    states = passages(found.lens, used.tolist())
    about = {"k": k, "scale": SCALE, "idBytes": kind.itemsize, "states": states}
    return {**packed, "problems": problems, "neighbours": about}


def passages(lens: "LatentLens", states: list[int]) -> list[list[Any]]:
    """Of each state its word, its layer, and the text before and after it in its context.

    An index keeps a token's number but not where it begins, so of several places of the word that nearest to its share of the
    context is taken.
    """
    lengths: dict[int, int] = {}
    for context, position in zip(lens.context.tolist(), lens.position.tolist(), strict=True):
        lengths[context] = max(lengths.get(context, 0), position + 1)
    rows = []
    for state in states:
        context, word = int(lens.context[state]), lens.tokens[state]
        text = lens.contexts[context]
        wanted = int(lens.position[state]) / max(1, lengths[context]) * len(text)
        starts = [place for place in range(len(text)) if word and text.startswith(word, place)]
        if starts:
            start = min(starts, key=lambda place: abs(place - wanted))
            end = start + len(word)
            before, after = text[max(0, start - BEFORE) : start], text[end : end + AFTER]
        else:  # part of a letter, or an index that kept no text
            before = after = ""
        around = [visible(text) if text else "" for text in (before, after)]
        rows.append([visible(word), int(lens.layer[state]), *around])
    return rows
