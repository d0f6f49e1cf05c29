"""Translators that others published, one file a stage or one for all, read without running any code in them.

Two layouts, both of translators that are applied *residually*, h + W h + b with torch's ``nn.Linear`` (W is (hidden,
hidden), b is (hidden,)), and then read by the model's own final norm and unembedding:

* ``translators/translator_stage_XX.pt`` a stage, each a dict with ``state`` (``weight``, ``bias``) and a ``summary``: the
  model card of ``DivyG007/vlm-mcqa`` on the Hugging Face hub. Also taken: the same names ending in ``.safetensors``, files
  beside each other without the folder ``translators``, and the two tensors without ``state`` around them.
* ``params.pt``, a dict with ``0.weight``, ``0.bias``, ``1.weight``, ...: the package ``tuned-lens``.

Stage s is what *enters* decoder layer s (both): stage 0 the embedding, which no layer's lens reads and which is left out; stage
s the output of layer s - 1. There are as many stages as layers, so that the last layer, whose lens is the model's own output,
has none, and keeps the plain lens.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from workbench.errors import InputError
from workbench.tracing.pickled import is_dense, kind_of, read_pickled
from workbench.tracing.tuned_lens import Translators

_STAGE = re.compile(r"translator_stage_(\d+)\.(pt|safetensors)")
_ENTRY = re.compile(r"(\d+)\.(weight|bias)", re.ASCII)
_CALL = "TunedLens.load('vlm-mcqa/qwen25vl_7b')"
_EXPECTED = "expected translator_stage_00.pt (or .safetensors) and so on, one a decoder layer, or params.pt"


def read_published(folder: str | Path) -> Translators:
    """Translators of a model's published folder; ``provenance`` names the folder, its stages and a digest of its files.

    Raises:
        InputError: no such files, a stage that is missing or there twice, tensors that do not fit together or are not finite,
            or a file that holds anything but tensors, numbers and text (it is never unpickled as a whole).
    """
    home = Path(folder)
    stages, files = _stages(home)
    missing = sorted({*range(max(stages) + 1)} - {*stages})
    if missing or len(stages) < 2:
        lacks = f"lacks stage {missing[0]}" if missing else "holds one stage alone"
        raise InputError(f"`folder` {str(home)!r} {lacks}; {_EXPECTED}: {_CALL}")
    width = len(stages[0][1])
    for stage, (weight, bias) in sorted(stages.items()):
        if weight.shape != (width, width) or bias.shape != (width,):
            raise InputError(
                f"`folder` {str(home)!r}: stage {stage} has a weight {tuple(weight.shape)} and a bias {tuple(bias.shape)}, "
                f"expected ({width}, {width}) and ({width},): {_CALL}"
            )
    identity = torch.zeros(width, width), torch.zeros(width)
    by_layer = [*(stages[layer + 1] for layer in range(len(stages) - 1)), identity]
    weight, bias = (torch.stack([pair[part].float() for pair in by_layer]) for part in (0, 1))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    metadata = {"published": home.name, "stages": len(stages), "files": digest.hexdigest()[:16]}
    return Translators(weight, bias, provenance=metadata)


def _stages(home: Path) -> tuple[dict[int, tuple[Tensor, Tensor]], list[Path]]:
    """Weight and bias by stage, and the files that they come from."""
    places = [place for place in (home / "translators", home) if place.is_dir()]
    for place in places:
        files = sorted(file for file in place.iterdir() if _STAGE.fullmatch(file.name))
        if files:
            stages: dict[int, tuple[Tensor, Tensor]] = {}
            for file in files:
                stage = int(file.name.removeprefix("translator_stage_").partition(".")[0])
                if stage in stages:
                    raise InputError(
                        f"`folder` {str(home)!r} holds stage {stage} twice; {_EXPECTED}: {_CALL}"
                    )
                stages[stage] = _both(file, _content(file))
            return stages, files
        if (file := place / "params.pt").exists():
            content = _content(file)
            parts = {
                n: {k: content.get(f"{n}.{k}") for k in ("weight", "bias")} for n in _numbers(file, content)
            }
            return {n: _both(file, part) for n, part in parts.items()}, [file]
    raise InputError(f"`folder` {str(home)!r} holds no translators; {_EXPECTED}: {_CALL}")


def _numbers(file: Path, content: Mapping[Any, Any]) -> list[int]:
    """The stages of a ``params.pt``, whose other entries are let be unless they are numbered in another way."""
    found = {name: _ENTRY.fullmatch(name) if isinstance(name, str) else None for name in content}
    strange = [
        name for name, m in found.items() if not m and (not isinstance(name, str) or name[:1].isdigit())
    ]
    numbers = sorted({int(match[1]) for match in found.values() if match})
    if strange or not numbers:
        raise InputError(
            f"`folder`: {file.name} holds {(strange or [*content])[:4]}; expected tensors by the names '0.weight', '0.bias', "
            f"'1.weight' and so on: {_CALL}"
        )
    return numbers


def _content(file: Path) -> Mapping[Any, Any]:
    """What a file holds; nothing in it is run."""
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"`folder`: {file.name} can't be read ({error}); {_EXPECTED}: {_CALL}"
            ) from error
    content = read_pickled(file, _CALL)
    if not isinstance(content, Mapping):
        raise InputError(
            f"`folder`: {file.name} holds a {type(content).__name__}, expected a dict with weight and bias: {_CALL}"
        )
    return content


def _both(file: Path, content: Mapping[Any, Any]) -> tuple[Tensor, Tensor]:
    state = content.get("state", content)
    names = state if isinstance(state, Mapping) else {}
    weight, bias = names.get("weight"), names.get("bias")
    if not (isinstance(weight, Tensor) and isinstance(bias, Tensor)):
        raise InputError(
            f"`folder`: {file.name} holds {sorted(map(str, names))[:4]}; expected tensors weight (hidden, hidden) and bias "
            f"(hidden,): {_CALL}"
        )
    if not (is_dense(weight) and is_dense(bias) and (weight.ndim, bias.ndim) == (2, 1)):
        raise InputError(
            f"`folder`: {file.name} has a weight that is {kind_of(weight)} and a bias that is {kind_of(bias)}; expected dense "
            f"floating-point tensors (hidden, hidden) and (hidden,): {_CALL}"
        )
    return weight, bias
