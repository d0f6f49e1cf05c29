"""A mask is the cells it was made of, whichever way it goes: tensor, spans, JSON, code."""

import json

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays

import workbench as wb
from workbench.live.mask import Mask


@given(arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 9))))
def test_a_mask_comes_back_from_every_form(cells):
    tensor = torch.tensor(cells)
    mask = Mask.of(tensor)
    assert torch.equal(mask.cells(*tensor.shape), tensor)
    assert Mask.from_spans(json.loads(json.dumps(mask.spans))) == mask
    assert eval(repr(mask), {"Mask": Mask}) == mask
    assert mask.count == cells.sum()
    assert mask.layers == tuple(cells.any(1).nonzero()[0])
    assert mask.positions == tuple(cells.any(0).nonzero()[0])
    assert bool(mask) == cells.any()


def test_spans_that_touch_or_overlap_are_one():
    assert Mask({1: [(3, 5), (0, 2), (2, 3), (4, 6)]}) == Mask({1: [(0, 6)], 2: []})


@pytest.mark.parametrize("spans", [{1: [(3, 3)]}, {1: [(-1, 2)]}, {-1: [(0, 1)]}])
def test_what_is_no_span_is_refused(spans):
    with pytest.raises(wb.InputError, match=r"expected \(first, one past the last\)"):
        Mask(spans)


@pytest.mark.parametrize("spans", [[1], {"a": [[0, 1]]}, {"1": [[0]]}, {"1": 3}, None])
def test_json_that_is_none_is_refused(spans):
    with pytest.raises(wb.InputError, match="`cells`"):
        Mask.from_spans(spans)


def test_a_cell_outside_is_refused():
    with pytest.raises(wb.InputError, match="position 5 of layer 2"):
        Mask({2: [(5, 6)]}).cells(3, 5)
