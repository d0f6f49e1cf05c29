"""A checkpoint that holds two sets of weights is refused, wherever it comes from; nothing is left aside in silence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from pair_folders import load, refused
from safetensors.torch import load_file, save_file

from workbench.errors import InputError
from workbench.models import checkpoints
from workbench.models.checkpoint_files import depth_in_files
from workbench.models.loading import load_pair


def shards(folder: Path, keep: bool) -> None:
    """The weights once more, in two shards with an index; the whole file stays or goes."""
    weights, whole = load_file(folder / "model.safetensors"), folder / "model.safetensors"
    owner = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(weights)}
    for shard in {*owner.values()}:
        save_file({n: w for n, w in weights.items() if owner[n] == shard}, folder / shard, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": owner}))
    if not keep:
        whole.unlink()


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")


def stray(folder: Path) -> None:
    shards(folder, keep=False)
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00003-of-00003.safetensors")


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "adapter": (adapter, r"holds the weights of a model and an adapter"),
    "whole and shards": (
        lambda folder: shards(folder, keep=True),
        r"holds two sets of weights, model\.safetensors and 2 shards such as model-00001-of-00002\.safetensors; one of them",
    ),
    "stray shard": (
        stray,
        r"holds 1 shards that model\.safetensors\.index\.json does not name, such as model-00003-of-00003",
    ),
}


@pytest.mark.parametrize("role", ["base", "rlvr"])
@pytest.mark.parametrize("case", FILES)
def test_a_folder_with_two_sets_of_weights_is_refused(home, case, role, no_forward):
    """Protects from an adapter left out, and from last month's weights beside today's."""
    damage, message = FILES[case]
    damage(home / role)
    refused(home, rf"`{role}` '.*{role}' {message}")


def hub(home: Path, role: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder as a fetched repository of the hub, in a cache of its own as huggingface_hub lays it out."""
    commit, repository = "0" * 40, cache / f"models--someone--{role}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(home / role, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
    return f"someone/{role}"


@pytest.mark.parametrize("role", ["base", "rlvr"])
@pytest.mark.parametrize("case", FILES)
def test_a_repository_with_two_sets_of_weights_is_refused(
    home, case, role, tmp_path, monkeypatch, no_forward
):
    """Protects from the same in what was fetched from the hub, also before torch is imported."""
    damage, message = FILES[case]
    damage(home / role)
    named = {r: hub(home, r, tmp_path / "hub", monkeypatch) for r in ("base", "rlvr")}
    message = message.split(", such as")[0].split(r"; one of them")[0]
    with pytest.raises(
        InputError, match=rf"`{role}` 'someone/{role}' {message}.*`hf download someone/{role} "
    ):
        load_pair(base=named["base"], rlvr=named["rlvr"], device="cpu")
    with pytest.raises(InputError, match=rf"`{role}` 'someone/{role}' {message}"):
        depth_in_files(named)


def test_files_of_a_repository_that_were_not_fetched_count_too(home, tmp_path, monkeypatch, no_forward):
    """Protects from whole weights that are taken because they are asked for first."""
    named = {r: hub(home, r, tmp_path / "hub", monkeypatch) for r in ("base", "rlvr")}
    listed = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors"]
    monkeypatch.setattr(checkpoints, "repository_files", lambda source, revision=None: listed)
    with pytest.raises(
        InputError, match=r"'someone/base' holds two sets of weights, model\.safetensors and 1"
    ):
        load_pair(base=named["base"], rlvr=named["rlvr"], device="cpu")


def test_a_fetched_repository_is_a_pair_like_its_folder(home, tmp_path, monkeypatch):
    """Protects from refusing what is right."""
    named = {r: hub(home, r, tmp_path / "hub", monkeypatch) for r in ("base", "rlvr")}
    wanted = tiny.model("qwen2_5_vl", 1).state_dict()
    pair = load_pair(base=named["base"], rlvr=named["rlvr"], device="cpu")
    assert all(torch.equal(wanted[n], w) for n, w in pair.rlvr.model.state_dict().items())


def test_shards_alone_are_one_set(home):
    """Protects from refusing what is right."""
    shards(home / "rlvr", keep=False)
    wanted = tiny.model("qwen2_5_vl", 1).state_dict()
    assert all(torch.equal(wanted[n], w) for n, w in load(home).rlvr.model.state_dict().items())
