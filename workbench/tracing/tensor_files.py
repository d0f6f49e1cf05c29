"""A folder with tensors and what there is to say of them: ``NAME.safetensors`` and, written last, ``NAME.json``."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from workbench.errors import InputError


def write_tensors(folder: str | Path, name: str, tensors: Mapping[str, Tensor], metadata: str) -> Path:
    """Write both files, JSON's text as it is given; returns the folder, which is made if need be.

    Raises:
        InputError: the folder cannot be written.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in tensors.items()}, target / f"{name}.safetensors")
        (target / f"{name}.json").write_text(f"{metadata}\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"`folder` {str(target)!r} cannot be written: {error}; name one on a writable disk"
        ) from error
    return target
