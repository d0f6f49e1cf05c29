"""Aims: what a prompt's tokens are to pull one model's activations towards, taken from the other model (step 1 of replay)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.backoff import piecewise
from workbench.lens.fused import summarise
from workbench.models.anatomy import Anatomy
from workbench.models.batches import Cells, batches, collate, seen
from workbench.models.prompts import EncodedPrompt
from workbench.replay.products import logits
from workbench.tracing.model_heads import lens_head
from workbench.tracing.residuals import read_residuals


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


Aim = tuple[Target, ...]
"""One prompt's targets, one for each layer of the loss, on the CPU."""


@torch.no_grad()
def take_aim(
    teacher: Anatomy,
    prompts: Sequence[EncodedPrompt],
    layers: Sequence[int],
    *,
    places: Sequence[Bool[Tensor, " positions"]],
    top_v: int | None,
    vocabulary: int,
    pad_id: int,
    batch_size: int = 8,
) -> list[Aim]:
    """What the teacher predicts at some positions of every prompt, at the output of each of `layers`.

    Args:
        teacher: the model that is pulled towards; it needs no layer after the last of `layers`.
        prompts: encoded prompts.
        layers: decoder layers, 0-based, in order.
        places: which positions of each prompt, at least one.
        top_v: how many of its most probable tokens count; None: the whole vocabulary.
        vocabulary: unembedding rows that both models have.
        pad_id: as `ModelPair.pad_id`.
        batch_size: prompts per forward.
    """

    visible = [seen(prompt, place) for prompt, place in zip(prompts, places, strict=True)]
    places = [place[: len(prompt)] for prompt, place in zip(visible, places, strict=True)]

    def aimed(batch: Sequence[EncodedPrompt], here: slice) -> list[Aim]:
        cells, device = Cells.of(batch, teacher.device, places[here]), teacher.unembedding.weight.device
        inputs = collate(batch, pad_id)
        at = read_residuals(
            teacher, inputs, layers=layers, reduce=lambda _, hidden: cells.take(hidden).to(device)
        )
        targets = [Target.of(teacher, at[layer], top_v, vocabulary) for layer in layers]
        return list(zip(*(target.split(cells.counts) for target in targets), strict=True))

    groups = batches(visible, batch_size)
    return [aim for _, aims in piecewise(groups, aimed, model=teacher, what="taking aim") for aim in aims]
