"""Cells chosen by hand: exactly these are changed, and a selection takes its part of them."""

import pytest
import tiny
import torch

import workbench as wb
from workbench.conditions import signature_of
from workbench.errors import InputError
from workbench.lens import strata
from workbench.models.prompts import TokenKind
from workbench.replay.patching import prepare_patch
from workbench.selection import Selection


def first_row(prompt):
    return (prompt.kinds == TokenKind.VISUAL) & (prompt.grid[:, 1] == 0)


def test_a_patch_overwrites_exactly_the_chosen_cells(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    row = first_row(prompt)
    assert 0 < row.sum() < (prompt.kinds == TokenKind.VISUAL).sum()
    patch = wb.Patch(layers=(1, 2), select="all", cells=first_row)
    assert patch.title == "patch, all of first_row"
    assert torch.equal(prepare_patch(tiny_pair, prompt, patch).mask, row.expand(2, -1))
    low = prepare_patch(
        tiny_pair, prompt, wb.Patch(layers=(1, 2), threshold="quantile", tau=0.5, cells=first_row)
    ).mask
    assert torch.equal(
        low.sum(1), torch.full((2,), round(0.5 * int(row.sum())))
    )  # half of the chosen, in each layer
    assert not (low & ~row).any()
    random = wb.Patch(layers=(1, 2), threshold="quantile", tau=0.5, select="random", cells=first_row)
    assert torch.equal(prepare_patch(tiny_pair, prompt, random).mask.sum(1), low.sum(1))


def test_a_row_for_every_layer(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    every = torch.zeros(tiny_pair.depth, len(prompt), dtype=torch.bool)
    place = int(first_row(prompt).nonzero()[0])
    every[1, place], every[2, place + 1] = True, True
    patch = wb.Patch(layers=(1, 2), select="all", cells=lambda _: every)
    assert prepare_patch(tiny_pair, prompt, patch).mask.nonzero().tolist() == [[0, place], [1, place + 1]]


def test_tokens_are_learnt_from_the_chosen_cells(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    replay = wb.Replay(select="all", layers=2, iterations=1, cells=first_row)
    learned = wb.learn_tokens(tiny_pair, prompt, replay)
    assert torch.equal(learned.mask, first_row(prompt).expand(2, -1))


@pytest.mark.parametrize("threshold", ["max_fraction", "quantile", "fixed"])
def test_candidates_of_one_layer_do_not_touch_another(threshold):
    entropy = torch.rand(3, 12, generator=torch.Generator().manual_seed(0))
    selection = Selection(threshold=threshold, tau=0.5, levels=(0.5,) * 3 if threshold == "fixed" else None)
    chosen = torch.rand(3, 12, generator=torch.Generator().manual_seed(1)) < 0.6
    whole = strata.mask(entropy, selection, candidates=chosen)
    for layer in range(3):
        one = Selection(threshold=threshold, tau=0.5, levels=(0.5,) if threshold == "fixed" else None)
        alone = strata.mask(entropy[layer : layer + 1], one, candidates=chosen[layer])
        assert torch.equal(whole[layer], alone[0])


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (lambda prompt: torch.ones(3, dtype=torch.bool), r"`cells` gives bool \(3,\) for 'p0'"),
        (lambda prompt: torch.ones(len(prompt)), "`cells` gives float32"),
        (lambda prompt: prompt.kinds > 99, "`cells` chooses none of the"),
    ],
)
def test_what_chooses_no_cells_is_refused(tiny_pair, cells, message):
    prompt = tiny_pair.encode(tiny.problem())
    with pytest.raises(InputError, match=message):
        prepare_patch(tiny_pair, prompt, wb.Patch(layers=2, cells=cells))


def test_only_functions_choose():
    with pytest.raises(InputError, match="`cells` is a list; expected a function of an encoded prompt"):
        wb.Patch(cells=[3])  # pyright: ignore[reportArgumentType]


def test_another_choice_is_another_condition():
    plain, chosen = signature_of(wb.Patch()), signature_of(wb.Patch(cells=first_row))
    other = signature_of(wb.Patch(cells=lambda prompt: prompt.kinds == TokenKind.VISUAL))
    assert "cells" not in plain[1]
    assert len({str(one) for one in (plain, chosen, other)}) == 3
    places = [signature_of(wb.Patch(cells=_at(place))) for place in (1, 2)]
    assert places[0] != places[1]  # the same text, holding another place


def _at(place):
    return lambda prompt: prompt.grid[:, 1] == place
