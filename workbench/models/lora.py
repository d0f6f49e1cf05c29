"""Adapters (LoRA and its kin, as peft saves them) in a model's place: found, checked, merged into the model they were trained on.

An adapter is a folder or a hub repository with ``adapter_config.json``, ``adapter_model.safetensors`` and no model.
Its base is what was given beside it as ``base``, else what its config names. Merging needs the package `peft` (extra ``peft``).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from workbench.errors import InputError, install
from workbench.models.gguf import extra_of, gguf_file, packaged

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """An adapter that lies on this machine, and what it says its base is."""

    source: str
    folder: Path
    base: str | None


def find_adapter(role: str, source: str | Path, revision: str | None = None) -> Adapter | None:
    """The adapter that ``source`` names; None where it names a model, or nothing.

    Raises:
        InputError: weights and an adapter side by side, an adapter without safetensors, or an unreadable config.
    """
    folder, here = Path(source).expanduser(), f"`{role}` {str(source)!r}"
    if not folder.is_dir():
        config = None if isinstance(source, Path) or packaged(source) else _on_hub(source, revision)
        if config is None:
            return None
        folder = config.parent
    elif not (folder / CONFIG).is_file():
        return None
    if (folder / "config.json").is_file() and _weights(folder):
        apart = folder / "adapter"
        raise InputError(
            f"{here} holds the weights of a model and an adapter, and either may be meant. Move {CONFIG} and {TENSORS} to "
            f"{apart}; then load_pair(base={str(source)!r}, rlvr={str(apart)!r}) compares the model without and with the "
            f"adapter, and load_pair(base=..., rlvr={str(source)!r}) takes the weights alone"
        )
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        base = told.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{here}: its {CONFIG} can't be read ({error}); fetch the adapter again") from error
    if not (folder / TENSORS).is_file():
        raise InputError(
            f"{here} has {CONFIG} and no {TENSORS}; other formats can run code and are not read: save it anew with "
            "`model.save_pretrained(folder, safe_serialization=True)`"
        )
    return Adapter(str(source), folder, base or None)


def base_of(role: str, adapter: Adapter, beside: Any = None) -> str | Path:
    """What an adapter is to be merged into: ``beside``, the base that was given with it, or else what its config names.

    Raises:
        InputError: the two have different names, or there is neither.
    """
    given = beside if isinstance(beside, str | Path) else None
    if given is not None and adapter.base is not None and not _may_be_same(str(given), adapter.base):
        raise InputError(
            f"`{role}` {adapter.source!r} is an adapter of {adapter.base!r}, and `base` is {str(given)!r}: "
            f"load_pair(base={adapter.base!r}, {role}={adapter.source!r})"
        )
    found = given or adapter.base
    if found is None:
        raise InputError(
            f"`{role}` {adapter.source!r} is an adapter that does not say of which model (`base_model_name_or_path` in its "
            f"{CONFIG}); give the model beside it, load_pair(base=<folder or hub id>, rlvr={adapter.source!r}), or name it there"
        )
    return found


def check_installed(here: str, adapter: Adapter) -> None:
    """Refuse, before any work, an adapter whose model or whose package is not on this machine.

    Raises:
        InputError: what to install.
    """
    extra = "peft"
    if adapter.base is not None and packaged(adapter.base):
        extra = extra_of(adapter.base) or extra
        gguf_file(adapter.base)
    if find_spec("peft") is None:
        raise InputError(
            f"{here} is an adapter, which needs a package that is missing, peft: {install(extra)}"
        )


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
        told = " ".join(str(error).split())[:300]
        raise InputError(
            f"{here} could not be put on its base: {told} (expected an adapter that this peft can read, of this model)"
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
            found = tensor.shape[1 if part[0] == "A" else 0]
            if expected != found:
                raise InputError(
                    f"{here} was not trained on this base: its {name} is for {found} {'inputs' if part[0] == 'A' else 'outputs'} "
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


def _on_hub(source: str, revision: str | None) -> Path | None:
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        found = find_adapter_config_file(source, revision=revision)
    except Exception:  # whatever is wrong with the name is said where a model is looked for
        return None
    if found is None:
        return None
    from huggingface_hub import snapshot_download

    return (
        Path(snapshot_download(source, revision=revision, allow_patterns=["adapter_*", "config.json"]))
        / CONFIG
    )


def _weights(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_")]


def _may_be_same(given: str, named: str) -> bool:
    """Whether two names may stand for one model; where either is a path of some machine, names tell nothing."""
    if packaged(given) or packaged(named):
        return given == named or Path(given).expanduser().is_dir()
    hub = [
        name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).is_dir()
        for name in (given, named)
    ]
    return not all(hub) or given.rsplit("/")[-1].casefold() == named.rsplit("/")[-1].casefold()


def apply_change(model: nn.Module, adapter: Path, change: Mapping[str, Tensor]) -> None:
    """Add to a model, into which ``adapter`` is merged, what the change of its tensors changes."""
    with torch.no_grad():
        for key, added in change_of_weights(adapter, change).items():
            parameter = model.get_parameter(key)
            parameter.add_(added.to(parameter))
