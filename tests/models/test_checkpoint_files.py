"""What is wrong with a checkpoint's files is said without loading them."""

import json
import subprocess
import sys

import pytest

from workbench.errors import InputError
from workbench.models.checkpoint_files import config_in, decoder_fact, depth_in_files, located
from workbench.models.preset_files import pair_preset


def checkpoint(folder, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "num_hidden_layers": 3, **config}))
    source = pair_preset("shapes").source("base")
    (folder / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    return folder


def test_the_depth_is_that_of_the_decoder(tmp_path):
    preset = pair_preset("shapes")
    assert depth_in_files({role: preset.source(role) for role in ("base", "rlvr")}) == 8
    assert depth_in_files({"base": checkpoint(tmp_path / "flat")}) == 3
    nested = {"num_hidden_layers": 30, "text_config": {"num_hidden_layers": 4, "hidden_size": 8}}
    assert decoder_fact(nested, "num_hidden_layers") == 4
    assert decoder_fact(nested, "hidden_size") == 8
    assert decoder_fact({"text_config": {}}, "num_hidden_layers") is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama"}, "differ in model families: qwen2 and llama"),
        ({"num_hidden_layers": 4}, r"differ in depths \(decoder layers\): 3 and 4"),
        ({"hidden_size": 64}, "hidden sizes: 32 and 64"),
    ],
)
def test_two_checkpoints_that_cannot_be_a_pair(tmp_path, config, message):
    sources = {"base": checkpoint(tmp_path / "base", hidden_size=32), "rlvr": tmp_path / "rlvr"}
    checkpoint(sources["rlvr"], **{"hidden_size": 32, **config})
    with pytest.raises(InputError, match=message):
        depth_in_files(sources)


def test_what_is_no_checkpoint(tmp_path, monkeypatch):
    checkpoint(tmp_path / "model")
    with pytest.raises(InputError, match=r"is not a folder \(did you mean 'model'\?\)"):
        located("base", f"{tmp_path}/modle")
    (tmp_path / "model" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"`rlvr` .*model': its config.json can't be read"):
        config_in("rlvr", tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("[]")
    with pytest.raises(InputError, match="holds a list; expected an object"):
        config_in("rlvr", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\0" * 9)
    with pytest.raises(InputError, match=r"model.safetensors is corrupt or cut short"):
        located("base", tmp_path / "model")
    with pytest.raises(InputError, match=r"not in the hub's cache, and this machine is offline"):
        config_in("base", "nobody/none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert config_in("base", "nobody/none") is None


def test_looking_needs_no_torch():
    program = (
        "import sys\n"
        "from workbench.models.checkpoint_files import depth_in_files\n"
        "from workbench.models.preset_files import named_pair\n"
        "preset = named_pair('shapes')\n"
        "assert depth_in_files({r: preset.source(r) for r in ('base', 'rlvr')}) == 8\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
