"""What dropping finished rows saves: samples of uneven lengths, against the same loop that carries every row to the end.

    python tests/perf/decoding.py [--rounds 2] [--threads 2]

A random pair (hidden 512, 12 layers, vocabulary 32768), one prompt, 64 samples of at most 128 tokens, of which one in 32 ends a
response: half are over after 22 tokens, a few are cut off. Measured in turns in one run, the fastest round of each counts.
Exits with 1 unless dropping is 1.5 x faster with the same responses.
"""

import argparse
import sys
from dataclasses import replace

import torch
from replay import random_pair, seconds

from workbench import decode, load_pair
from workbench.decoding import decode as decoding

BOUND = 1.5


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pair, prompt = random_pair(512, 32768)
    pair = replace(pair, processor=load_pair("shapes", device="cpu").processor)
    pair.rlvr.model.generation_config.eos_token_id = [*range(0, 32768, 32)]
    found: dict[float, list] = {}

    def run(share: float) -> None:
        decoding.DROP_AT = share
        found[share] = decode(pair, prompt, samples=64, temperature=1.0, max_new_tokens=128)

    share, never = decoding.DROP_AT, 2.0
    best = dict.fromkeys((share, never), float("inf"))
    for _ in range(options.rounds):
        for name in best:
            best[name] = min(best[name], seconds(lambda name=name: run(name)))
    lengths, same = [r.tokens for r in found[share]], found[share] == found[never]
    faster = best[never] / best[share]
    print(
        f"{len(lengths)} samples of {min(lengths)} to {max(lengths)} tokens, {sum(lengths) / len(lengths):.0f} on average"
    )
    print(
        f"{best[share]:.2f} s dropping, {best[never]:.2f} s not, {'the same' if same else 'DIFFERENT'} responses"
    )
    print(f"  faster  {faster:6.2f}   (bound {BOUND})   {'ok' if faster >= BOUND else 'MISSED'}")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    return 0 if faster >= BOUND and same else 1


if __name__ == "__main__":
    sys.exit(main())
