"""What a whole trace costs, against the two forwards and the unembedding products that it cannot do without.

    python tests/perf/trace.py [--rounds 2] [--only ratio|tokens|layers|null]

A random pair shaped like Qwen2.5-VL-3B at half its width and about half its depth (hidden 1024, 16 decoder layers,
vocabulary 151936, float32), one prompt of 400 positions with an image. The bound is 1.25 x (two bare forwards
without unembedding + one bare product of residuals and unembedding per layer and model), measured in turns in
the same run; the fastest round of each counts. Exits with 1 if missed.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable

import torch
from random_models import IMAGE, VISION_START, random_pair
from torch import Tensor

from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.tracing.trace import trace

BOUND = 1.25
HIDDEN, LAYERS, VOCABULARY = 1024, 16, 151936
IMAGE_SIDE = 32  # patches: 16 x 16 = 256 visual tokens


TEXT_CONFIG = {
    "hidden_size": HIDDEN,
    "intermediate_size": 5504,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
VISION_CONFIG = {"depth": 14, "hidden_size": 640, "intermediate_size": 1710, "num_heads": 8}


def prompt_of(pair: ModelPair, positions: int) -> EncodedPrompt:
    """An image of 256 tokens (36 in short prompts) between random text."""
    side = IMAGE_SIDE if positions >= 400 else 12
    visual = (side // 2) ** 2
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(100, VOCABULARY, (1, positions), generator=generator)
    ids[0, 10], ids[0, 11 : 11 + visual] = VISION_START, IMAGE
    return EncodedPrompt.from_tensors(
        pair,
        input_ids=ids,
        pixel_values=torch.randn(side * side, 1176, generator=generator),
        image_grid_thw=torch.tensor([[1, side, side]]),
    )


def bare_forwards(pair: ModelPair, prompt: EncodedPrompt) -> None:
    with torch.no_grad():
        for anatomy in (pair.base, pair.rlvr):
            anatomy.model.model(**prompt.model_inputs, use_cache=False)


def bare_products(pair: ModelPair, hidden: Tensor, out: Tensor, per_layer: int) -> None:
    for _ in range(LAYERS):
        for index in range(per_layer):
            weight = (pair.base if index == 0 else pair.rlvr).unembedding.weight
            torch.mm(hidden, weight.T, out=out)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(pair: ModelPair, prompt: EncodedPrompt, rounds: int, draws: int) -> bool:
    hidden, out = torch.randn(len(prompt), HIDDEN), torch.empty(len(prompt), VOCABULARY)
    runs: dict[str, Callable[[], object]] = {
        "two bare forwards": lambda: bare_forwards(pair, prompt),
        "bare products": lambda: bare_products(pair, hidden, out, per_layer=2 + draws),
        "trace": lambda: trace(pair, [prompt], null_draws=draws),
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run))
    bare = best["two bare forwards"] + best["bare products"]
    share = best["trace"] / bare
    print(f"\n{len(prompt)} positions, {LAYERS} layers, {draws} null draws, fastest of {rounds}:")
    for name, value in best.items():
        print(f"  {name:18} {value:8.2f} s")
    print(
        f"  trace / bare       {share:8.3f}   (bound {BOUND}) {'ok' if share <= BOUND else 'MISSED'}",
        flush=True,
    )
    return share <= BOUND


def by_tokens(pair: ModelPair) -> None:
    print("\ncost by tokens (4 layers, no null):")
    for positions in (100, 200, 400, 800):
        prompt = prompt_of(pair, positions)
        took = seconds(lambda prompt=prompt: trace(pair, [prompt], null_draws=0, layers=range(4)))
        print(
            f"  {positions:4} positions {took:7.2f} s   {1e3 * took / positions:6.2f} ms a position",
            flush=True,
        )


def by_layers(pair: ModelPair) -> None:
    prompt = prompt_of(pair, 200)
    print("\ncost by layers (200 positions, no null):")
    for layers in (2, 4, 8, 16):
        took = seconds(lambda layers=layers: trace(pair, [prompt], null_draws=0, layers=range(layers)))
        print(f"  {layers:4} layers    {took:7.2f} s   {took / layers:6.3f} s a layer", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("ratio", "tokens", "layers", "null"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pair = random_pair(TEXT_CONFIG, VISION_CONFIG)
    prompt = prompt_of(pair, 400)
    bare_forwards(pair, prompt)
    trace(pair, [prompt], null_draws=0, layers=[0])  # warm: wraps the models
    parts = {
        "ratio": lambda: ratio(pair, prompt, options.rounds, draws=0),
        "null": lambda: ratio(pair, prompt, 1, draws=3),
        "tokens": lambda: by_tokens(pair),
        "layers": lambda: by_layers(pair),
    }
    within = [part() for name, part in parts.items() if options.only in (None, name)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory {peak:.1f} GiB, {torch.get_num_threads()} threads, torch {torch.__version__}")
    return 0 if all(ok is not False for ok in within) else 1


if __name__ == "__main__":
    sys.exit(main())
