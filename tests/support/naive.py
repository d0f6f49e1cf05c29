"""The lens written out."""

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.lens.heads import LensHead


def rms_norm(h: Tensor) -> Tensor:
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def naive_logits(h: Tensor, head: LensHead) -> Tensor:
    logits = F.linear(head.norm(h), head.weight, head.bias) * head.multiplier
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
