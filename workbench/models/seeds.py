"""Further training runs of a bundled pair: ``shapes@1`` is `shapes` as the recipe makes it with seed 1.

They ship packed, as rounded changes (`weight_deltas.write_codes`) in ``seeds/1`` beside the weights of the first run: ``base``
since the first run's base (missing where both runs start from the same), ``rlvr`` and controls since the base of their own run.
The first call unpacks them into the user's cache (`gguf.cache_folder`), as checkpoints' folders like any other.
"""

import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from workbench.digests import digest_of, file_digest
from workbench.models.adapter_files import TENSORS
from workbench.models.gguf import cache_folder

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
BASE, RLVR = "base", "rlvr"


def seeds_of(home: Path) -> list[int]:
    """Seeds of the further runs whose packed changes lie in a bundled pair's folder."""
    return sorted(int(path.name) for path in (home / "seeds").glob("[0-9]*"))


@cache
def unpacked_run(home: Path, seed: int) -> Path:
    """The folder with ``base``, ``rlvr`` and ``control`` of the run with a seed; made at the first call.

    Args:
        home: the bundled pair's folder, with ``base`` and ``seeds``.
        seed: one of `seeds_of`.

    Raises:
        InputError: a packed change is corrupt.
    """
    packed = sorted((home / "seeds" / str(seed)).glob("*.safetensors"))
    file = next(path for path in (home / BASE / WEIGHTS, home / BASE / TENSORS) if path.is_file())
    stamp = digest_of([[path.name, file_digest(path)] for path in (*packed, file)], 12)
    folder = cache_folder() / f"{home.name}-seed-{seed}-{stamp}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                    whole = Path(scratch) / "run"
                    _unpack(home, {path.stem: path for path in packed}, file.name, whole)
                    whole.rename(folder)
    return folder


def _unpack(home: Path, packed: Mapping[str, Path], name: str, folder: Path) -> None:
    from safetensors.torch import load_file, save_file  # torch, which presets do without

    start = load_file(home / BASE / name)
    if BASE in packed:
        start = _changed(start, packed[BASE])
    for role, tensors in ((BASE, start), (RLVR, _changed(start, packed[RLVR]))):
        shutil.copytree(home / role, folder / role, ignore=shutil.ignore_patterns("*.safetensors"))
        save_file(tensors, folder / role / name, metadata={"format": "pt"})
    (folder / "control").mkdir()
    for control in packed.keys() - {BASE, RLVR}:
        shutil.copy(packed[control], folder / "control")


def _changed(start: "Mapping[str, Tensor]", packed: Path) -> "dict[str, Tensor]":
    from workbench.models.weight_deltas import read_delta

    change = read_delta(packed)
    return {key: (tensor.float() + change[key]).to(tensor.dtype) for key, tensor in start.items()}
