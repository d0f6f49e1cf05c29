"""What a trace of several responses to one prompt costs, against as many traces of prompt and response.

    python tests/perf/response_trace.py [--rounds 3] [--responses 16] [--tokens 96]

A random pair shaped like a small Qwen2.5-VL (hidden 512, 8 decoder layers, vocabulary 8192, float32), one prompt of 400
positions with an image, 16 responses of 96 tokens. The bound is 0.5 x the separate traces, measured in turns in the same run; the
fastest round of each counts. The numbers must be the same to 1e-5. Exits with 1 if either is missed.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from random_models import IMAGE, VISION_START, random_pair

from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.trace import trace

BOUND, SAME = 0.5, 1e-5
HIDDEN, LAYERS, VOCABULARY = 512, 8, 8192
IMAGE_SIDE, TEXT = 32, 144
COMPARED = ("entropy_base", "entropy_rlvr", "kl", "kl_null", "cosine")


@dataclass(frozen=True)
class Said:
    """A response given as tokens."""

    problem_id: str
    sample: int
    ids: tuple[int, ...]
    text: str = ""


TEXT_CONFIG = {
    "hidden_size": HIDDEN,
    "intermediate_size": 1376,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
}
VISION_CONFIG = {"depth": 4, "hidden_size": 160, "intermediate_size": 432, "num_heads": 4}


def prompt_of(pair: ModelPair) -> EncodedPrompt:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(10, VOCABULARY, (TEXT,), generator=generator)
    visual = torch.full(((IMAGE_SIDE // 2) ** 2,), IMAGE)
    ids = torch.cat([torch.tensor([VISION_START]), visual, words])[None]
    patches = torch.randn(IMAGE_SIDE**2, 3 * 2 * 14 * 14, generator=generator)
    grid = torch.tensor([[1, IMAGE_SIDE, IMAGE_SIDE]])
    return EncodedPrompt.from_tensors(pair, input_ids=ids, pixel_values=patches, image_grid_thw=grid)


def timed(work: Callable[[], LensTrace]) -> tuple[float, LensTrace]:
    begun = time.perf_counter()
    made = work()
    return time.perf_counter() - begun, made


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--responses", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96)
    chosen = parser.parse_args()
    pair = random_pair(TEXT_CONFIG, VISION_CONFIG)
    prompt, generator = prompt_of(pair), torch.Generator().manual_seed(1)
    drawn = torch.randint(10, VOCABULARY, (chosen.responses, chosen.tokens), generator=generator)
    said = [Said(prompt.problem_id, number, tuple(row)) for number, row in enumerate(drawn.tolist())]
    wholes = [pair.encode(prompt, response=one.ids) for one in said]
    settings = {"null_draws": 1, "batch_size": 8}
    works: dict[str, Callable[[], LensTrace]] = {
        "together": lambda: trace(pair, [prompt], responses=said, **settings),
        "separate": lambda: LensTrace.join([trace(pair, [whole], **settings) for whole in wholes]),
    }
    best, made = dict.fromkeys(works, float("inf")), dict[str, LensTrace]()
    for _ in range(chosen.rounds):
        for name, work in works.items():
            seconds, made[name] = timed(work)
            best[name] = min(best[name], seconds)
    apart = max(
        float((getattr(made["together"], name) - getattr(made["separate"], name)).abs().max())
        for name in COMPARED
    )
    ratio = best["together"] / best["separate"]
    print(f"{len(prompt)} positions, {chosen.responses} responses of {chosen.tokens} tokens")
    print(
        f"together {best['together']:.2f} s, separate {best['separate']:.2f} s: {ratio:.2f} x (bound {BOUND})"
    )
    print(f"largest difference {apart:.1g} (bound {SAME})")
    return int(ratio > BOUND or apart > SAME)


if __name__ == "__main__":
    sys.exit(main())
