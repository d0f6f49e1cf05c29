"""What decoding with two models together costs, over the sum of both decoding alone: as many tokens each, in one run.

    python tests/perf/together.py [--rounds 3] [--threads 2] [--samples 16] [--tokens 64]

A random pair (hidden 512, 12 layers, vocabulary 32768), one prompt; measured in turns, the fastest round of each counts. Every
criterion is timed, and extrapolation. Exits with 1 unless each costs at most 1.25 x the sum, with the host's own responses where
nothing is replaced.
"""

import argparse
import math
import sys
from dataclasses import replace

import torch
from replay import random_pair, seconds

from workbench import CrossSample, Extrapolate, decode, load_pair

BOUND = 1.25


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pair, prompt = random_pair(512, 32768)
    pair = replace(pair, processor=load_pair("shapes", device="cpu").processor)
    how = {"samples": options.samples, "temperature": 1.0, "max_new_tokens": options.tokens}
    mixtures = {
        "divergence": CrossSample("base", "divergence", threshold=math.inf),
        "entropy": CrossSample("base", "entropy", threshold=math.inf),
        "dlogp": CrossSample("base", "dlogp", threshold=math.inf),
        "budget": CrossSample("base", "divergence", budget=0.05),
        "random": CrossSample("base", "random", budget=0.05),
        "extrapolate": Extrapolate(0.5),
        "extrapolate there": Extrapolate(0.5, where="divergence", threshold=0.1),
    }
    found: dict[str, list] = {}

    def alone(model: str) -> None:
        found[model] = decode(pair, prompt, model=model, **how)

    def together(name: str) -> None:
        mixture = mixtures[name]
        found[name] = decode(pair, prompt, model=mixture.answered_by, intervention=mixture, **how)

    best = dict.fromkeys(("base", "rlvr", *mixtures), math.inf)
    for _ in range(options.rounds):
        for name in best:
            run = together if name in mixtures else alone
            best[name] = min(best[name], seconds(lambda run=run, name=name: run(name)))
    both, missed = best["base"] + best["rlvr"], []
    lengths = {name: sum(response.tokens for response in responses) for name, responses in found.items()}
    same = all(found[name] == found["base"] for name in ("divergence", "entropy", "dlogp"))
    print(f"{options.samples} samples of {options.tokens} tokens; tokens in all: {lengths}")
    told = "the same responses" if same else "OTHER responses"
    print(f"base {best['base']:.2f} s, rlvr {best['rlvr']:.2f} s; {told} where none is replaced")
    for name in mixtures:
        ratio = best[name] / both
        missed += [name] * (ratio > BOUND)
        print(
            f"  {name:18} {ratio:5.2f} x the sum   (bound {BOUND})   {'ok' if ratio <= BOUND else 'MISSED'}"
        )
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    return 0 if same and not missed else 1


if __name__ == "__main__":
    sys.exit(main())
