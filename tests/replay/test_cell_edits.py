"""Scaled, overwritten and removed cells: as predicted from weights that were changed by hand, and the models as they were."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch

import workbench as wb
from workbench.models.anatomy import dissect
from workbench.models.identity import fingerprint
from workbench.replay.cell_edits import Overwrite, Remove, Scale
from workbench.tracing.residuals import prefill, read_calls, read_logits


@pytest.fixture(scope="module")
def tiny_pair():
    """One of this file's own: transformers leaves its hooks in a model whose hidden states another test asked for."""
    return tiny.pair()


@pytest.fixture(scope="module")
def prompt(tiny_pair):
    return tiny_pair.encode(wb.load_problems("shapes", limit=1)[0])


def logits(anatomy, prompt, made=None):
    write = made and {layer: (lambda h, layer=layer: made.apply(layer, h)) for layer in made.sites}
    return read_logits(anatomy, prompt.model_inputs, last=len(prompt), write=write)[0]


def made_of(condition, pair, prompt):
    return wb.prepare(condition, pair, [prompt])[0]


def with_zeros(anatomy, layer, head):
    """A copy whose weights make the head, or the MLP, write nothing anywhere."""
    model = copy.deepcopy(anatomy.model)
    fresh = dissect(model)
    block = fresh.layers[layer]
    with torch.no_grad():
        if head is None:
            block.mlp.down_proj.weight.zero_()
        else:
            heads = model.config.get_text_config().num_attention_heads
            width = block.self_attn.o_proj.in_features // heads
            block.self_attn.o_proj.weight[:, head * width : (head + 1) * width] = 0
    return fresh


@pytest.mark.parametrize("head", [None, 0, 1])
@pytest.mark.parametrize("model", ["base", "rlvr"])
@pytest.mark.parametrize("last", [False, True])
def test_a_removed_part_is_that_of_a_model_without_its_weights(tiny_pair, prompt, head, model, last):
    anatomy = getattr(tiny_pair, model)
    before, layer = fingerprint(anatomy.model), anatomy.depth - 1 if last else 0
    made = made_of(Remove(layer=layer, head=head, model=model), tiny_pair, prompt)
    torch.testing.assert_close(
        logits(anatomy, prompt, made), logits(with_zeros(anatomy, layer, head), prompt), atol=1e-5, rtol=1e-4
    )
    assert fingerprint(anatomy.model) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in anatomy.layers.modules())


def test_where_it_is_not_removed_nothing_before_changes(tiny_pair, prompt):
    at = len(prompt) - 3
    made = made_of(Remove(layer=0, head=0, cells=wb.Mask({0: [(at, at + 1)]})), tiny_pair, prompt)
    plain, changed = logits(tiny_pair.rlvr, prompt), logits(tiny_pair.rlvr, prompt, made)
    assert torch.equal(plain[:at], changed[:at])
    assert not torch.allclose(plain[at], changed[at])


def test_what_the_last_layer_no_longer_writes_is_in_its_lens_and_in_the_first_token(tiny_pair, prompt):
    last = tiny_pair.depth - 1
    made = made_of(Remove(layer=last), tiny_pair, prompt)
    without = with_zeros(tiny_pair.rlvr, last, None)
    expected = wb.trace(replace(tiny_pair, rlvr=without), [prompt], null_draws=0)
    traced = wb.trace(tiny_pair, [prompt], null_draws=0, interventions=[made])
    torch.testing.assert_close(traced.kl, expected.kl, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(traced.entropy_rlvr, expected.entropy_rlvr, atol=1e-5, rtol=1e-4)
    write = {last + 1: lambda h: made.apply(last + 1, h)}
    output = prefill(tiny_pair.rlvr, prompt.model_inputs, write=write)
    torch.testing.assert_close(output.logits[0, -1], logits(without, prompt)[-1], atol=1e-5, rtol=1e-4)
    calls = read_calls(tiny_pair.rlvr, prompt.model_inputs, last + 1, write=write)
    torch.testing.assert_close(calls[-1].output[0], made.apply(last + 1, calls[-1].output)[0])


def test_scaled_cells_are_scaled_and_the_others_stay(tiny_pair, prompt):
    made = made_of(Scale(0.5, layers=(1,), cells=wb.Mask({1: [(2, 5)]})), tiny_pair, prompt)
    hidden = torch.randn(len(prompt) + 2, 8)
    changed = made.apply(1, hidden)
    assert torch.equal(changed[2:5], hidden[2:5] * 0.5)
    assert torch.equal(changed[:2], hidden[:2])
    assert torch.equal(changed[5:], hidden[5:])
    assert torch.equal(
        logits(tiny_pair.rlvr, prompt, made_of(Scale(1.0), tiny_pair, prompt)), logits(tiny_pair.rlvr, prompt)
    )


def test_overwritten_at_layer_0_everywhere_the_rest_runs_on_the_sources_embeddings(tiny_pair, prompt):
    made = made_of(Overwrite("rlvr", layers=(1,)), tiny_pair, prompt)
    source = read_calls(tiny_pair.rlvr, prompt.model_inputs, 2)[1].hidden[0]
    assert torch.equal(made.apply(1, torch.zeros_like(source)), source)
    same = replace(tiny_pair, base=tiny_pair.rlvr)
    assert torch.equal(
        logits(same.base, prompt, made_of(Overwrite("rlvr", layers=(0, 1)), same, prompt)),
        logits(same.base, prompt),
    )


def test_overwriting_the_rlvr_model_is_what_a_patch_does(tiny_pair, prompt):
    cells = wb.Mask({0: [(1, 4)], 1: [(2, 6)]})
    patch = wb.Patch(select="all", positions="all", layers=(0, 1), cells=cells)
    one, other = (
        made_of(c, tiny_pair, prompt) for c in (patch, Overwrite("base", layers=(0, 1), cells=cells))
    )
    assert torch.equal(logits(tiny_pair.rlvr, prompt, one), logits(tiny_pair.rlvr, prompt, other))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Scale(float("nan")), r"`factor` is nan; .*Scale\(0.5"),
        (lambda: Scale(1, layers=(2, 1)), "layers in order"),
        (lambda: Scale(1, layers=(True,)), "layers in order"),
        (lambda: Scale(1, model="both"), "expected 'base' or 'rlvr'"),
        (lambda: Overwrite("other"), "expected 'base' or 'rlvr'"),
        (lambda: Remove(layer=-1), "at least 0"),
        (lambda: Remove(layer=0, head=-1), "at least 0"),
        (lambda: Remove(layer=0, hed=1), "did you mean 'head'"),
    ],
)
def test_what_is_none_is_refused(build, message):
    with pytest.raises(wb.InputError, match=message):
        build()


def test_what_does_not_fit_the_models_is_refused(tiny_pair, prompt):
    depth = tiny_pair.depth
    for condition, message in (
        (Remove(layer=depth), f"have layers 0 to {depth - 1}"),
        (Remove(layer=0, head=99), "have heads 0 to"),
        (Scale(layers=(depth,)), f"layers 0 to {depth - 1}"),
        (Overwrite(layers=(depth,)), f"layers 0 to {depth - 1}"),
    ):
        with pytest.raises(wb.InputError, match=message):
            wb.prepare(condition, tiny_pair, [prompt])
