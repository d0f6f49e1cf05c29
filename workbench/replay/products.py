"""Logits of chosen tokens at chosen cells, differentiable in the residuals, in memory that does not grow with their number."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding

from workbench.models.anatomy import Anatomy

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
