"""Adapters (LoRA and its kin, as peft saves them) in a model's place: found and checked by their files. No torch.

An adapter is a folder or a hub repository with ``adapter_config.json``, ``adapter_model.safetensors`` and no model.
Its base is what was given beside it as ``base``, else what its config names.
"""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench.errors import InputError, install
from workbench.models.gguf import extra_of, gguf_file, packaged
from workbench.models.weight_files import check_one_set, repository_files

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


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
        check_one_set(role, source, folder, repository_files(str(source), revision))
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
        config_entries = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        base = config_entries.get("base_model_name_or_path")
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
    own_base = beside if isinstance(beside, str | Path) else None
    if own_base is not None and adapter.base is not None and not _may_be_same(str(own_base), adapter.base):
        raise InputError(
            f"`{role}` {adapter.source!r} is an adapter of {adapter.base!r}, and `base` is {str(own_base)!r}: "
            f"load_pair(base={adapter.base!r}, {role}={adapter.source!r})"
        )
    source = own_base or adapter.base
    if source is None:
        raise InputError(
            f"`{role}` {adapter.source!r} is an adapter that does not say of which model (`base_model_name_or_path` in its "
            f"{CONFIG}); give the model beside it, load_pair(base=<folder or hub id>, rlvr={adapter.source!r}), or name it there"
        )
    return source


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


def _on_hub(source: str, revision: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        hf_hub_download(source, CONFIG, revision=revision)
    except Exception:  # whatever is wrong with the name is said where a model is looked for
        return None
    return (
        Path(snapshot_download(source, revision=revision, allow_patterns=["adapter_*", "config.json"]))
        / CONFIG
    )


def _weights(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_")]


def _may_be_same(base: str, named: str) -> bool:
    """Whether two names may stand for one model; True where either is a path, of whatever machine, and decides nothing."""
    if packaged(base) or packaged(named):
        return base == named or Path(base).expanduser().is_dir()
    hub = [
        name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).is_dir()
        for name in (base, named)
    ]
    return not all(hub) or base.rsplit("/")[-1].casefold() == named.rsplit("/")[-1].casefold()
