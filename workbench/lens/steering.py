"""Residuals whose lens is sharper or flatter at the same norm: a turn along the gradient of the lens' entropy.

Cause rather than correlation: entropy goes with much else in a residual stream (its norm, what a token shows). `steered` moves
the entropy and not the norm. Its controls go as far: `turned` in a random direction, which a head hardly reads, and `reworded`
to other words of the same entropy, within what the head reads.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.lens.heads import LensHead

STEPS = 10
"""Of a turn along the gradient, which is taken anew at each."""
_TINY = 1e-30


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
    moved = _exact(hidden)
    for _ in range(STEPS):
        slope = _slope(moved, head)
        moved = _turn(moved, -slope if sharpen else slope, angle / STEPS)
    return moved


def reworded(
    hidden: Float[Tensor, "positions hidden"], head: LensHead, angle: float, generator: torch.Generator
) -> Float[Tensor, "positions hidden"]:
    """Residuals of the same norms, turned by ``angle`` (radians) to where the lens says other words, as sharply as before.

    Entropy is a sum over words. The path follows the gradient of that sum with a sign drawn for each word of each position, less
    its part along the gradient of entropy: what `steered` moves, with the same weights, but not entropy. Each step is put back
    to the entropy of the start; float32, or float64 for float64 residuals.
    """
    moved, step = _exact(hidden), angle / STEPS
    shape = (len(moved), len(head.weight))
    signs = (torch.randint(0, 2, shape, generator=generator, dtype=torch.int8) * 2 - 1).to(moved.device)
    kept = entropy(head.logits(moved))
    for _ in range(STEPS):
        slope, other = _slope(moved, head), _slope(moved, head, signs)
        share = (other * slope).sum(-1, keepdim=True) / (slope * slope).sum(-1, keepdim=True).clamp_min(_TINY)
        moved = _turn(moved, other - share * slope, step)
        slope = _slope(moved, head)
        rise = torch.linalg.vector_norm(slope, dim=-1) * torch.linalg.vector_norm(moved, dim=-1)
        back = (kept - entropy(head.logits(moved))) / rise.clamp_min(_TINY)
        moved = _turn(moved, slope, back.clamp(-step, step).unsqueeze(-1))
    return moved


def turned(
    hidden: Float[Tensor, "positions hidden"], angle: float, generator: torch.Generator
) -> Float[Tensor, "positions hidden"]:
    """Residuals of the same norms, turned by ``angle`` (radians) in a random direction each."""
    moved = _exact(hidden)
    along = torch.randn(hidden.shape, generator=generator, dtype=moved.dtype).to(hidden.device)
    return _turn(moved, along, angle)


def _exact(hidden: Tensor) -> Tensor:
    """In float32, or float64 as they are."""
    return hidden.detach().to(torch.float64 if hidden.dtype == torch.float64 else torch.float32)


def _slope(hidden: Tensor, head: LensHead, signs: Tensor | None = None) -> Tensor:
    """Gradient of the lens' entropy within the sphere; with ``signs`` (positions, vocabulary): of its sum with these signs."""
    with torch.enable_grad():
        point = hidden.detach().requires_grad_()
        log_p = head.logits(point).log_softmax(-1)
        terms = log_p.exp() * log_p
        total = -(terms if signs is None else terms * signs).sum()
        (gradient,) = torch.autograd.grad(total, point)
    return _across(gradient, _unit(hidden))


def _turn(hidden: Tensor, along: Tensor, angle: float | Tensor) -> Tensor:
    """Each row turned by an angle (or its own, (positions, 1)) towards another; left where that is nothing or the row itself."""
    norm, unit = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True), _unit(hidden)
    tangent = _across(along, unit)
    turn = torch.as_tensor(angle, dtype=hidden.dtype, device=hidden.device)
    moved = norm * (turn.cos() * unit + turn.sin() * _unit(tangent))
    return torch.where((tangent != 0).any(-1, keepdim=True), moved, hidden)


def _unit(rows: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / length.where(length > 0, 1.0)


def _across(rows: Tensor, unit: Tensor) -> Tensor:
    """What of each row is at right angles to a unit row."""
    return rows - (rows * unit).sum(-1, keepdim=True) * unit
