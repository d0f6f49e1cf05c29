"""What conditions of an ablation share: the default matrix on the bundled pair, with shared work and without, in one run.

Stated bound: at least 1.25 x faster, with the same tables. Run with nothing else on the machine:
``python tests/perf/ablate.py [--problems 16] [--samples 1] [--rounds 2]``.
"""

import argparse
import time

import pandas as pd

import workbench as wb

BOUND = 1.25
TIMED = ("seconds", "making_seconds")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--problems", type=int, default=16)
    options.add_argument("--samples", type=int, default=1)
    options.add_argument("--rounds", type=int, default=2)
    chosen = options.parse_args()
    pair = wb.load_pair("shapes")
    problems = wb.load_problems("shapes", limit=chosen.problems)
    matrix = pair.matrix()
    seconds: dict[int, list[float]] = {0: [], 2 * 10**9: []}
    tables: dict[int, wb.Ablation] = {}
    for _ in range(chosen.rounds):
        for share in seconds:
            begun = time.perf_counter()
            tables[share] = wb.ablate(
                pair, problems, matrix, samples=chosen.samples, max_new_tokens=64, share=share
            )
            seconds[share].append(time.perf_counter() - begun)
            print(f"shared up to {share / 1e9:.0f} GB: {seconds[share][-1]:.1f} s", flush=True)
    alone, shared = tables.values()
    for name in ("responses", "summary", "drift"):
        left, right = (
            getattr(one, name).drop(columns=[c for c in TIMED if c in getattr(one, name)])
            for one in (alone, shared)
        )
        pd.testing.assert_frame_equal(left, right)
    ratio = min(seconds[0]) / min(seconds[2 * 10**9])
    print(
        f"{len(matrix) + 2} conditions, {len(problems)} problems: {ratio:.2f} x faster (bound {BOUND}), equal tables"
    )
    assert ratio >= BOUND, f"{ratio:.2f} x is below the bound of {BOUND}"


if __name__ == "__main__":
    main()
