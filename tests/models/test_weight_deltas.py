"""Saved changes of weights come back bit for bit, smaller; what is broken is refused."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from workbench.errors import InputError
from workbench.models.weight_deltas import LEVELS, read_delta, write_codes, write_delta


@pytest.fixture
def change():
    torch.manual_seed(0)
    odd = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-40, -3e38])
    return {
        "a.weight": 1e-3 * torch.randn(300, 70),
        "b": odd,
        "none": torch.zeros(0, 4),
        "one": torch.tensor(2.5),
    }


def test_tensors_come_back_bit_for_bit_in_less_space(change, tmp_path):
    write_delta(tmp_path / "d.safetensors", change)
    again = read_delta(tmp_path / "d.safetensors")
    assert list(again) == list(change)
    for name, tensor in change.items():
        expected = tensor.bfloat16()
        assert again[name].shape == expected.shape
        assert torch.equal(again[name].reshape(-1).view(torch.int16), expected.reshape(-1).view(torch.int16))
    save_file({name: tensor.bfloat16() for name, tensor in change.items()}, tmp_path / "plain.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("d", "plain")]
    assert sizes[0] < 0.75 * sizes[1]


def test_what_is_broken_is_refused(change, tmp_path):
    path = tmp_path / "d.safetensors"
    with pytest.raises(InputError, match="is no saved change of weights"):
        read_delta(path)
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="is no saved change of weights"):
        read_delta(path)
    write_delta(path, change)
    streams = load_file(path)
    for shapes in ('{"a": [3]}', '{"a": [1000000]}', "[]"):  # less than it holds, more, nonsense
        save_file(streams, path, metadata={"shapes": shapes})
        with pytest.raises(InputError, match="is no saved change of weights"):
            read_delta(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="is no saved change of weights"):
        read_delta(path)


def test_codes_are_off_by_at_most_half_a_step_and_small(tmp_path):
    torch.manual_seed(0)
    change = {"a": torch.randn(16, 576), "b": 1e-4 * torch.randn(1536, 16), "none": torch.zeros(3, 4)}
    write_codes(tmp_path / "c.safetensors", change)
    again = read_delta(tmp_path / "c.safetensors")
    assert list(again) == list(change)
    for name, tensor in change.items():
        step = tensor.abs().amax(1, keepdim=True) / LEVELS
        assert ((again[name] - tensor).abs() <= step * 0.57).all()
    write_delta(tmp_path / "d.safetensors", change)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in "cd"]
    assert sizes[0] < 0.75 * sizes[1]
    tensors = load_file(tmp_path / "c.safetensors")
    tensors["codes"] = tensors["codes"][:-40]
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        save_file(tensors, tmp_path / "c.safetensors", metadata=file.metadata())
    with pytest.raises(InputError, match="is no saved change of weights"):
        read_delta(tmp_path / "c.safetensors")
