"""Files of others: nothing in them is run, and whatever ails one, its name is said."""

import pickle

import pytest
import torch

from workbench.errors import InputError
from workbench.tracing.pickled import is_dense, kind_of, read_pickled


class Trap:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a file ran code",)


def test_what_torch_saves_comes_back(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "some.pt")
    assert torch.equal(read_pickled(tmp_path / "some.pt", "call()")["a"], torch.arange(3))


@pytest.mark.parametrize(
    "held",
    [b"", b"hello", b"hi there", b"version https://git-lfs", b"PK\x03\x04", b"\x80\x02h\x05.", b"a" * 9],
)
def test_bytes_that_are_no_file_of_tensors_are_refused_by_name(tmp_path, held):
    file = tmp_path / "home" / "some.pt"
    file.parent.mkdir()
    file.write_bytes(held)
    with pytest.raises(InputError, match=r"`folder`: home/some\.pt .*: call\(\)"):
        read_pickled(file, "call()")


def test_code_is_refused_before_it_runs(tmp_path):
    torch.save({"a": Trap()}, tmp_path / "some.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Trap()))
    for name in ("some.pt", "raw.pt"):
        with pytest.raises(InputError, match=rf"{name} holds more than tensors.*weights_only=True"):
            read_pickled(tmp_path / name, "call()")


def test_dense_are_real_floating_point_numbers_that_are_there():
    dense = torch.zeros(2, 3)
    assert all(is_dense(dense.to(dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float64))
    assert kind_of(dense) == "float32 (2, 3)"
    others = {
        "float32 (2, 3), sparse_coo": dense.to_sparse(),
        "complex64 (2, 3)": dense.to(torch.complex64),
        "int64 (2, 3)": dense.long(),
        "float32 nested": torch.nested.nested_tensor([dense]),
        "float32 (2, 3), on meta": dense.to("meta"),
        "a list": [0.0],
    }
    assert {name: kind_of(value) for name, value in others.items()} == {name: name for name in others}
    assert not any(is_dense(value) for value in others.values())
