"""Whether a checkpoint holds one complete set of weights and nothing beside it. No torch; only names and an index are read.

transformers takes `model.safetensors` before the shards of an index, and leaves adapters and stray shards aside, without a word.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from workbench.errors import InputError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


def check_one_set(role: str, source: str | Path, folder: Path, listed: Iterable[str] = ()) -> None:
    """Refuse a checkpoint that holds two sets of weights, wherever it comes from.

    Args:
        role: the argument's name, and `source` what was given for it, for messages.
        source: see `role`.
        folder: that folder, or the snapshot of a hub repository in the cache.
        listed: further files of a repository, which may not have been fetched.

    Raises:
        InputError: an adapter beside the weights, whole weights beside shards, shards that the index does not name, or an index
            that can't be read.
    """
    here, on_hub = f"`{role}` {str(source)!r}", not Path(source).expanduser().is_dir()
    names = {path.name for path in folder.iterdir()} | {*listed}
    shards = sorted(name for name in names if _SHARD.fullmatch(name))
    if (beside := sorted(names & {*ADAPTER})) and (WHOLE in names or shards):
        apart = _apart(source) if on_hub else "move the adapter's files to a folder of their own"
        raise InputError(
            f"{here} holds the weights of a model and an adapter ({', '.join(beside)}), and either may be meant: {apart}, or "
            "merge it with `peft_model.merge_and_unload().save_pretrained(folder)`"
        )
    if WHOLE in names and (INDEX in names or shards):
        other = f"{len(shards)} shards such as {shards[0]}" if shards else INDEX
        raise InputError(
            f"{here} holds two sets of weights, {WHOLE} and {other}; one of them is left over from "
            f"another save: {_apart(source) if on_hub else 'move it away'}"
        )
    if not shards or not (folder / INDEX).is_file():
        return
    try:
        named = {*json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{here}: its {INDEX} can't be read ({error}); fetch the checkpoint again"
        ) from error
    if stray := [shard for shard in shards if shard not in named]:
        raise InputError(
            f"{here} holds {len(stray)} shards that {INDEX} does not name, such as {stray[0]}: two saves lie in one folder; "
            f"{_apart(source) if on_hub else 'move away the shards of the older one, or fetch the checkpoint again'}"
        )


def repository_files(source: str, revision: str | None = None) -> list[str]:
    """Names of a hub repository's files, fetched or not; none where the hub can't be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return []
    try:
        return HfApi().list_repo_files(source, revision=revision)
    except Exception:  # whatever is wrong with the name or the network is said where files are fetched
        return []


def _apart(source: str | Path) -> str:
    return f"fetch the files that you mean into a folder, `hf download {source} --include NAME --local-dir FOLDER`"
