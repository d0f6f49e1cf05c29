"""Residuals whose lens is sharper or flatter at the same norm: a turn along the gradient of the lens' entropy.

Cause rather than correlation: entropy goes with much else in a residual stream (its norm, what a token shows). `steered` moves
the entropy and not the norm; `turned` goes as far in a random direction, and is the control.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.lens.heads import LensHead

STEPS = 10
"""Of a turn along the gradient, which is taken anew at each."""


def entropy(logits: Float[Tensor, "positions vocabulary"]) -> Float[Tensor, " positions"]:
    """Entropy of softmax(logits), in nats."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def steered(
    hidden: Float[Tensor, "positions hidden"], head: LensHead, angle: float, *, sharpen: bool
) -> Float[Tensor, "positions hidden"]:
    """Residuals of the same norms, turned by ``angle`` (radians) to where the lens is sharper, or flatter.

    The path follows the gradient of the lens' entropy within the sphere; float32, or float64 for float64 residuals.
    """
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    moved = hidden.detach().to(dtype)
    for _ in range(STEPS):
        with torch.enable_grad():
            point = moved.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(entropy(head.logits(point)).sum(), point)
        moved = _turn(moved, -gradient if sharpen else gradient, angle / STEPS)
    return moved


def turned(
    hidden: Float[Tensor, "positions hidden"], angle: float, generator: torch.Generator
) -> Float[Tensor, "positions hidden"]:
    """Residuals of the same norms, turned by ``angle`` (radians) in a random direction each."""
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    along = torch.randn(hidden.shape, generator=generator, dtype=dtype).to(hidden.device)
    return _turn(hidden.detach().to(dtype), along, angle)


def _turn(hidden: Tensor, along: Tensor, angle: float) -> Tensor:
    """Each row turned by an angle towards another; where that is nothing or along the row itself, left as it is."""
    norm = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
    unit = hidden / norm.where(norm > 0, 1.0)
    tangent = along - (along * unit).sum(-1, keepdim=True) * unit
    length = torch.linalg.vector_norm(tangent, dim=-1, keepdim=True)
    across = tangent / length.where(length > 0, 1.0)
    return torch.where(length > 0, norm * (math.cos(angle) * unit + math.sin(angle) * across), hidden)
