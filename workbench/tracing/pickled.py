"""Files that ``torch.save`` wrote, by anybody: read without running any code in them, whatever else may ail them."""

import pickle
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from workbench.errors import InputError


def read_pickled(file: Path, call: str) -> Any:
    """What a file holds, on the CPU; ``call`` is one that would work.

    Raises:
        InputError: it holds more than tensors, numbers and text, or can't be read.
    """
    named = f"`folder`: {file.parent.name}/{file.name}"
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{named} holds more than tensors, numbers and text, and will not be unpickled; expected what "
            f"torch.load(file, weights_only=True) reads: {call}"
        ) from error
    except (
        Exception
    ) as error:  # bytes that are no pickle are read as its instructions, and those raise anything
        raise InputError(
            f"{named} can't be read ({type(error).__name__}: {error}); expected what torch.save writes: {call}"
        ) from error


def is_dense(value: Any) -> TypeGuard[Tensor]:
    """Whether it is a tensor of real floating-point numbers that are all there: neither sparse, nested nor without memory."""
    if not isinstance(value, Tensor) or value.is_nested or value.layout != torch.strided:
        return False
    return value.is_floating_point() and value.device.type == "cpu"


def kind_of(value: Any) -> str:
    """What it is, for a message: of a tensor its dtype, shape, and layout and device unless these are the usual ones."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    layout = "" if value.layout == torch.strided else f", {str(value.layout).removeprefix('torch.')}"
    shape = "nested" if value.is_nested else tuple(value.shape)
    device = "" if value.device.type == "cpu" else f", on {value.device}"
    return f"{str(value.dtype).removeprefix('torch.')} {shape}{layout}{device}"
