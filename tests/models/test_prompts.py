from copy import deepcopy

import pytest
import tiny
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from workbench.errors import InputError
from workbench.models.batches import batches, collate
from workbench.models.chat import tokenizer_of
from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt, TokenKind, encode, show_token

# (family, images, frames of a video)
CASES = [(f, n, 0) for f in tiny.MULTIMODAL for n in (0, 1, 2)] + [(f, 0, 4) for f in tiny.VIDEO]


# --- text ----------------------------------------------------------------------------------------------


def test_system_text_and_options_are_in_the_prompt(tiny_pair):
    problem = tiny.problem(system="Be brief.", choices=("red", "blue"), answer="A")
    text = "".join(tiny_pair.encode(problem).tokens)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_start|>")
    ask = "Please select the correct answer from the options above."
    assert f"How many? \nOptions:\nA. red\nB. blue\n{ask}<|im_end|>" in text


def test_a_text_only_pair_uses_its_tokenizers_template(pair_of):
    prompt = pair_of("qwen2").encode(tiny.problem("qwen2", system="Be brief."))
    system = "<|im_start|>system\nBe brief.<|im_end|>\n"
    user = "<|im_start|>user\nHow many? <|im_end|>\n<|im_start|>assistant\n"
    assert "".join(prompt.tokens) == system + user
    assert (prompt.grids, prompt.images, prompt.sources) == ((), (), ())


@pytest.mark.parametrize("family", ["qwen2", "qwen2_5_vl"])
def test_without_a_template_the_plain_question_is_used(family, pair_of, monkeypatch):
    pair = pair_of(family)
    monkeypatch.setattr(pair.processor, "chat_template", None)
    text = "".join(pair.encode(tiny.problem(family)).tokens)
    assert text == "How many? " if family == "qwen2" else text == "<|image_pad|>" * 15 + "\nHow many? "


@pytest.mark.parametrize("family", tiny.MULTIMODAL)
def test_encoding_is_what_transformers_own_chat_call_gives(family, pair_of):
    problem = tiny.problem(family, images=2)
    content = [{"type": "image", "image": image} for image in problem.images]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": problem.question}]}]
    theirs = tiny.processor(family).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ours = pair_of(family).encode(problem).model_inputs
    for name, value in ours.items():
        assert torch.equal(value, torch.as_tensor(theirs[name])), name


@pytest.mark.parametrize("family", ["qwen2", "llava"])
def test_a_begin_token_is_written_once(family):
    processor = deepcopy(tiny.processor(family))
    tokenizer = tokenizer_of(processor)
    begin = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 257)])
    tokenizer.backend_tokenizer.post_processor = begin
    model = tiny.model(family)

    def begins(template: str | None) -> int:
        processor.chat_template = template
        prompt = load_pair(base=model, rlvr=model, processor=processor).encode(tiny.problem(family))
        return int((prompt.input_ids == 257).sum())

    assert begins(None) == 1
    assert begins("<s>" + tiny.chat_template(family)) == 1
    # As transformers' own `apply_chat_template(tokenize=True)`: tokenizers leave it to the template.
    assert begins(tiny.chat_template(family)) == (0 if family == "qwen2" else 1)


def test_what_the_chat_template_refuses(tiny_pair, monkeypatch):
    monkeypatch.setattr(tiny_pair.processor, "chat_template", "{{ raise_exception('no system here') }}")
    with pytest.raises(
        InputError, match=r"problem 'p0': the chat template refused it \(no system here\); leave out"
    ):
        tiny_pair.encode(tiny.problem())


def test_a_token_is_shown_as_text_or_as_its_piece(tiny_pair):
    assert show_token(tiny_pair.tokenizer, tiny_pair.tokenizer.convert_tokens_to_ids("Ġ")) == " "
    half = tiny_pair.tokenizer("é")["input_ids"][0]  # half of a two-byte character
    assert show_token(tiny_pair.tokenizer, half) == "Ã"
    assert show_token(tiny_pair.tokenizer, 319) == "#319"  # a padding row
    assert show_token(None, 17) == "#17"


# --- batches -------------------------------------------------------------------------------------------


def test_batches_keep_order_and_only_join_what_fits(tiny_pair):
    prompts = [tiny_pair.encode(tiny.problem(images=n, seed=i)) for i, n in enumerate((1, 2, 0, 0, 1, 1, 1))]
    groups = list(batches(iter(prompts), 2))
    assert [[p.problem_id for p in group] for group in groups] == [
        ["p0", "p1"],
        ["p2", "p3"],
        ["p4", "p5"],
        ["p6"],
    ]
    assert list(batches([], 4)) == []


def test_videos_of_differing_length_are_not_joined_where_the_model_stacks_frames(pair_of):
    pair = pair_of("llava_onevision")
    prompts = [pair.encode(tiny.problem("llava_onevision", 0, frames=n)) for n in (2, 4)]
    assert [len(group) for group in batches(prompts, 8)] == [1, 1]
    with pytest.raises(
        InputError, match=r"`prompts` do not go into one batch.*let `batches\(prompts, size\)`"
    ):
        collate(prompts, 0)


def test_collate_and_batches_refuse_nonsense(tiny_pair):
    with pytest.raises(InputError, match=r"`prompts` is empty; give at least one"):
        collate([], 0)
    with pytest.raises(InputError, match=r"`size` is 0, expected at least 1"):
        list(batches([], 0))


# --- the user's own tensors ----------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "images", "frames"), CASES)
def test_own_tensors_give_what_encoding_gives(family, images, frames, pair_of):
    pair = pair_of(family)
    prompt = pair.encode(tiny.problem(family, images, frames))
    derived = ("attention_mask", "mm_token_type_ids", "token_type_ids")
    tensors = {k: v for k, v in prompt.model_inputs.items() if k not in derived}
    own = EncodedPrompt.from_tensors(pair, **tensors)
    assert own.problem_id == "prompt"
    assert own.images == ()
    assert own.tokens == prompt.tokens
    for name, value in prompt.model_inputs.items():
        torch.testing.assert_close(own.model_inputs[name], value)
    assert torch.equal(own.kinds, prompt.kinds)
    # Which tiles or frames belong together is not in the tensors of these.
    if family == "internvl" or (family == "smolvlm" and frames):
        assert sum(t * h * w for t, h, w in own.grids) == int((own.kinds == TokenKind.VISUAL).sum())
    else:
        assert (own.grids, own.sources) == (prompt.grids, prompt.sources)
        assert torch.equal(own.grid, prompt.grid)


def test_without_a_tokenizer_tokens_are_ids_and_special_ones_those_of_the_config(tiny_pair):
    pair = ModelPair("bare", tiny_pair.base, tiny_pair.rlvr, None, {})
    ids = tiny_pair.encode(tiny.problem(images=0)).input_ids
    own = EncodedPrompt.from_tensors(
        pair, input_ids=torch.cat([torch.tensor([257]), ids])[None], problem_id="x"
    )
    assert own.problem_id == "x"
    assert own.tokens[0] == "#257"
    assert own.kinds[0] == TokenKind.SPECIAL
    assert pair.decode_token(17) == "#17"
    assert repr(own) == "EncodedPrompt('x', 30 positions: 29 text, 0 visual, 1 special; grids [])"


# --- refused -------------------------------------------------------------------------------------------


def tensors_of(pair: ModelPair, images: int = 1) -> dict[str, Tensor]:
    return dict(pair.encode(tiny.problem(images=images)).model_inputs)


def test_a_pair_without_a_processor_cannot_encode(tiny_pair):
    pair = ModelPair("bare", tiny_pair.base, tiny_pair.rlvr, None, {})
    with pytest.raises(
        InputError, match=r"`pair` has no processor.*EncodedPrompt\.from_tensors\(pair, input_ids="
    ):
        pair.encode(tiny.problem())


def test_pictures_for_a_text_only_pair(pair_of):
    with pytest.raises(InputError, match=r"problem 'p0' has pictures, but the pair is text-only \(qwen2\)"):
        pair_of("qwen2").encode(tiny.problem("qwen2_5_vl"))
    tensors = tensors_of(pair_of("qwen2_5_vl"))
    with pytest.raises(InputError, match=r"`image_grid_thw` is no input of a prompt for Qwen2ForCausalLM"):
        EncodedPrompt.from_tensors(pair_of("qwen2"), **tensors)


def test_pictures_for_a_processor_that_sees_none(tiny_pair, pair_of):
    with pytest.raises(InputError, match=r"`images`, but `processor` is a \w+ without an? image_processor"):
        encode(tiny_pair.tokenizer, tiny_pair.base, tiny.problem())
    with pytest.raises(
        InputError, match=r"has `video`, but `processor` is a LlavaProcessor without a video_processor"
    ):
        pair_of("llava").encode(tiny.problem("llava", 0, frames=2))


def test_a_placeholder_in_the_question(tiny_pair):
    with pytest.raises(
        InputError, match=r"problem 'p0': its text holds the placeholder '<\|image_pad\|>'; take it out"
    ):
        tiny_pair.encode(tiny.problem(question="<|image_pad|> What is this?"))


def test_smolvlm_reads_images_or_a_video(pair_of):
    with pytest.raises(InputError, match=r"has `images` and a `video`; SmolVLM reads one or the other"):
        pair_of("smolvlm").encode(tiny.problem("smolvlm", images=1, frames=2))


def test_a_frame_rate_of_zero(pair_of):
    with pytest.raises(InputError, match=r'`?metadata\["fps"\]`? is 0, expected frames per second above 0'):
        pair_of("qwen2_vl").encode(tiny.problem("qwen2_vl", 0, frames=2, metadata={"fps": 0}))


def test_what_the_processor_itself_refuses(tiny_pair):
    thin = Image.new("RGB", (4, 2000))
    with pytest.raises(InputError, match=r"problem 'p0': Qwen2_5_VLProcessor refused it: .*aspect ratio"):
        tiny_pair.encode(tiny.problem(images=(thin,)))


def test_placeholders_without_an_image(tiny_pair):
    ids = tensors_of(tiny_pair)["input_ids"]
    with pytest.raises(
        InputError, match=r"`input_ids` holds 15 image placeholders \(token \d+\) but no image was given"
    ):
        EncodedPrompt.from_tensors(tiny_pair, input_ids=ids)


@pytest.mark.parametrize("family", tiny.MULTIMODAL)
def test_placeholders_that_do_not_match_the_pixels(family, pair_of):
    pair = pair_of(family)
    tensors = dict(pair.encode(tiny.problem(family)).model_inputs)
    visual = torch.isin(tensors["input_ids"][0], torch.tensor(sorted(pair.base.visual_token_ids)))
    keep = torch.arange(len(visual)) != int(visual.nonzero()[-1])
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
        if name in tensors:
            tensors[name] = tensors[name][:, keep]
    found = int(visual.sum()) - 1
    with pytest.raises(
        InputError, match=rf"holds {found} image placeholders .* the pixels stand for {found + 1};"
    ):
        EncodedPrompt.from_tensors(pair, **tensors)


def test_images_in_another_order_than_their_placeholders(tiny_pair):
    tensors = tensors_of(tiny_pair, images=2)
    tensors["image_grid_thw"] = tensors["image_grid_thw"].flip(0)
    with pytest.raises(InputError, match=r"the image placeholders at positions \d+ to \d+ are interrupted"):
        EncodedPrompt.from_tensors(tiny_pair, **tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": None}, r"`input_ids` is missing, got \['attention_mask'"),
        (
            {"input_ids": torch.zeros(5, dtype=torch.long)},
            r"`input_ids` is torch.int64 of shape \(5,\), expected integers for one prompt",
        ),
        (
            {"input_ids": torch.zeros(2, 5, dtype=torch.long)},
            r"of shape \(2, 5\), expected integers for one prompt",
        ),
        (
            {"input_ids": torch.zeros(1, 0, dtype=torch.long)},
            r"of shape \(1, 0\), expected integers for one prompt",
        ),
        ({"input_ids": torch.zeros(1, 5)}, r"`input_ids` is torch.float32"),
        (
            {"input_ids": torch.full((1, 5), 320)},
            r"holds ids 320 to 320, expected 0 to 319: encode with the pair's own",
        ),
        (
            {"attention_mask": torch.ones(1, 3)},
            r"`attention_mask` has shape \(1, 3\), expected \(1, 46\) like `input_ids`",
        ),
        (
            {"attention_mask": torch.arange(46)[None].clamp(max=1)},
            r"`attention_mask` hides positions; give the prompt",
        ),
        (
            {"pixels": torch.ones(3)},
            r"`pixels` is no input of a prompt for Qwen2_5_VLForConditionalGeneration, known are \[",
        ),
        ({"position_ids": torch.arange(46)[None]}, r"`position_ids` is no input of a prompt"),
        (
            {"pixel_values": torch.ones(1, 3, 24, 40)},
            r"`pixel_values` has shape \(1, 3, 24, 40\), expected 2 dimensions",
        ),
        ({"image_grid_thw": [[1, 6, 10]]}, r"`image_grid_thw` is a list, expected a torch.Tensor"),
        ({"image_grid_thw": None}, r"`image_grid_thw` is missing beside the pixels"),
        ({"image_grid_thw": torch.tensor([[1, 6, 12]])}, r"stands for 72 patches, but 60 were given"),
        ({"image_grid_thw": torch.tensor([[1, 5, 12]])}, r"rows and columns must be multiples of 2"),
        ({"pixel_values": torch.full((60, 96), torch.nan)}, r"`pixel_values` holds NaN or infinite values"),
    ],
)
def test_own_tensors_that_do_not_fit(change, message, tiny_pair):
    tensors = {k: v for k, v in (tensors_of(tiny_pair) | change).items() if v is not None}
    with pytest.raises(InputError, match=message):
        EncodedPrompt.from_tensors(tiny_pair, **tensors)


def test_fields_that_do_not_fit_each_other(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    fields = {name: getattr(prompt, name) for name in EncodedPrompt.__dataclass_fields__}
    with pytest.raises(InputError, match=r"`tokens` has 3 entries, expected 46, one a position"):
        EncodedPrompt(**fields | {"tokens": prompt.tokens[:3]})
    with pytest.raises(
        InputError, match=r"`sources`, `images` and `frames` must have one entry for each of the 1 `grids`"
    ):
        EncodedPrompt(**fields | {"sources": (0, 1)})
