"""What a trace costs on the CPU in bfloat16, against float32, on the bundled text pair.

    python tests/perf/bfloat16.py [--rounds 3] [--limit 4] [--tolerance 0.02]

Weights and activations are bfloat16, the lens' logits float32. The bound is float32's time over bfloat16's of at least 1.4,
measured in turns in the same process, the fastest round of each; the median KL over all cells must be the same to 2%. Says too
how far single cells are apart, which is much more: bfloat16 rounds weights by about as much as a small change of them.
Exits with 1 if either is missed. Only where the CPU has a unit for bfloat16 (`workbench doctor`) can the time be kept at all.
"""

import argparse
import sys
import time

import torch

from workbench.machine.hardware import bfloat16_unit
from workbench.models.loading import load_pair
from workbench.problems.problem import load_problems
from workbench.tracing.trace import trace

BOUND = 1.4


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--tolerance", type=float, default=0.02)
    options = parser.parse_args()
    torch.set_num_threads(1)
    problems = load_problems("sums", limit=options.limit)
    pairs = {dtype: load_pair("smol", dtype=dtype, device="cpu") for dtype in ("float32", "bfloat16")}
    fastest, kl = dict.fromkeys(pairs, float("inf")), {}
    for _ in range(options.rounds):
        for dtype, pair in pairs.items():
            begun = time.perf_counter()
            kl[dtype] = trace(pair, problems).kl
            fastest[dtype] = min(fastest[dtype], time.perf_counter() - begun)
    gained = fastest["float32"] / fastest["bfloat16"]
    apart = float(kl["bfloat16"].median() / kl["float32"].median() - 1)
    cells = float(((kl["bfloat16"] - kl["float32"]).abs() / kl["float32"]).median())
    print(f"unit: {bfloat16_unit()}; seconds: {', '.join(f'{d} {s:.1f}' for d, s in fastest.items())}")
    print(f"float32 over bfloat16: {gained:.2f} (bound {BOUND}) {'ok' if gained >= BOUND else 'MISSED'}")
    print(f"median KL apart by {apart:+.2%}, single cells by {cells:.1%} in the median", end=" ")
    print("ok" if abs(apart) <= options.tolerance else "MISSED")
    return int(gained < BOUND or abs(apart) > options.tolerance)


if __name__ == "__main__":
    sys.exit(main())
