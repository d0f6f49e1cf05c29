"""Random pairs shaped like Qwen2.5-VL, of any size, for the measurements."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair

IMAGE, VISION_START = 5, 3


def random_pair(text: Mapping[str, Any], vision: Mapping[str, Any]) -> ModelPair:
    """Two models, the second near the first; ``text`` and ``vision`` are fields of the config's parts."""
    base, rlvr = (_model(seed, text, vision) for seed in (0, 1))
    for theirs, ours in zip(rlvr.parameters(), base.parameters(), strict=True):
        theirs.mul_(0.1).add_(ours)
    return load_pair(base=base, rlvr=rlvr)


def _model(
    seed: int, text: Mapping[str, Any], vision: Mapping[str, Any]
) -> Qwen2_5_VLForConditionalGeneration:
    tokens = {"image_token_id": IMAGE, "video_token_id": 6, "vision_start_token_id": VISION_START}
    config = Qwen2_5_VLConfig(
        text_config={**text, "num_attention_heads": 8},
        vision_config={**vision, "out_hidden_size": text["hidden_size"]},
        tie_word_embeddings=False,
        **tokens,
    )
    torch.manual_seed(seed)
    return Qwen2_5_VLForConditionalGeneration(config).eval().requires_grad_(False)
