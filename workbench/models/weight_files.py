"""Whether a folder holds one complete set of weights and nothing beside it. No torch; only names and an index are read.

transformers takes `model.safetensors` before the shards of an index, and leaves adapters and stray shards aside, without a word.
"""

import json
import re
from pathlib import Path

from workbench.errors import InputError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


def check_one_set(role: str, folder: str | Path) -> None:
    """Refuse a folder that holds two sets of weights; anything that is no folder passes.

    Raises:
        InputError: an adapter beside the weights, whole weights beside shards, shards that the index does not name, or an index
            that can't be read.
    """
    folder, here = Path(folder).expanduser(), f"`{role}` {str(folder)!r}"
    if not folder.is_dir():
        return
    names = {path.name for path in folder.iterdir()}
    shards = sorted(name for name in names if _SHARD.fullmatch(name))
    if (beside := sorted(names & {*ADAPTER})) and (WHOLE in names or shards):
        raise InputError(
            f"{here} holds the weights of a model and an adapter ({', '.join(beside)}), and either may be meant: move the "
            "adapter's files to a folder of their own, or merge it with `peft_model.merge_and_unload().save_pretrained(folder)`"
        )
    if WHOLE in names and (INDEX in names or shards):
        other = f"{len(shards)} shards such as {shards[0]}" if shards else INDEX
        raise InputError(
            f"{here} holds two sets of weights, {WHOLE} and {other}; one of them is left over from "
            "another save: move it away"
        )
    if INDEX not in names or not shards:
        return
    try:
        named = {*json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{here}: its {INDEX} can't be read ({error}); fetch the checkpoint again"
        ) from error
    if stray := [shard for shard in shards if shard not in named]:
        raise InputError(
            f"{here} holds {len(stray)} shards that {INDEX} does not name, such as {stray[0]}: two saves lie in one folder; move "
            "away the shards of the older one, or fetch the checkpoint again"
        )
