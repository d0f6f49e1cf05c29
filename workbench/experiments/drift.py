"""Drift: how far one model's activations are from another's at the visual cells of prompts, by the other's entropy.

A visual cell is one (layer, visual position); of models that read no pictures, text stands for visual throughout.
Low are the cells that `LOW` selects of each layer and image by the reference's entropy, high are the others. The last
layer, whose lens is the model's own output, is a scope of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.lens.fused import compare
from workbench.lens.strata import mask
from workbench.models.batches import Cells, collate
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.selection import LOW
from workbench.tracing.model_heads import lens_heads
from workbench.tracing.residuals import Edit, read_residuals

SCOPES = {"without last layer": slice(-1), "last layer": slice(-1, None)}
"""Name -> layers."""

CellValues = Float[Tensor, "layers visual"]


@dataclass(frozen=True, eq=False)
class Reference:
    """The base model's residual stream at the visual cells of a batch, layer by layer, on the RLVR model's device."""

    cells: Cells
    hidden: dict[int, Float[Tensor, "visual hidden"]]

    @classmethod
    def of(
        cls, pair: ModelPair, prompts: Sequence[EncodedPrompt], write: Mapping[int, Edit] | None = None
    ) -> "Reference":
        """Of prompts that go into one batch, with ``write`` at the inputs of the base model's layers."""
        cells = Cells.of(prompts, pair.base.device, [drifting(pair, prompt) for prompt in prompts])
        device = pair.rlvr.unembedding.weight.device
        hidden = read_residuals(
            pair.base,
            collate(prompts, pair.pad_id),
            reduce=lambda _, hidden: cells.take(hidden).to(device),
            write=write,
        )
        return cls(cells, hidden)


def drift(
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    reference: Reference,
    write: Mapping[int, Edit] | None = None,
) -> list[tuple[CellValues, CellValues]]:
    """KL(base || RLVR) and base entropy of each prompt's visual cells, in nats, on the CPU.

    ``prompts`` may show the RLVR model other pictures than those of ``reference``, of the same sizes; ``write`` changes
    what its layers receive.
    """
    heads, cells = lens_heads(pair), reference.cells
    stats = read_residuals(
        pair.rlvr,
        collate(prompts, pair.pad_id),
        reduce=lambda layer, hidden: compare(
            reference.hidden[layer], cells.take(hidden).to(reference.hidden[layer].device), *heads, top_k=1
        ),
        write=write,
    ).values()
    kl, entropy = (
        torch.stack([getattr(layer, name) for layer in stats]).cpu() for name in ("kl", "entropy_base")
    )
    return list(zip(kl.split(cells.counts, 1), entropy.split(cells.counts, 1), strict=True))


def drifting(pair: ModelPair, prompt: EncodedPrompt) -> Bool[Tensor, " positions"]:
    """The positions at which drift is measured: visual ones, or text where the models read no pictures."""
    return prompt.kinds == (TokenKind.VISUAL if pair.reads_pictures else TokenKind.TEXT)


def low_cells(pair: ModelPair, prompt: EncodedPrompt, entropy: CellValues) -> Bool[Tensor, "layers visual"]:
    """Which of a prompt's visual cells are low in each layer, image by image."""
    return mask(entropy, LOW, groups=prompt.image_index[drifting(pair, prompt)])


def by_stratum(
    low: Bool[Tensor, "layers visual"],
) -> Iterator[tuple[str, str, Bool[Tensor, "layers visual"]]]:
    """Scope, stratum (low or high), and which cells belong to both."""
    for scope, layers in SCOPES.items():
        inside = torch.zeros_like(low)
        inside[layers] = True
        yield scope, "low", low & inside
        yield scope, "high", ~low & inside
