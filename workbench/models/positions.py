"""Where each token of a prompt stands, computed from the prompt alone.

Some models (Qwen-VL) remember an offset of the last pictures that they read, and count later text from it. A forward
that is given its positions neither reads nor writes such a memory: what one call leaves behind can't reach another.

1. Text, and every family with one axis: 0, 1, 2, ... over the real tokens; padding counts nothing (0).
2. Families with axes for time, row and column: as the model's own `get_rope_index` lays out the pictures.
3. The first new token stands one behind the highest position of its own row.
"""

import inspect
from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor, nn

_GRIDS = ("image_grid_thw", "video_grid_thw")


def positions_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Int[Tensor, "*axes batch positions"]:
    """Position ids of a left-padded batch: (batch, positions), or (3, batch, positions) where positions have axes.

    Args:
        model: a transformers model with its head.
        inputs: the forward's arguments of whole prompts; without ``attention_mask`` nothing is padding.
    """
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).long()
    plain = (mask.cumsum(-1) - 1).clamp_min(0) * mask
    indexer = getattr(getattr(model, "model", model), "get_rope_index", None)
    if indexer is None:
        return plain
    if not any(name in inputs for name in _GRIDS):
        return plain.expand(3, -1, -1)
    parameters = inspect.signature(indexer).parameters
    laid_out, _ = indexer(**{name: value for name, value in inputs.items() if name in parameters})
    return laid_out


def next_positions(positions: Int[Tensor, "*axes batch positions"]) -> Int[Tensor, "*axes batch 1"]:
    """Position ids of the first new token of each row; on every axis the same."""
    following = positions.amax(-1, keepdim=True) + 1
    return following if positions.ndim == 2 else following.amax(0, keepdim=True).expand_as(following)


def takes_positions(model: nn.Module) -> bool:
    """Whether the model's forward can be told positions."""
    return "position_ids" in inspect.signature(type(model).forward).parameters
