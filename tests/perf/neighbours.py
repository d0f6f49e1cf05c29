"""Nearest states of 10,000 queries among 100,000 of width 576: seconds over those of the bare matrix product, in one run.

    python tests/perf/neighbours.py [--device cuda] [--states 100000] [--queries 10000] [--width 576] [--rounds 3]

The bare product makes the same cosines in blocks that fit in memory, and keeps none of them. The rounds alternate; the ratio is
that of the fastest of each. The bound is 2.
"""

import argparse
import time

import torch

from workbench.lens.neighbours import nearest, rank_of, unit

BOUND, BLOCK = 2.0, 1000


def bare(queries: torch.Tensor, states: torch.Tensor) -> None:
    out = queries.new_empty(BLOCK, len(states))
    for part in queries.split(BLOCK):
        torch.mm(part, states.t(), out=out[: len(part)])


def seconds(work, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    for name, value in (("states", 100_000), ("queries", 10_000), ("width", 576), ("k", 10), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    device = torch.device(given.device)
    generator = torch.Generator().manual_seed(0)
    states, queries = (
        unit(torch.randn(count, given.width, generator=generator)).to(device)
        for count in (given.states, given.queries)
    )
    first = nearest(queries[:64], states, given.k)
    exact = (queries[:64].double() @ states.double().t()).topk(given.k)
    wrong = (first.cosines.double() - exact.values).abs().max().item()
    ids = nearest(queries[:100], states, 1).ids[:, 0]
    ways = {
        "bare product": lambda: bare(queries, states),
        f"nearest {given.k}": lambda: nearest(queries, states, given.k),
        "rank of one": lambda: rank_of(queries, states, ids.repeat(given.queries // 100)[: given.queries]),
    }
    for work in ways.values():  # kernels, caches
        work()
    times = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, work in ways.items():
            times[name].append(seconds(work, device))
    best = {name: min(found) for name, found in times.items()}
    print(
        f"{device}, torch {torch.__version__}, {torch.get_num_threads()} threads; largest error of a cosine {wrong:.1g}"
    )
    for name, value in best.items():
        print(f"{name:14s} {value:8.3f} s  {value / best['bare product']:.2f} x")
    ratio = best[f"nearest {given.k}"] / best["bare product"]
    print(f"{'holds' if ratio <= BOUND else 'MISSED'}: {ratio:.2f} x, bound {BOUND:g} x")


if __name__ == "__main__":
    main()
