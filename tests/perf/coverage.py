"""How often intervals hold the truth: `python tests/perf/coverage.py [runs] [kind ...]`.

Every kind of number that the workbench reports, at 8 to 300 problems, from distributions whose truth is known: smooth and
skewed, with equal and unequal cells a problem, near 0 and 1, with few or no problems that differ. Nominal 95%; the bound
is 93%. The table goes to ``analyses/LOG.md``. With 1000 runs a coverage is known to 0.7 points (one standard error), so
that 92.0 is as likely as not to be 93; a case below that ends the script with 1.
"""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from scipy.special import stdtrit

from workbench.estimates import (
    Array,
    Interval,
    bootstrap,
    divide,
    median,
    pass_at_k,
    pool,
    share_difference,
    shares,
    spearman,
)

SIZES = (8, 16, 64, 100, 300)
BOUND = 0.93
Case = Callable[[int, int, np.random.Generator], tuple[float, Array, Array]]
"""(problems, runs, generator) -> the truth, lower ends and upper ends of as many intervals as there are runs."""


def lognormal(rng: np.random.Generator, shape: tuple[int, ...], sigma: float = 1.0) -> Array:
    return rng.lognormal(0, sigma, shape)


def of_sums(numerator: Array, denominator: Array, least: float = -np.inf) -> tuple[Array, Array]:
    """Intervals of the ratio of sums of each column."""

    def statistic(counts: Array) -> Array:
        return divide(counts @ numerator, counts @ denominator)

    found = bootstrap(statistic, len(numerator), bounds=(least, np.inf))
    return found.low, found.high


def mean_of(kind: str, n: int, runs: int, rng: np.random.Generator) -> tuple[float, Array, Array]:
    size = (n, runs)
    if kind == "normal":
        return 0.0, *of_sums(rng.normal(0, 1, size), np.ones(size))
    if kind == "exponential":
        return 1.0, *of_sums(rng.exponential(1, size), np.ones(size), 0.0)
    if kind == "lognormal":
        return np.exp(0.5), *of_sums(lognormal(rng, size), np.ones(size), 0.0)
    cells = rng.integers(1, 31, size).astype(float)
    of_problem = rng.normal(0, 1, size) + rng.normal(0, 1, size) / np.sqrt(cells)
    return 0.0, *of_sums(cells * of_problem, cells)


def ratio_of(kind: str, n: int, runs: int, rng: np.random.Generator) -> tuple[float, Array, Array]:
    size = (n, runs)
    shared = rng.normal(0, 1, size) * (kind == "lognormal, correlated")
    spread = 0.5 if kind == "lognormal, correlated" else 1.0
    one, two = (np.exp(shared + rng.normal(0, spread, size)) for _ in range(2))
    if kind == "lognormal, 1 to 30 cells":
        cells = rng.integers(1, 31, size).astype(float)
        return 1.0, *of_sums(cells * one, cells * two, 0.0)
    return 1.0, *of_sums(one, two, 0.0)


def contrast(n: int, runs: int, rng: np.random.Generator) -> tuple[float, Array, Array]:
    """Of two strata's ratios of sums, as the shift's verdicts are."""
    common = np.exp(rng.normal(0, 0.5, (n, runs)))
    low, high, low_noise, high_noise = (common * lognormal(rng, (n, runs), 0.7) for _ in range(4))

    def statistic(counts: Array) -> Array:
        return divide(divide(counts @ low, counts @ low_noise), divide(counts @ high, counts @ high_noise))

    found = bootstrap(statistic, n, bounds=(0.0, np.inf))
    return 1.0, found.low, found.high


def slope(kind: str, n: int, runs: int, rng: np.random.Generator) -> tuple[float, Array, Array]:
    """One slope for all problems from 4 to 20 draws each, problems' slopes and spreads of x unequal."""
    squares, products = np.zeros((n, runs)), np.zeros((n, runs))
    draws = rng.integers(4, 21, (n, 1, 1)) > np.arange(20)[:, None]
    x = rng.normal(0, 1, (n, 20, runs)) * lognormal(rng, (n, 1, runs), 0.5)
    own = 1 + 0.5 * rng.normal(0, 1, (n, 1, runs))
    noise = rng.normal(0, 1, x.shape) if kind == "normal" else rng.exponential(1, x.shape) - 1
    y = own * x + noise
    mean = [np.where(draws, v, 0).sum(1, keepdims=True) / draws.sum(1, keepdims=True) for v in (x, y)]
    x, y = (np.where(draws, v - m, 0.0) for v, m in zip((x, y), mean, strict=True))
    squares, products = (x * x).sum(1), (x * y).sum(1)
    return 1.0, *of_sums(products, squares)


def stacked(truth: float, found: Iterator[Interval]) -> tuple[float, Array, Array]:
    ends = np.array([(interval.low, interval.high) for interval in found])
    return truth, ends[:, 0], ends[:, 1]


def labels(n: int, unequal: bool, rng: np.random.Generator) -> Array:
    return np.repeat(np.arange(n), rng.integers(1, 31, n) if unequal else np.ones(n, int))


def median_of(kind: str, n: int, runs: int, rng: np.random.Generator) -> tuple[float, Array, Array]:
    def found() -> Iterator[Interval]:
        for _ in range(runs):
            problem = labels(n, "cells" in kind, rng)
            values = rng.normal(0, 1, n)[problem] * ("cells" in kind) + rng.normal(0, 1, len(problem))
            yield median(np.exp(values) if "lognormal" in kind else values, problem)

    return stacked(1.0 if "lognormal" in kind else 0.0, found())


def rank_correlation(kind: str, n: int, runs: int, rng: np.random.Generator) -> tuple[float, Array, Array]:
    rho = float(kind.split()[0])

    def found() -> Iterator[Interval]:
        for _ in range(runs):
            problem = labels(n, "cells" in kind, rng)
            of_problem, own = rng.normal(0, 1, (2, n)), rng.normal(0, 1, (2, len(problem)))
            part = 0.3 * ("cells" in kind)
            one, two = np.sqrt(part) * of_problem[:, problem] + np.sqrt(1 - part) * own
            yield spearman(one, rho * one + np.sqrt(1 - rho**2) * two, problem)

    return stacked(6 / np.pi * np.arcsin(rho / 2), found())


def accuracy(kind: str, n: int, runs: int, rng: np.random.Generator) -> tuple[float, Array, Array]:
    p = float(kind.split()[0])
    right = rng.random((n, runs)) < p
    found = shares(right.astype(float), np.ones((n, runs)))
    return p, found.low, found.high


def passing(kind: str, n: int, runs: int, rng: np.random.Generator) -> tuple[float, Array, Array]:
    """Pass@K of 16 samples, where problems' chances are Beta: "0.97 K=4"."""
    p, k = float(kind.split()[0]), int(kind.split("=")[1].split()[0])
    chance = rng.beta(p, 1 - p, 200_000)
    truth = float(np.mean(1 - (1 - chance) ** k))
    right = rng.binomial(16, rng.beta(p, 1 - p, (n, runs)))
    found = shares(pass_at_k(16, right, k), np.ones((n, runs)))
    return truth, found.low, found.high


def agreement(kind: str, n: int, runs: int, rng: np.random.Generator) -> tuple[float, Array, Array]:
    """Agreement over 1 to 30 cells a problem; problems' chances are Beta of ten."""
    p = float(kind.split()[0])
    cells = rng.integers(1, 31, (n, runs))
    right = rng.binomial(cells, rng.beta(10 * p, 10 * (1 - p), (n, runs)))
    found = shares(right.astype(float), cells.astype(float))
    return p, found.low, found.high


def paired(kind: str, n: int, runs: int, rng: np.random.Generator) -> tuple[float, Array, Array]:
    """Greedy answers before and after: "0.01 gained, 0 lost"."""
    gained, lost = (float(part.split()[0]) for part in kind.split(", "))

    def found() -> Iterator[Interval]:
        for _ in range(runs):
            draw = rng.random(n)
            after, before = draw < gained + 0.3, (draw >= gained) & (draw < gained + 0.3 + lost)
            yield share_difference(before, after & ~(draw >= gained + 0.3), np.arange(n))

    return stacked(gained - lost, found())


def paired_samples(kind: str, n: int, runs: int, rng: np.random.Generator) -> tuple[float, Array, Array]:
    """Pass@1 of 16 samples before and after, where some problems' chances move up by 0.3: "0.05 of problems"."""
    part = float(kind.split()[0])

    def found() -> Iterator[Interval]:
        for _ in range(runs):
            chance = 0.7 * rng.beta(0.5, 0.5, n)
            moved = rng.random(n) < part
            before = rng.binomial(16, chance) / 16
            after = np.where(moved, rng.binomial(16, chance + 0.3) / 16, before)  # the same draws elsewhere
            yield share_difference(before, after, np.arange(n))

    return stacked(0.3 * part, found())


def pooled(kind: str, n: int, runs: int, rng: np.random.Generator) -> tuple[float, Array, Array]:
    """The mean over pairs, each the mean of n problems: "5 pairs, 2 apart" is twice a pair's standard error apart."""
    pairs, apart = (float(part.split()[0]) for part in kind.split(", "))
    units = [n] * int(pairs)

    def found() -> Iterator[Interval]:
        for _ in range(runs):
            own = apart / np.sqrt(n) * rng.normal(0, 1, len(units))
            values = own[:, None] + rng.normal(0, 1, (len(units), n))
            mean, half = values.mean(1), stdtrit(n - 1, 0.975) * values.std(1, ddof=1) / np.sqrt(n)
            yield pool([Interval(m, m - h, m + h) for m, h in zip(mean, half, strict=True)], units).interval

    return stacked(0.0, found())


CASES: dict[str, tuple[Callable[..., tuple[float, Array, Array]], tuple[str, ...]]] = {
    "mean": (mean_of, ("normal", "exponential", "lognormal", "normal, 1 to 30 cells")),
    "ratio of sums": (ratio_of, ("lognormal", "lognormal, correlated", "lognormal, 1 to 30 cells")),
    "contrast of strata": (lambda kind, *rest: contrast(*rest), ("lognormal",)),
    "slope": (slope, ("normal", "exponential")),
    "median": (median_of, ("normal", "lognormal", "normal, 1 to 30 cells", "lognormal, 1 to 30 cells")),
    "rank correlation": (
        rank_correlation,
        ("0", "0.5", "0.9", "0 with 1 to 30 cells", "0.9 with 1 to 30 cells"),
    ),
    "accuracy": (accuracy, ("0.005", "0.03", "0.1", "0.5", "0.9", "0.97", "0.995")),
    "agreement": (agreement, ("0.03", "0.5", "0.97", "0.99")),
    "Pass@K": (passing, ("0.03 K=1", "0.5 K=1", "0.97 K=1", "0.1 K=4", "0.5 K=4", "0.5 K=16", "0.9 K=16")),
    "paired difference": (
        paired,
        (
            *("0 gained, 0 lost", "0.01 gained, 0 lost", "0.01 gained, 0.01 lost"),
            *("0.05 gained, 0.02 lost", "0.2 gained, 0.05 lost", "0.3 gained, 0.3 lost"),
        ),
    ),
    "paired, samples": (
        paired_samples,
        ("0.02 of problems", "0.1 of problems", "0.5 of problems", "1 of problems"),
    ),
    "pooled over pairs": (
        pooled,
        tuple(f"{pairs} pairs, {apart} apart" for pairs in (2, 3, 5, 12) for apart in (0, 1, 3)),
    ),
}


def main(runs: int, kinds: list[str]) -> int:
    print(f"| kind | data | {' | '.join(map(str, SIZES))} |\n|---{'|---' * (len(SIZES) + 1)}|")
    worst, started = 1.0, time.perf_counter()
    for name, (case, variants) in CASES.items():
        if kinds and name not in kinds:
            continue
        for variant in variants:
            cells = []
            for n in SIZES:
                truth, low, high = partial(case, variant)(n, runs, np.random.default_rng(n))
                held = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
                without, flat = float(np.isnan(low).mean()), float((high == low).mean())
                covered = float(held.sum() / max((~np.isnan(low)).sum(), 1))
                worst = min(worst, covered)
                note = f" ({without:.0%} none)" * (without > 0) + f" ({flat:.0%} flat)" * (flat > 0)
                width = float(np.nanmedian(high - low)) if without < 1 else np.nan
                cells.append(f"{covered:.3f}{note} {width:.3g}")
            print(f"| {name} | {variant} | {' | '.join(cells)} |", flush=True)
    print(
        f"\n{runs} runs a case, {time.perf_counter() - started:.0f} s; lowest coverage {worst:.3f}, bound {BOUND}"
    )
    return int(worst < BOUND - 0.01)


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, sys.argv[2:]))
