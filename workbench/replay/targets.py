"""Aims: what a prompt's tokens are to pull one model's activations towards, taken from the other model (step 1 of replay)."""

from collections.abc import Sequence

import torch

from workbench.backoff import piecewise
from workbench.models.anatomy import Anatomy
from workbench.models.prompts import EncodedPrompt, TokenKind, batches, collate
from workbench.replay.loss import Cells, Target
from workbench.tracing.residuals import read_residuals

Aim = tuple[Target, ...]
"""One prompt's targets, one for each layer of the loss, on the CPU."""


@torch.no_grad()
def take_aim(
    teacher: Anatomy,
    prompts: Sequence[EncodedPrompt],
    layers: Sequence[int],
    *,
    top_v: int | None,
    vocabulary: int,
    pad_id: int,
    batch_size: int = 8,
) -> list[Aim]:
    """What the teacher predicts at every prompt's visual positions, at the output of each of `layers`.

    Args:
        teacher: the model that is pulled towards; it needs no layer after the last of `layers`.
        prompts: prompts with visual positions.
        layers: decoder layers, 0-based, in order.
        top_v: how many of its most probable tokens count; None: the whole vocabulary.
        vocabulary: unembedding rows that both models have.
        pad_id: as `ModelPair.pad_id`.
        batch_size: prompts per forward.
    """

    def aimed(batch: Sequence[EncodedPrompt], _: slice) -> list[Aim]:
        cells, device = Cells.of(batch, teacher.device), teacher.unembedding.weight.device
        shown = collate(batch, pad_id)
        at = read_residuals(
            teacher, shown, layers=layers, reduce=lambda _, hidden: cells.take(hidden).to(device)
        )
        targets = [Target.of(teacher, at[layer], top_v, vocabulary) for layer in layers]
        return list(zip(*(target.split(cells.counts) for target in targets), strict=True))

    groups = batches([seen(prompt) for prompt in prompts], batch_size)
    return [aim for _, aims in piecewise(groups, aimed, model=teacher, what="taking aim") for aim in aims]


def seen(prompt: EncodedPrompt) -> EncodedPrompt:
    """The prompt up to its last visual position: no earlier position sees what comes after."""
    return prompt.prefix(int((prompt.kinds == TokenKind.VISUAL).nonzero()[-1]) + 1)
