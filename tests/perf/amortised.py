"""What one pass costs: tokens predicted by an adapter against tokens optimised for each prompt.

    python tests/perf/amortised.py [--rounds 3] [--threads 1] [--only bundled|mid]

bundled  the pair that ships, its adapter and its settings of replay (K 5 of 8, 25 iterations), 32 prompts in a batch
mid      hidden 512, 12 layers, K = 7, vocabulary 32768, 144 visual and 64 text tokens, vision depth 6, one prompt,
         an untrained adapter of width 64: what it predicts plays no part in its cost

Measured in turns in one run, the fastest round of each counts. Exits with 1 unless one pass is at least 8 x faster
than optimisation.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from replay import SETTINGS, random_pair, seconds

from workbench import Adapter, EncodedPrompt, Replay, learn_many, load_adapter, load_pair, load_problems
from workbench.models.pairs import ModelPair, weights_of
from workbench.replay.amortised import predict_many

BOUND = 8.0


def compare(
    title: str,
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    replay: Replay,
    adapter: Adapter,
    rounds: int,
) -> bool:
    size = len(prompts)
    runs = {
        "one pass": lambda: predict_many(pair, prompts, adapter, batch_size=size),
        "optimised": lambda: learn_many(pair, prompts, replay, batch_size=size),
    }
    best = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run) / size)
    faster = best["optimised"] / best["one pass"]
    told = ", ".join(f"{name} {1000 * value:.2f} ms" for name, value in best.items())
    print(f"{title}: {told} a prompt; one pass is {faster:.1f} x faster (bound {BOUND:g})")
    return faster >= BOUND


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("bundled", "mid"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    held = []
    if given.only != "mid":
        pair = load_pair("shapes", device="cpu")
        prompts = [pair.encode(p) for p in load_problems("shapes", split="validation", limit=32)]
        replay = pair.replay()
        held.append(compare("bundled", pair, prompts, replay, load_adapter("shapes"), given.rounds))
    if given.only != "bundled":
        pair, prompt = random_pair(512, 32768)
        fitted = {"name": pair.name, **weights_of(pair)}
        adapter = Adapter.untrained(512, 64, SETTINGS, fitted)
        held.append(compare("mid", pair, [prompt], SETTINGS, adapter, given.rounds))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
