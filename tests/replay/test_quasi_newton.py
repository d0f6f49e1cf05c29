"""The adaptive solver of replay beside plain descent: as small a loss, tokens no larger, far fewer passes."""

import pytest
import tiny
import torch

from workbench.errors import InputError
from workbench.interventions import Replay
from workbench.models.loading import load_pair
from workbench.problems.problem import load_problems
from workbench.replay.loss import Loss
from workbench.replay.quasi_newton import PASSES
from workbench.replay.replay import learn_many, learn_tokens, objective


@pytest.fixture
def passes(monkeypatch):
    """How often a loss was evaluated."""
    count, evaluate = [0], Loss.__call__

    def counted(self, x):
        count[0] += 1
        return evaluate(self, x)

    monkeypatch.setattr(Loss, "__call__", counted)
    return count


def test_on_the_bundled_pair_it_comes_as_far_in_a_third_of_the_passes(passes):
    bundled_pair = load_pair("shapes")
    prompts = [
        bundled_pair.encode(problem) for problem in load_problems("shapes", split="validation", limit=8)
    ]
    plain = learn_many(bundled_pair, prompts, bundled_pair.replay(), batch_size=8)
    assert passes[0] == 25
    adaptive = learn_many(bundled_pair, prompts, bundled_pair.replay(solver="adaptive"), batch_size=8)
    assert passes[0] - 25 == PASSES <= 9
    losses = [
        objective(bundled_pair, prompts, bundled_pair.replay(), [one.tokens for one in made])
        for made in (plain, adaptive)
    ]
    assert (losses[1] / losses[0]).median() <= 1
    lengths = [torch.tensor([float(one.tokens.norm()) for one in made]) for made in (plain, adaptive)]
    assert (lengths[1] / lengths[0]).median() <= 1
    assert not any(one.tokens.requires_grad for one in adaptive)
    assert adaptive[0].plot().data
    # The last loss is that of the tokens.
    torch.testing.assert_close(
        torch.stack([one.losses[-1] for one in adaptive]), losses[1], rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llama"])
def test_prompts_of_a_batch_learn_what_they_learn_alone(family):
    pair = tiny.pair(family, dtype=torch.float64)
    replay = pair.replay(solver="adaptive", layers=2, alpha=1.0, threshold="quantile")
    prompts = [pair.encode(tiny.problem(family, seed=seed)) for seed in range(3)]
    together = learn_many(pair, prompts, replay, batch_size=3)
    for one, prompt in zip(together, prompts, strict=True):
        alone = learn_tokens(pair, prompt, replay)
        assert one.losses[-1] < one.losses[0]
        torch.testing.assert_close(one.tokens, alone.tokens, rtol=1e-5, atol=1e-8)


def test_a_step_size_that_makes_plain_descent_diverge_does_no_harm():
    pair = tiny.pair(dtype=torch.float64)
    prompt = pair.encode(tiny.problem(seed=2))
    settings = {"alpha": 1e5, "layers": 2, "threshold": "quantile"}
    plain = learn_tokens(pair, prompt, Replay(**settings))
    assert plain.stopped or plain.losses[-1] > plain.losses[0]
    adaptive = learn_tokens(pair, prompt, Replay(**settings, solver="adaptive"))
    assert adaptive.stopped is None
    assert adaptive.losses[-1] < 0.5 * adaptive.losses[0]


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"iterations": 0}])
def test_no_time_to_descend_leaves_zero_tokens(tiny_pair, settings):
    prompt = tiny_pair.encode(tiny.problem(seed=2))
    learned = learn_tokens(
        tiny_pair, prompt, Replay(layers=2, solver="adaptive", threshold="quantile", **settings)
    )
    assert not learned.tokens.any()
    assert len(learned.losses) == min(learned.replay.iterations, 1)


def test_a_loss_that_is_not_finite_stops_that_prompt_alone(tiny_pair, monkeypatch):
    prompts = [tiny_pair.encode(tiny.problem(seed=seed)) for seed in range(2)]
    replay, evaluate = Replay(layers=2, solver="adaptive", threshold="quantile"), Loss.__call__
    alone = learn_tokens(tiny_pair, prompts[1], replay)
    monkeypatch.setattr(Loss, "__call__", lambda self, x: evaluate(self, x) * torch.tensor([torch.nan, 1.0]))
    broken, whole = learn_many(tiny_pair, prompts, replay, batch_size=2)
    assert "not finite at iteration 1; x = 0 is kept" in broken.stopped
    assert not broken.tokens.any()
    torch.testing.assert_close(whole.tokens, alone.tokens, rtol=1e-3, atol=1e-6)


def test_an_unknown_solver_is_named():
    with pytest.raises(InputError, match="`solver` is 'adam'; expected one of plain, adaptive"):
        Replay(solver="adam")
