"""Turns at equal norm: exactly as far as asked, towards less or more entropy of the lens, or anywhere."""

import pytest
import torch
from torch import nn

from workbench.lens.heads import LensHead
from workbench.lens.steering import angle_between, entropy, reworded, steered, turned


@pytest.fixture
def head():
    torch.manual_seed(0)
    return LensHead(nn.RMSNorm(16, elementwise_affine=False), torch.randn(40, 16) / 2)


def test_entropy_is_that_of_the_distribution():
    logits = torch.randn(5, 40, dtype=torch.float64)
    wanted = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropy(logits), wanted)


@pytest.mark.parametrize("sharpen", [True, False])
def test_steering_moves_entropy_and_not_the_norm(head, sharpen):
    hidden = torch.randn(12, 16, dtype=torch.float64) * 3
    moved = steered(hidden, head, 0.3, sharpen=sharpen)
    torch.testing.assert_close(moved.norm(dim=-1), hidden.norm(dim=-1))
    before, after = (entropy(head.logits(h)) for h in (hidden, moved))
    assert ((after < before) if sharpen else (after > before)).all()
    assert (angle_between(hidden, moved) <= 0.3 + 1e-6).all()
    # In one small step it is the steepest way: no random turn as far goes further.
    small = steered(hidden, head, 0.01, sharpen=sharpen)
    for seed in range(20):
        other = turned(hidden, 0.01, torch.Generator().manual_seed(seed))
        gains = [(entropy(head.logits(h)) - before) * (-1 if sharpen else 1) for h in (small, other)]
        assert (gains[0] >= gains[1] - 1e-6).all()


def test_a_random_turn_is_exactly_as_far():
    hidden = torch.randn(12, 16, dtype=torch.float64)
    hidden[3] = 0
    moved = turned(hidden, 0.4, torch.Generator().manual_seed(1))
    rest = torch.arange(12) != 3
    torch.testing.assert_close(
        angle_between(hidden, moved)[rest], torch.full((11,), 0.4, dtype=torch.float64)
    )
    assert (moved[3] == 0).all()


def test_other_words_have_the_same_entropy(head):
    hidden = torch.randn(12, 16, dtype=torch.float64) * 3
    hidden[3] = 0
    moved = reworded(hidden, head, 0.3, torch.Generator().manual_seed(1))
    torch.testing.assert_close(moved.norm(dim=-1), hidden.norm(dim=-1))
    before, after = (head.logits(h) for h in (hidden, moved))
    torch.testing.assert_close(entropy(after), entropy(before), rtol=0, atol=1e-4)
    assert (moved[3] == 0).all()
    rest = torch.arange(12) != 3
    far = torch.full((11,), 0.3, dtype=torch.float64)
    torch.testing.assert_close(angle_between(hidden, moved)[rest], far, rtol=0, atol=0.01)
    kl = (before.softmax(-1) * (before.log_softmax(-1) - after.log_softmax(-1))).sum(-1)
    assert (kl[rest] > 0.02).all()
    again = reworded(hidden, head, 0.3, torch.Generator().manual_seed(1))
    assert torch.equal(moved, again)


def test_each_row_turns_as_far_as_it_is_told(head):
    hidden, far = torch.randn(12, 16, dtype=torch.float64), torch.linspace(0, 0.5, 12, dtype=torch.float64)
    turn = turned(hidden, far, torch.Generator().manual_seed(1))
    torch.testing.assert_close(angle_between(hidden, turn), far)
    words = reworded(hidden, head, far, torch.Generator().manual_seed(1))
    torch.testing.assert_close(angle_between(hidden, words), far, rtol=0.03, atol=1e-6)


def test_angles_are_those_of_the_arc_of_the_cosine():
    a, b = torch.randn(2, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(angle_between(a, b), torch.cosine_similarity(a, b, dim=-1).acos())
    assert angle_between(a, a * 2 + 1e-12).max() < 1e-10
    assert (angle_between(a, torch.zeros_like(a)) == 0).all()
