"""A pair's provenance tells what differs in anything that can change a number, and only that."""

import pytest
import tiny
import torch
from edited import edit

from workbench.models.identity import fingerprint
from workbench.models.loading import load_pair


@pytest.fixture
def folder(tmp_path):
    pair = tiny.pair("qwen2_5_vl")
    for role in ("base", "rlvr"):
        getattr(pair, role).model.save_pretrained(tmp_path / role)
        pair.processor.save_pretrained(tmp_path / role)
    return tmp_path


def _provenance(folder):
    return dict(load_pair(base=folder / "base", rlvr=folder / "rlvr").provenance)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", ("text_config", "rope_parameters", "rope_theta"), 5e5),
        ("config.json", ("text_config", "rms_norm_eps"), 1e-3),
        ("generation_config.json", ("eos_token_id",), [1, 2]),
        ("processor_config.json", ("image_processor", "image_mean"), [0.1, 0.2, 0.3]),
        ("processor_config.json", ("image_processor", "image_std"), [0.9, 0.9, 0.9]),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
def test_a_setting_that_changes_numbers_changes_the_provenance(folder, file, key, value):
    before = _provenance(folder)
    assert _provenance(folder) == before
    for role in ("base", "rlvr"):
        edit(folder / role / file, key, value)
    assert _provenance(folder) != before


def test_a_chat_template_changes_the_provenance(folder):
    before = _provenance(folder)
    for role in ("base", "rlvr"):
        file = folder / role / "chat_template.jinja"
        file.write_text(file.read_text() + " ")
    assert _provenance(folder) != before


def test_one_weight_of_one_row_changes_the_fingerprint():
    model = tiny.pair("qwen2_5_vl").rlvr.model
    before = fingerprint(model)
    parameter = max(model.parameters(), key=torch.numel)
    for at in (1, parameter.numel() // 2 + 1, parameter.numel() - 2):
        with torch.no_grad():
            flat, kept = parameter.view(-1), parameter.view(-1)[at].clone()
            flat[at] += 1e-3
            assert fingerprint(model) != before
            flat[at] = kept
    assert fingerprint(model) == before


def test_an_exact_copy_in_a_wider_type_has_the_same_fingerprint():
    half = torch.nn.Linear(8, 8).to(torch.bfloat16)
    assert fingerprint(half) == fingerprint(half.float()) == fingerprint(half.double())
    wide = torch.nn.Linear(8, 8).double()
    wide.weight.data += 1e-12
    assert fingerprint(wide) != fingerprint(wide.float())


def test_an_encoded_prompt_is_told_from_another_by_any_input():
    pair = tiny.pair("qwen2_5_vl")
    one, other = (pair.encode(tiny.problem(seed=seed)) for seed in (0, 1))
    assert one.fingerprint == pair.encode(tiny.problem(seed=0)).fingerprint
    assert one.fingerprint != other.fingerprint
