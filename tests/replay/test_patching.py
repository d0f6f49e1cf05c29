"""Patching: earlier layers bit-equal, patched cells equal to the source, models as they were."""

from dataclasses import replace

import pytest
import tiny
import torch

from workbench.errors import InputError
from workbench.models.prompts import TokenKind
from workbench.replay.patching import Patch, prepare_patch, record
from workbench.tracing.residuals import read_calls
from workbench.tracing.trace import trace


def edits(prepared):
    return {layer: (lambda h, layer=layer: prepared.apply(layer, h)) for layer in prepared.sites}


@pytest.mark.parametrize("family", tiny.MULTIMODAL)
def test_patched_cells_become_the_bases_and_earlier_layers_stay(pair_of, family):
    pair = pair_of(family)
    prompt = pair.encode(tiny.problem(family))
    prepared = prepare_patch(pair, prompt, Patch(layers=(1, 2), threshold="quantile", tau=0.5))
    assert 0 < prepared.mask.sum() < prepared.mask.numel()
    base = read_calls(pair.base, prompt.model_inputs, 3)
    plain = read_calls(pair.rlvr, prompt.model_inputs, 3)
    patched = read_calls(pair.rlvr, prompt.model_inputs, 3, write=edits(prepared))
    assert torch.equal(patched[0].hidden, plain[0].hidden)
    assert torch.equal(patched[0].output, plain[0].output)
    for row, layer in enumerate((1, 2)):
        mask = prepared.mask[row]
        assert torch.equal(prepared.apply(layer, plain[layer].hidden)[0, mask], base[layer].hidden[0, mask])
        assert torch.equal(
            prepared.apply(layer, plain[layer].hidden)[0, ~mask], plain[layer].hidden[0, ~mask]
        )
    assert not torch.equal(patched[2].output, plain[2].output)
    again = read_calls(pair.rlvr, prompt.model_inputs, 3)
    assert all(torch.equal(a.output, b.output) for a, b in zip(again, plain, strict=True))


def test_masks_are_those_of_the_lens(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    lens = trace(tiny_pair, [prompt], null_draws=0)
    levels = tuple(lens.entropy_base.quantile(0.6, dim=1).tolist())
    released = Patch(layers=3, threshold="fixed", levels=levels, only_where_base_lower=True, positions="all")
    expected = (lens.entropy_base < torch.tensor(levels)[:, None]) & (lens.entropy_base < lens.entropy_rlvr)
    assert torch.equal(prepare_patch(tiny_pair, prompt, released).mask, expected)


@pytest.mark.parametrize("positions", ["visual", None])
def test_visual_positions_only(tiny_pair, positions):
    prompt = tiny_pair.encode(tiny.problem())
    mask = prepare_patch(tiny_pair, prompt, Patch(select="all", layers=2, positions=positions)).mask
    assert torch.equal(mask, (prompt.kinds == TokenKind.VISUAL).expand(2, -1))


def test_a_prompt_without_a_picture_is_patched_at_all_positions(tiny_pair):
    prompt = tiny_pair.encode(replace(tiny.problem(), images=()))
    assert prepare_patch(tiny_pair, prompt, Patch(select="all", layers=2)).mask.all()
    assert not prepare_patch(tiny_pair, prompt, Patch(select="all", layers=2, positions="visual")).mask.any()


def test_patching_all_cells_of_all_layers_gives_the_bases_last_input(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    prepared = prepare_patch(tiny_pair, prompt, Patch(select="all", layers=3, positions="all"))
    patched = read_calls(tiny_pair.rlvr, prompt.model_inputs, 3, write=edits(prepared))
    own = tiny_pair.rlvr.layers[2](prepared.source.hidden[2:3], **patched[2].arguments)
    torch.testing.assert_close(patched[2].output, own)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Patch(positions="text"), r"`positions` is 'text'; expected 'all' or 'visual'"),
        (lambda: Patch(layers=0), "`layers` is 0; expected a number of layers of at least 1"),
        (lambda: Patch(layers=(2, 1)), r"`layers` is \(2, 1\)"),
        (lambda: Patch(layers=()), r"`layers` is \(\)"),
        (lambda: Patch(select="most"), "`select` is 'most'"),
        (lambda: Patch(threshold="fixed"), "`levels` gives none entropies, expected 7"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_bad_sources(tiny_pair):
    prompt, other = (tiny_pair.encode(tiny.problem(seed=s)) for s in (0, 1))
    with pytest.raises(InputError, match=r"go up to 6, but the models have layers 0 to 2: Patch\(layers=3\)"):
        prepare_patch(tiny_pair, prompt, Patch())
    recording = record(tiny_pair.base, other, (0, 1))
    with pytest.raises(InputError, match="`source` was recorded on 'p1', which is another prompt than 'p0'"):
        prepare_patch(tiny_pair, prompt, Patch(layers=2), source=recording)
    with pytest.raises(
        InputError, match=r"`source` was recorded at layers \(0, 1\), the patch writes \(0,\)"
    ):
        prepare_patch(tiny_pair, other, Patch(layers=1), source=recording)
