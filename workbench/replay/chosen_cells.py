"""Cells of one prompt that an intervention acts on: at which positions, which by hand, and what its `Selection` takes of them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.interventions import Replay
from workbench.lens import strata
from workbench.models.batches import problem_seed
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.selection import Selection


def places_of(replay: Replay, prompt: EncodedPrompt) -> Bool[Tensor, " positions"]:
    """The positions of a prompt that tokens are learnt at.

    Raises:
        InputError: it has none of the kind, or a span lies outside it.
    """
    kinds = prompt.kinds
    if replay.positions == "visual":
        places = kinds == TokenKind.VISUAL
    elif replay.positions == "text":
        places = kinds == TokenKind.TEXT
    else:
        places = torch.full_like(kinds, replay.positions == "all", dtype=torch.bool)
    for start, stop in () if isinstance(replay.positions, str) else replay.positions:
        first, end = (end + len(prompt) if end < 0 else end for end in (start, stop))
        if not 0 <= first < end <= len(prompt):
            raise InputError(
                f"`positions` has the span {(start, stop)}, but {prompt.problem_id!r} has positions 0 to {len(prompt) - 1}; "
                f"expected the first, and one past the last: Replay(positions=((0, {len(prompt)}),))"
            )
        places[first:end] = True
    if not places.any():
        text = (
            ", or learn tokens at its text: Replay(positions='text')"
            if (kinds == TokenKind.TEXT).any()
            else ""
        )
        which = "with an image" if replay.positions == "visual" else "that has"
        raise InputError(
            f"`prompts`: {prompt.problem_id!r} has no {replay.positions} tokens to replay; give a problem {which}{text}"
        )
    return places


def by_hand(
    selection: Selection, prompt: EncodedPrompt, layers: Sequence[int], within: Bool[Tensor, " positions"]
) -> Bool[Tensor, " cells"] | Bool[Tensor, "layers cells"] | None:
    """The cells in question among the positions ``within``; None: all of them.

    Args:
        selection: whose ``cells`` say.
        prompt: the prompt as it is encoded.
        layers: the rows that are wanted; where ``cells`` gives a row for every layer, these are taken.
        within: positions that the intervention can act on at all.

    Raises:
        InputError: ``cells`` gives no bool tensor (positions,) or (layers, positions), or no cell in question.
    """
    if selection.cells is None:
        return None
    mask = torch.as_tensor(selection.cells(prompt))
    fits = mask.ndim in (1, 2) and mask.shape[-1] == len(prompt) and mask.dtype == torch.bool
    if fits and mask.ndim == 2 and len(mask) != len(layers):
        fits = len(mask) > max(layers)
        mask = mask[list(layers)] if fits else mask
    if not fits:
        raise InputError(
            f"`cells` gives {str(mask.dtype).removeprefix('torch.')} {tuple(mask.shape)} for {prompt.problem_id!r}; expected "
            f"bool ({len(prompt)},), one for each position, or such a row for each of the layers {tuple(layers)}: "
            "cells=lambda prompt: prompt.kinds == 1"
        )
    mask = mask.to(within.device)[..., within]
    if not mask.any():
        raise InputError(
            f"`cells` chooses none of the {int(within.sum())} positions of {prompt.problem_id!r} that can be changed; "
            "expected at least one: cells=lambda prompt: prompt.kinds == 1"
        )
    return mask


def select(
    selection: Selection,
    prompt: EncodedPrompt,
    entropy: Float[Tensor, "layers cells"],
    *,
    layers: Sequence[int],
    within: Bool[Tensor, " positions"],
    groups: Int[Tensor, " cells"] | None = None,
    below: Float[Tensor, "layers cells"] | None = None,
) -> Bool[Tensor, "layers cells"]:
    """The mask over the positions ``within``, with a random draw of the prompt's own, whatever it is batched with.

    Args:
        selection: what to take.
        prompt: whose cells they are.
        entropy: in nats, at the positions ``within``.
        layers: which decoder layers the rows are.
        within: positions that the intervention can act on.
        groups: the image each cell belongs to; None: all to one.
        below: the other model's entropies, for ``only_where_base_lower``.

    Raises:
        InputError: what `by_hand` and ``lens.strata.mask`` refuse.
    """
    candidates = by_hand(selection, prompt, layers, within)
    own = replace(selection, seed=problem_seed(selection.seed, prompt.problem_id))
    moved = [
        None if part is None else part.to(entropy.device)
        for part in (candidates, groups, below if selection.only_where_base_lower else None)
    ]
    return strata.mask(entropy, own, candidates=moved[0], groups=moved[1], below=moved[2])
