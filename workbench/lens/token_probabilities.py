"""Exact log-probabilities of given tokens under a logit lens, however large the vocabulary."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.lens.blocks import BLOCK_ELEMENTS, LEAST_BLOCK, blocks
from workbench.lens.heads import LensHead
from workbench.lens.precision import widest


@torch.no_grad()
def log_probabilities(
    h: Float[Tensor, "positions hidden"],
    ids: Int[Tensor, "positions tokens"],
    head: LensHead,
    *,
    block: int | None = None,
) -> Float[Tensor, "positions tokens"]:
    """Exact log-probabilities, in nats, of given tokens at each position under a logit lens.

    ``h`` is before the final norm; ``ids`` are vocabulary rows, each position has its own. ``block`` is the number
    of vocabulary rows at a time; memory is proportional to positions x block. The result is float32, float64 for
    float64 residuals, and -inf for a row that the head masks (bias -inf).

    Raises:
        InputError: shapes that do not fit together, or ids outside the vocabulary.
    """
    vocabulary, hidden = head.weight.shape
    if h.ndim != 2 or not len(h) or h.shape[1] != hidden or not h.is_floating_point():
        raise InputError(
            f"`h` must be a floating-point tensor (positions, {hidden}), not empty, to fit its head; found "
            f"{h.dtype} of shape {tuple(h.shape)}; pass `h.flatten(0, -2)` for a batch"
        )
    if ids.ndim != 2 or len(ids) != len(h) or ids.is_floating_point():
        raise InputError(
            f"`ids` must hold integers ({len(h)}, tokens), a row for each position of `h`; found {ids.dtype} of "
            f"shape {tuple(ids.shape)}; pass `ids.expand({len(h)}, -1)` for the same tokens everywhere"
        )
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise InputError(
            f"`ids` must be from 0 to {vocabulary - 1}, the head's vocabulary; found {int(ids.min())} to "
            f"{int(ids.max())}; pass `ids.clamp(min=0)` and ignore what stands for padding"
        )
    if block is not None and block < 1:
        raise InputError(f"`block` must be at least 1, found {block}; pass `block=None` to have it chosen")
    dtype = torch.float64 if h.dtype == torch.float64 else torch.float32
    normed, ids = head.normed(h, dtype), ids.to(h.device, torch.int64)
    block = min(block or max(LEAST_BLOCK, BLOCK_ELEMENTS["cpu"] // len(h)), vocabulary)
    own_logits = h.new_zeros(ids.shape, dtype=dtype)
    peak = h.new_full((len(h), 1), torch.finfo(dtype).min, dtype=dtype)
    wide = widest(peak.device)
    total = torch.zeros_like(peak, dtype=wide)
    for start, logits in blocks([(head, normed)], dtype, block):
        logits, stop = logits[:, 0], start + logits.shape[2]
        inside = (ids >= start) & (ids < stop)
        own_logits = torch.where(
            inside, logits.gather(1, (ids - start).clamp(0, stop - start - 1)), own_logits
        )
        higher = torch.maximum(peak, logits.amax(1, keepdim=True))
        total *= (peak.to(wide) - higher.to(wide)).exp()
        total += logits.sub_(higher).exp_().sum(1, keepdim=True, dtype=wide)
        peak = higher
    log_p = (own_logits.to(wide) - peak.to(wide) - total.log()).clamp(max=0)
    return log_p.masked_fill(head.masked()[ids], -math.inf).to(dtype)
