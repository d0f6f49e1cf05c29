from collections.abc import Callable
from types import SimpleNamespace

import pytest
import tiny
import torch
import transformers as tf
from torch import nn

from workbench.errors import InputError
from workbench.models.anatomy import dissect, named_token_ids, probe

ENCODER_OF = {"idefics3": "model.text_model", "smolvlm": "model.text_model"}


def outputs_of(modules: list[nn.Module], run: Callable[[], object]) -> list[torch.Tensor]:
    caught: list[torch.Tensor] = []
    handles = [m.register_forward_hook(lambda _, args, output: caught.append(output)) for m in modules]
    run()
    for handle in handles:
        handle.remove()
    return caught


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_sites_reproduce_the_models_own_logits_and_hidden_states(family, pair_of):
    pair = pair_of(family)
    anatomy = pair.base
    inputs = pair.encode(tiny.problem(family)).model_inputs
    answers = []

    def run() -> None:
        with torch.no_grad():
            answers.append(anatomy.model(**inputs, output_hidden_states=True))

    residuals = outputs_of(list(anatomy.layers), run)
    assert len(residuals) == anatomy.depth == tiny.LAYERS
    assert all(r.shape == (1, inputs["input_ids"].shape[1], tiny.HIDDEN) for r in residuals)
    with torch.no_grad():
        lens = anatomy.logits(residuals[-1])
    torch.testing.assert_close(lens, answers[0].logits, rtol=1e-6, atol=1e-6)
    # transformers' own record is an oracle: entry l + 1 is what layer l returned, and the last one is normed
    if family != "qwen3_vl":  # whose record is taken after deepstack features were added
        for residual, recorded in zip(residuals[:-1], answers[0].hidden_states[1:-1], strict=True):
            torch.testing.assert_close(residual, recorded, rtol=0, atol=0)
    torch.testing.assert_close(
        anatomy.norm(residuals[-1]), answers[0].hidden_states[-1], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_addresses_and_facts(family, pair_of):
    anatomy = pair_of(family).base
    prefix = "model" if family in tiny.TEXT_ONLY else ENCODER_OF.get(family, "model.language_model")
    assert anatomy.family == family
    assert (anatomy.layers_path, anatomy.norm_path, anatomy.unembedding_path) == (
        f"{prefix}.layers",
        f"{prefix}.norm",
        "lm_head",
    )
    assert anatomy.model.get_submodule(anatomy.layers_path) is anatomy.layers
    assert anatomy.model.get_submodule(anatomy.norm_path) is anatomy.norm
    assert anatomy.model.get_submodule(anatomy.unembedding_path) is anatomy.unembedding
    assert (anatomy.hidden_size, anatomy.vocab_size) == (tiny.HIDDEN, tiny.VOCAB)
    assert (anatomy.softcap, anatomy.logit_multiplier) == (None, 1.0)
    assert anatomy.spatial_merge == (1 if family in (*tiny.TEXT_ONLY, "llava", "llava_onevision") else 2)
    if family in tiny.TEXT_ONLY:
        assert anatomy.visual_token_ids == frozenset()
    else:
        name = "context_image_token" if family == "internvl" else "image_token"
        assert anatomy.image_token_id == tiny.token_id(family, name)
        has_video_token = family in (*tiny.QWEN_VL, "llava_onevision")
        assert anatomy.video_token_id == (tiny.token_id(family, "video_token") if has_video_token else None)
    assert repr(anatomy).startswith(f"Anatomy(family='{family}'")
    assert len(repr(anatomy)) < 600


@pytest.mark.parametrize(
    ("family", "changes", "softcap", "multiplier"),
    [
        ("gemma2", {"final_logit_softcapping": 0.5}, 0.5, 1.0),
        ("gemma3_text", {"final_logit_softcapping": 0.5}, 0.5, 1.0),
        ("gemma3_text", {}, None, 1.0),
        ("gemma3", {"final_logit_softcapping": 0.5}, None, 1.0),  # the multimodal class ignores it
        ("cohere", {"logit_scale": 0.25}, None, 0.25),
        ("granite", {"logits_scaling": 4.0}, None, 0.25),
    ],
)
def test_softcap_and_multiplier_are_found_and_reproduce_the_logits(family, changes, softcap, multiplier):
    model = tiny.model(family, **changes)
    anatomy = dissect(model)
    assert (anatomy.softcap, anatomy.logit_multiplier) == (softcap, multiplier)
    probe(anatomy)
    ids = torch.tensor([[1, 2, 3, 4]])
    outputs: list[torch.Tensor] = []
    with torch.no_grad():
        caught = outputs_of([anatomy.layers[-1]], lambda: outputs.append(model(input_ids=ids).logits))
        torch.testing.assert_close(anatomy.logits(caught[0]), outputs[0], rtol=1e-6, atol=1e-6)


def test_tied_and_biased_unembeddings():
    tied = dissect(tiny.model("qwen2", tie_word_embeddings=True))
    assert tied.unembedding_path == "lm_head"
    assert tied.unembedding.weight is tied.model.get_input_embeddings().weight
    probe(tied)
    model = tiny.model("llama")
    model.lm_head = nn.Linear(tiny.HIDDEN, tiny.VOCAB, bias=True)
    probe(dissect(model))


def test_named_token_ids_cover_markers_and_placeholders():
    model = tiny.model("qwen2_5_vl")
    names = ("vision_start_token", "vision_end_token", "image_token", "video_token")
    assert {tiny.token_id("qwen2_5_vl", name) for name in names} | {256, 257, 258} == named_token_ids(model)


def test_probe_leaves_no_hook_behind():
    model = tiny.model("llama")
    probe(dissect(model))
    assert not any(m._forward_hooks for m in model.modules())


# --- refused -------------------------------------------------------------------------------------------


def test_a_module_that_is_no_transformers_model_is_refused():
    with pytest.raises(
        InputError, match=r"`model` is a Linear, expected a transformers PreTrainedModel: unwrap"
    ):
        dissect(nn.Linear(2, 2))


def test_a_model_without_a_head_is_refused():
    with pytest.raises(
        InputError, match=r"`model` LlamaModel has no unembedding .* with a language-modelling head"
    ):
        dissect(tiny.model("llama").model)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            nn.ModuleList([nn.Identity()] * tiny.LAYERS),
            r"has 2 candidates for the list of 3 layers .* expected 1",
        ),
        (nn.LayerNorm(tiny.HIDDEN), r"has 2 candidates for the final norm in its decoder, expected 1"),
    ],
)
def test_an_ambiguous_address_is_refused(extra, message):
    model = tiny.model("llama")
    model.model.second = extra
    with pytest.raises(InputError, match=message):
        dissect(model)


def test_a_decoder_cut_short_is_refused():
    model = tiny.model("llama")
    model.model.layers = model.model.layers[:2]
    with pytest.raises(InputError, match=r"has 0 candidates for the list of 3 layers"):
        dissect(model)


def test_an_unembedding_of_another_width_is_refused():
    model = tiny.model("llama")
    model.lm_head = nn.Linear(16, tiny.VOCAB)
    with pytest.raises(InputError, match=r"the unembedding reads 16 features, the decoder gives 32"):
        dissect(model)


def test_a_site_held_twice_is_refused():
    model = tiny.model("llama")
    model.also = model.model.norm
    with pytest.raises(
        InputError, match=r"holds its LlamaRMSNorm at \['model.norm', 'also'\], expected one place"
    ):
        dissect(model)


def test_an_unknown_twist_between_norm_and_logits_is_refused(monkeypatch):
    model = tiny.model("llama")
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **kw: SimpleNamespace(logits=forward(**kw).logits * 1.01))
    with pytest.raises(InputError, match=r"miss its own logits by .* model type 'llama' is not supported"):
        probe(dissect(model))


def test_layers_that_return_tuples_are_refused(monkeypatch):
    model = tiny.model("llama")
    layer = model.model.layers[-1]
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *a, **k: (forward(*a, **k),))
    model.model.norm.forward = lambda hidden: hidden[0]
    with pytest.raises(
        InputError, match=r"layers\[2\] returned tuple, expected a tensor of shape \(1, 2, 32\)"
    ):
        probe(dissect(model))
    assert not any(m._forward_hooks for m in model.modules())


def test_layers_that_are_skipped_are_refused(monkeypatch):
    model = tiny.model("llama")
    anatomy = dissect(model)
    monkeypatch.setattr(model.model.config, "num_hidden_layers", 2)
    with pytest.raises(
        InputError, match=r"`model` LlamaForCausalLM called \['layers\[0\]', 'layers\[1\]', 'norm'\]"
    ):
        probe(anatomy)
    assert isinstance(model, tf.PreTrainedModel)
