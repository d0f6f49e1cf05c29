from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy, dissect
from workbench.models.preflight import check_pair, check_processor, check_processors, check_weights


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return dissect(tiny.model("qwen2_5_vl"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "qwen3_vl"}, r"differ in model families: qwen2_5_vl and qwen3_vl; give a base model and"),
        ({"depth": 5}, r"differ in depths \(decoder layers\): 3 and 5"),
        ({"hidden_size": 64}, r"differ in hidden sizes: 32 and 64"),
        ({"image_token_id": 9}, r"differ in image placeholder ids: \d+ and 9"),
        ({"video_token_id": None}, r"differ in video placeholder ids: \d+ and None"),
    ],
)
def test_incomparable_models_are_refused(anatomy, changes, message):
    with pytest.raises(InputError, match=message):
        check_pair(anatomy, replace(anatomy, **changes), tiny.tokenizer("qwen2_5_vl"))


@pytest.mark.parametrize("key", ["patch_size", "spatial_merge_size", "temporal_patch_size"])
def test_another_visual_geometry_is_refused(anatomy, key):
    other = replace(anatomy, geometry={**anatomy.geometry, f"vision_config.{key}": 7})
    with pytest.raises(InputError, match=rf"differ in visual geometry, vision_config\.{key}: \d and 7"):
        check_pair(anatomy, other)


@pytest.mark.parametrize("family", tiny.MULTIMODAL)
def test_every_family_has_a_geometry(family):
    assert any(value is not None for value in dissect(tiny.model(family)).geometry.values())


def test_padding_rows_may_differ_but_tokens_may_not(anatomy):
    tokenizer = tiny.tokenizer("qwen2_5_vl")
    used = len(tokenizer)
    check_pair(anatomy, replace(anatomy, vocab_size=400), tokenizer)
    check_pair(anatomy, replace(anatomy, vocab_size=used), tokenizer)
    with pytest.raises(
        InputError,
        match=rf"vocabularies of 320 and {used - 1} rows, but the tokenizer's ids reach {used - 1}",
    ):
        check_pair(anatomy, replace(anatomy, vocab_size=used - 1), tokenizer)
    with pytest.raises(
        InputError, match=r"320 and 400 rows, and without a tokenizer it is unknown whether the surplus"
    ):
        check_pair(anatomy, replace(anatomy, vocab_size=400))
    check_pair(anatomy, anatomy)


def changed(**attributes: Any) -> Any:
    processor = deepcopy(tiny.processor("qwen2_5_vl"))
    for name, value in attributes.items():
        setattr(processor, name, value)
    return processor


def test_equal_processors_pass_even_if_their_templates_are_worded_differently():
    base = tiny.processor("qwen2_5_vl")
    check_processors(base, changed())
    check_processors(base, changed(chat_template="{# the same #}" + base.chat_template))
    check_processors(tiny.tokenizer("qwen2"), tiny.tokenizer("qwen3"))


def test_chat_templates_that_write_another_text_are_refused():
    base = tiny.processor("qwen2_5_vl")
    other = changed(chat_template=base.chat_template.replace("\n{% if m", "\nThink. {% if m"))
    with pytest.raises(
        InputError,
        match=r"chat templates that differ, '.*user.*' and '.*Think\. .*', .* choose one with `chat_",
    ):
        check_processors(base, other)


def test_tokenizers_that_differ_are_refused():
    other = changed()
    other.tokenizer.add_tokens(["<think>"])
    with pytest.raises(
        InputError, match=r"tokenizers that differ in 1 tokens, such as '<think>': id None and 265"
    ):
        check_processors(tiny.processor("qwen2_5_vl"), other)
    with pytest.raises(
        InputError, match=r"tokenizers that differ in \d+ tokens, such as '<image>': id 261 and None"
    ):
        check_processors(tiny.tokenizer("llava"), tiny.tokenizer("internvl"))


def test_processors_of_another_patch_size_are_refused():
    other = changed()
    other.image_processor.patch_size = 8
    with pytest.raises(
        InputError, match=r"processors that differ in visual geometry, patch_size: 4 and 8; choose"
    ):
        check_processors(tiny.processor("qwen2_5_vl"), other)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_processor_of_the_pair_fits_it(family):
    check_processor(tiny.processor(family), dissect(tiny.model(family)))
    check_processor(tiny.tokenizer(family), dissect(tiny.model(family)))


def test_a_processor_of_another_model_is_refused(anatomy):
    other = changed()
    other.image_processor.merge_size = 3
    with pytest.raises(
        InputError, match=r"`processor` has merge_size 3, the models' vision_config.spatial_merge_size is 2"
    ):
        check_processor(other, anatomy)
    with pytest.raises(
        InputError, match=r"`processor` marks images with token 261, the models with 263; give the pair's"
    ):
        check_processor(tiny.processor("llava"), anatomy)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e5m2]
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value, dtype):
    model = tiny.model("qwen2")
    weight = model.get_parameter("model.layers.1.self_attn.k_proj.weight")
    weight.data = weight.data.to(dtype)
    check_weights("rlvr", dissect(model))
    weight.data[3, 2] = value
    with pytest.raises(
        InputError, match=r"`rlvr`: the weight 'model\.layers\.1\.self_attn\.k_proj\.weight' holds NaN or"
    ):
        check_weights("rlvr", dissect(model))
