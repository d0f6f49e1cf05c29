"""The adaptive solver of replay: what plain descent comes to, in a third of its passes forward and back.

`descent.descend` follows the gradient flow of the loss f for the time ``T = alpha * iterations``. This minimises

    F(x) = f(x) + |x|^2 / (2 c T)

instead, which keeps tokens small as stopping early does: where f is quadratic, a direction of curvature k is learnt to the share
kcT / (1 + kcT) rather than 1 - exp(-kT), and no tokens as short have a smaller loss. c is chosen so that both lengths agree about
where the loss is. Each prompt has its own L-BFGS: steps from its last pairs of moves and changes of gradient, shorter ones after
a step that raised F.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.models.anatomy import Anatomy, frozen
from workbench.replay.descent import limit_of, longest
from workbench.replay.loss import Loss
from workbench.stopping import still_wanted

PASSES = 7
"""Forward and back, at most; plain descent takes ``iterations``."""
_STRETCH = 1.4
# c: measured on the validation splits of both bundled pairs, see tests/perf/solver.py
_MEMORY = 7
# A step must lower F by this part of what its slope promises (Armijo).
_SUFFICIENT = 1e-4


@dataclass
class _Curvature:
    """The last moves s and changes of gradient y of every prompt; a pair counts where s.y > 0."""

    where: Int[Tensor, " n"]
    prompts: int
    pairs: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def dot(self, a: Tensor, b: Tensor) -> Float[Tensor, " prompts"]:
        """One number a prompt."""
        products = (a * b).sum(1)
        return products.new_zeros(self.prompts).index_add(0, self.where, products)

    def add(self, move: Tensor, change: Tensor) -> None:
        product = self.dot(move, change)
        counts = (product > 0) & torch.isfinite(product)
        weight = torch.where(counts, 1 / product.clamp_min(torch.finfo(product.dtype).tiny), 0)
        keep = counts[self.where, None]
        self.pairs.append((torch.where(keep, move, 0), torch.where(keep, change, 0), weight))
        del self.pairs[:-_MEMORY]

    def direction(self, gradient: Tensor, first: Float[Tensor, " prompts"]) -> Tensor:
        """The quasi-Newton step from a point with this gradient; ``first``: the step length while nothing is known."""
        step, scale, shares = gradient, first, []
        for move, change, weight in reversed(self.pairs):
            share = weight * self.dot(move, step)
            step = step - share[self.where, None] * change
            shares.append(share)
        for _, change, weight in self.pairs:
            square = weight * self.dot(change, change)
            scale = torch.where(square > 0, 1 / square.clamp_min(torch.finfo(square.dtype).tiny), scale)
        step = scale[self.where, None] * step
        for (move, change, weight), share in zip(self.pairs, reversed(shares), strict=True):
            step = step + (share - weight * self.dot(change, step))[self.where, None] * move
        return -step


def minimise(
    loss_at: Loss, learner: Anatomy, *, alpha: float, iterations: int
) -> tuple[Float[Tensor, "n hidden"], list[list[float]], list[str | None]]:
    """As `descent.descend`, whose time ``alpha * iterations`` it takes; losses (nats) are those of the best tokens at each pass.

    The last loss is that of the tokens returned.
    """
    entry, prompts = loss_at.segment.entry, len(loss_at.cells.counts)
    where, positions = loss_at.where(entry)
    dtype = torch.float64 if entry.dtype == torch.float64 else torch.float32
    x = torch.zeros(len(where), entry.shape[-1], dtype=dtype, device=entry.device)
    losses: list[list[float]] = [[] for _ in range(prompts)]
    stopped: list[str | None] = [None] * prompts
    time = _STRETCH * alpha * iterations
    passes, pull = (PASSES, 1 / time) if time else (min(iterations, 1), 0.0)
    if not any(len(readout.index) for readout in loss_at.readouts.values()):
        return x, [[0.0] * passes for _ in range(prompts)], stopped
    limit = limit_of(entry[where, positions].to(dtype), where, prompts)
    curvature = _Curvature(where, prompts)
    alive = torch.ones(prompts, dtype=torch.bool, device=entry.device)
    best = gradient = torch.zeros_like(x)
    least = torch.full((prompts,), math.inf, dtype=dtype, device=entry.device)
    loss, length = least, torch.ones_like(least)
    first = slope = torch.zeros_like(least)
    with frozen(learner), torch.enable_grad():
        for number in range(passes):
            still_wanted()
            x.requires_grad_(True)
            here = loss_at(x).to(x)
            (now,) = torch.autograd.grad(here.sum(), x)
            x, here = x.detach(), here.detach()
            total, now = here + 0.5 * pull * curvature.dot(x, x), now + pull * x
            finite = torch.isfinite(total) & torch.isfinite(longest(now, where, prompts))
            better = alive & finite & (total <= least + _SUFFICIENT * length * slope)
            if number:
                usable = (finite & alive)[where, None]
                curvature.add(torch.where(usable, x - best, 0), torch.where(usable, now - gradient, 0))
            else:
                for prompt in (~finite).nonzero()[:, 0].tolist():
                    stopped[prompt] = "the loss or its gradient was not finite at iteration 1; x = 0 is kept"
                alive &= finite
                first = here / curvature.dot(now, now).clamp_min(torch.finfo(dtype).tiny)
                now = torch.where(alive[where, None], now, 0)
            moved = better[where, None]
            best, gradient = torch.where(moved, x, best), torch.where(moved, now, gradient)
            least, loss = torch.where(better, total, least), torch.where(better, here, loss)
            values = here.tolist() if number == 0 else loss.tolist()
            for prompt in range(prompts):
                if alive[prompt] or number == 0:
                    losses[prompt].append(values[prompt])
            step = curvature.direction(gradient, first)
            slope = curvature.dot(gradient, step)
            downhill = slope < 0
            step = torch.where(downhill[where, None], step, -first[where, None] * gradient)
            slope = torch.where(downhill, slope, curvature.dot(gradient, step))
            length = torch.where(better, 1.0, 0.25 * length)
            x = best + length[where, None] * step
            x = torch.where((alive & (longest(x, where, prompts) <= limit))[where, None], x, best)
    return best.detach(), losses, stopped
