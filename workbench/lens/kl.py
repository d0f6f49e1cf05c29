"""KL between two distributions that are there as a whole: a few tokens, or a vocabulary that fits.

Between two models' predictions over a large vocabulary it is `fused.compare` that gives it, block by block, from
residuals; every KL of the workbench is one of the two.
"""

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
