"""Fused logit lens: what two models predict from their residual streams, compared over the whole vocabulary.

For every position, p = softmax(unembedding(norm(residual))) of the base and of the RLVR model; from it the
entropy of both, KL(base || rlvr) and the top predictions (Activation Replay, arXiv 2511.19972, section 3).
The (positions, vocabulary) logits never exist. One pass over blocks of vocabulary rows; for each block:

1. the logits z of every distribution, one matrix product per model;
2. where a stretch of the block beats a position's k-th best logit so far, its top predictions;
3. the running maximum m of every position; everything summed so far becomes relative to it (online softmax,
   Milakov and Gimelshein, arXiv 1805.02867);
4. with s = z - m and e = exp(s): sum e, sum e s, and sum [e_base (s_base - s_rlvr) + e_rlvr - e_base].

Entropy is log(sum e) - sum e s / sum e. With x = sum e_rlvr / sum e_base - 1, KL is the third sum, divided by
sum e_base, plus log(1 + x) - x. Every term of that sum is >= 0 and of second order in the change, where the
textbook formula subtracts two numbers of first order: small shifts are not lost in rounding.

Logits are float32 whatever the models' precision (float64 if a residual is), sums over blocks float64, where the device has
it. Even products of half-precision numbers are kept in float32: logits rounded to bfloat16, in steps of 0.125 at 16, would
drown the shift that is to be measured.
"""

import math
from dataclasses import dataclass, fields
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.backoff import shrink
from workbench.errors import InputError
from workbench.lens.blocks import BLOCK_ELEMENTS, LEAST_BLOCK, STRETCH, Heads, blocks, working_sizes
from workbench.lens.heads import LensHead
from workbench.lens.precision import widest

Residuals: TypeAlias = Float[Tensor, "positions hidden"]  # before the final norm


@dataclass(frozen=True, eq=False)
class HeadStats:
    """One model's lens, on the device of the residuals; float32, or float64 for float64 residuals."""

    entropy: Float[Tensor, " positions"]  # nats, in [0, log(vocabulary)]
    top_ids: Int[Tensor, "positions k"]  # most probable first; of equal logits the lower id first
    top_probs: Float[Tensor, "positions k"]

    def __repr__(self):
        positions, k = self.top_ids.shape
        return f"HeadStats(positions={positions}, top_k={k}, mean entropy {self.entropy.mean():.3f} nats)"


@dataclass(frozen=True, eq=False)
class LensStats:
    """Two models' lenses compared, on the device of the residuals; float32, or float64 for float64 ones."""

    entropy_base: Float[Tensor, " positions"]  # nats, in [0, log(vocabulary)]
    entropy_rlvr: Float[Tensor, " positions"]
    kl: Float[Tensor, " positions"]  # KL(base || rlvr), nats, >= 0
    top_ids_base: Int[Tensor, "positions k"]  # most probable first; of equal logits the lower id first
    top_probs_base: Float[Tensor, "positions k"]
    top_ids_rlvr: Int[Tensor, "positions k"]
    top_probs_rlvr: Float[Tensor, "positions k"]
    top1_agreement: Bool[Tensor, " positions"]  # the same most probable id
    topk_overlap: Float[Tensor, " positions"]  # ids that are in both top-k sets, as a fraction of k
    kl_null: Float[Tensor, "draws positions"] | None = None  # KL(base || head_rlvr of each null draw), nats
    jensen_shannon: Float[Tensor, " positions"] | None = None  # nats, in [0, log 2]

    def __post_init__(self):
        for field in fields(self):
            value, count = getattr(self, field.name), len(self.kl)
            if value is not None and value.shape[field.name == "kl_null"] != count:
                raise InputError(f"`{field.name}` must have `kl`'s {count} positions, found {value.shape}")

    def __repr__(self):
        positions, k = self.top_ids_base.shape
        return f"LensStats(positions={positions}, top_k={k}, mean KL {self.kl.mean():.4g} nats)"


@torch.no_grad()
def compare(
    h_base: Residuals,
    h_rlvr: Residuals,
    head_base: LensHead,
    head_rlvr: LensHead,
    *,
    top_k: int = 10,
    null: Float[Tensor, "draws positions hidden"] | None = None,
    jensen_shannon: bool = False,
    block: int | None = None,
) -> LensStats:
    """Compare both models' logit lenses at every position, exactly, over the whole vocabulary.

    `h_base` and `h_rlvr` are residuals before the final norm. `null` holds alternatives to `h_rlvr`, as from
    `matched_noise`; each adds one matrix product. `jensen_shannon` adds a second pass. `block` is the number
    of vocabulary rows at a time; memory is proportional to positions x block.

    KL is infinite if `head_rlvr` masks (bias -inf) a vocabulary row that `head_base` does not.

    Raises:
        InputError: no positions, residuals not finite, or shapes, devices or numbers that do not fit.
        MemoryError: memory ran out even with the smallest block.
    """
    if head_base.weight.shape != head_rlvr.weight.shape:
        raise InputError(
            "`head_base` and `head_rlvr` must have the same (vocabulary, hidden), found "
            f"{tuple(head_base.weight.shape)} and {tuple(head_rlvr.weight.shape)}; "
            "cut both to the rows they share, as in `LensHead(norm, weight[:rows])`"
        )
    _check(head_base, "h_base", h_base, top_k, block)
    _check(head_rlvr, "h_rlvr", h_rlvr, top_k, block)
    _check_same_shape(h_base, h_rlvr)
    dtype = _precision(h_base, h_rlvr)
    base, rlvr = head_base.normed(h_base, dtype), head_rlvr.normed(h_rlvr, dtype)
    heads = [(head_base, base), (head_rlvr, rlvr)]
    if null is not None:
        if null.ndim != 3 or null.shape[1:] != h_base.shape:
            raise InputError(
                f"`null` must have shape (draws, *{tuple(h_base.shape)}), found {tuple(null.shape)}; "
                "pass `null=matched_noise(h_base, h_rlvr)`"
            )
        _check(head_rlvr, "null", null.flatten(0, 1), top_k, block)
        heads += [(head_rlvr, head_rlvr.norm(draw).to(rlvr.dtype)) for draw in null]
    running = _scanned(heads, dtype, top_k, block)
    kl, entropy, ids, probs = running.divergence(), running.entropy(), *running.best()
    if (head_rlvr.masked() & ~head_base.masked()).any():
        kl = torch.full_like(kl, math.inf)
    return LensStats(
        entropy_base=entropy[0],
        entropy_rlvr=entropy[1],
        kl=kl[0],
        top_ids_base=ids[0],
        top_probs_base=probs[0],
        top_ids_rlvr=ids[1],
        top_probs_rlvr=probs[1],
        top1_agreement=ids[0, :, 0] == ids[1, :, 0],
        topk_overlap=(ids[0, :, :, None] == ids[1, :, None, :]).any(2).to(dtype).mean(1),
        kl_null=None if null is None else kl[1:],
        jensen_shannon=running.jensen_shannon() if jensen_shannon else None,
    )


@torch.no_grad()
def summarise(h: Residuals, head: LensHead, *, top_k: int = 10, block: int | None = None) -> HeadStats:
    """One model's logit lens at every position: entropy and top predictions. `h` is before the final norm.

    Raises:
        InputError: as `compare`.
    """
    _check(head, "h", h, top_k, block)
    dtype = _precision(h)
    running = _scanned([(head, head.normed(h, dtype))], dtype, top_k, block)
    ids, probs = running.best()
    return HeadStats(running.entropy()[0], ids[0], probs[0])


@torch.no_grad()
def matched_noise(
    h_base: Residuals, h_rlvr: Residuals, *, draws: int = 3, seed: int | torch.Generator = 0
) -> Float[Tensor, "draws positions hidden"]:
    """Null residuals: the base's plus a uniformly random direction, as long as the change at that position.

    An integer seed gives the same numbers on every device; a generator is advanced. Half-precision residuals
    give float32 ones: rounding them to the base's precision would change the length of a small change.

    Raises:
        InputError: residuals of different shapes, or less than one draw.
    """
    _check_same_shape(h_base, h_rlvr)
    if draws < 1:
        raise InputError(f"`draws` must be at least 1, found {draws}; pass `draws=3`")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    dtype = _precision(h_base, h_rlvr)
    noise = torch.randn(draws, *h_base.shape, generator=generator, device=generator.device, dtype=dtype)
    return moved_along(h_base, h_rlvr, noise)


@torch.no_grad()
def moved_along(
    h_base: Residuals, h_rlvr: Residuals, directions: Float[Tensor, "draws positions hidden"]
) -> Float[Tensor, "draws positions hidden"]:
    """The base's residuals, moved along given directions as far as the real change at each position goes.

    A direction of length 0 moves nothing. Half-precision residuals give float32 ones.

    Raises:
        InputError: residuals of different shapes, or directions of another (positions, hidden).
    """
    _check_same_shape(h_base, h_rlvr)
    if directions.ndim != 3 or directions.shape[1:] != h_base.shape:
        raise InputError(
            f"`directions` must have shape (draws, *{tuple(h_base.shape)}), found {tuple(directions.shape)}; one for each "
            "position and draw: `moved_along(h_base, h_rlvr, torch.randn(3, *h_base.shape))`"
        )
    dtype = _precision(h_base, h_rlvr)
    start, along = h_base.to(dtype), directions.to(h_base.device, dtype)
    length = torch.linalg.vector_norm(h_rlvr.to(dtype) - start, dim=-1, keepdim=True)
    norm = torch.linalg.vector_norm(along, dim=-1, keepdim=True)
    return start + along * (length / norm.where(norm > 0, 1.0))


def _sums(z: Tensor, peak: Tensor, scratch: Tensor) -> tuple[Tensor, ...]:
    """Stretch maxima (n, D, stretches), new running maxima (n, D) and the sums of step 4, of logits (n, D, rows).

    The second sum is that of base and RLVR model, the third that of all but the base.
    """
    maxima = z.unflatten(2, (-1, math.gcd(z.shape[2], STRETCH))).amax(3)
    peak = torch.maximum(peak, maxima.amax(2))
    # Memory that is used again is in the cache already, where an allocator may hand out what is not even mapped.
    s, e, change = (part[: z.numel()].view_as(z) for part in scratch)
    torch.exp(torch.sub(z, peak[..., None], out=s), out=e)
    torch.sub(s[:, :1], s[:, 1:], out=change[:, 1:])
    total, moment = e.sum(2), s[:, :2].mul_(e[:, :2]).sum(2)
    return maxima, peak, total, moment, e[:, 1:].sub_(e[:, :1]).addcmul_(e[:, :1], change[:, 1:]).sum(2)


def _scanned(heads: Heads, dtype: torch.dtype, top_k: int, block: int | None) -> "_Running":
    """The pass over the vocabulary, in smaller blocks where memory runs out."""
    (head, hidden), count = heads[0], len(heads)
    kind = "cpu" if hidden.device.type == "cpu" else "cuda"
    block, _ = working_sizes(len(hidden), count, len(head.weight), kind, block)
    running, fits = shrink(
        lambda rows: _Running(heads, dtype, top_k, rows).scan(),
        block,
        least=min(block, LEAST_BLOCK),
        what="the lens",
        unit="rows of the vocabulary",
        advice="give fewer positions",
    )
    if fits < block:
        BLOCK_ELEMENTS[kind] = len(hidden) * count * fits
    return running


class _Running:
    """What the pass keeps at N positions of D distributions, the first of which is the base.

    Entropy and top predictions are those of the first two, divergences from the base those of all others.
    """

    def __init__(self, heads: Heads, dtype: torch.dtype, top_k: int, block: int):
        self.heads, self.dtype = heads, dtype
        (head, hidden), count = heads[0], len(heads)
        self.vocabulary = len(head.weight)
        self.block, self.strip = working_sizes(len(hidden), count, self.vocabulary, hidden.device.type, block)
        self.peak = hidden.new_full((len(hidden), count), torch.finfo(dtype).min, dtype=dtype)
        self.total = torch.zeros_like(self.peak, dtype=widest(self.peak.device))
        self.moment, self.cross = torch.zeros_like(self.total[:, :2]), torch.zeros_like(self.total[:, 1:])
        self.top = hidden.new_full((*self.moment.shape, top_k), -math.inf, dtype=dtype)
        self.top_ids = torch.full_like(self.top, -1, dtype=torch.int64)

    def scan(self) -> "_Running":
        scratch = self.peak.new_empty(3, self.strip * len(self.heads) * self.block)
        for start, logits in blocks(self.heads, self.dtype, self.block):
            strips = zip(logits.split(self.strip), self.peak.split(self.strip), strict=True)
            parts = zip(*(_sums(z, peak, scratch) for z, peak in strips), strict=True)
            maxima, peak, total, moment, cross = (torch.cat(part) for part in parts)
            self._keep_best(start, logits, maxima[:, :2])
            # What was summed relative to the old maxima becomes relative to the new ones.
            step = self.peak.to(self.total.dtype) - peak.to(self.total.dtype)
            scale, change = step.exp(), step[:, :1] - step[:, 1:]
            self.cross = scale[:, :1] * (self.cross + self.total[:, :1] * change) + cross
            self.cross += self.total[:, 1:] * (scale[:, 1:] - scale[:, :1])
            self.moment = scale[:, :2] * (self.moment + self.total[:, :2] * step[:, :2]) + moment
            self.total = scale * self.total + total
            self.peak = peak
        return self

    def _keep_best(self, start: int, logits: Tensor, maxima: Tensor) -> None:
        """Merge a block into the top predictions: stretch `maxima` say where in `logits` to look."""
        top, top_ids = self.top.flatten(0, 1), self.top_ids.flatten(0, 1)
        stretches = logits.unflatten(2, (maxima.shape[2], -1))
        k, length = top.shape[1], stretches.shape[3]
        floor = self.top[..., -1:]
        if start == 0 and maxima.shape[2] >= k:
            # No list yet; but k stretches reach the k-th largest maximum, hence so do the k best logits.
            bound = maxima.topk(k).values[..., -1:]
            floor = torch.nextafter(bound, torch.full_like(bound, -math.inf))
        position, side, stretch = (maxima > floor).nonzero(as_tuple=True)
        if not len(position):
            return
        survivors = stretches[position, side, stretch]
        pair, offset = (survivors > floor[position, side]).nonzero(as_tuple=True)
        row = (position * maxima.shape[1] + side)[pair]
        # Candidates are ordered by row, then id. Each row's are laid behind its list, which holds lower ids,
        # so that a stable sort breaks ties by id.
        changed, line, counts = torch.unique_consecutive(row, return_inverse=True, return_counts=True)
        column = k + torch.arange(len(line), device=line.device) - (counts.cumsum(0) - counts)[line]
        values = top.new_full((len(changed), k + int(counts.max())), -math.inf)
        ids = torch.full_like(values, -1, dtype=torch.int64)
        values[:, :k], ids[:, :k] = top[changed], top_ids[changed]
        values[line, column] = survivors[pair, offset]
        ids[line, column] = start + stretch[pair] * length + offset
        values, order = values.sort(dim=1, descending=True, stable=True)
        top[changed], top_ids[changed] = values[:, :k], ids.gather(1, order[:, :k])

    def entropy(self) -> Tensor:
        """Of base and RLVR model, (2, N)."""
        total = self.total[:, :2]
        return self._result((total.log() - self.moment / total).clamp(0, math.log(self.vocabulary)))

    def divergence(self) -> Tensor:
        """KL of the base from each other distribution, (D - 1, N)."""
        ratio = self.total[:, 1:] / self.total[:, :1]
        return self._result((self.cross / self.total[:, :1] + ratio.log() - (ratio - 1)).clamp(min=0))

    def best(self) -> tuple[Tensor, Tensor]:
        """Ids and probabilities of the top predictions of base and RLVR model, (2, N, k)."""
        probs = (self.top - self.peak[:, :2, None]).to(self.total.dtype).exp() / self.total[:, :2, None]
        return self.top_ids.transpose(0, 1).contiguous(), self._result(probs)

    def jensen_shannon(self) -> Tensor:
        """Mean KL of base and RLVR model from their average, (N,): a second pass."""
        log_normaliser = (self.peak + self.total.log())[:, :2].to(self.dtype)
        result = torch.zeros_like(self.total[:, 0])
        for _, logits in blocks(self.heads[:2], self.dtype, self.block):
            parts = []
            for z, shift in zip(logits.split(self.strip), log_normaliser.split(self.strip), strict=True):
                log_p = z - shift[..., None]
                # log(average / p) by the log-ratio loses no small shift; beyond the clamp there is no mass.
                ratio = (log_p.flip(1) - log_p).clamp(-80, 80)
                parts.append(-(log_p.exp() * torch.log1p(torch.expm1(ratio) / 2)).sum((1, 2)) / 2)
            result += torch.cat(parts)
        return result.clamp(0, math.log(2)).to(self.dtype)

    def _result(self, statistic: Tensor) -> Tensor:
        return statistic.to(self.dtype).transpose(0, 1).contiguous()


def _precision(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _check_same_shape(h_base: Tensor, h_rlvr: Tensor) -> None:
    if h_base.shape != h_rlvr.shape:
        raise InputError(
            "`h_base` and `h_rlvr` must hold the same positions; pass residuals of the same layer and input, "
            f"found shapes {tuple(h_base.shape)} and {tuple(h_rlvr.shape)}"
        )


def _check(head: LensHead, name: str, h: Tensor, top_k: int, block: int | None) -> None:
    (vocabulary, hidden), device = head.weight.shape, head.weight.device
    if h.ndim != 2 or not len(h) or h.shape[1] != hidden or not h.is_floating_point():
        raise InputError(
            f"`{name}` must be a floating-point tensor (positions, {hidden}), not empty, to fit its head; "
            f"found {h.dtype} of shape {tuple(h.shape)}; pass `{name}.flatten(0, -2)` for a batch"
        )
    if h.device != device:
        raise InputError(f"`{name}` is on {h.device}, its head on {device}; pass `{name}.to('{device}')`")
    if not torch.isfinite(h).all():
        raise InputError(f"`{name}` must be finite, found NaN or infinity; pass a pair that loads in float32")
    if not 1 <= top_k <= vocabulary:
        raise InputError(f"`top_k` must be from 1 to the vocabulary's {vocabulary}, found {top_k}; pass 1")
    if block is not None and block < 1:
        raise InputError(f"`block` must be at least 1, found {block}; pass `block=None` to have it chosen")
