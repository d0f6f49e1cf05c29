"""Kinds, views and cells of every family, checked against what the models themselves do with a picture."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.errors import InputError
from workbench.models.anatomy import dissect
from workbench.models.layouts import locate
from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.models.tilings import Tiling

# (family, images, frames of a video)
CASES = [(f, n, 0) for f in tiny.MULTIMODAL for n in (0, 1, 2)] + [(f, 0, 4) for f in tiny.VIDEO]


def run(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize(("family", "images", "frames"), CASES)
def test_every_position_has_a_kind_a_view_and_a_cell(family, images, frames, pair_of):
    pair = pair_of(family)
    prompt = pair.encode(tiny.problem(family, images, frames))
    anatomy, ids = pair.base, prompt.input_ids
    visual = torch.tensor([i in anatomy.visual_token_ids for i in ids.tolist()])
    special = (ids >= 256) & ~visual  # the tiny tokenizers have 256 bytes, then special tokens
    assert prompt.kinds.dtype == torch.int8
    assert torch.equal(prompt.kinds == TokenKind.VISUAL, visual)
    assert torch.equal(prompt.kinds == TokenKind.SPECIAL, special)
    assert torch.equal(prompt.visual_index >= 0, visual)
    assert bool((prompt.grid[~visual] == -1).all())
    assert bool(visual.any()) == (images + frames > 0)
    assert set(prompt.sources) == set(range(images + bool(frames)))
    assert sorted(prompt.image_index[visual].unique().tolist()) == sorted(set(prompt.sources))
    assert bool((prompt.image_index[~visual] == -1).all())
    for view, (t, h, w) in enumerate(prompt.grids):
        cells = prompt.grid[prompt.visual_index == view]
        shown = cells[(cells >= 0).all(-1)]
        every = torch.cartesian_prod(torch.arange(t), torch.arange(h), torch.arange(w))
        assert sorted(shown.tolist()) == every.tolist()  # every cell exactly once
        nowhere = len(cells) - len(shown)
        if family == "llava_onevision":
            newlines = {1: 1 if frames or images == 2 else 0 if view % 2 == 0 else h}
            assert nowhere == newlines[1]
        else:
            assert nowhere == 0
    assert len(prompt.images) == len(prompt.grids)
    assert run(anatomy.model, prompt.model_inputs).shape == (1, len(prompt), tiny.VOCAB)


@pytest.mark.parametrize(
    ("family", "grids"),
    [
        ("qwen2_vl", ((1, 3, 5), (1, 6, 5))),
        ("qwen2_5_vl", ((1, 3, 5), (1, 6, 5))),
        ("qwen3_vl", ((1, 3, 5), (1, 6, 5))),
        ("llava", ((1, 4, 4), (1, 4, 4))),
        ("llava_onevision", ((1, 4, 4), (1, 4, 4))),
        ("internvl", ((1, 8, 12), (1, 4, 4), (1, 8, 8), (1, 4, 4))),
        ("gemma3", ((1, 4, 4), (1, 4, 4))),
        ("idefics3", ((1, 8, 12), (1, 4, 4), (1, 12, 12), (1, 4, 4))),
        ("smolvlm", ((1, 8, 12), (1, 4, 4), (1, 12, 12), (1, 4, 4))),
    ],
)
def test_grids_of_a_40_x_24_and_a_56_x_64_image(family, grids, pair_of):
    prompt = pair_of(family).encode(tiny.problem(family, images=2))
    assert prompt.grids == grids
    assert prompt.sources == ((0, 1) if len(grids) == 2 else (0, 0, 1, 1))


def test_qwen_positions_by_hand(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    start = prompt.tokens.index("<|vision_start|>")
    assert prompt.tokens[start + 1 : start + 17] == ("<|image_pad|>",) * 15 + ("<|vision_end|>",)
    assert prompt.kinds[start : start + 2].tolist() == [TokenKind.SPECIAL, TokenKind.VISUAL]
    assert prompt.grid[start + 1 : start + 8].tolist() == [
        *([0, 0, c] for c in range(5)),
        *([0, 1, c] for c in range(2)),
    ]
    assert "".join(prompt.tokens).startswith("<|im_start|>user\n<|vision_start|>")
    assert "".join(prompt.tokens).endswith("<|vision_end|>How many? <|im_end|>\n<|im_start|>assistant\n")
    types = prompt.model_inputs["mm_token_type_ids"][0]
    assert torch.equal(types, (prompt.kinds == TokenKind.VISUAL).to(types.dtype))


def test_video_frames_share_a_cell_in_pairs_and_interleave_with_time_stamps_in_qwen3(pair_of):
    prompt = pair_of("qwen3_vl").encode(tiny.problem("qwen3_vl", 0, frames=4, metadata={"fps": 2}))
    assert prompt.grids == ((2, 4, 5),)
    text = "".join(prompt.tokens)
    assert "<0.2 seconds><|vision_start|>" in text
    assert "<1.2 seconds><|vision_start|>" in text
    assert prompt.grid[prompt.visual_index == 0][:, 0].tolist() == [0] * 20 + [1] * 20


def test_images_and_a_video_together(pair_of):
    for family in (*tiny.QWEN_VL, "llava_onevision", "internvl"):
        prompt = pair_of(family).encode(tiny.problem(family, images=1, frames=2))
        assert prompt.sources[-1] == 1
        assert prompt.grids[-1][0] == (1 if family in tiny.QWEN_VL else 2)
        run(pair_of(family).base.model, prompt.model_inputs)


def blind_attention(model: PreTrainedModel) -> None:
    """Makes every vision token depend on its own patches only, so that a local change stays local."""
    for name, module in model.named_modules():
        decoder = "language_model" in name or "text_model" in name
        if isinstance(module, nn.Linear) and not decoder and "att" in name.lower():
            module.weight.zero_()
            if module.bias is not None:
                module.bias.zero_()


def first_layer_input(model: PreTrainedModel, layer: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    caught: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: caught.append(args[0][0]))
    run(model, inputs)
    hook.remove()
    return caught[0]


def spotted(size: tuple[int, int], spot: tuple[float, float] | None) -> Image.Image:
    picture = Image.new("RGB", size, (90, 90, 90))
    if spot is not None:
        x, y = round(spot[0] * size[0]), round(spot[1] * size[1])
        picture.paste((255, 255, 255), (x - 2, y - 2, x + 2, y + 2))
    return picture


@pytest.mark.parametrize(
    ("family", "size", "images", "frames"),
    [
        *((f, (80, 48), 1, 0) for f in tiny.MULTIMODAL),
        *((f, (48, 80), 2, 0) for f in tiny.MULTIMODAL),
        *((f, (64, 64), 0, 4) for f in tiny.VIDEO),
        ("llava_onevision", (300, 280), 1, 0),  # tiles shrunk to `anyres_max_4`
    ],
)
def test_a_bright_spot_changes_the_cell_where_it_is(family, size, images, frames, pair_of):
    model = tiny.model(family)
    blind_attention(model)
    pair = ModelPair("blind", pair_of(family).base, pair_of(family).rlvr, tiny.processor(family), {})
    layer = model.get_submodule(pair.base.layers_path)[0]  # pyright: ignore[reportIndexIssue]

    def encoded(source: int, spot: tuple[float, float] | None) -> EncodedPrompt:
        pictures = tuple(spotted(size, spot if i == source else None) for i in range(images or frames))
        return pair.encode(tiny.problem(family, pictures if images else 0, 0 if images else pictures))

    plain = encoded(0, None)
    before = first_layer_input(model, layer, plain.model_inputs)
    for source, x, y in ((0, 0.3, 0.37), (0, 0.69, 0.31), (max(images, frames) - 1, 0.62, 0.87)):
        prompt = encoded(source, (x, y))
        assert torch.equal(prompt.input_ids, plain.input_ids)
        change = (first_layer_input(model, layer, prompt.model_inputs) - before).norm(dim=-1)
        assert bool((change[prompt.kinds != TokenKind.VISUAL] == 0).all())
        for view, (t, h, w) in enumerate(prompt.grids):
            here = prompt.visual_index == view
            bright = np.argwhere(np.asarray(prompt.images[view].convert("L")) > 200) + 0.5
            if images and not len(bright):  # in another image, or in a part that the model does not see
                assert float(change[here].max()) < 0.1 * float(before.norm(dim=-1).max())
                continue
            v, u = (y, x) if frames else bright.mean(0) / prompt.images[view].size[::-1]
            when, row, column = prompt.grid[here][change[here].argmax()].tolist()
            assert when == (source * t // frames if frames else 0)
            # Resizing smears a spot beside an edge over it, so the neighbour there is as right.
            assert abs(row + 0.5 - v * h) < 0.8
            assert abs(column + 0.5 - u * w) < 0.8


def test_pictures_are_what_the_model_sees(pair_of):
    wide = tiny.problem("llava", images=1)
    assert [p.size for p in pair_of("llava").encode(wide).images] == [(24, 24)]  # the centre square
    two = pair_of("llava_onevision").encode(tiny.problem("llava_onevision", images=2))
    assert [p.size for p in two.images] == [(40, 40), (64, 64)]  # padded to squares
    one = pair_of("llava_onevision").encode(tiny.problem("llava_onevision"))
    assert [p.size for p in one.images] == [(40, 24), (40, 24)]  # whole picture and tiles
    problem = tiny.problem("qwen2_vl", images=1, frames=4)
    assert pair_of("qwen2_vl").encode(problem).images == (problem.images[0], problem.video[0])


def test_onevision_shrinks_many_tiles_as_the_model_does(pair_of):
    pair = pair_of("llava_onevision")
    for size in ((300, 280), (96, 96), (200, 40), (33, 90), (64, 61)):
        prompt = pair.encode(tiny.problem("llava_onevision", images=(tiny.image(*size),)))
        run(pair.base.model, prompt.model_inputs)  # the model itself counts placeholders


def test_tilings_may_be_given_and_are_counted(pair_of):
    pair = pair_of("internvl")
    prompt = pair.encode(tiny.problem("internvl"))
    with pytest.raises(InputError, match=r"`pixel_values` holds 7 tiles or frames, expected 5"):
        locate(pair.base, prompt.input_ids, prompt.model_inputs, [Tiling(rows=2, columns=2)])


def test_a_class_token_belongs_to_the_image_but_has_no_place():
    model, processor = tiny.model("llava"), deepcopy(tiny.processor("llava"))
    model.config.vision_feature_select_strategy = "full"
    processor.vision_feature_select_strategy = "full"
    prompt = load_pair(base=model, rlvr=model, processor=processor).encode(tiny.problem("llava", images=2))
    assert prompt.grids == ((1, 4, 4), (1, 4, 4))
    for view in (0, 1):
        cells = prompt.grid[prompt.visual_index == view].tolist()
        assert cells == [[-1, -1, -1], *([0, r, c] for r in range(4) for c in range(4))]
    run(model, prompt.model_inputs)


def test_unsupported_layouts_are_refused(pair_of):
    anatomy, ids = pair_of("llava").base, torch.zeros(4, dtype=torch.long)
    pixels = {"pixel_values": torch.zeros(1, 3, 32, 32)}
    with pytest.raises(
        InputError, match=r"where the visual tokens of model type 'mllama' sit is not known; supported are"
    ):
        locate(replace(anatomy, family="mllama"), ids, pixels)
    with pytest.raises(
        InputError, match=r"`pixel_values_videos` is not an input of model type 'llava'; give the frames"
    ):
        locate(anatomy, ids, {"pixel_values_videos": torch.zeros(1, 3, 32, 32)})
    pixtral = tiny.model("llava")
    pixtral.config.vision_config.model_type = "pixtral"
    with pytest.raises(InputError, match=r"LLaVA with a Pixtral vision tower is not supported"):
        locate(dissect(pixtral), ids, pixels)
