"""Prompts of which the settings select nothing: who they are, and when that is refused."""

import warnings
from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from workbench.errors import InputError
from workbench.interventions import Replay
from workbench.models.batches import Cells

NOTHING = "nothing selected"
"""Why a prompt without a selected cell has no tokens: the model is left as it is."""

BLIND = "no picture"
"""Why a prompt without pictures has no tokens: the model is left as it is."""


def has_selection(mask: Bool[Tensor, "layers n"], cells: Cells, replay: Replay) -> list[bool]:
    """Of each prompt of a batch, whether a cell is selected in any layer; nothing is lacking where tau asks for none."""
    if replay.tau == 0 and replay.threshold != "fixed":
        return [True] * len(cells.counts)
    return [bool(part.any()) for part in mask.split(cells.counts, 1)]


def unselected(made: Sequence[Any]) -> list[str]:
    """The ids of prompts whose tokens are none because nothing was selected."""
    return [one.problem_id for one in made if getattr(one, "stopped", None) == NOTHING]


def check_selected(empty: Sequence[str], total: int, replay: Replay, *, refuse: bool = True) -> None:
    """Warn where nothing is selected of some prompts of a run, and refuse it where that are all.

    Args:
        empty: ids of the prompts, or problems, of which nothing is selected.
        total: how many there are in all.
        replay: the settings.
        refuse: False: only warn.

    Raises:
        InputError: nothing is selected of any.
    """
    if not empty:
        return
    which = repr(empty[0]) if total == 1 else f"{len(empty)} of {total} prompts"
    names = {"visual": "visual position", "text": "text position", "all": "position"}
    kind = names.get(str(replay.positions), "position of its spans")
    message = (
        f"`replay` selects no {kind} of {which} in any layer (select {replay.select!r}, "
        f"threshold {replay.threshold!r}, tau {replay.tau})"
    )
    if refuse and len(empty) == total:
        raise InputError(f"{message}; raise tau, or use threshold='quantile'")
    warnings.warn(f"{message}, {empty[0]!r} the first: the model is left as it is there", stacklevel=3)
