"""Two models' next-token distributions where a third thing is known: which token came next.

Beside what `fused.compare` gives: Jensen-Shannon divergence, KL in both directions, and the log-probability and the rank of the
token that was drawn. Exact, over the whole vocabulary, in blocks of it: (positions, vocabulary) never exists. Two passes more:

1. the maximum m and the sum of exp(z - m) of every distribution, and the logit of the drawn token;
2. with d = log q - log p at every token: Jensen-Shannon through log1p(expm1(d) / 2), KL(q || p) as the sum of
   q (d + expm1(-d)), whose terms are >= 0 and of second order, and how many logits of p exceed that of the drawn token.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.backoff import shrink
from workbench.errors import InputError
from workbench.lens.blocks import LEAST_BLOCK, Heads, blocks, working_sizes
from workbench.lens.fused import Residuals, compare
from workbench.lens.heads import LensHead
from workbench.lens.precision import widest

_FAR = 80.0  # nats: beyond it there is no mass


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two models' predictions and the token that came, on the device of the residuals; nats."""

    jensen_shannon: Float[Tensor, " positions"]  # in [0, log 2]
    kl: Float[Tensor, " positions"]  # KL(base || rlvr)
    kl_reverse: Float[Tensor, " positions"]  # KL(rlvr || base)
    entropy_base: Float[Tensor, " positions"]
    entropy_rlvr: Float[Tensor, " positions"]
    log_p_base: Float[Tensor, " positions"]  # of the drawn token
    log_p_rlvr: Float[Tensor, " positions"]
    rank_base: Int[Tensor, " positions"]  # of the drawn token, from 1; of equal logits the lower id is first
    rank_rlvr: Int[Tensor, " positions"]
    top_ids_base: Int[Tensor, "positions k"]  # most probable first
    top_probs_base: Float[Tensor, "positions k"]
    top_ids_rlvr: Int[Tensor, "positions k"]
    top_probs_rlvr: Float[Tensor, "positions k"]

    def __repr__(self):
        return (
            f"Contrast(positions={len(self.kl)}, mean Jensen-Shannon {self.jensen_shannon.mean():.4g} nats)"
        )


@torch.no_grad()
def contrast(
    h_base: Residuals,
    h_rlvr: Residuals,
    head_base: LensHead,
    head_rlvr: LensHead,
    drawn: Int[Tensor, " positions"],
    *,
    top_k: int = 5,
    block: int | None = None,
) -> Contrast:
    """Contrast both models' predictions at every position, where ``drawn`` came next.

    Residuals are before the final norm. A KL is infinite where the second distribution masks (bias -inf) a row that the
    first does not. ``block`` is the number of vocabulary rows at a time; memory is proportional to positions x block.

    Raises:
        InputError: what `compare` refuses, or ``drawn`` ids that do not fit.
        MemoryError: memory ran out even with the smallest block.
    """
    stats = compare(h_base, h_rlvr, head_base, head_rlvr, top_k=top_k, block=block)
    vocabulary = len(head_base.weight)
    if drawn.shape != h_base.shape[:1] or drawn.is_floating_point():
        raise InputError(
            f"`drawn` must hold integers ({len(h_base)},), one a position; found {drawn.dtype} of shape {tuple(drawn.shape)}"
        )
    if not 0 <= int(drawn.min()) <= int(drawn.max()) < vocabulary:
        raise InputError(
            f"`drawn` must be from 0 to {vocabulary - 1}, the heads' vocabulary; found {int(drawn.min())} to {int(drawn.max())}; "
            "take ids of the pair's own tokenizer"
        )
    dtype = stats.kl.dtype
    heads = [(head, head.normed(h, dtype)) for head, h in ((head_base, h_base), (head_rlvr, h_rlvr))]
    kind = "cpu" if h_base.device.type == "cpu" else "cuda"
    block, _ = working_sizes(len(h_base), 2, vocabulary, kind, block)
    drawn = drawn.to(h_base.device, torch.int64)
    (log_p, js, reverse, rank), _ = shrink(
        lambda rows: _passes(heads, dtype, drawn, rows),
        block,
        least=min(block, LEAST_BLOCK),
        what="the lens",
        unit="rows of the vocabulary",
        advice="give fewer positions",
    )
    masked = torch.stack([head_base.masked(), head_rlvr.masked()])
    if (masked[0] & ~masked[1]).any():
        reverse = torch.full_like(reverse, math.inf)
    log_p = log_p.masked_fill(masked[:, drawn].T, -math.inf)
    return Contrast(
        js.to(dtype),
        stats.kl,
        reverse.to(dtype),
        stats.entropy_base,
        stats.entropy_rlvr,
        log_p[:, 0].to(dtype),
        log_p[:, 1].to(dtype),
        rank[:, 0],
        rank[:, 1],
        stats.top_ids_base,
        stats.top_probs_base,
        stats.top_ids_rlvr,
        stats.top_probs_rlvr,
    )


def _passes(
    heads: Heads, dtype: torch.dtype, drawn: Int[Tensor, " n"], block: int
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"], Float[Tensor, " n"], Int[Tensor, "n 2"]]:
    """Log-probability of the drawn token, Jensen-Shannon, KL(rlvr || base), and rank of the drawn token."""
    hidden = heads[0][1]
    wide, strip = (
        widest(hidden.device),
        working_sizes(len(hidden), 2, len(heads[0][0].weight), hidden.device.type, block)[1],
    )
    peak = hidden.new_full((len(hidden), 2), torch.finfo(dtype).min, dtype=dtype)
    total, own = torch.zeros_like(peak, dtype=wide), torch.zeros_like(peak)
    for start, logits in blocks(heads, dtype, block):
        place = drawn - start
        inside = ((place >= 0) & (place < logits.shape[2]))[:, None]
        index = place.clamp(0, logits.shape[2] - 1)[:, None, None].expand(-1, 2, 1)
        own = torch.where(inside, logits.gather(2, index)[..., 0], own)
        higher = torch.maximum(peak, logits.amax(2))
        total *= (peak.to(wide) - higher.to(wide)).exp()
        total += logits.sub_(higher[..., None]).exp_().sum(2, dtype=wide)
        peak = higher
    normaliser = peak.to(wide) + total.log()
    divergence, reverse = torch.zeros_like(total[:, 0]), torch.zeros_like(total[:, 0])
    rank = torch.ones_like(total, dtype=torch.int64)
    shift = normaliser.to(dtype)
    for start, logits in blocks(heads, dtype, block):
        ids = torch.arange(start, start + logits.shape[2], device=drawn.device)
        for rows in torch.arange(len(drawn), device=drawn.device).split(strip):
            here = slice(int(rows[0]), int(rows[-1]) + 1)
            z, mine = logits[here], own[here, :, None]
            earlier = (ids < drawn[here, None])[:, None]
            rank[here] += ((z > mine) | ((z == mine) & earlier)).sum(2)
            log_p = z - shift[here, :, None]
            p, change = log_p.exp(), log_p[:, 1] - log_p[:, 0]
            # Near 0 the second form, whose rounding is of the change's size; far from it q exp(-d) may overflow.
            plain, small = p[:, 1] * change - p[:, 1] + p[:, 0], change + torch.expm1(-change)
            reverse[here] += torch.where(change.abs() > 1, plain, p[:, 1] * small).sum(1, dtype=wide)
            both = torch.stack([change, -change], 1).clamp(-_FAR, _FAR)
            divergence[here] -= (p * torch.log1p(torch.expm1(both) / 2)).sum((1, 2), dtype=wide) / 2
    log_p = (own.to(wide) - normaliser).clamp(max=0)
    return log_p, divergence.clamp(0, math.log(2)), reverse.clamp(min=0), rank
