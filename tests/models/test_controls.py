"""A user's own controls: a folder or an adapter in the RLVR model's place, over the pair's base; what does not fit is refused."""

import warnings

import pytest
import tiny
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model

import workbench as wb
from workbench.errors import InputError
from workbench.models import controls as controls_module
from workbench.models.bundled import all_controls_of, controls_of
from workbench.models.loading import load_pair
from workbench.models.presets import pair_preset


@pytest.fixture
def file(home):
    """A pair in YAML with a control of each kind: a folder of a whole model, and an adapter of the base."""
    tiny.model("qwen2_5_vl", 2).save_pretrained(home / "sft")
    torch.manual_seed(3)
    trained = get_peft_model(
        tiny.model("qwen2_5_vl", 0), LoraConfig(r=2, lora_alpha=4, target_modules="all-linear")
    )
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.05)
    trained.save_pretrained(home / "longer")
    return write(home, {"sft": "./sft", "longer": "./longer"})


def write(home, controls, **more):
    mine = {"base": "./base", "rlvr": "./rlvr", "system": "Be brief.", "controls": controls, **more}
    (home / "pairs.yaml").write_text(yaml.safe_dump({"mine": mine}, sort_keys=False))
    return home / "pairs.yaml"


def logits(model, prompt):
    with torch.no_grad():
        return model(**prompt.model_inputs).logits


def test_folder_and_adapter_play_the_rlvr_model_over_the_pairs_own_base(file, home):
    pair = load_pair(str(file), device="cpu")
    own = controls_of(pair)
    assert list(own) == list(all_controls_of(pair)) == ["sft", "longer"]
    prompt = pair.encode(tiny.problem("qwen2_5_vl"))
    expected = {
        "sft": tiny.model("qwen2_5_vl", 2),
        "longer": PeftModel.from_pretrained(tiny.model("qwen2_5_vl", 0), home / "longer").eval(),
    }
    for name, control in own.items():
        assert control.base is pair.base
        assert control.preset is pair.preset
        torch.testing.assert_close(
            logits(control.rlvr.model, prompt), logits(expected[name], prompt), atol=1e-5, rtol=0
        )
        assert control.provenance["control"] == name
        assert control.provenance["rlvr"]["id"] == str(home / name)
        assert control.provenance["rlvr"]["weights"] != pair.provenance["rlvr"]["weights"]
        assert control.provenance["base"] == pair.provenance["base"]
        assert controls_of(control) == {}
    assert "controls" in pair.preset.to_yaml()


def test_the_same_in_python(file, home):
    pair = load_pair(base=home / "base", rlvr=home / "rlvr", device="cpu")
    assert controls_of(pair) == {}
    assert list(wb.controls_of(pair, {"longer": home / "longer"})) == ["longer"]
    same = tiny.pair("qwen2_5_vl")
    assert controls_of(same, {"mine": home / "sft"})["mine"].base is same.base


def test_equal_weights_are_said(file, home):
    pair = load_pair(base=home / "base", rlvr=home / "rlvr", device="cpu")
    with pytest.warns(UserWarning, match=r"`controls` 'twin' and `rlvr` have weights that are equal"):
        controls_of(pair, {"twin": home / "rlvr"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        controls_of(pair, {"sft": home / "sft"})


def test_bad_controls_are_refused_before_a_model_is_loaded(file, home, monkeypatch):
    pair = load_pair(base=home / "base", rlvr=home / "rlvr", device="cpu")
    monkeypatch.setattr(controls_module, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    call = r"controls_of\(pair, \{'sft': 'runs/sft'\}\)"
    tiny.model("qwen2_5_vl", 0, num_hidden_layers=2).save_pretrained(home / "narrow")
    for sources, message in (
        (
            {"sft": home / "sft", "x": home / "nowhere"},
            r"`controls` 'x': `controls` .*nowhere' is not a folder",
        ),
        ({"x": "owner/nothing"}, r"`controls` 'x': .* is no folder here and not in the hub's cache"),
        ({"rlvr": home / "sft"}, rf"`controls` has the name 'rlvr'; expected one of your own.*{call}"),
        ({"sft": 3}, rf"`controls` 'sft' is 3; expected the folder.*{call}"),
        (["sft"], rf"`controls` is a list; .*{call}"),
        ({"x": home / "narrow"}, r"`controls` 'x': `base` and `controls` differ in depths"),
    ):
        with pytest.raises(InputError, match=message):
            controls_of(pair, sources)


def test_other_shapes_that_no_config_tells_are_refused_before_a_forward(file, home, monkeypatch):
    pair = load_pair(base=home / "base", rlvr=home / "rlvr", device="cpu")
    monkeypatch.setattr(controls_module, "probe", lambda anatomy: pytest.fail("a model ran"))
    other = tiny.model("qwen2_5_vl", 0, num_key_value_heads=1)
    other.save_pretrained(home / "heads")
    with pytest.raises(
        InputError, match=r"`controls` 'heads': `base` and `controls` differ in the shape of .*k_proj"
    ):
        controls_of(pair, {"heads": home / "heads"})
    torch.manual_seed(0)
    small = tiny.model("llama", 0)
    get_peft_model(small, LoraConfig(target_modules="all-linear")).save_pretrained(home / "foreign")
    with pytest.raises(InputError, match=r"`controls` 'foreign': .*was not trained on this base"):
        controls_of(pair, {"foreign": home / "foreign"})


def test_a_presets_controls_are_names_and_places(home):
    with pytest.raises(
        InputError, match=r"`controls` is \{'sft': 3\}; expected a folder.*controls: \{sft: ./sft\}"
    ):
        pair_preset(str(write(home, {"sft": 3})))
    with pytest.raises(InputError, match=r"`controls` is 'sft'; expected"):
        pair_preset(str(write(home, "sft")))
    preset = pair_preset(str(write(home, {"sft": "./sft", "hub": "owner/name"})))
    assert preset.control_sources == {"sft": (home / "sft").resolve(), "hub": "owner/name"}
