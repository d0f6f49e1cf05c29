"""Gradient descent on tokens: step 4 of Activation Replay, for several prompts at a time, each on its own.

x <- x - alpha * gradient, the loss being a sum over prompts, so that no prompt's step depends on another's. A prompt
whose loss, gradient or tokens leave the finite numbers, or whose tokens leave the model's world, is put back to x = 0
and left alone; the others go on.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.models.anatomy import Anatomy, frozen
from workbench.replay.loss import Loss
from workbench.stopping import still_wanted

# Tokens this many times longer than the longest visual embedding have left the model's world.
_DIVERGED = 1e3
# An iteration improves the loss if it lowers it by more than this part.
_PLATEAU = 1e-3


def descend(
    loss_at: Loss, learner: Anatomy, *, alpha: float, iterations: int, patience: int | None = None
) -> tuple[Float[Tensor, "n hidden"], list[list[float]], list[str | None]]:
    """Tokens x of all cells; for each prompt its losses (nats) before each step, and why it stopped early, if it did.

    ``patience``: stop a prompt after so many iterations without progress.
    """
    prompts, entry = len(loss_at.cells.counts), loss_at.segment.entry
    where, positions = loss_at.where(entry)
    device, dtype = entry.device, torch.float64 if entry.dtype == torch.float64 else torch.float32
    x = torch.zeros(len(where), entry.shape[-1], dtype=dtype, device=device)
    alive = torch.ones(prompts, dtype=torch.bool, device=device)
    losses: list[list[float]] = [[] for _ in range(prompts)]
    stopped: list[str | None] = [None] * prompts
    best, waited = [math.inf] * prompts, [0] * prompts
    limit = limit_of(entry[where, positions].to(dtype), where, prompts)
    if not any(len(readout.index) for readout in loss_at.readouts.values()):
        return x, [[0.0] * iterations for _ in range(prompts)], stopped
    with frozen(learner), torch.enable_grad():
        for iteration in range(iterations):
            still_wanted()
            if not alive.any():
                break
            x.requires_grad_(True)
            loss = loss_at(x)
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            x = torch.where(alive[where, None], x.detach() - alpha * gradient, x.detach())
            finite = torch.isfinite(loss.to(device)) & torch.isfinite(longest(x, where, prompts))
            reasons = {
                "the loss or its gradient was not finite": ~finite,
                "the tokens diverged": finite & (longest(x, where, prompts) > limit),
            }
            for reason, failed in reasons.items():
                for prompt in (failed & alive).nonzero()[:, 0].tolist():
                    stopped[prompt] = f"{reason} at iteration {iteration + 1}; x = 0 is kept"
            values = loss.detach().tolist()
            for prompt in alive.nonzero()[:, 0].tolist():
                losses[prompt].append(values[prompt])
                waited[prompt] = 0 if values[prompt] < best[prompt] * (1 - _PLATEAU) else waited[prompt] + 1
                best[prompt] = min(best[prompt], values[prompt])
                if stopped[prompt]:
                    alive[prompt] = False
                    x = torch.where((where == prompt)[:, None], torch.zeros_like(x), x)
                elif patience and waited[prompt] >= patience:
                    stopped[prompt] = f"no progress for {patience} iterations, at iteration {iteration + 1}"
                    alive[prompt] = False
    return x.detach(), losses, stopped


def limit_of(embeddings: Tensor, where: Tensor, prompts: int) -> Tensor:
    """How long a prompt's tokens may become, (prompts,), from what they are added to, (n, hidden)."""
    return _DIVERGED * longest(embeddings, where, prompts)


def longest(x: Tensor, where: Tensor, prompts: int) -> Tensor:
    """The longest row of each prompt, (prompts,); NaN if one of them is."""
    return x.new_zeros(prompts).scatter_reduce(0, where, x.norm(dim=1), reduce="amax")
