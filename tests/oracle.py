"""Independent, slow and obvious implementations that the library is tested against. Tests only."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def hooked_residuals(model: nn.Module, layers: Iterable[nn.Module], inputs: dict[str, Any]) -> list[Tensor]:
    """What every decoder layer returns, (batch, tokens, hidden) each, through plain PyTorch hooks."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output).clone())

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return kept


def own_logits(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """The model's own logits at every position, (batch, tokens, vocabulary)."""
    with torch.no_grad():
        return model(**inputs).logits


def naive_lens(residuals: Tensor, norm: nn.Module, unembedding: nn.Module) -> Tensor:
    """Log probabilities over the whole vocabulary, (..., vocabulary), of residuals (..., hidden)."""
    with torch.no_grad():
        return unembedding(norm(residuals)).log_softmax(-1)


def entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(-1)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)
