"""Double precision where a device has it: Apple's GPUs (``mps``) have none, and say so by a TypeError."""

from functools import cache

import torch
from torch import Tensor


def has_float64(device: torch.device) -> bool:
    """Whether a device holds float64 numbers; tried once a kind of device."""
    return device.type == "cpu" or _tried(device.type)


def widest(device: torch.device) -> torch.dtype:
    """What sums are kept in on a device: float64, or float32 where it has none."""
    return torch.float64 if has_float64(device) else torch.float32


def double(tensor: Tensor) -> Tensor:
    """The numbers in float64: where they are, or on the CPU if their device has none."""
    return (tensor if has_float64(tensor.device) else tensor.cpu()).double()


@cache
def _tried(device: str) -> bool:
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except TypeError:
        return False
    return True
