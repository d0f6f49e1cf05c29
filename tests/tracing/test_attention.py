"""Attention mass: what it is on weights known by heart, and that reading it leaves the pair alone."""

import pytest
import tiny
import torch

from workbench.errors import InputError
from workbench.models.batches import collate
from workbench.tracing.attention import attention_received, eager_twin, mass_received
from workbench.tracing.residuals import read_attention


def test_mass_is_the_mean_over_heads_and_later_queries():
    weights = torch.tensor(
        [[[1.0, 0, 0], [0.4, 0.6, 0], [0.2, 0.5, 0.3]], [[1.0, 0, 0], [0.8, 0.2, 0], [0.4, 0.1, 0.5]]]
    )
    found = mass_received(weights[None], torch.ones(1, 3, dtype=torch.bool))[0]
    torch.testing.assert_close(found[:2], torch.tensor([(0.6 + 0.3) / 2, 0.3]))
    assert found[2].isnan()


def test_padding_asks_nothing():
    weights = torch.full((1, 2, 4, 4), 0.25)
    weights[:, :, 0] = 9.0
    found = mass_received(weights, torch.tensor([[False, True, True, True]]))[0]
    torch.testing.assert_close(found[1:3], torch.tensor([0.25, 0.25]))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "llava", "qwen3"])
def test_it_equals_eager_attention_whatever_the_batch(family):
    pair = tiny.pair(family)
    prompt = pair.encode(tiny.problem(family))
    both = attention_received(pair.base, [prompt, prompt], pair.pad_id, batch_size=2)
    alone = attention_received(pair.base, [prompt], pair.pad_id)
    assert both.shape == (tiny.LAYERS, 2 * len(prompt))
    torch.testing.assert_close(both[:, : len(prompt)], alone, equal_nan=True)
    assert alone[:, :-1].isfinite().all()
    assert (alone[:, :-1] >= 0).all()
    assert alone[:, -1].isnan().all()


def test_the_pair_is_left_as_it_was():
    pair = tiny.pair("qwen2_5_vl")
    prompt = pair.encode(tiny.problem("qwen2_5_vl"))
    model = pair.base.model
    with torch.no_grad():
        before = model(**prompt.model_inputs).logits
    kernel = pair.base.decoder.config._attn_implementation
    twin = eager_twin(pair.base)
    assert all(a is b for a, b in zip(model.parameters(), twin.model.parameters(), strict=True))
    attention_received(pair.base, [prompt], pair.pad_id)
    assert pair.base.decoder.config._attn_implementation == kernel == "sdpa"
    assert twin.decoder.config._attn_implementation == "eager"
    assert not [module for module in model.modules() if module._forward_hooks]
    with torch.no_grad():
        assert torch.equal(model(**prompt.model_inputs).logits, before)


def test_a_fused_kernel_is_refused_with_the_way_out():
    pair = tiny.pair("qwen2_5_vl")
    inputs = collate([pair.encode(tiny.problem("qwen2_5_vl"))], pair.pad_id)
    with pytest.raises(InputError, match="returns no weights; read `attention"):
        read_attention(pair.base, inputs, reduce=lambda layer, weights: weights)
