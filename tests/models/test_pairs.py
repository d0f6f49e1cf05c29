import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from safetensors.torch import load_file

import workbench.models.preset_files
import workbench.models.presets
from workbench.errors import InputError
from workbench.models.identity import fingerprint
from workbench.models.loading import load_pair
from workbench.models.presets import PACKAGED
from workbench.models.prompts import EncodedPrompt

PARITY = Path(__file__).parents[1] / "parity"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Folders `base` (with a processor) and `rlvr` (without) of a tiny Qwen2.5-VL."""
    home = tmp_path_factory.mktemp("pair")
    for seed, role in enumerate(("base", "rlvr")):
        tiny.model("qwen2_5_vl", seed).save_pretrained(home / role)
    tiny.processor("qwen2_5_vl").save_pretrained(home / "base")
    return home


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_modules_in_memory_make_a_pair(family, pair_of):
    pair = pair_of(family)
    assert (pair.depth, pair.vocab_size, pair.device) == (tiny.LAYERS, tiny.VOCAB, torch.device("cpu"))
    assert pair.dtype == torch.float32
    assert pair.processor is tiny.processor(family)
    assert pair.tokenizer is tiny.tokenizer(family)
    assert pair.pad_id == 256
    assert pair.decode_token(257) == "<s>"
    name = type(pair.base.model).__name__
    assert repr(pair) == (
        f"ModelPair('{name} -> {name}', {family}, 3 layers, hidden 32, vocabulary 320, torch.float32, cpu)"
    )
    assert pair.provenance["rlvr"]["id"] == f"{name} in memory"


def test_modules_in_training_mode_are_put_in_eval_mode():
    model = tiny.model("qwen2").train()
    pair = load_pair(base=model, rlvr=model)
    assert pair.base.model is pair.rlvr.model is model
    assert not model.training
    assert (pair.processor, pair.tokenizer, pair.pad_id) == (None, None, 0)


def test_folders_make_a_pair_with_the_processor_of_either(saved, tmp_path):
    pair = load_pair(
        base=str(saved / "base"),
        rlvr=saved / "rlvr",
        dtype="float64",
        device="cpu",
        attn_implementation="eager",
    )
    assert (pair.name, pair.dtype) == ("base -> rlvr", torch.float64)
    assert type(pair.processor).__name__ == "Qwen2_5_VLProcessor"
    told = pair.provenance["rlvr"]
    assert told["id"] == str(saved / "rlvr")
    assert (told["dtype"], told["device"], told["attn_implementation"]) == ("float64", "cpu", "eager")
    assert set(pair.provenance["libraries"]) >= {"torch", "transformers"}
    encoded, direct = (p.encode(tiny.problem()) for p in (pair, tiny.pair("qwen2_5_vl")))
    assert encoded.tokens == direct.tokens
    torch.testing.assert_close(encoded.model_inputs["pixel_values"], direct.model_inputs["pixel_values"])
    swapped = load_pair(base=saved / "rlvr", rlvr=saved / "base", device="cpu")  # the processor is the rlvr's
    assert swapped.encode(tiny.problem()).tokens == direct.tokens
    shutil.copytree(saved / "rlvr", tmp_path / "bare")
    given = load_pair(base=tmp_path / "bare", rlvr=saved / "rlvr", processor=saved / "base", device="cpu")
    assert given.encode(tiny.problem()).tokens == direct.tokens


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_saved_model_pairs_with_one_in_memory(family, tmp_path):
    model = tiny.model(family)
    model.save_pretrained(tmp_path / "saved")
    pair = load_pair(base=model, rlvr=tmp_path / "saved", processor=tiny.processor(family))
    for name, weight in model.named_parameters():
        assert torch.equal(pair.rlvr.model.get_parameter(name), weight)
    assert pair.name == f"{type(model).__name__} -> saved"


@pytest.mark.parametrize("case", ["lens", "token_replay", "cross_model"])
def test_parity_folders_load_without_a_processor(case):
    pair = load_pair(base=PARITY / case / "base", rlvr=PARITY / case / "rlvr", dtype="float64", device="cpu")
    assert pair.processor is None
    prompt = EncodedPrompt.from_tensors(pair, **load_file(PARITY / case / "inputs.safetensors"))
    assert (len(prompt), prompt.grids, prompt.sources) == (34, ((1, 4, 4),), (0,))
    visual = prompt.visual_index == 0
    assert prompt.grid[visual].tolist() == [[0, r, c] for r in range(4) for c in range(4)]
    with pytest.raises(InputError, match=r"`pair` has no processor"):
        pair.encode(tiny.problem())


def test_a_processor_given_settles_differing_templates(saved, tmp_path):
    other = shutil.copytree(saved / "base", tmp_path / "other")
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "helper"))
    with pytest.raises(
        InputError, match=r"chat templates that differ, .*assistant.* and .*helper.* choose one with"
    ):
        load_pair(base=saved / "base", rlvr=other, device="cpu")
    pair = load_pair(base=saved / "base", rlvr=other, processor=other, device="cpu")
    assert "".join(pair.encode(tiny.problem()).tokens).endswith("<|im_start|>helper\n")


def test_a_bundled_pair_is_float32_unless_told_otherwise():
    pair = load_pair("shapes", device="cpu")
    assert (pair.name, pair.dtype) == ("shapes", torch.float32)
    assert load_pair("shapes", dtype="bfloat16", device="cpu").dtype == torch.bfloat16


# --- refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "shape",
            r"`name` 'shape' is not a known pair \(did you mean 'shapes'\?\); there are shapes, smol, smolvl, mm-eureka",
        ),
        (
            "Qwen/x",
            r"`name` 'Qwen/x' is not a known pair; .*: load_pair\(\"shapes\"\), or give your own models",
        ),
    ],
)
def test_an_unknown_name_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        load_pair(name)


def test_an_unknown_checkpoint_is_refused():
    with pytest.raises(
        InputError, match=r"`checkpoint` is 7; a bundled pair has \[10, 25, .*'sft'\]: load_pair"
    ):
        load_pair("shapes", checkpoint=7)
    model = tiny.model("qwen2")
    with pytest.raises(InputError, match="`checkpoint` is 'sft'; a bundled pair has"):
        load_pair(base=model, rlvr=model, checkpoint="sft")


def test_weights_have_a_fingerprint(tmp_path):
    model = tiny.model("qwen2")
    before = fingerprint(model)
    model.save_pretrained(tmp_path / "saved")
    assert load_pair(base=model, rlvr=tmp_path / "saved").provenance["rlvr"]["weights"] == before
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.down_proj.weight").mul_(1.001)
    assert fingerprint(model) != before


def test_a_bundled_pair_that_is_not_installed(monkeypatch, tmp_path):
    (tmp_path / "pairs.yaml").write_text(PACKAGED.read_text())
    for module in (workbench.models.presets, workbench.models.preset_files):
        monkeypatch.setattr(module, "PACKAGED", tmp_path / "pairs.yaml")
    with pytest.raises(
        InputError, match=r"the weights of base and rlvr are not in .*; reinstall the package, or train"
    ):
        load_pair("shapes")


def test_calls_that_name_too_much_or_too_little():
    model = tiny.model("qwen2")
    with pytest.raises(
        InputError, match=r"`name` 'shapes' was given beside `base` or `rlvr`; give one or the other"
    ):
        load_pair("shapes", base=model)
    with pytest.raises(InputError, match=r"`base` and `rlvr` missing: call `load_pair\(\"shapes\"\)`"):
        load_pair()
    with pytest.raises(InputError, match=r"^`rlvr` missing"):
        load_pair(base=model)
    with pytest.raises(InputError, match=r"`revision` has 3 entries, expected one for both models or"):
        load_pair(base=model, rlvr=model, revision=("a", "b", "c"))
    with pytest.raises(InputError, match=r"`model` is a Linear, expected a transformers PreTrainedModel"):
        load_pair(base=model, rlvr=torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"`processor` is a int, expected a transformers processor or tok"):
        load_pair(base=model, rlvr=model, processor=17)


@pytest.mark.parametrize(
    "setting",
    [{"dtype": "bfloat16"}, {"device": "cpu"}, {"revision": "main"}, {"attn_implementation": "eager"}],
)
def test_settings_for_checkpoints_are_refused_for_modules(setting):
    model = tiny.model("qwen2")
    name = next(iter(setting))
    with pytest.raises(
        InputError, match=rf"`{name}` '.*' is for checkpoints, and `base` is a module in memory"
    ):
        load_pair(base=model, rlvr=model, **setting)


def test_a_processor_folder_without_a_processor(saved):
    with pytest.raises(
        InputError, match=r"`processor` '.*rlvr' has no processor or tokenizer files; name one that has"
    ):
        load_pair(base=saved / "rlvr", rlvr=saved / "rlvr", processor=saved / "rlvr", device="cpu")


def test_different_families_depths_and_vocabularies_are_refused():
    model = tiny.model("qwen2")
    with pytest.raises(InputError, match=r"differ in model families: qwen2 and qwen3"):
        load_pair(base=model, rlvr=tiny.model("qwen3"))
    with pytest.raises(InputError, match=r"differ in depths \(decoder layers\): 3 and 2"):
        load_pair(base=model, rlvr=tiny.model("qwen2", num_hidden_layers=2))
    with pytest.raises(InputError, match=r"vocabularies of 320 and 300 rows"):
        load_pair(base=model, rlvr=tiny.model("qwen2", vocab_size=300))
    pair = load_pair(base=model, rlvr=tiny.model("qwen2", vocab_size=300), processor=tiny.tokenizer("qwen2"))
    assert pair.vocab_size == 300


def test_damaged_weights_are_refused_before_any_forward(monkeypatch):
    base, rlvr = tiny.model("qwen2_5_vl"), tiny.model("qwen2_5_vl", seed=1)
    calls = []
    for model in (base, rlvr):
        monkeypatch.setattr(model, "forward", lambda **_: calls.append("forward") or SimpleNamespace())
    rlvr.get_parameter("model.visual.blocks.0.attn.qkv.weight")[0, 0] = torch.nan
    with pytest.raises(
        InputError, match=r"`rlvr`: the weight 'model\.visual\.blocks\.0\.attn\.qkv\.weight' holds NaN"
    ):
        load_pair(base=base, rlvr=rlvr)
    assert calls == []
