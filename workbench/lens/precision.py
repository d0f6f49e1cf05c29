"""Precision of a device: float64 (Apple's GPUs, ``mps``, have none and say so by a TypeError), bfloat16 products of a CPU."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

CPUINFO = Path("/proc/cpuinfo")
UNITS = ("amx_bf16", "avx512_bf16", "bf16")
"""What a CPU calls its units that multiply bfloat16, on x86 and on ARM, the fastest first."""


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


def bfloat16_unit() -> str | None:
    """The CPU's unit that multiplies bfloat16, as Linux calls it; None: none, or not known here."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return next((unit for unit in UNITS if unit in flags), None)
