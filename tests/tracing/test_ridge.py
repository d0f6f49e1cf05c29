"""Closed-form maps: against numpy's least squares, through the held-out choice, and as the start of a fit."""

import numpy as np
import pytest
import torch

from workbench.errors import InputError
from workbench.models.loading import load_pair
from workbench.problems.problem import load_problems
from workbench.tracing.ridge import ridge, ridge_start
from workbench.tracing.tuned_lens import fit_translators


def test_the_map_is_numpys_least_squares_with_penalty_rows():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 6, generator=generator, dtype=torch.float64) * torch.tensor(
        [1, 1, 1, 9, 0.1, 100.0]
    )
    last = (
        torch.randn(50, 6, generator=generator, dtype=torch.float64)
        * (1 + 300 * (torch.arange(50) == 7))[:, None]
    )
    weight, bias = ridge(hidden, last, 0.3)
    scale = (last**2).mean(1, keepdim=True).sqrt().numpy()
    state = np.concatenate([hidden.numpy(), np.ones((50, 1))], 1) / scale
    penalty = np.sqrt(0.3 * (state**2).sum(0)) * (np.arange(7) < 6)
    rows = np.concatenate([state, np.diag(penalty)])
    goal = np.concatenate([(last - hidden).numpy() / scale, np.zeros((7, 6))])
    expected = np.linalg.lstsq(rows, goal, rcond=None)[0]
    assert np.allclose(weight.numpy(), expected[:-1].T, atol=1e-5)
    assert np.allclose(bias.numpy(), expected[-1], atol=1e-5)


def test_an_affine_layer_is_found_and_the_plain_lens_wins_where_it_is_best():
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(200, 5, generator=generator)
    matrix, shift = torch.randn(5, 5, generator=generator), torch.randn(5, generator=generator)
    last = hidden + hidden @ matrix.T + shift

    def apart(goal):
        return lambda weight, bias: float((hidden + hidden @ weight.T + bias - goal).square().mean())

    weight, bias, loss = ridge_start(hidden, last, apart(last))
    assert torch.allclose(weight, matrix, atol=0.01)
    assert torch.allclose(bias, shift, atol=0.01)
    assert loss == apart(last)(weight, bias) < 1e-4
    weight, bias, loss = ridge_start(hidden, last, apart(hidden))  # held out, every map but none is wrong
    assert not weight.any()
    assert not bias.any()
    assert loss == 0


def test_a_fit_that_starts_there_is_closer_after_one_epoch():
    pair = load_pair("shapes")
    splits = [
        load_problems("shapes", split=split, limit=n) for split, n in (("train", 24), ("validation", 8))
    ]
    plain, closed = (
        fit_translators(pair, *splits, batch_size=16, epochs=1, batch_positions=128, start=start).curves
        for start in ("identity", "ridge")
    )
    held = [one.pivot(index="layer", columns="epoch", values="kl").to_numpy() for one in (plain, closed)]
    assert np.all(held[1][:, 0] <= held[0][:, 0])
    assert np.count_nonzero(held[1].min(1) < held[0].min(1)) >= 6
    with pytest.raises(InputError, match=r"`start` is 'zero', expected one of \('identity', 'ridge'\)"):
        fit_translators(pair, *splits, start="zero")
