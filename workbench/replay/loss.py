"""What replay descends on: at chosen cells of a layer, the KL from what a model should predict to what it does.

Only the ``v`` most probable tokens of the target count, both distributions renormalised over them (the released
code; None: the whole vocabulary), so that only their rows of the unembedding are ever multiplied.

Every cell has rows of its own, and together they can be larger than the model: they are gathered and widened to the
precision of the product a portion at a time, and again for the backward, and are never kept.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding

from workbench.lens.fused import summarise
from workbench.models.anatomy import Anatomy
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.tracing.trace import lens_head

# Entries of gathered rows that exist at a time: on a CPU what its caches hold, on a GPU enough for efficient products.
_PORTION_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 24}
# What stands in for the device of tensors that have none.
_stand_in = ContextVar("stand_in", default="cuda")


@contextmanager
def portioned_for(kind: str) -> Iterator[None]:
    """Meanwhile rows on the meta device come in the portions of a ``"cpu"`` or of ``"cuda"``, so that they can be metered."""
    token = _stand_in.set(kind)
    try:
        yield
    finally:
        _stand_in.reset(token)


@dataclass(frozen=True, eq=False)
class Cells:
    """The visual positions of a left-padded batch of prompts, n in all, one prompt after another."""

    prompt: Int[Tensor, " n"]
    position: Int[Tensor, " n"]
    image: Int[Tensor, " n"]
    """Which of its prompt's images."""
    counts: list[int]
    """Visual positions per prompt."""

    @classmethod
    def of(cls, prompts: Sequence[EncodedPrompt], device: torch.device) -> "Cells":
        """Those of `prompts`, collated in this order."""
        longest = max(len(prompt) for prompt in prompts)
        parts = []
        for number, prompt in enumerate(prompts):
            visual = (prompt.kinds == TokenKind.VISUAL).nonzero()[:, 0]
            image = prompt.image_index[visual].long()
            parts.append((torch.full_like(visual, number), visual + longest - len(prompt), image))
        prompt_of, position, image = (torch.cat(part).to(device) for part in zip(*parts, strict=True))
        return cls(prompt_of, position, image, [len(part[0]) for part in parts])

    def take(self, hidden: Float[Tensor, "batch positions hidden"]) -> Float[Tensor, "n hidden"]:
        """The residual stream at the cells."""
        return hidden[self.prompt.to(hidden.device), self.position.to(hidden.device)]


@dataclass(frozen=True, eq=False)
class Target:
    """What one layer of the teacher predicts at n cells."""

    entropy: Float[Tensor, " n"]
    """Over the whole vocabulary, in nats."""
    ids: Int[Tensor, "n v"] | None
    """The most probable tokens; None: the whole vocabulary."""
    log_p: Float[Tensor, "n v"]
    """Their log probabilities, renormalised."""

    @classmethod
    def of(
        cls, teacher: Anatomy, hidden: Float[Tensor, "n hidden"], top_v: int | None, vocabulary: int
    ) -> "Target":
        """From the teacher's residual stream at the cells, before the final norm."""
        stats = summarise(hidden, lens_head(teacher, vocabulary), top_k=min(top_v or 1, vocabulary))
        ids = None if top_v is None else stats.top_ids
        return cls(stats.entropy, ids, logits(teacher, hidden, ids, vocabulary).log_softmax(-1))

    def split(self, counts: Sequence[int]) -> list["Target"]:
        """One for each prompt, on the CPU."""
        sizes = list(counts)
        ids = [None] * len(sizes) if self.ids is None else self.ids.cpu().split(sizes)
        parts = zip(self.entropy.cpu().split(sizes), ids, self.log_p.cpu().split(sizes), strict=True)
        return [Target(*part) for part in parts]

    @classmethod
    def join(cls, parts: Sequence["Target"], device: torch.device) -> "Target":
        """Those of several prompts as one, on a device."""
        ids = [part.ids for part in parts if part.ids is not None]
        return cls(
            torch.cat([part.entropy for part in parts]).to(device),
            torch.cat(ids).to(device) if ids else None,
            torch.cat([part.log_p for part in parts]).to(device),
        )


@dataclass(frozen=True, eq=False)
class Readout:
    """One layer's part of the loss: m of the cells, and what they should say."""

    learner: Anatomy
    index: Int[Tensor, " m"]
    prompt: Int[Tensor, " m"]
    weight: Float[Tensor, " m"]
    """1 / chosen cells of the prompt in this layer; normalised, also by its visual positions."""
    ids: Int[Tensor, "m v"] | None
    """The tokens that count; None: the first v of the vocabulary."""
    log_p: Float[Tensor, "m v"]
    prompts: int

    @classmethod
    def of(
        cls, learner: Anatomy, cells: Cells, target: Target, mask: Tensor, *, normalize: bool
    ) -> "Readout":
        """For the cells in `mask` (n,)."""
        index = mask.nonzero()[:, 0].to(cells.prompt.device)
        prompt = cells.prompt[index]
        share = (
            torch.bincount(prompt, minlength=len(cells.counts))
            .clamp_min(1)
            .reciprocal()
            .to(target.log_p.dtype)
        )
        if normalize:
            share = share / torch.tensor(cells.counts, device=share.device)
        device = learner.unembedding.weight.device
        ids = None if target.ids is None else target.ids[index.to(target.ids.device)].to(device)
        log_p = target.log_p[index.to(target.log_p.device)].to(device)
        return cls(learner, index, prompt.to(device), share[prompt].to(device), ids, log_p, len(cells.counts))

    def losses(self, hidden: Float[Tensor, "n hidden"]) -> Float[Tensor, " prompts"]:
        """Each prompt's mean KL (nats) over its chosen cells, weighted, from the residual stream at all cells."""
        if not len(self.index):
            return self.log_p.new_zeros(self.prompts)
        log_q = logits(
            self.learner, hidden[self.index.to(hidden.device)], self.ids, self.log_p.shape[1]
        ).log_softmax(-1)
        kl = (self.log_p.exp() * (self.log_p - log_q)).sum(-1)
        return kl.new_zeros(self.prompts).index_add(0, self.prompt, kl * self.weight)


def logits(
    anatomy: Anatomy, hidden: Float[Tensor, "n hidden"], ids: Int[Tensor, "n v"] | None, vocabulary: int
) -> Float[Tensor, "n v"]:
    """Logits of residuals taken before the final norm, in float32 or, for float64 residuals, float64.

    ``ids``: each residual's tokens; None: the first ``vocabulary`` of all.
    """
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    weight, bias = anatomy.unembedding.weight.detach(), anatomy.unembedding.bias
    normed = anatomy.norm(hidden).to(weight.device, dtype)
    if ids is None:
        index, z = slice(vocabulary), _Products.apply(normed, weight[:vocabulary], None)
    else:
        index = ids.to(weight.device)
        z = _Products.apply(normed, weight, index)
    if bias is not None:
        z = z + bias.detach()[index].to(dtype)
    z = z * anatomy.logit_multiplier
    return z if anatomy.softcap is None else torch.tanh(z / anatomy.softcap) * anatomy.softcap


class _Products(torch.autograd.Function):
    """Products (n, v) of normed residuals with rows of the unembedding: their own, or the same for all."""

    @staticmethod
    def forward(ctx: Any, normed: Tensor, weight: Tensor, ids: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, ids)
        out = normed.new_empty(len(normed), len(weight) if ids is None else ids.shape[1])
        for part in _portions(weight, ids):
            if ids is None:
                torch.mm(normed, weight[part].to(normed.dtype).t(), out=out[:, part])
            else:
                rows = embedding(ids[part], weight).to(normed.dtype)
                torch.bmm(normed[part, None], rows.mT, out=out[part, None])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, ids = ctx.saved_tensors
        out = gradient.new_zeros(len(gradient), weight.shape[1])
        for part in _portions(weight, ids):
            if ids is None:
                out.addmm_(gradient[:, part], weight[part].to(gradient.dtype))
            else:
                rows = embedding(ids[part], weight).to(gradient.dtype)
                torch.bmm(gradient[part, None], rows, out=out[part, None])
        return out, None, None


def _portions(weight: Tensor, ids: Tensor | None) -> list[slice]:
    """Cells, or rows of the whole vocabulary, to be multiplied at a time."""
    count, each = (len(weight), 1) if ids is None else ids.shape
    kind = _stand_in.get() if weight.is_meta else weight.device.type
    most = _PORTION_ELEMENTS["cpu" if kind == "cpu" else "cuda"]
    step = max(1, most // max(1, each * weight.shape[1]))
    starts = range(0, count, step)[
        : 1 if weight.is_meta else None
    ]  # where nothing is computed, one is like all
    return [slice(start, min(start + step, count)) for start in starts]
