"""A language model that sees: a small vision tower put on one that a package brings, named ``package:file.gguf+TOWER``.

The body is a Qwen2.5-VL with the language model's own weights, so that its logits for text are the language model's own, bit
for bit; its tokenizer and chat template are the language model's, with four tokens more for pictures, whose embeddings are the
mean of all.
A tower is a folder with ``tower.safetensors``, whose metadata hold its `Tower`: one that ships, by name
(``organism/TOWER/body``), or any other, by a path with a slash in it. `gguf.converted` puts the body in the user's cache.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.errors import InputError

TENSORS, SETTINGS = "tower.safetensors", "tower"
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
LANGUAGE, VISUAL = "model.language_model.", "model.visual."
_PART = (
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}"
)
_SAID = "' + message['content'] + '"


@dataclass(frozen=True)
class Tower:
    """Sizes of a vision tower, and how many pixels a picture is resized to."""

    depth: int = 2
    hidden: int = 64
    heads: int = 4
    pixels: int = 112**2

    def config(self, width: int) -> dict[str, Any]:
        """The section ``vision_config`` of a Qwen2.5-VL with residuals of a width."""
        return {
            "depth": self.depth,
            "hidden_size": self.hidden,
            "intermediate_size": 2 * self.hidden,
            "num_heads": self.heads,
            "out_hidden_size": width,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": list(range(self.depth)),
        }

    def save(self, folder: Path, tensors: Mapping[str, Any]) -> None:
        """Write a folder that `tower_file` finds; ``tensors`` as the module ``model.visual`` names them."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        plain = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
        save_file(plain, folder / TENSORS, metadata={SETTINGS: json.dumps(asdict(self))})


def tower_file(tower: str) -> Path:
    """The file of a tower, by its name or its path.

    Raises:
        InputError: there is none.
    """
    bundled = Path(__file__).parents[1] / "organism" / tower / "body"
    file = (Path(tower).expanduser() if "/" in tower else bundled) / TENSORS
    if not file.is_file():
        raise InputError(f"no vision tower at {file}; train one: workbench organism train --pair smolvl")
    return file


def read_tower(file: Path) -> Tower:
    """The sizes of a tower.

    Raises:
        InputError: the file is corrupt, or of something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as tensors:
            return Tower(**json.loads(tensors.metadata()[SETTINGS]))
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file} is no vision tower ({error}); fetch it again") from error


def picture_settings(pixels: int) -> dict[str, Any]:
    """Of a processor of pictures or videos for a tower as `Tower.config` has it: all are resized to so many pixels."""
    return {
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": pixels, "longest_edge": pixels},
    }


def processor_for(tokenizer: Any, tower: Tower) -> Any:
    """A Qwen2.5-VL processor on a language model's tokenizer, which gets the tokens for pictures, and on its chat template."""
    from tokenizers import AddedToken
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in VISION])
    tokenizer.padding_side = "left"
    shared = picture_settings(tower.pixels)
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**shared),
        tokenizer,
        Qwen2VLVideoProcessor(**shared, cap_pixels_per_frame=False),
        chat_template=with_pictures(tokenizer.chat_template),
    )


def with_pictures(template: str) -> str:
    """A chat template in which what is said may also be a list of texts and pictures; plain texts are written as before.

    Raises:
        InputError: a template that writes what is said in another way.
    """
    if template.count(_SAID) != 1:
        raise InputError(
            f"`template` does not write {_SAID!r} once, so where pictures go is not known; give one that does"
        )
    either = (
        "' }}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        + _PART
        + "{% endif %}{{ '"
    )
    return template.replace(_SAID, either)


def body_config(text: Any, tokenizer: Any, tower: Tower) -> Any:
    """The config of a Qwen2.5-VL whose language model is that of the config ``text``."""
    from transformers import Qwen2_5_VLConfig

    # Of a head's frequencies, from the highest on, few turn with the frame, the others with row and column; text turns all alike.
    half = text.hidden_size // text.num_attention_heads // 2
    frame, row = half // 16, 7 * half // 16
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(VISION))
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": max(len(tokenizer), text.vocab_size),
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "max_position_embeddings": text.max_position_embeddings,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": text.rope_parameters["rope_theta"],
                "mrope_section": [frame, row, half - frame - row],
            },
            "bos_token_id": text.bos_token_id,
            "eos_token_id": text.eos_token_id,
            "pad_token_id": text.pad_token_id,
            "tie_word_embeddings": True,
        },
        vision_config=tower.config(text.hidden_size),
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
    )


def build(language: Path, file: Path, out: Path) -> None:
    """Save the body of a language model's folder and a tower's file in ``out``, as a checkpoint like any other."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    tower = read_tower(file)
    original: Any = AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32)
    processor = processor_for(AutoTokenizer.from_pretrained(language), tower)
    whole: Any = Qwen2_5_VLForConditionalGeneration(body_config(original.config, processor.tokenizer, tower))
    rows = original.get_input_embeddings().weight.detach()
    added = rows.mean(0, keepdim=True).expand(whole.config.text_config.vocab_size - len(rows), -1)
    source, state = original.state_dict(), {}
    for name, parameter in whole.model.language_model.named_parameters():
        # The language model has no biases on queries, keys and values.
        state[LANGUAGE + name] = source.get(f"model.{name}", torch.zeros(parameter.shape))
    state[f"{LANGUAGE}embed_tokens.weight"] = torch.cat([rows, added])
    state |= {VISUAL + name: tensor.float() for name, tensor in load_file(file).items()}
    whole.load_state_dict(state | {"lm_head.weight": state[f"{LANGUAGE}embed_tokens.weight"]})
    whole.tie_weights()
    settings: Any = whole.generation_config
    settings.eos_token_id, settings.pad_token_id = original.config.eos_token_id, original.config.pad_token_id
    settings.suppress_tokens = processor.tokenizer.convert_tokens_to_ids(list(VISION))
    whole.save_pretrained(out)
    processor.save_pretrained(out)
