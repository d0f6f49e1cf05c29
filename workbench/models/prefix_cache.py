"""One prompt, several continuations: the keys and values of a prompt computed once, and handed to each.

Where a model keeps anything else of what it has read (the state of a recurrent layer, a rotary table that stretches with the
longest row), its continuations are not those of separate calls, and nothing is shared.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache

from workbench.models.anatomy import Anatomy
from workbench.models.positions import next_positions, takes_positions
from workbench.models.rope_memory import stretches

CACHE_NAMES = ("cache", "past_key_values")
_ATTENTION = {"full_attention", "sliding_attention"}


def shares_prefix(anatomy: Anatomy) -> bool:
    """Whether a prompt that was read once can be continued several times, as if read anew each time."""
    config = anatomy.model.config.get_text_config(decoder=True)
    kinds = {*(getattr(config, "layer_types", None) or ("full_attention",))}
    return (
        cache_name(anatomy) is not None
        and takes_positions(anatomy.model)
        and kinds <= _ATTENTION
        and not stretches(anatomy.model)
    )


def cache_name(anatomy: Anatomy) -> str | None:
    """The forward's argument for keys and values, by which transformers has called it; None where there is none."""
    parameters = inspect.signature(type(anatomy.model).forward).parameters
    return next((name for name in CACHE_NAMES if name in parameters), None)


def new_cache(anatomy: Anatomy) -> dict[str, DynamicCache]:
    """Where a forward leaves its keys and values: to be given with its other arguments."""
    return {str(cache_name(anatomy)): DynamicCache(config=anatomy.model.config)}


def continuation(
    cache: Mapping[str, DynamicCache],
    mask: Int[Tensor, "batch positions"],
    positions: Int[Tensor, "*axes batch positions"],
    rows: Sequence[int],
    ids: Sequence[Int[Tensor, " tokens"]],
    pad_id: int,
) -> dict[str, Any]:
    """Forward arguments of tokens that follow prompts that were read; padding is on their right.

    Args:
        cache: of the prompts (`new_cache`); left as it is.
        mask: of the prompts.
        positions: of the prompts.
        rows: which prompt each continuation follows.
        ids: of each.
        pad_id: for padding.
    """
    longest = max(len(one) for one in ids)
    tokens = torch.stack([torch.nn.functional.pad(one, (0, longest - len(one)), value=pad_id) for one in ids])
    real = torch.stack([torch.arange(longest) < len(one) for one in ids]).to(mask)
    chosen = torch.tensor([*rows], device=mask.device)
    steps = torch.arange(longest, device=positions.device)
    begin = next_positions(positions).index_select(-2, chosen.to(positions.device))
    return {
        "input_ids": tokens,
        "attention_mask": torch.cat([mask[chosen], real], 1),
        "position_ids": begin + steps,
        **{name: _rows(one, chosen) for name, one in cache.items()},
    }


def _rows(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """A cache of some rows, in any order and number; it shares nothing that a forward changes."""
    taken = copy.copy(cache)
    taken.layers = [copy.copy(layer) for layer in cache.layers]
    # `batch_select_indices` makes new tensors, so that those of `cache` stay as they are.
    taken.batch_select_indices(rows)
    return taken
