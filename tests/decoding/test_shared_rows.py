"""Samples that have drawn the same so far are one row of the model: fewer rows, the same responses."""

from dataclasses import replace

import pytest
import tiny
import torch

from workbench.decoding import decode as decoding
from workbench.decoding.decode import decode_many, draw
from workbench.decoding.streams import Stream, pick

FEW = ("qwen2_5_vl", "gemma3", "llama")


@pytest.fixture
def no_ends(pair_of, monkeypatch):
    """A pair whose responses run to their length, but for one token."""

    def of(family):
        pair = pair_of(family)
        monkeypatch.setattr(pair.rlvr.model.generation_config, "eos_token_id", [5])
        return pair

    return of


def rows_of(pair, act):
    """What ``act`` returns, and how many rows each forward of RLVR had."""
    widths = []
    hook = pair.rlvr.unembedding.register_forward_hook(lambda _, args, out: widths.append(len(out)))
    result = act()
    hook.remove()
    return result, widths


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("temperature", [0.02, 1.0])
def test_shared_rows_change_no_response(no_ends, family, temperature, monkeypatch):
    pair = no_ends(family)
    prompts = [pair.encode(tiny.problem(family, seed=3 * i)) for i in range(3)]
    how = {"samples": 5, "temperature": temperature, "max_new_tokens": 10}
    shared, few = rows_of(pair, lambda: decode_many(pair, prompts, **how))
    monkeypatch.setattr(Stream, "shares", False)
    monkeypatch.setattr(decoding, "DROP_AT", 2.0)
    apart, many = rows_of(pair, lambda: decode_many(pair, prompts, **how))
    assert [[one.ids for one in row] for row in shared] == [[one.ids for one in row] for row in apart]
    distinct = [
        sum(len({one.ids[: step + 1] for one in row if len(one.ids) > step}) for row in shared)
        for step in range(9)
    ]
    # Responses that have ended stay until a quarter has; and no row is made for what was said before.
    assert all(width >= count for width, count in zip(few[1:], distinct, strict=False))
    assert sum(few) < sum(many) or temperature == 1.0
    assert few[1] == distinct[0]


def test_greedy_is_drawn_along_with_the_samples(no_ends):
    pair = no_ends("llama")
    prompts = [pair.encode(tiny.problem("llama", seed=i)) for i in range(3)]
    sampling = pair.sampling(samples=4, temperature=1.0, seed=3, max_new_tokens=8)
    (together, forwards) = rows_of(pair, lambda: draw(pair, prompts, sampling, greedy=True))
    alone, sampled = draw(pair, prompts, sampling.greedy), draw(pair, prompts, sampling)
    for (*many, one), (best,), others in zip(together, alone, sampled, strict=True):
        assert one.ids == best.ids
        assert [a.ids for a in many] == [b.ids for b in others]
    assert len(forwards) <= 8  # of one prefill and seven steps
    assert draw(pair, prompts, replace(sampling, temperature=0.0, samples=1), greedy=True)[0][1].ids == (
        alone[0][0].ids
    )


def test_a_draw_that_is_no_number_takes_the_most_probable():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    draws = torch.tensor([torch.nan, 0.999, 0.0001, torch.nan], dtype=torch.float64)
    token = pick(logits, 1.0, draws, torch.tensor([0, 0, 1, 1]))
    # softmax of [0, 2, 1] is [0.09, 0.67, 0.24]: 0.999 falls on the last; of the second row 0.0001 on the first
    assert token.tolist() == [1, 2, 0, 0]
