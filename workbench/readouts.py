"""What replay descends on: at chosen cells of a layer, the KL from what a model should predict to what it does.

Only the ``v`` most probable tokens of the target count, both distributions renormalised over them (the released
code; None: the whole vocabulary), so that only their rows of the unembedding are ever multiplied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.anatomy import Anatomy
from workbench.lens import summarise
from workbench.prompts import EncodedPrompt, TokenKind
from workbench.traces import lens_head

Rows = tuple[Tensor, Tensor | None]
"""Unembedding rows, (cells, v, hidden) or the whole (vocabulary, hidden), and their bias where there is one."""


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
        return cls(
            stats.entropy, ids, logits(teacher, hidden, rows_of(teacher, ids, vocabulary)).log_softmax(-1)
        )

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
    """One layer's part of the loss: m of the cells, what they should say, and the rows to read them with."""

    learner: Anatomy
    index: Int[Tensor, " m"]
    prompt: Int[Tensor, " m"]
    weight: Float[Tensor, " m"]
    """1 / chosen cells of the prompt in this layer; normalised, also by its visual positions."""
    rows: Rows
    log_p: Float[Tensor, "m v"]
    prompts: int

    @classmethod
    def of(
        cls, learner: Anatomy, cells: Cells, target: Target, mask: Tensor, *, normalize: bool, vocabulary: int
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
        ids = None if target.ids is None else target.ids[index.to(target.ids.device)]
        rows = rows_of(learner, ids, vocabulary)
        device = rows[0].device
        log_p = target.log_p[index.to(target.log_p.device)].to(device)
        return cls(
            learner, index, prompt.to(device), share[prompt].to(device), rows, log_p, len(cells.counts)
        )

    def losses(self, hidden: Float[Tensor, "n hidden"]) -> Float[Tensor, " prompts"]:
        """Each prompt's mean KL (nats) over its chosen cells, weighted, from the residual stream at all cells."""
        if not len(self.index):
            return self.log_p.new_zeros(self.prompts)
        log_q = logits(self.learner, hidden[self.index], self.rows).log_softmax(-1)
        kl = (self.log_p.exp() * (self.log_p - log_q)).sum(-1)
        return kl.new_zeros(self.prompts).index_add(0, self.prompt, kl * self.weight)


def rows_of(anatomy: Anatomy, ids: Int[Tensor, "n v"] | None, vocabulary: int) -> Rows:
    """The rows of some ids, (n, v, hidden), or the first `vocabulary` rows."""
    weight, bias = anatomy.unembedding.weight.detach(), anatomy.unembedding.bias
    index: Any = slice(vocabulary) if ids is None else ids.to(weight.device)
    return weight[index], None if bias is None else bias.detach()[index]


def logits(anatomy: Anatomy, hidden: Float[Tensor, "n hidden"], rows: Rows) -> Float[Tensor, "n v"]:
    """Logits of residuals taken before the final norm, in float32 or, for float64 residuals, float64."""
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    weight, bias = rows
    normed = anatomy.norm(hidden).to(weight.device, dtype)
    weight = weight.to(dtype)
    z = normed @ weight.t() if weight.ndim == 2 else torch.bmm(weight, normed[:, :, None])[:, :, 0]
    if bias is not None:
        z = z + bias.to(dtype)
    z = z * anatomy.logit_multiplier
    return z if anatomy.softcap is None else torch.tanh(z / anatomy.softcap) * anatomy.softcap
