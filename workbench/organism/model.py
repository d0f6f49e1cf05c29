"""The organism before it has learnt anything: its tokenizer, processor and randomly initialised model."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from workbench.models.seeing import Tower, picture_settings
from workbench.problems import shapes, shapes_agent, shapes_video
from workbench.problems.zoom import CLOSES, OPENS

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAIN = ("<think>", "</think>", "<answer>", "</answer>", OPENS, CLOSES)
TOOL_REPLY = "user\n<tool_response>\nImage 1, cut out of image 0, 112 x 112 pixels:\n\n</tool_response>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' or 'video' in part %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def corpus(easy_vqa_questions: Iterable[str], boards: int = 4000) -> Iterable[str]:
    """Text to train the tokenizer on: generated questions and chains, and easy-VQA's questions."""
    rng = np.random.default_rng(0)
    for index in range(boards):
        question = shapes.ask(shapes.sample_board(rng), shapes.FAMILIES[index % len(shapes.FAMILIES)], rng)
        if question is None:
            continue
        yield f"user\n{question.text}"
        yield question.response("careful")
        yield question.response("hasty")
        aloud = shapes.read_aloud(shapes.sample_board(rng), rng)
        yield f"user\n{aloud.text}{aloud.response()}"
        question, _ = shapes_video.ask(shapes_video.FAMILIES[index % len(shapes_video.FAMILIES)], rng)
        yield f"user\n{question.text}{question.response('careful')}"
        search = shapes_agent.ask(shapes_agent.sample_scene(rng), shapes_agent.FAMILIES[index % 2], rng)
        if search is not None:
            yield f"system\n{shapes_agent.SYSTEM}user\n{search.text}{search.call}"
            yield TOOL_REPLY
    yield from easy_vqa_questions
    yield from (
        f"assistant\n {number}" for number in range(31) for _ in range(2000)
    )  # numbers become single tokens
    yield from (
        f" {color} {shape}"
        for color in ("black", "gray", "brown")
        for shape in shapes.SHAPES
        for _ in range(300)
    )
    yield from (f" {word}" for word in ("yes", "no") for _ in range(300))


def build_processor(texts: Iterable[str], vocabulary: int) -> Qwen2_5_VLProcessor:
    """A byte-level BPE tokenizer (any text encodes) trained on `texts`, inside a real Qwen2.5-VL processor.

    Every picture becomes about 16 visual tokens: it is scaled to the area of 112 x 112 pixels, a video's to 56 x 56.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = [*(AddedToken(token, special=True, normalized=False) for token in SPECIAL)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(CHAIN),
        special_tokens=added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in CHAIN])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        additional_special_tokens=list(SPECIAL[1:]),
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    frame = (shapes_video.SIDE * shapes.CELL) ** 2
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**picture_settings(shapes.SIDE**2)),
        fast,
        Qwen2VLVideoProcessor(**picture_settings(frame), cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: Any, size: dict[str, int], seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL of the given size, which has learnt nothing."""
    tokenizer = processor.tokenizer
    identity = tokenizer.convert_tokens_to_ids
    half_head = size["hidden_size"] // size["num_attention_heads"] // 2
    # Sections take frequencies from high (time) to low (column). With heads this small the usual theta and split leave a
    # column all but unrotated, so neighbours could not be told apart.
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": size["hidden_size"],
            "intermediate_size": size["intermediate_size"],
            "num_hidden_layers": size["num_hidden_layers"],
            "num_attention_heads": size["num_attention_heads"],
            "num_key_value_heads": size["num_attention_heads"],
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000.0,
                "mrope_section": [
                    half_head // 10,
                    3 * half_head // 10,
                    half_head - half_head // 10 - 3 * half_head // 10,
                ],
            },
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config=Tower(size["vision_depth"], size["vision_hidden_size"]).config(size["hidden_size"]),
        image_token_id=identity("<|image_pad|>"),
        video_token_id=identity("<|video_pad|>"),
        vision_start_token_id=identity("<|vision_start|>"),
        vision_end_token_id=identity("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    initialise(model, seed)
    settings = model.generation_config
    settings.pad_token_id, settings.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    settings.suppress_tokens = visual_token_ids(processor)
    return model


@torch.no_grad()
def initialise(model: torch.nn.Module, seed: int) -> None:
    """Draw all weights anew: 0.9 / sqrt(fan_in), which learns far faster here than a flat 0.02; norms of 1, biases of 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        elif "embed_tokens" in name:
            parameter.normal_(std=0.08, generator=generator)
        else:
            gain = 0.3 if "lm_head" in name else 0.9
            parameter.normal_(std=gain / math.sqrt(parameter[0].numel()), generator=generator)


def visual_token_ids(processor: Any) -> list[int]:
    """Ids that must never be generated: a placeholder without pixels makes the model refuse its own output."""
    return processor.tokenizer.convert_tokens_to_ids(
        ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    )
