"""What attribution costs on the bundled pair; run it while nothing else runs.

    python tests/perf/attribution.py [--prompts 3] [--threads 2]

One prompt in all (contributions, swaps in both directions, both approximations, three metrics) against the bound of 20 s; and
exact swaps against each approximation of the same swaps: a swap of every component everywhere, at visual and at text positions,
in both directions. Exact swaps run one by one, as papers do, each from its component's layer on and beside the receiver as it is
(about a sixth of the time); and side by side, as the workbench does. The fastest of each over the prompts and rounds counts.
Exits with 1 if a bound is missed: 20 s, and 10 x against swaps one by one.
"""

import argparse
import sys
import time
from collections.abc import Callable

import torch

from workbench.attribution.attribute import attribute
from workbench.attribution.one_prompt import AttributedPrompt, Cells
from workbench.attribution.swaps import DIRECTIONS, Aim, exact, slopes
from workbench.models.anatomy import frozen
from workbench.models.loading import load_pair
from workbench.problems.problem import load_problems

SECONDS, FASTER = 20.0, 10.0
ONE_BY_ONE, SIDE_BY_SIDE = "one by one", "side by side"
APPROXIMATIONS = ("attribution patching", "RelP")
METRICS = ("kl", "logit_difference", "log_probability")


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratios(prompt: AttributedPrompt, best: dict[str, float]) -> None:
    swaps, _ = prompt.swaps()
    base, rlvr = prompt.sides
    spent = dict.fromkeys((ONE_BY_ONE, SIDE_BY_SIDE, *APPROXIMATIONS), 0.0)
    for direction in DIRECTIONS:
        receiver, donor = (rlvr, base) if direction == "noising" else (base, rlvr)
        aim = Aim(prompt.metrics, receiver, donor, direction, prompt.cells, prompt.answer)
        spent[ONE_BY_ONE] += seconds(lambda aim=aim: exact(aim, swaps, rows=1))
        spent[SIDE_BY_SIDE] += seconds(lambda aim=aim: exact(aim, swaps))
        with frozen(prompt.anatomies[0]), frozen(prompt.anatomies[1]):
            spent["attribution patching"] += seconds(lambda aim=aim: slopes(aim).effects(aim, swaps))
            spent["RelP"] += seconds(lambda aim=aim: slopes(aim, relevance=True).effects(aim, swaps))
    for name, took in spent.items():
        best[name] = min(best.get(name, float("inf")), took)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pair = load_pair("shapes")
    problems = load_problems("shapes", split="validation", limit=options.prompts)
    first = seconds(lambda: attribute(pair, problems[:1], metrics=METRICS))
    whole = max(seconds(lambda p=p: attribute(pair, [p], metrics=METRICS)) for p in problems)
    best: dict[str, float] = {}
    count = 0
    for problem in problems:
        said = (problem.metadata["chain"], problem.metadata["wrong"])
        prompt = AttributedPrompt.of(pair, pair.encode(problem), Cells(), METRICS, said)
        count = len(prompt.swaps()[0])
        for _ in range(options.rounds):
            ratios(prompt, best)
    met = [first <= SECONDS]
    print(f"one prompt in all: first {first:.1f} s, later at most {whole:.1f} s (bound {SECONDS:g})")
    told = ", ".join(f"{name} {best[name]:.3f} s" for name in (ONE_BY_ONE, SIDE_BY_SIDE))
    print(f"exact swaps, {count} in each of two directions: {told}")
    for name in APPROXIMATIONS:
        ratio, batched = (best[how] / best[name] for how in (ONE_BY_ONE, SIDE_BY_SIDE))
        met.append(ratio >= FASTER)
        print(
            f"{name}: {best[name]:.3f} s, {ratio:.1f} x faster than one by one (bound {FASTER:g}), "
            f"{batched:.1f} x faster than side by side: {'ok' if met[-1] else 'MISSED'}"
        )
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
