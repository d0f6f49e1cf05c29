"""KL between two distributions that are there as a whole: a few tokens, or a vocabulary that fits.

Between two models' predictions over a large vocabulary it is `fused.compare` that gives it, block by block, from
residuals; every KL of the workbench is one of the two.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def kl_divergence(
    log_p: Float[Tensor, "*cells v"], log_q: Float[Tensor, "*cells v"]
) -> Float[Tensor, "*cells"]:
    """KL(p || q) in nats, of log probabilities."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def kl_of_logits(z_p: Float[Tensor, "*cells v"], z_q: Float[Tensor, "*cells v"]) -> Float[Tensor, "*cells"]:
    """KL(p || q) in nats, of logits over the same tokens."""
    return kl_divergence(z_p.log_softmax(-1), z_q.log_softmax(-1))


def jensen_shannon(
    log_p: Float[Tensor, "*cells v"], log_q: Float[Tensor, "*cells v"]
) -> Float[Tensor, "*cells"]:
    """Jensen-Shannon divergence in nats, from 0 to ln 2, of log probabilities: mean KL of each to the mean of both."""
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    both = kl_divergence(log_p, log_mean) + kl_divergence(log_q, log_mean)
    return (both / 2).clamp(0, math.log(2))
