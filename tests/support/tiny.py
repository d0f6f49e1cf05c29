"""Tiny random pairs of the real architectures, with processors of the real classes; nothing is downloaded.

``tiny.pair("qwen2_5_vl")`` is a ready `ModelPair`; `model`, `processor` and `problem` build its parts.
The tokenizer is byte-level without merges: one token a byte, then the family's special tokens.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair
from workbench.problems.problem import Problem

QWEN_VL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
MULTIMODAL = (*QWEN_VL, "llava", "llava_onevision", "internvl", "gemma3", "idefics3", "smolvlm")
TEXT_ONLY = ("qwen2", "qwen3", "llama")
FAMILIES = (*MULTIMODAL, *TEXT_ONLY)
VIDEO = (*QWEN_VL, "llava_onevision", "internvl", "smolvlm")

VOCAB, HIDDEN, LAYERS = 320, 32, 3

# Special tokens, named as processors look them up on the tokenizer; their ids follow those of the 256 bytes.
_COMMON = ["<|endoftext|>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
_SPECIAL: dict[str, dict[str, str]] = {
    "qwen": {
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
    },
    "llava": {"image_token": "<image>"},
    "llava_onevision": {"image_token": "<image>", "video_token": "<video>"},
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "gemma3": {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    },
    "idefics": {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "end_of_utterance_token": "<end_of_utterance>",
        "global_image_token": "<global-img>",
        "video_token": "<video>",
    }
    | {f"row_{r}_col_{c}": f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)},
    "text": {},
}
_WORDS = {
    **dict.fromkeys(QWEN_VL, "qwen"),
    **dict.fromkeys(("idefics3", "smolvlm"), "idefics"),
    **dict.fromkeys(TEXT_ONLY, "text"),
}
_VISION_MARK = {"qwen": ("<|vision_start|>", "<|vision_end|>")}


def words(family: str) -> str:
    return _WORDS.get(family, family)


@cache
def tokenizer(family: str) -> tf.PreTrainedTokenizerFast:
    special = _SPECIAL[words(family)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = [*_COMMON, *special.values()]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    named = {name: token for name, token in special.items() if name.endswith("_token")}
    built = tf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|endoftext|>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=names[3:],
        model_specific_special_tokens=named,
        padding_side="left",
    )
    built.chat_template = chat_template(family)
    return built


def token_id(family: str, name: str) -> int:
    return tokenizer(family).convert_tokens_to_ids(_SPECIAL[words(family)][name])


def chat_template(family: str) -> str:
    """One turn a message; content is text, or a list of parts with pictures as their placeholders."""
    kind = words(family)
    before, after = _VISION_MARK.get(kind, ("", ""))
    special = _SPECIAL[kind]
    image = special.get("boi_token") or special.get("context_image_token") or special.get("image_token", "")
    video = special.get("video_token", "")
    return (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
        f"{{% if p['type'] == 'image' %}}{before}{image}{after}"
        f"{{% elif p['type'] == 'video' %}}{'' if family == 'qwen3_vl' else before}{video}"
        f"{'' if family == 'qwen3_vl' else after}"
        "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


@cache
def processor(family: str) -> Any:
    """A processor of the family's own class; the tokenizer for text-only families."""
    words_of = tokenizer(family)
    template = chat_template(family)
    match family:
        case "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl":
            sizes: dict[str, Any] = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
            pixels = {"size": {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}}
            images = Qwen2VLImageProcessor(**sizes, **pixels)
            cls, video = {
                "qwen2_vl": (tf.Qwen2VLProcessor, Qwen2VLVideoProcessor),
                "qwen2_5_vl": (tf.Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
                "qwen3_vl": (tf.Qwen3VLProcessor, tf.Qwen3VLVideoProcessor),
            }[family]
            many = {"size": {"shortest_edge": 16 * 16, "longest_edge": 16 * 48 * 48}}
            return cls(images, words_of, video(**sizes, **many), chat_template=template)
        case "llava":
            square = {"height": 32, "width": 32}
            images = tf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square)
            return tf.LlavaProcessor(
                images,
                words_of,
                patch_size=8,
                vision_feature_select_strategy="default",
                num_additional_image_tokens=1,
                chat_template=template,
            )
        case "llava_onevision":
            square = {"height": 32, "width": 32}
            images = tf.LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=_PINPOINTS)
            video = tf.LlavaOnevisionVideoProcessor(size=square)
            return tf.LlavaOnevisionProcessor(
                images,
                words_of,
                video,
                num_image_tokens=16,
                vision_feature_select_strategy="full",
                chat_template=template,
                vision_aspect_ratio="anyres_max_4",
            )
        case "internvl":
            square = {"height": 32, "width": 32}
            images = tf.GotOcr2ImageProcessor(size=square, min_patches=1, max_patches=6, crop_to_patches=True)
            video = tf.InternVLVideoProcessor(size=square)
            return tf.InternVLProcessor(images, words_of, video, image_seq_length=16, chat_template=template)
        case "gemma3":
            images = tf.Gemma3ImageProcessor(size={"height": 32, "width": 32})
            return tf.Gemma3Processor(images, words_of, chat_template=template, image_seq_length=16)
        case "idefics3":
            images = tf.Idefics3ImageProcessor(size={"longest_edge": 96}, max_image_size={"longest_edge": 32})
            return tf.Idefics3Processor(images, words_of, image_seq_len=16, chat_template=template)
        case "smolvlm":
            images = tf.SmolVLMImageProcessor(size={"longest_edge": 96}, max_image_size={"longest_edge": 32})
            video = tf.SmolVLMVideoProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 32})
            return tf.SmolVLMProcessor(images, words_of, video, image_seq_len=16, chat_template=template)
    return words_of


_PINPOINTS = [[32, 32], [32, 64], [64, 32], [64, 64], [32, 96], [96, 32], [96, 96]]


def text_config(family: str, **changes: Any) -> dict[str, Any]:
    """Decoder settings of a family, small; ``changes`` override them."""
    common = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "pad_token_id": 256,
        "bos_token_id": 257,
        "eos_token_id": 258,
    }
    if family in QWEN_VL:
        sections = [2, 1, 1]
        common["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}
    return common | changes


def config(family: str, **changes: Any) -> Any:
    """A tiny config of the family; ``changes`` go to its text part."""
    text = text_config(family, **changes)
    vision: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    tied = {"tie_word_embeddings": text["tie_word_embeddings"]}
    match family:
        case "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl":
            vision = {
                "depth": 2,
                "num_heads": 2,
                "patch_size": 4,
                "temporal_patch_size": 2,
                "spatial_merge_size": 2,
            }
            if family == "qwen2_vl":
                vision |= {"embed_dim": 16, "hidden_size": text["hidden_size"], "mlp_ratio": 2}
            elif family == "qwen2_5_vl":
                vision |= {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": text["hidden_size"]}
                vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
            else:
                vision |= {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": text["hidden_size"]}
                vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
            ids = {f"{n}_id": token_id(family, n) for n in _SPECIAL["qwen"]}
            cls = {
                "qwen2_vl": tf.Qwen2VLConfig,
                "qwen2_5_vl": tf.Qwen2_5_VLConfig,
                "qwen3_vl": tf.Qwen3VLConfig,
            }
            return cls[family](text_config=text, vision_config=vision, **ids, **tied)
        case "llava":
            vision |= {
                "model_type": "clip_vision_model",
                "image_size": 32,
                "patch_size": 8,
                "projection_dim": 16,
            }
            return tf.LlavaConfig(
                text_config={"model_type": "llama", **text},
                vision_config=vision,
                image_token_index=token_id(family, "image_token"),
                image_seq_length=16,
                **tied,
            )
        case "llava_onevision":
            vision |= {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8}
            return tf.LlavaOnevisionConfig(
                text_config={"model_type": "qwen2", **text},
                vision_config=vision | {"vision_use_head": False},
                image_token_index=token_id(family, "image_token"),
                video_token_index=token_id(family, "video_token"),
                image_grid_pinpoints=_PINPOINTS,
                vision_aspect_ratio="anyres_max_4",
                **tied,
            )
        case "internvl":
            vision |= {"image_size": [32, 32], "patch_size": [4, 4]}
            return tf.InternVLConfig(
                text_config={"model_type": "qwen2", **text},
                vision_config=vision,
                image_token_id=token_id(family, "context_image_token"),
                image_seq_length=16,
                **tied,
            )
        case "gemma3":
            vision |= {"image_size": 32, "patch_size": 4, "vision_use_head": False}
            return tf.Gemma3Config(
                text_config=text | {"sliding_window": 64, "query_pre_attn_scalar": 8},
                vision_config=vision,
                mm_tokens_per_image=16,
                image_token_index=token_id(family, "image_token"),
                boi_token_index=token_id(family, "boi_token"),
                eoi_token_index=token_id(family, "eoi_token"),
                **tied,
            )
        case "idefics3" | "smolvlm":
            vision |= {"image_size": 32, "patch_size": 4}
            cls = {"idefics3": tf.Idefics3Config, "smolvlm": tf.SmolVLMConfig}
            return cls[family](
                text_config={"model_type": "llama", **text},
                vision_config=vision,
                image_token_id=token_id(family, "image_token"),
                scale_factor=2,
                **tied,
            )
    return tf.AutoConfig.for_model(family, **text)


def model(
    family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> tf.PreTrainedModel:
    """A random model in eval mode; weights are large enough for every layer to change its input visibly."""
    settings = config(family, **changes)
    auto = tf.AutoModelForImageTextToText if family in MULTIMODAL else tf.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = auto.from_config(settings, dtype=dtype).eval()
        with torch.no_grad():
            for name, weight in built.named_parameters():
                if weight.ndim > 1:
                    weight.normal_(0, weight.shape[-1] ** -0.5)
                elif "norm" in name and name.endswith("weight"):
                    weight.add_(torch.randn_like(weight) * 0.1)
    return built.requires_grad_(False)


def pair(family: str = "qwen2_5_vl", dtype: torch.dtype = torch.float32, **changes: Any) -> ModelPair:
    """Two random models of one family, the second near the first, with their processor."""
    base, rlvr = (model(family, seed, dtype, **changes) for seed in (0, 1))
    with torch.no_grad():
        for weight, start in zip(rlvr.parameters(), base.parameters(), strict=True):
            weight.copy_(start + 0.1 * (weight - start))
    return load_pair(base=base, rlvr=rlvr, processor=processor(family))


def image(width: int = 40, height: int = 24, seed: int = 0) -> Image.Image:
    """Seeded noise, so that no two pictures and no two places in one are alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


Pictures = int | tuple[Image.Image, ...]


def problem(
    family: str = "qwen2_5_vl", images: Pictures = 1, frames: Pictures = 0, seed: int = 0, **changes: Any
) -> Problem:
    """A question with pictures of differing shapes, or with frames of a video; none for text-only families.

    ``images`` and ``frames`` are how many, or the pictures themselves.
    """
    if family in TEXT_ONLY:
        images = frames = 0
    if isinstance(images, int):
        images = tuple(image(40 + 16 * i, 24 + 40 * i, seed + i) for i in range(images))
    if isinstance(frames, int):
        frames = tuple(image(40, 32, 100 + seed + i) for i in range(frames))
    fields = {"id": f"p{seed}", "question": "How many? " + "x" * seed, "answer": "3"}
    return Problem(**fields | {"images": images, "video": frames} | changes)
