"""A checkpoint's files, looked at without loading them: whether it is here and whole, and what its config.json says. No torch."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from workbench.errors import InputError, nearest
from workbench.models.adapter_files import base_of, check_installed, find_adapter
from workbench.models.gguf import folder_of, packaged
from workbench.models.weight_files import check_one_set

_TEXT = ("text_config", "llm_config", "language_config")
"""Where the config of a multimodal model keeps that of its decoder."""
TAKEN = ("base", "rlvr", "permuted", "gaussian")
"""Conditions that stand beside controls in tables."""


def located(role: str, source: str | Path) -> str:
    """A folder that looks whole, or a hub id; of the weights only the headers are read.

    Raises:
        InputError: neither, or a folder without config.json, without weights, with two sets of them, or with a file that is cut
            short.
    """
    folder, here = Path(source).expanduser(), f"`{role}` {str(source)!r}"
    if not folder.is_dir():
        if isinstance(source, Path) or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source):
            siblings = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
            raise InputError(
                f"{here} is not a folder{nearest(folder.name, siblings)}; give a checkpoint's folder, or a hub id like "
                "'owner/name'"
            )
        return source
    names = sorted(path.name for path in folder.iterdir())[:8]
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{here} has no config.json, found {names}; give a folder that `save_pretrained` wrote"
        )
    index = folder / "model.safetensors.index.json"
    sharded = index.is_file() and not (folder / "model.safetensors").is_file()
    listed = re.findall(r'"([^"/]+\.safetensors)"', index.read_text()) if sharded else []
    shards = {folder / name for name in listed}
    if lost := sorted(shard.name for shard in shards if not shard.is_file()):
        raise InputError(f"{here} lacks {lost} of its {len(shards)} weight files; fetch the checkpoint again")
    weights = shards or set(folder.glob("*.safetensors"))
    if not weights:
        raise InputError(
            f"{here} has no safetensors weights, found {names}; other formats can run code and are not "
            "read: convert them with `model.save_pretrained(folder)`"
        )
    for file in sorted(weights):
        try:
            with safe_open(file, "np"):
                pass
        except (SafetensorError, OSError) as error:
            reason = (" ".join(str(error).split()) or type(error).__name__)[:300]
            raise InputError(
                f"{here}: {file.name} is corrupt or cut short ({reason}); fetch it again"
            ) from error
    check_one_set(role, source, folder)
    return str(folder)


def snapshot_of(source: str | Path, revision: str | None = None) -> Path | None:
    """The folder of the hub's cache with the config.json of a repository; None where it was not fetched."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(str(source), "config.json", revision=revision)
    return Path(file).parent if isinstance(file, str) else None


def config_in(role: str, source: str | Path, *, revision: str | None = None) -> Mapping[str, Any] | None:
    """The config.json of a checkpoint that is on this machine, as it stands there; None for one that is still to be fetched.

    Raises:
        InputError: what `located` refuses, a config that can't be read, or a hub id that is not here where nothing is fetched.
    """
    if packaged(source):
        home = folder_of(str(source))
        if not home.is_dir():
            return None
        source = home
    where = Path(located(role, source))
    file = where / "config.json"
    if not where.is_dir():
        from huggingface_hub.constants import HF_HUB_OFFLINE

        snapshot = snapshot_of(source, revision)
        if snapshot is None:
            if HF_HUB_OFFLINE:
                raise InputError(
                    f"`{role}` {str(source)!r} is no folder here and not in the hub's cache, and this machine is offline "
                    "(HF_HUB_OFFLINE); give a checkpoint's folder, or fetch it first where there is a network: "
                    f"`hf download {source}`"
                )
            return None
        check_one_set(role, source, snapshot)
        file = snapshot / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"`{role}` {str(source)!r}: its config.json can't be read ({error}); fetch it again, or give another checkpoint"
        ) from error
    if not isinstance(config, dict):
        raise InputError(
            f"`{role}` {str(source)!r}: its config.json holds a {type(config).__name__}; expected an object, as "
            "`save_pretrained` writes it"
        )
    return config


def decoder_fact(config: Mapping[str, Any], name: str) -> int | None:
    """A whole number of a config's decoder, such as ``num_hidden_layers``; None where the file leaves it to the model's code."""
    parts = [config.get(key) for key in _TEXT]
    values = [part.get(name) for part in (*parts, config) if isinstance(part, Mapping)]
    return next((value for value in values if isinstance(value, int)), None)


def depth_in_files(
    sources: Mapping[str, str | Path], revisions: Mapping[str, str | None] | None = None
) -> int | None:
    """Decoder layers of the two models, by role, from their files; None where these don't say.

    Raises:
        InputError: what `config_in` refuses, or two models that differ in family, depth or width.
    """
    configs = {role: _config_of(role, sources, (revisions or {}).get(role)) for role in sources}
    readable = [config for config in configs.values() if config is not None]
    facts = {
        "model families": [config.get("model_type") for config in readable],
        "depths (decoder layers)": [decoder_fact(config, "num_hidden_layers") for config in readable],
        "hidden sizes": [decoder_fact(config, "hidden_size") for config in readable],
        "widths of the MLPs": [decoder_fact(config, "intermediate_size") for config in readable],
    }
    for what, values in facts.items():
        if len({value for value in values if value is not None}) > 1:
            raise InputError(
                f"{' and '.join(f'`{role}`' for role in sources)} differ in {what}: {' and '.join(map(str, values))}; give a "
                "base model and a model post-trained from it"
            )
    return next((depth for depth in facts["depths (decoder layers)"] if depth is not None), None)


def check_controls(sources: Mapping[str, str | Path], base: str | Path | None = None) -> None:
    """Look at controls' names and files, before anything is loaded.

    Args:
        sources: folder of a model, adapter of the base, or hub id, by name.
        base: where the pair's base is from; None: in memory.

    Raises:
        InputError: no text or path by name, a name that stands for something else, a source that is nowhere, or one of another
            family, depth or width than the base.
    """
    call = "controls_of(pair, {'sft': 'runs/sft'})"
    if not isinstance(sources, Mapping):
        raise InputError(
            f"`controls` is a {type(sources).__name__}; expected folders, adapters or hub ids by name: {call}"
        )
    for name, source in sources.items():
        if not isinstance(name, str) or not name.strip() or name in TAKEN:
            raise InputError(
                f"`controls` has the name {name!r}; expected one of your own, which is none of {', '.join(TAKEN)}: {call}"
            )
        if not isinstance(source, str | Path) or not str(source).strip():
            raise InputError(
                f"`controls` {name!r} is {source!r}; expected the folder of a model or of an adapter, or a hub id: {call}"
            )
        try:
            depth_in_files({**({} if base is None else {"base": base}), "controls": source})
        except InputError as error:
            raise InputError(f"`controls` {name!r}: {error}") from error


def sees_in_files(sources: Mapping[str, str | Path], revisions: Mapping[str, str | None]) -> bool | None:
    """Whether the RLVR model reads pictures, from its files; None where these don't say.

    Raises:
        InputError: what `config_in` refuses.
    """
    config = _config_of("rlvr", sources, revisions.get("rlvr"))
    return None if config is None else "vision_config" in config


def _config_of(
    role: str, sources: Mapping[str, str | Path], revision: str | None
) -> Mapping[str, Any] | None:
    """The config of a model, or of what an adapter will be merged into."""
    source = sources[role]
    adapter = find_adapter(role, source) if Path(source).expanduser().is_dir() else None
    if adapter is None:
        return config_in(role, source, revision=revision)
    check_installed(f"`{role}` {adapter.source!r}", adapter)
    beside = sources.get("base") if role != "base" else None
    folder = None if beside is None else Path(beside).expanduser()
    own = find_adapter("base", folder) if folder is not None and folder.is_dir() else None
    return config_in(role, base_of(role, adapter, beside if own is None else own.base))
