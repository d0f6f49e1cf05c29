"""Plain descent of replay beside the adaptive solver: passes, loss and length of the tokens, and the time of both, in one run.

Stated bound: at most 9 passes forward and back for the loss of 25 plain iterations, with tokens no larger, in the median over
problems. Run with nothing else on the machine: ``python tests/perf/solver.py [--pair shapes] [--problems 100]``.
"""

import argparse
import time

import torch

import workbench as wb
from workbench.replay.quasi_newton import PASSES
from workbench.replay.replay import learn_many, objective

BOUND = 9


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pair", default="shapes")
    options.add_argument("--problems", type=int, default=100)
    chosen = options.parse_args()
    pair = wb.load_pair(chosen.pair)
    names = {"shapes": "shapes", "smol": "sums"}
    problems = wb.load_problems(names[chosen.pair], split="test", limit=chosen.problems)
    prompts = [pair.encode(problem) for problem in problems]
    losses, lengths, seconds = {}, {}, {}
    for solver in ("plain", "adaptive"):
        replay = pair.replay(solver=solver)
        begun = time.perf_counter()
        learned = learn_many(pair, prompts, replay)
        seconds[solver] = time.perf_counter() - begun
        losses[solver] = objective(pair, prompts, replay, [one.tokens for one in learned])
        lengths[solver] = torch.stack([one.tokens.norm() for one in learned])
        early = sum(one.stopped is not None for one in learned)
        print(
            f"{solver}: loss {losses[solver].median():.4g} nats, length {lengths[solver].median():.3g}, {early} stopped early, "
            f"{seconds[solver]:.1f} s",
            flush=True,
        )
    loss, length = ((part["adaptive"] / part["plain"]).median().item() for part in (losses, lengths))
    ratio = seconds["plain"] / seconds["adaptive"]
    print(
        f"{chosen.pair}, {len(problems)} problems: {PASSES} passes (bound {BOUND}) for {loss:.3f} x the loss of "
        f"{pair.replay().iterations} plain iterations and tokens {length:.3f} x as long (medians); {ratio:.2f} x faster"
    )
    assert PASSES <= BOUND
    assert loss <= 1, f"the loss is {loss:.3f} x plain's"
    assert length <= 1, f"tokens are {length:.3f} x as long as plain's"


if __name__ == "__main__":
    main()
