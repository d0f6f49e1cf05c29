"""What a trace costs on a CPU that multiplies bfloat16, with its products and without, on the bundled text pair.

    python tests/perf/bfloat16.py [--rounds 3] [--limit 4] [--tolerance 0.02]

The models run in float32 both times. With `matmul: medium`, as the pair's preset has it, the lens multiplies the base's states in
float32 and what all others differ from them by in bfloat16 (`lens.blocks`). The bound is a time of at most 1 / 1.4, measured
in turns in the same process, the fastest round of each; the median KL over all cells must be the same to 2%. Says too how far
single cells are apart. Exits with 1 if either is missed, and without measuring where the CPU has no unit for bfloat16
(`workbench doctor`).
"""

import argparse
import sys
import time
from dataclasses import replace

import torch

from workbench.lens.processor import bfloat16_unit
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
    if bfloat16_unit() is None:
        print("this CPU has no unit that multiplies bfloat16: all products are in float32")
        return 0
    torch.set_num_threads(1)
    problems, pair = load_problems("sums", limit=options.limit), load_pair("smol", device="cpu")
    assert pair.preset is not None
    pairs = {"float32": replace(pair, preset=replace(pair.preset, matmul=None)), "bfloat16": pair}
    fastest, kl = dict.fromkeys(pairs, float("inf")), {}
    for _ in range(options.rounds):
        for products, one in pairs.items():
            begun = time.perf_counter()
            kl[products] = trace(one, problems).kl
            fastest[products] = min(fastest[products], time.perf_counter() - begun)
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
