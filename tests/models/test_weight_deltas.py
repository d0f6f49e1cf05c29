"""Saved changes of weights come back bit for bit, smaller; what is broken is refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.errors import InputError
from workbench.models.weight_deltas import read_delta, write_delta


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
