import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.strata import fraction_strata, quantile_strata

ENTROPY = torch.tensor([0.1, 0.5, 0.3, 0.9, 0.7, 0.2])
tied = st.lists(st.integers(0, 5), min_size=2, max_size=40)


def test_quantile_strata_of_six_known_cells():
    assert quantile_strata(ENTROPY, 3).tolist() == [0, 1, 1, 2, 2, 0]
    assert quantile_strata(ENTROPY, 2).tolist() == [0, 1, 0, 1, 1, 0]
    assert quantile_strata(ENTROPY, 6).tolist() == [0, 3, 2, 5, 4, 1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=60, unique=True), st.integers(2, 12))
def test_quantile_strata_are_equally_full_without_ties(values, bins):
    bins = min(bins, len(values))
    sizes = torch.bincount(quantile_strata(torch.tensor(values).double(), bins), minlength=bins)
    assert sizes.sum() == len(values)
    assert sizes.max() - sizes.min() <= 1


@settings(deadline=None)
@given(tied, st.integers(2, 5), st.randoms(use_true_random=False))
def test_strata_follow_entropy_alone(values, bins, random):
    bins = min(bins, len(values))
    order = random.sample(range(len(values)), len(values))
    entropy = torch.tensor(values).float()
    for strata in (quantile_strata(entropy, bins), fraction_strata(entropy, (0.2, 0.6))):
        higher = entropy[:, None] < entropy[None, :]
        assert (strata[:, None] <= strata[None, :])[higher].all()
        same = entropy[:, None] == entropy[None, :]
        assert (strata[:, None] == strata[None, :])[same].all()
    assert quantile_strata(entropy[order], bins).tolist() == quantile_strata(entropy, bins)[order].tolist()


def test_constant_entropy_is_one_stratum():
    assert quantile_strata(torch.full((7,), 1.5), 5).tolist() == [0] * 7
    assert fraction_strata(torch.full((7,), 1.5), (0.2, 0.4)).tolist() == [2] * 7
    assert fraction_strata(torch.zeros(7), (0.2, 0.4)).tolist() == [0] * 7


def test_layers_are_cut_separately():
    layers = torch.stack([ENTROPY, 10 * ENTROPY.flip(0)])
    assert quantile_strata(layers, 3).tolist() == [[0, 1, 1, 2, 2, 0], [0, 2, 2, 1, 1, 0]]
    assert fraction_strata(layers, (0.4,)).tolist() == [[0, 1, 0, 1, 1, 0], [0, 1, 1, 0, 1, 0]]


@settings(deadline=None)
@given(st.lists(st.floats(0, 12, width=32), min_size=1, max_size=30), st.floats(0.05, 0.95))
def test_the_lowest_fraction_is_the_papers_mask(values, tau):
    entropy = torch.tensor(values)
    assert torch.equal(fraction_strata(entropy, (tau,)) == 0, entropy <= tau * entropy.max())


def test_fractions_are_of_the_largest_entropy_of_each_prompt():
    prompt = torch.tensor([0, 0, 0, 2, 2, 2])  # prompt 1 has no cells of this kind
    entropy = torch.tensor([1.0, 2.0, 4.0, 0.1, 0.2, 0.4])
    assert fraction_strata(entropy, (0.25, 0.5), prompt).tolist() == [0, 1, 2, 0, 1, 2]
    assert fraction_strata(entropy, (0.25, 0.5)).tolist() == [0, 1, 2, 0, 0, 0]


def test_fraction_strata_can_be_empty():
    assert fraction_strata(torch.tensor([3.8, 3.9, 4.0]), (0.2, 0.4, 0.6, 0.8)).tolist() == [4, 4, 4]


@pytest.mark.parametrize("bins", [1, 0, -3, True])
def test_too_few_strata(bins):
    with pytest.raises(InputError, match=r"`bins` must be a whole number of at least 2, found .* bins=5"):
        quantile_strata(ENTROPY, bins)


def test_more_strata_than_cells():
    with pytest.raises(InputError, match=r"`bins` asks for 7 strata, but there are only 6 cells .* bins=5"):
        quantile_strata(ENTROPY, 7)


@pytest.mark.parametrize("fractions", [(), (0.0, 0.5), (0.5, 1.0), (0.6, 0.4), (0.4, 0.4)])
def test_fractions_that_do_not_increase(fractions):
    with pytest.raises(InputError, match=r"`fractions` must increase inside \(0, 1\), found"):
        fraction_strata(ENTROPY, fractions)


@pytest.mark.parametrize("cut", [lambda e: quantile_strata(e, 2), lambda e: fraction_strata(e, (0.5,))])
def test_entropy_that_is_not_finite(cut):
    with pytest.raises(InputError, match="`entropy` must be finite, found 2 of 4 cells"):
        cut(torch.tensor([1.0, float("nan"), float("inf"), 2.0]))
