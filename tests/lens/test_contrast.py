"""`contrast` against whole logits in float64."""

import math
from dataclasses import replace

import pytest
import torch
from naive import naive_logits, randn, rms_norm

from workbench.errors import InputError
from workbench.lens.contrast import Contrast, contrast
from workbench.lens.fused import compare
from workbench.lens.heads import LensHead

POSITIONS, HIDDEN, VOCABULARY = 9, 16, 700


def case(change: float, dtype: torch.dtype = torch.float64, **settings):
    h, weight = randn(POSITIONS, HIDDEN, seed=2, dtype=dtype), randn(VOCABULARY, HIDDEN, seed=1, dtype=dtype)
    other = h + change * randn(POSITIONS, HIDDEN, seed=3, dtype=dtype)
    moved = weight + change / 10 * randn(VOCABULARY, HIDDEN, seed=4, dtype=dtype)
    return h, other, LensHead(rms_norm, weight, **settings), LensHead(rms_norm, moved, **settings)


def naive(h, g, head, other, drawn) -> dict[str, torch.Tensor]:
    log_p, log_q = (
        naive_logits(x.double(), replace(y, weight=y.weight.double())).log_softmax(-1)
        for x, y in ((h, head), (g, other))
    )
    p, q = log_p.exp(), log_q.exp()
    middle = ((p + q) / 2).log()
    of_drawn = drawn[:, None]
    return {
        "jensen_shannon": ((p * (log_p - middle)).nansum(-1) + (q * (log_q - middle)).nansum(-1)) / 2,
        "kl": (p * (log_p - log_q)).nansum(-1),
        "kl_reverse": (q * (log_q - log_p)).nansum(-1),
        "log_p_base": log_p.gather(1, of_drawn)[:, 0],
        "log_p_rlvr": log_q.gather(1, of_drawn)[:, 0],
        "rank_base": (log_p > log_p.gather(1, of_drawn)).sum(-1) + 1,
        "rank_rlvr": (log_q > log_q.gather(1, of_drawn)).sum(-1) + 1,
    }


@pytest.mark.parametrize("block", [None, 64, 333])
@pytest.mark.parametrize("change", [1e-3, 0.1, 3.0, 40.0])
@pytest.mark.parametrize("settings", [{}, {"softcap": 5.0}, {"multiplier": 8.0}])
def test_it_is_what_whole_logits_give(change, block, settings):
    both, drawn = case(change, **settings), torch.arange(POSITIONS) * 70
    found = contrast(*both, drawn, block=block)
    for name, expected in naive(*both, drawn).items():
        torch.testing.assert_close(getattr(found, name), expected, atol=1e-9, rtol=1e-7, check_dtype=False)
    stats = compare(*both, top_k=5, jensen_shannon=True)
    torch.testing.assert_close(found.entropy_rlvr, stats.entropy_rlvr)
    assert torch.equal(found.top_ids_base, stats.top_ids_base)
    torch.testing.assert_close(found.jensen_shannon, stats.jensen_shannon)


def test_small_changes_survive_float32():
    both, drawn = case(1e-3, torch.float32), torch.arange(POSITIONS)
    expected = naive(*both, drawn)
    found = contrast(*both, drawn)
    for name in ("jensen_shannon", "kl_reverse"):
        torch.testing.assert_close(getattr(found, name).double(), expected[name], rtol=1e-2, atol=0)


def test_equal_logits_are_ranked_by_id():
    head = LensHead(rms_norm, torch.ones(8, 4))
    found = contrast(torch.ones(3, 4), torch.ones(3, 4), head, head, torch.tensor([0, 5, 7]))
    assert found.rank_base.tolist() == found.rank_rlvr.tolist() == [1, 6, 8]
    assert found.jensen_shannon.tolist() == found.kl_reverse.tolist() == [0, 0, 0]


def test_a_row_that_one_model_masks_is_infinitely_far_from_where_it_is_not():
    h, g, head, other = case(0.1)
    bias = torch.zeros(VOCABULARY, dtype=torch.float64)
    bias[3] = -math.inf
    shut = LensHead(rms_norm, head.weight, bias)
    drawn = torch.full((POSITIONS,), 3)
    found = contrast(h, g, shut, other, drawn)
    assert (found.kl_reverse == math.inf).all()
    assert (found.log_p_base == -math.inf).all()
    assert found.kl.isfinite().all()
    assert (found.rank_base == VOCABULARY).all()
    assert (found.jensen_shannon <= math.log(2)).all()
    assert repr(found).startswith(f"Contrast(positions={POSITIONS}, mean")
    assert isinstance(found, Contrast)


def test_bad_arguments():
    both = case(0.1)
    with pytest.raises(InputError, match=r"`drawn` must hold integers \(9,\), one a position"):
        contrast(*both, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(
        InputError, match="`drawn` must be from 0 to 699, the heads' vocabulary; found 0 to 700"
    ):
        contrast(*both, torch.tensor([0] * 8 + [700]))
