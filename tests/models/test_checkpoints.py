import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from workbench.errors import InputError
from workbench.models.anatomy import dissect
from workbench.models.checkpoints import Placement, load_model, load_processor

FULL = ["full_attention"]
LAYER = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "whole"
    tiny.model("qwen2").save_pretrained(folder)
    tiny.tokenizer("qwen2").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A whole checkpoint of a tiny Qwen2, to be damaged."""
    return shutil.copytree(saved, tmp_path / "checkpoint")


def load(folder: Any, **placement: Any):
    return load_model(
        "rlvr", folder, Placement(device="cpu", **placement), revision=None, trust_remote_code=False
    )


def edit_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return edit


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return edit


def cut(size: int) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(size)

    return edit


def shard(folder: Path) -> None:
    """Turns the checkpoint into one of two shards, and loses the second."""
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    owner = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": owner}))


def test_a_whole_checkpoint_loads_frozen_and_in_eval_mode(folder):
    model = load(folder)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert model.dtype == torch.float32
    for name, weight in tiny.model("qwen2").named_parameters():
        assert torch.equal(model.get_parameter(name), weight)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", torch.float16])
def test_dtype_and_attention_kernel_are_set(folder, dtype):
    model = load(str(folder), dtype=dtype, attn_implementation="eager")
    assert model.dtype == (getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "config.json").unlink(),
            r"has no config\.json, found \[.*'model\.safetensors'.*save_pretrained",
        ),
        (lambda f: (f / "config.json").write_text("{"), r"could not be loaded: .* not a valid JSON file"),
        (edit_config(model_type="unheard_of"), r"could not be loaded: .*model type `unheard_of`"),
        (
            lambda f: (f / "model.safetensors").unlink(),
            r"has no safetensors weights, found .* other formats can run code",
        ),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            r"has no safetensors weights, found .*'pytorch_model\.bin'.* convert them with `model\.save_",
        ),
        (cut(5000), r"model\.safetensors is corrupt or cut short \(.*\); fetch it again"),
        (cut(3), r"model\.safetensors is corrupt or cut short \(.*\); fetch it again"),
        (
            shard,
            r"lacks \['model-00002-of-00002\.safetensors'\] of its 2 weight files; fetch the ch",
        ),
        (
            edit_weights(lambda w: w.pop(LAYER)),
            rf"lacks 1 weights: {LAYER}; config\.json and weights must come from",
        ),
        (
            edit_weights(lambda w: w.update({LAYER: torch.zeros(3, 3)})),
            rf"has another shape than its config\.json says for 1 weights: {LAYER};",
        ),
        (
            edit_config(num_hidden_layers=2, layer_types=FULL * 2),
            r"has more layers than its config\.json says, with \d+ weights: model\.layers\.2\.",
        ),
        (
            edit_config(num_hidden_layers=4, layer_types=FULL * 4),
            r"lacks \d+ weights: model\.layers\.3\..*, \.\.\.;",
        ),
        (
            edit_config(num_hidden_layers=2),
            r"could not be loaded: .*`num_hidden_layers` \(2\) must be equal to",
        ),
        (
            edit_config(vocab_size=400),
            r"has another shape than .* for 2 weights: lm_head\.weight, model\.embed_tokens",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_never_filled_with_random_weights(folder, damage, message):
    damage(folder)
    with pytest.raises(
        InputError, match=rf"`rlvr` '.*checkpoint' {message}" if message[0] != "m" else message
    ):
        load(folder)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "/no/such/folder",
            r"`rlvr` '/no/such/folder' is not a folder; give a checkpoint's folder, or a hub id",
        ),
        (Path("no/folder"), r"`rlvr` 'no/folder' is not a folder"),
        ("owner/never-heard-of-it", r"`rlvr` 'owner/never-heard-of-it' could not be loaded: .*config\.json"),
    ],
)
def test_a_missing_checkpoint_is_refused(source, message):
    with pytest.raises(InputError, match=message):
        load(source)


def test_an_unknown_attention_kernel_is_refused(folder):
    with pytest.raises(InputError, match=r"`rlvr` .* could not be loaded: .*attn_implementation"):
        load(folder, attn_implementation="telepathy")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float31"}, r"`dtype` 'float31' is not a floating-point dtype; try dtype=\"bfloat16\""),
        ({"dtype": torch.int8}, r"`dtype` torch.int8 is not a floating-point dtype"),
        ({"device": "abacus"}, r"`device` 'abacus' does not work here \(.*\); try device=\"cpu\""),
        ({"device": "cpu", "device_map": "auto"}, r"`device` and `device_map` were both given"),
    ],
)
def test_a_bad_placement_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Placement(**settings)


def test_a_processor_is_found_absent_or_broken(saved, folder):
    anatomy = dissect(tiny.model("qwen2"))
    hub: dict[str, Any] = {"revision": None, "trust_remote_code": False}
    loaded = load_processor("base", saved, anatomy, **hub)
    assert loaded.get_vocab() == tiny.tokenizer("qwen2").get_vocab()
    assert load_processor("base", "owner/never-heard-of-it", anatomy, **hub) is None
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(
        InputError, match=r"`base` '.*': its processor could not be loaded \(.*mend its files, or give"
    ):
        load_processor("base", folder, anatomy, **hub)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert load_processor("base", folder, anatomy, **hub) is None
