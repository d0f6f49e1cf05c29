"""Adapters are merged as peft applies them, on either side; what does not fit is refused before anything runs."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from workbench.errors import InputError
from workbench.models import adapter_files, lora
from workbench.models.checkpoints import read_config
from workbench.models.loading import load_pair
from workbench.sweeps.cells import digests

FAMILIES = ("llama", "qwen2_5_vl")


def adapter(model, folder: Path, seed: int, named: str | None = None, **settings) -> Path:
    """A random adapter of every linear layer of `model`, saved by peft."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | settings
    trained = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.05)
    trained.peft_config["default"].base_model_name_or_path = named
    trained.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory) -> tuple[str, Path]:
    """A family, and a folder with its model `body` (and processor), and the adapters `sft` and `rl` of it."""
    home = tmp_path_factory.mktemp(request.param)
    tiny.model(request.param, 0).save_pretrained(home / "body")
    tiny.processor(request.param).save_pretrained(home / "body")
    for seed, name in enumerate(("sft", "rl"), 1):
        adapter(tiny.model(request.param, 0), home / name, seed, str(home / "body"))
    return request.param, home


def logits(model, prompt) -> torch.Tensor:
    with torch.no_grad():
        return model(**prompt.model_inputs).logits


@pytest.mark.parametrize("base", ["body", "sft"])
def test_merged_logits_are_those_of_peft_on_either_side(saved, base):
    family, home = saved
    pair = load_pair(base=home / base, rlvr=home / "rl", device="cpu")
    assert pair.processor is not None
    images = 1 if family == "qwen2_5_vl" else 0
    prompt = pair.encode(tiny.problem(family, images))
    plain = logits(tiny.model(family, 0), prompt)
    for role, name in (("base", base), ("rlvr", "rl")):
        expected = plain
        if name != "body":
            wrapped = PeftModel.from_pretrained(tiny.model(family, 0), home / name).eval()
            expected = logits(wrapped, prompt)
            assert (expected - plain).abs().max() > 1e-3
        torch.testing.assert_close(logits(getattr(pair, role).model, prompt), expected, atol=1e-5, rtol=0)
    assert pair.provenance["rlvr"]["id"] == str(home / "rl")
    assert pair.provenance["rlvr"]["adapter_of"] == str(home / "body")
    assert pair.provenance["base"].get("adapter_of") == (None if base == "body" else str(home / "body"))


def test_an_adapter_on_the_base_side_finds_its_model_and_processor(saved):
    family, home = saved
    pair = load_pair(base=home / "sft", rlvr=home / "body", device="cpu")
    assert type(pair.processor) is type(tiny.processor(family))
    assert read_config("base", home / "sft").model_type == pair.base.model.config.model_type
    assert not any(p.requires_grad for p in pair.base.model.parameters())


def test_weights_beside_an_adapter_are_refused_with_both_calls(saved, tmp_path):
    _, home = saved
    both = shutil.copytree(home / "body", tmp_path / "both")
    for name in (lora.CONFIG, lora.TENSORS):
        shutil.copy(home / "rl" / name, both)
    with pytest.raises(InputError, match="weights of a model and an adapter") as refused:
        load_pair(base=home / "body", rlvr=both)
    assert f"load_pair(base='{both}', rlvr='{both / 'adapter'}')" in str(refused.value)
    assert f"load_pair(base=..., rlvr='{both}')" in str(refused.value)
    (both / "adapter").mkdir()
    for name in (lora.CONFIG, lora.TENSORS):
        (both / name).rename(both / "adapter" / name)
    load_pair(base=both, rlvr=both / "adapter", device="cpu")
    load_pair(base=home / "body", rlvr=both, device="cpu")


def test_a_base_of_another_size_or_build_is_refused(saved, tmp_path):
    _, home = saved
    broad = shutil.copytree(home / "rl", tmp_path / "broad")
    tensors = load_file(broad / lora.TENSORS)
    name = next(key for key in tensors if key.endswith("q_proj.lora_A.weight") and "visual" not in key)
    save_file(tensors | {name: torch.zeros(4, 7)}, broad / lora.TENSORS)
    with pytest.raises(InputError, match=r"for 7 inputs and the base's has \d+"):
        load_pair(base=home / "body", rlvr=broad)
    save_file({key.replace("layers.1", "layers.9"): t for key, t in tensors.items()}, broad / lora.TENSORS)
    with pytest.raises(InputError, match=r"no layer .*layers\.9"):
        load_pair(base=home / "body", rlvr=broad)


def test_a_base_of_another_name_is_refused(tmp_path):
    made = adapter(tiny.model("llama", 0), tmp_path / "rl", 0, "owner/model-a")
    found = adapter_files.find_adapter("rlvr", made)
    assert found is not None
    with pytest.raises(InputError, match=r"adapter of 'owner/model-a', and `base` is 'owner/model-b'"):
        adapter_files.base_of("rlvr", found, "owner/model-b")
    assert adapter_files.base_of("rlvr", found, "another/Model-A") == "another/Model-A"  # a mirror
    assert adapter_files.base_of("rlvr", found, tmp_path) == tmp_path  # of a folder the name tells nothing
    assert adapter_files.base_of("rlvr", found) == "owner/model-a"


def test_an_adapter_without_a_name_needs_a_model_beside_it(tmp_path):
    tiny.model("llama", 0).save_pretrained(tmp_path / "body")
    made = adapter(tiny.model("llama", 0), tmp_path / "rl", 0)
    with pytest.raises(InputError, match="does not say of which model"):
        load_pair(base=made, rlvr=tmp_path / "body")
    load_pair(base=tmp_path / "body", rlvr=made, device="cpu")


def test_incomplete_and_broken_adapters_are_refused(tmp_path):
    tiny.model("llama", 0).save_pretrained(tmp_path / "body")
    made = adapter(tiny.model("llama", 0), tmp_path / "rl", 0)
    tensors = load_file(made / lora.TENSORS)
    save_file(dict([*tensors.items()][:-1]), made / lora.TENSORS)
    with pytest.raises(InputError, match="do not go together: 1 tensors"):
        load_pair(base=tmp_path / "body", rlvr=made)
    (made / lora.TENSORS).write_bytes(b"nothing")
    with pytest.raises(InputError, match="corrupt or cut short"):
        load_pair(base=tmp_path / "body", rlvr=made)
    (made / lora.TENSORS).rename(made / "adapter_model.bin")
    with pytest.raises(InputError, match="other formats can run code"):
        load_pair(base=tmp_path / "body", rlvr=made)
    (made / lora.CONFIG).write_text("{")
    with pytest.raises(InputError, match="can't be read"):
        load_pair(base=tmp_path / "body", rlvr=made)


def test_a_missing_peft_is_told_with_the_extra(tmp_path, monkeypatch):
    tiny.model("llama", 0).save_pretrained(tmp_path / "body")
    made = adapter(tiny.model("llama", 0), tmp_path / "rl", 0)
    monkeypatch.setattr(adapter_files, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install -e "\.\[peft\]"'):
        load_pair(base=tmp_path / "body", rlvr=made)


def test_a_changed_adapter_adds_what_its_own_merge_would(tmp_path):
    """What the saved checkpoints of a bundled pair rest on."""
    first = adapter(tiny.model("llama", 0), tmp_path / "first", 1)
    second = adapter(tiny.model("llama", 0), tmp_path / "second", 2)
    assert json.loads((first / lora.CONFIG).read_text())["r"] == 4
    before, after = (load_file(folder / lora.TENSORS) for folder in (first, second))
    merged = {
        name: PeftModel.from_pretrained(tiny.model("llama", 0), folder).merge_and_unload()
        for name, folder in (("first", first), ("second", second))
    }
    lora.apply_change(merged["first"], first, {key: after[key] - before[key] for key in before})
    for a, b in zip(merged["first"].parameters(), merged["second"].parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_results_of_an_adapter_are_named_by_its_model_too(saved):
    """Sweeps find results again by what can change them."""
    _, home = saved
    told = digests(home / "rl")
    assert {lora.TENSORS, "base/model.safetensors", "base/config.json"} <= set(told)
    assert set(digests(home / "body")) == {name.removeprefix("base/") for name in told if "base/" in name}
