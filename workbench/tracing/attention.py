"""Attention mass: how much the later positions of a prompt look at each position.

1. Fused kernels return no attention weights, so they are read off an eager twin: second modules over the very same
   parameters and buffers. The model itself is left as it is.
2. Layer by layer, inside the forward, (heads, queries, keys) become one number a key: the mean over heads and over the
   queries after it. It is the attention with which a layer makes the residual stream that it returns.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.models.anatomy import Anatomy, dissect, sharing
from workbench.models.batches import batches, collate
from workbench.models.prompts import EncodedPrompt
from workbench.tracing.residuals import read_attention


def mass_received(
    weights: Float[Tensor, "batch heads queries keys"], real: Bool[Tensor, "batch positions"]
) -> Float[Tensor, "batch positions"]:
    """Mean attention that each position gets from the real positions after it; NaN where there are none.

    ``real`` is False at padding. A position's attention to itself is left out: it grows as the prompt begins, where there
    is little else to look at.
    """
    later = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).tril(-1)
    asking = (later & real.to(weights.device)[:, :, None]).float()
    return (weights.float().mean(1) * asking).sum(1) / asking.sum(1)


def eager_twin(anatomy: Anatomy) -> Anatomy:
    """The same model, weights shared, with a decoder whose attention is computed step by step and so can be read."""
    twin = dissect(sharing(anatomy.model))
    twin.decoder.set_attn_implementation("eager")  # pyright: ignore[reportCallIssue]
    return twin


def attention_received(
    anatomy: Anatomy, prompts: Sequence[EncodedPrompt], pad_id: int, *, batch_size: int = 8
) -> Float[Tensor, "layers positions"]:
    """`mass_received` at every layer and real position, one prompt after another; float32, on the CPU."""
    twin, parts = eager_twin(anatomy), []
    for batch in batches(prompts, batch_size):
        inputs = collate(batch, pad_id)
        real = inputs["attention_mask"].bool()

        def keep(_: int, weights: Tensor, real: Tensor = real) -> Tensor:
            return mass_received(weights, real).cpu()[real]

        parts.append(torch.stack([*read_attention(twin, inputs, reduce=keep).values()]))
    return torch.cat(parts, 1)
