import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.lens.strata import fraction_strata, quantile_strata, select_cells

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


# --- selections ----------------------------------------------------------------------------------------

ENTROPIES = torch.tensor([[1.0, 2.0, 4.0, 10.0, 8.0, 3.0], [5.0, 5.0, 1.0, 0.5, 0.2, 2.0]])
GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])


def chosen(**how) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in select_cells(ENTROPIES, **how)]


def test_low_is_at_most_tau_of_the_largest_entropy():
    assert chosen(tau=0.4) == [[0, 1, 2, 5], [2, 3, 4, 5]]
    assert chosen(tau=0.4, groups=GROUPS) == [[0, 5], [2, 3, 4]]
    assert chosen(tau=1.0) == [list(range(6))] * 2
    assert chosen(tau=0.0) == [[], []]


def test_the_maximum_is_that_of_the_candidates():
    candidates = torch.tensor([True, True, True, False, False, False])
    assert chosen(tau=0.5, candidates=candidates) == [[0, 1], [2]]
    assert chosen(tau=0.5, candidates=candidates, select="high") == [[2], [0, 1]]
    assert chosen(select="all", candidates=candidates) == [[0, 1, 2]] * 2


def test_a_quantile_takes_its_share_and_ties_together():
    assert chosen(threshold="quantile", tau=0.5) == [[0, 1, 5], [2, 3, 4]]
    assert chosen(threshold="quantile", tau=5 / 6) == [[0, 1, 2, 4, 5], list(range(6))]
    assert chosen(threshold="quantile", tau=0.0) == [[], []]
    assert chosen(threshold="quantile", tau=1 / 3, groups=GROUPS) == [[0, 5], [2, 4]]


def test_fixed_levels_are_strict_and_per_layer():
    assert chosen(threshold="fixed", levels=(3.0, 0.5)) == [[0, 1], [4]]


def test_below_keeps_cells_that_the_other_model_is_less_sure_of():
    assert chosen(tau=0.4, below=ENTROPIES + torch.tensor([1.0, -1, 1, 1, 1, 1])) == [[0, 2, 5], [2, 3, 4, 5]]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from(["max_fraction", "quantile"]))
def test_selections_partition_the_candidates(seed, tau, threshold):
    generator = torch.Generator().manual_seed(seed)
    entropy = torch.rand(3, 12, generator=generator)
    candidates = torch.rand(12, generator=generator) < 0.7
    groups = torch.randint(2, (12,), generator=generator)
    masks = {
        s: select_cells(
            entropy, select=s, threshold=threshold, tau=tau, candidates=candidates, groups=groups, seed=seed
        )
        for s in ("low", "high", "random", "all")
    }
    assert not (masks["low"] & masks["high"]).any()
    assert torch.equal(masks["low"] | masks["high"], masks["all"])
    assert torch.equal(masks["all"], candidates.expand(3, -1))
    for group in (0, 1):
        here = groups == group
        assert torch.equal(masks["random"][:, here].sum(1), masks["low"][:, here].sum(1))
    assert not (masks["random"] & ~candidates).any()


def test_random_is_seeded():
    draws = [select_cells(ENTROPIES, select="random", tau=0.4, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(draws[0], draws[1])
    assert any(not torch.equal(draws[0], other) for other in draws[2:])
