"""Adapters (LoRA and its kin, as peft saves them) merged into the model they were trained on; `adapter_files` finds them.

Merging needs the package `peft` (extra ``peft``).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from workbench.errors import InputError
from workbench.models.adapter_files import CONFIG, TENSORS, Adapter, check_installed

_PREFIX = "base_model.model."


def merge(role: str, adapter: Adapter, model: nn.Module) -> Any:
    """The model with the adapter merged into its weights, in place.

    Raises:
        InputError: `peft` is missing or can't read the adapter, or the adapter was trained on another model.
    """
    here = f"`{role}` {adapter.source!r}"
    check_installed(here, adapter)
    _check_fit(here, adapter, model)
    from peft import PeftModel, get_peft_model_state_dict

    try:
        merged = PeftModel.from_pretrained(model, str(adapter.folder))
        loaded = get_peft_model_state_dict(merged)
    except Exception as error:  # peft raises its own, torch's and safetensors', of any type
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{here} could not be put on its base: {reason} (expected an adapter that this peft can read, of this model)"
        ) from error
    saved = read_tensors(here, adapter.folder / TENSORS)
    if strange := sorted(saved.keys() ^ loaded.keys()):
        raise InputError(
            f"{here} and its {CONFIG} do not go together: {len(strange)} tensors are only in one of them, such as "
            f"{strange[0]}; save or fetch the adapter again"
        )
    return merged.merge_and_unload(safe_merge=True).eval().requires_grad_(False)


def read_tensors(here: str, file: Path) -> dict[str, Tensor]:
    """All tensors of an adapter's file.

    Raises:
        InputError: it is corrupt.
    """
    try:
        with safe_open(file, "pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{here}: {file.name} is corrupt or cut short ({error}); fetch it again") from error


def _check_fit(here: str, adapter: Adapter, model: nn.Module) -> None:
    """Every matrix of the adapter has a layer of its name and size; peft itself leaves out what it does not find."""
    modules = dict(model.named_modules())
    for key, tensor in read_tensors(here, adapter.folder / TENSORS).items():
        name, _, part = key.removeprefix(_PREFIX).partition(".lora_")
        if part not in ("A.weight", "B.weight"):
            continue
        weight = getattr(modules.get(name), "weight", None)
        if weight is None:
            raise InputError(
                f"{here} was not trained on this base, which has no layer {name}; its {CONFIG} names {adapter.base!r}"
            )
        if isinstance(modules[name], nn.Linear):
            expected = weight.shape[1 if part[0] == "A" else 0]
            size = tensor.shape[1 if part[0] == "A" else 0]
            if expected != size:
                raise InputError(
                    f"{here} was not trained on this base: its {name} is for {size} {'inputs' if part[0] == 'A' else 'outputs'} "
                    f"and the base's has {expected}; its {CONFIG} names {adapter.base!r}"
                )


def change_of_weights(adapter: Path, change: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By parameter of the model, what an adapter whose tensors have changed by ``change`` adds to what it added before.

    Only for plain LoRA of one rank: weight + alpha / rank * B A.
    """
    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    scale, before = config["lora_alpha"] / config["r"], read_tensors(str(adapter), adapter / TENSORS)
    changes: dict[str, Tensor] = {}
    for key in before:
        name, _, part = key.removeprefix(_PREFIX).partition(".lora_")
        if part == "A.weight":
            a, b = before[key].float(), before[other := key.replace(".lora_A.", ".lora_B.")].float()
            after = (b + change[other].float()) @ (a + change[key].float())
            changes[f"{name}.weight"] = scale * (after - b @ a)
    return changes


def apply_change(model: nn.Module, adapter: Path, change: Mapping[str, Tensor]) -> None:
    """Add to a model, into which ``adapter`` is merged, what the change of its tensors changes."""
    with torch.no_grad():
        for key, added in change_of_weights(adapter, change).items():
            parameter = model.get_parameter(key)
            parameter.add_(added.to(parameter))
