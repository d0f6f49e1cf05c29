"""Residuals whose lens is sharper or flatter at the same norm: a turn along the gradient of the lens' entropy.

Cause rather than correlation: entropy goes with much else in a residual stream (its norm, what a token shows). `steered` moves
the entropy and not the norm. Its controls go as far as it went: `turned` in a random direction, which a head hardly reads, and
`reworded` to other words of the same entropy, by what the head reads.
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
    """Residuals of the same norms, on a path of ``angle`` (radians) to where the lens is sharper, or flatter.

    The path follows the gradient of the lens' entropy within the sphere. It bends, most where entropy is nearly as large as it
    can be, so that the turn from its start to its end is less (`angle_between`); float32, or float64 for float64 residuals.
    """
    moved = _exact(hidden)
    step = _column(angle / STEPS, moved)
    for _ in range(STEPS):
        slope = _slope(moved, head)
        moved = _turn(moved, -slope if sharpen else slope, step)
    return moved


def reworded(
    hidden: Float[Tensor, "positions hidden"],
    head: LensHead,
    angle: float | Float[Tensor, " positions"],
    generator: torch.Generator,
) -> Float[Tensor, "positions hidden"]:
    """Residuals of the same norms, turned by ``angle`` (radians; one, or one each) to where the lens says other words as sharply.

    Entropy is a sum over words. The path follows the gradient of that sum with a sign drawn for each word of each position, less
    its part along the gradient of entropy: what `steered` moves, with the same weights, but not entropy. Each step is put back
    to the entropy of the start, as far as another step as long can, and makes up for bends so far; float32, or float64 for
    float64 residuals.
    """
    moved = start = _exact(hidden)
    shape = (len(moved), len(head.weight))
    signs = (torch.randint(0, 2, shape, generator=generator, dtype=torch.int8) * 2 - 1).to(moved.device)
    kept = entropy(head.logits(moved))
    for left in range(STEPS, 0, -1):
        step = ((_column(angle, start) - _column(angle_between(start, moved), start)) / left).clamp_min(0.0)
        slope, other = _slope(moved, head), _slope(moved, head, signs)
        share = (other * slope).sum(-1, keepdim=True) / (slope * slope).sum(-1, keepdim=True).clamp_min(_TINY)
        moved = _turn(moved, other - share * slope, step)
        slope = _slope(moved, head)
        rise = torch.linalg.vector_norm(slope, dim=-1) * torch.linalg.vector_norm(moved, dim=-1)
        back = ((kept - entropy(head.logits(moved))) / rise.clamp_min(_TINY)).unsqueeze(-1)
        moved = _turn(moved, slope, back.clamp(-step, step))
    return moved


def turned(
    hidden: Float[Tensor, "positions hidden"],
    angle: float | Float[Tensor, " positions"],
    generator: torch.Generator,
) -> Float[Tensor, "positions hidden"]:
    """Residuals of the same norms, turned by ``angle`` (radians; one, or one each) in a random direction each."""
    moved = _exact(hidden)
    along = torch.randn(hidden.shape, generator=generator, dtype=moved.dtype).to(hidden.device)
    return _turn(moved, along, _column(angle, moved))


def angle_between(
    one: Float[Tensor, "positions hidden"], other: Float[Tensor, "positions hidden"]
) -> Float[Tensor, " positions"]:
    """Radians from each row to its other; 0 where either is nothing. Exact for small ones, too, unlike the arc of a cosine."""
    a, b = _unit(_exact(one)), _unit(_exact(other))
    apart, along = (torch.linalg.vector_norm(rows, dim=-1) for rows in (a - b, a + b))
    empty = (a == 0).all(-1) | (b == 0).all(-1)
    return (2 * torch.atan2(apart, along)).masked_fill(empty, 0.0)


def _column(angle: float | Tensor, like: Tensor) -> Tensor:
    """As (positions, 1)."""
    column = torch.as_tensor(angle, dtype=like.dtype, device=like.device)
    return column.expand(len(like)).unsqueeze(-1)


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


def _turn(hidden: Tensor, along: Tensor, angle: Tensor) -> Tensor:
    """Each row turned by its angle (positions, 1) towards another; left where that is nothing or along the row itself."""
    norm, unit = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True), _unit(hidden)
    tangent = _across(along, unit)
    moved = norm * (angle.cos() * unit + angle.sin() * _unit(tangent))
    return torch.where((tangent != 0).any(-1, keepdim=True), moved, hidden)


def _unit(rows: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / length.where(length > 0, 1.0)


def _across(rows: Tensor, unit: Tensor) -> Tensor:
    """What of each row is at right angles to a unit row."""
    return rows - (rows * unit).sum(-1, keepdim=True) * unit
