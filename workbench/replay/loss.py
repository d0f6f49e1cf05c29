"""What replay descends on: at chosen cells of a layer, the KL from what a model should predict to what it does.

Only the ``v`` most probable tokens of the target count, both distributions renormalised over them (the released
code; None: the whole vocabulary), so that only their rows of the unembedding are ever multiplied.

Every cell has rows of its own, and together they can be larger than the model: they are gathered and widened to the
precision of the product a portion at a time, and again for the backward, and are never kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.lens.kl import kl_divergence
from workbench.models.anatomy import Anatomy
from workbench.models.batches import Cells
from workbench.replay.products import logits
from workbench.replay.segment import Segment
from workbench.replay.targets import Target


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
        kl = kl_divergence(self.log_p, log_q)
        return kl.new_zeros(self.prompts).index_add(0, self.prompt, kl * self.weight)


@dataclass(frozen=True, eq=False)
class Loss:
    """The loss of every prompt as a function of x."""

    segment: Segment
    readouts: Mapping[int, Readout]
    cells: Cells
    after: bool
    """Whether a layer is read after it has run, or before."""

    def where(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Row and position, in the segment, of every cell, on the device of a layer's residual stream."""
        places = self.cells.prompt, self.cells.position - self.segment.cut
        return places[0].to(hidden.device), places[1].to(hidden.device)

    def __call__(self, x: Float[Tensor, "n hidden"]) -> Float[Tensor, " prompts"]:
        """In nats."""
        entry, total = self.segment.entry, None
        where = self.where(entry)
        hidden = entry.index_put(where, (entry[where] + x).to(entry.dtype))
        for layer, received, returned in self.segment.run(hidden):
            states = returned if self.after else received
            if layer in self.readouts and states is not None:
                losses = self.readouts[layer].losses(states[self.where(states)])
                total = losses if total is None else total + losses
        assert total is not None
        return total
