"""Saved changes of weights: bfloat16 tensors without loss in two thirds of their size.

Trained changes of weights lie within a few powers of two of each other, so their exponents compress well, and their signs and
mantissas hardly. A file is a safetensors file of two byte tensors, ``exponents`` and ``mantissas`` (with the signs), each one
zlib stream over all tensors; names and shapes are in its metadata. `write_codes` keeps less: whole numbers of ``LEVELS`` steps to
either side of 0, one scale a row, in a third of the size of bfloat16.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.errors import InputError

LEVELS = 15


def write_codes(path: Path, change: Mapping[str, Tensor], levels: int = LEVELS) -> None:
    """Save tensors, each row rounded to ``levels``ths (at most 127) of its largest value: by 15ths, an error of about 5%.

    A vector is one row, of a tensor of more than two dimensions the first counts the rows.
    """
    codes, scales = [], []
    for tensor in change.values():
        rows = tensor.detach().cpu().float().reshape(_rows(tensor.shape), -1)
        scale = (rows.abs().amax(1, keepdim=True).clamp_min(1e-30) / levels).bfloat16()
        codes.append((rows / scale.float()).round().clamp(-127, 127).to(torch.int8).numpy().tobytes())
        scales.append(scale[:, 0])
    stream = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    packed = stream.compress(b"".join(codes)) + stream.flush()
    save_file(
        {"codes": torch.frombuffer(bytearray(packed), dtype=torch.uint8), "scales": torch.cat(scales)},
        path,
        metadata={"shapes": json.dumps({name: list(tensor.shape) for name, tensor in change.items()})},
    )


def write_delta(path: Path, change: Mapping[str, Tensor]) -> None:
    """Save tensors, rounded to bfloat16."""
    words = [
        tensor.detach().cpu().bfloat16().reshape(-1).view(torch.int16).numpy() for tensor in change.values()
    ]
    bits = np.concatenate(words).view(np.uint16)
    planes = {"exponents": (bits >> 7) & 0xFF, "mantissas": ((bits >> 8) & 0x80) | (bits & 0x7F)}
    packed = {name: zlib.compress(plane.astype(np.uint8).tobytes(), 9) for name, plane in planes.items()}
    shapes = {name: list(tensor.shape) for name, tensor in change.items()}
    save_file(
        {name: torch.frombuffer(bytearray(stream), dtype=torch.uint8) for name, stream in packed.items()},
        path,
        metadata={"shapes": json.dumps(shapes)},
    )


def read_delta(path: Path) -> dict[str, Tensor]:
    """The bfloat16 tensors that `write_delta` saved, bit for bit, or the float32 ones that `write_codes` rounded.

    Raises:
        InputError: the file is missing, corrupt, or holds something else.
    """
    try:
        with safe_open(path, "np") as file:
            shapes = json.loads(file.metadata()["shapes"])
            count = sum(prod(shape) for shape in shapes.values())
            if "codes" in file.keys():  # noqa: SIM118
                return _decoded(shapes, count, file.get_tensor("codes"), _scales(path))
            exponents, mantissas = (
                _unpacked(file.get_tensor(name), count) for name in ("exponents", "mantissas")
            )
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, ValueError, zlib.error) as error:
        raise InputError(
            f"`path` {path} is no saved change of weights ({error}); fetch the package again, or write it with `write_delta`"
        ) from error
    bits = ((mantissas & 0x80) << 8) | (exponents << 7) | (mantissas & 0x7F)
    flat = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    parts = flat.split([prod(shape) for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _rows(shape: Sequence[int]) -> int:
    return shape[0] if len(shape) > 1 else 1


def _scales(path: Path) -> Tensor:
    with safe_open(path, "pt") as file:  # numpy has no bfloat16
        return file.get_tensor("scales").float()


def _decoded(
    shapes: Mapping[str, list[int]], count: int, stream: np.ndarray, scales: Tensor
) -> dict[str, Tensor]:
    codes = torch.from_numpy(_unpacked(stream, count).astype(np.int8)).float()
    parts = codes.split([prod(shape) for shape in shapes.values()])
    rows = scales.split([_rows(shape) for shape in shapes.values()])
    return {
        name: (part.reshape(len(scale), -1) * scale[:, None]).reshape(shape)
        for (name, shape), part, scale in zip(shapes.items(), parts, rows, strict=True)
    }


def _unpacked(stream: np.ndarray, count: int) -> np.ndarray:
    # No more than what the shapes promise, whatever a broken stream would grow to.
    plane = zlib.decompressobj().decompress(stream.tobytes(), count + 1)
    if len(plane) != count:
        raise ValueError(f"{len(plane)} values or more where its shapes say {count}")
    return np.frombuffer(plane, np.uint8).astype(np.uint16)
