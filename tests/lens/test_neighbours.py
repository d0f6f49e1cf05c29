"""Nearest states: exact whatever the blocks, ties apart; ranks by counting."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.lens import neighbours as module
from workbench.lens.neighbours import nearest, rank_of, unit


def vectors(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 700), st.integers(1, 12), st.integers(1, 300), st.integers(0, 10**6)
)
def test_they_are_those_of_the_whole_table_of_cosines(queries, count, width, block, seed):
    states, hidden = unit(vectors(count, width, seed)), 3 * vectors(queries, width, seed + 1)
    k = 1 + seed % min(count, 20)
    table = torch.nn.functional.cosine_similarity(hidden[:, None].double(), states[None].double(), dim=-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_STATES", {"cpu": block, "cuda": block})
        patch.setattr(module, "_QUERIES", {"cpu": 7, "cuda": 7})
        patch.setattr(module, "_STRETCH", 1 + seed % 9)
        found = nearest(hidden, states, k)
        ranks = rank_of(hidden, states, found.ids[:, -1])
    torch.testing.assert_close(found.cosines.double(), table.topk(k).values, rtol=0, atol=1e-6)
    torch.testing.assert_close(table.gather(1, found.ids), found.cosines.double(), rtol=0, atol=1e-6)
    assert all(len(set(row)) == k for row in found.ids.tolist())
    apart = (table > table.gather(1, found.ids[:, -1:]) + 1e-6).sum(1)
    within = (table > table.gather(1, found.ids[:, -1:]) - 1e-6).sum(1)
    assert ((apart <= ranks) & (ranks <= within)).all()


def test_a_state_is_nearest_to_itself_at_any_length():
    states = unit(vectors(1000, 16, 0))
    found = nearest(states * torch.linspace(0.1, 9, 1000)[:, None], states, 3)
    assert torch.equal(found.ids[:, 0], torch.arange(1000))
    assert not rank_of(states, states, torch.arange(1000)).any()


def test_bad_input_is_refused():
    states, hidden = unit(vectors(5, 4, 0)), vectors(2, 4, 1)
    for wrong, text in (
        (lambda: nearest(hidden, states, 6), "`k` is 6, expected 1 to the 5"),
        (lambda: nearest(hidden, states, 0), "`k` is 0"),
        (lambda: nearest(hidden[:, :3], states, 1), "of width 3"),
        (lambda: nearest(hidden * torch.nan, states, 1), "`queries` must be finite"),
        (lambda: nearest(hidden[0], states, 1), "expected floating-point vectors"),
        (lambda: nearest(hidden, states.double(), 1), "expected float32"),
        (lambda: rank_of(hidden, states, torch.tensor([0, 5])), "from 0 to 5; expected"),
        (lambda: rank_of(hidden, states, torch.tensor([0])), "`ids` is"),
    ):
        with pytest.raises(InputError, match=text):
            wrong()
