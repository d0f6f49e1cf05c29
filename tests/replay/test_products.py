"""Logits of a few rows at a time: the values and gradients of one product."""

import pytest
import tiny
import torch

from workbench.replay import products
from workbench.replay.products import logits


@pytest.mark.parametrize("portion", [1, 20 * 32, 1 << 30])
@pytest.mark.parametrize("whole", [False, True])
def test_portions_change_neither_values_nor_gradients(monkeypatch, portion, whole):
    monkeypatch.setitem(products._PORTION_ELEMENTS, "cpu", portion)
    anatomy = tiny.pair(dtype=torch.float64).rlvr
    torch.manual_seed(0)
    hidden = torch.randn(3, anatomy.hidden_size, dtype=torch.float64, requires_grad=True)
    ids = None if whole else torch.randint(300, (3, 5))
    rows = anatomy.logits(hidden)[:, :300]
    expected = rows if ids is None else rows.gather(1, ids)
    found = logits(anatomy, hidden, ids, 300)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((z * weight).sum(), hidden)[0] for z in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("whole", [False, True])
def test_half_precision_rows_are_multiplied_in_float32(whole):
    anatomy = tiny.pair(dtype=torch.bfloat16).rlvr
    torch.manual_seed(0)
    hidden = torch.randn(3, anatomy.hidden_size).bfloat16()
    ids = None if whole else torch.randint(300, (3, 5))
    exact = anatomy.norm(hidden).double() @ anatomy.unembedding.weight.double().t()
    found = logits(anatomy, hidden, ids, 300)
    assert found.dtype == torch.float32
    expected = exact[:, :300] if ids is None else exact.gather(1, ids)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
