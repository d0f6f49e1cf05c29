"""Traces made of random numbers with a known relation between entropy, shift and null; no model involved."""

from collections.abc import Sequence

import numpy as np
import torch

from workbench.prompts import TokenKind
from workbench.records import LensTrace, PromptInfo


def synthetic_trace(
    *,
    problems: int = 12,
    visual: int = 16,
    text: int = 8,
    special: int = 2,
    depth: int = 4,
    layers: Sequence[int] | None = None,
    tilt: float = 0.0,
    last_tilt: float | None = None,
    null_tilt: float = 0.0,
    shift: float = 0.1,
    spread: float = 0.3,
    draws: int = 3,
    top_k: int = 3,
    seed: int = 0,
) -> LensTrace:
    """A trace whose base entropy is uniform on (0, 4) nats in every layer.

    KL is ``shift * exp(-tilt * entropy / 4)`` times lognormal noise and a lognormal factor per problem, both
    of log-width ``spread``: tilt > 0 makes low-entropy cells shift more, so that the lowest of five strata
    shifts about ``exp(0.8 * tilt)`` times the highest. ``null_tilt`` is the same for the null, ``last_tilt``
    for the last layer.
    """
    rng = np.random.default_rng(seed)
    traced = tuple(range(depth)) if layers is None else tuple(layers)
    kinds = [TokenKind.SPECIAL] * special + [TokenKind.VISUAL] * visual + [TokenKind.TEXT] * text
    length, rows = len(kinds), len(traced)
    cells = (rows, problems * length)
    prompt = np.repeat(np.arange(problems), length)
    entropy = rng.uniform(0, 4, cells)
    tilts = np.array([last_tilt if last_tilt is not None and i == depth - 1 else tilt for i in traced])
    of_problem = rng.normal(0, spread, problems)[prompt]

    def amount(slope: np.ndarray | float, *shape: int) -> np.ndarray:
        noise = rng.normal(0, spread, (*shape, *cells))
        return shift * np.exp(noise - np.asarray(slope).reshape(-1, 1) * entropy / 4 + of_problem)

    ids = np.argsort(rng.random((2, *cells, 8)), axis=-1)[..., :top_k]
    chances = -np.sort(-rng.dirichlet(np.ones(8), (2, *cells)), axis=-1)[..., :top_k]
    overlap = (ids[0][..., :, None] == ids[1][..., None, :]).any(-1).mean(-1)

    def floats(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).float()

    def integers(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).int()

    kind = np.tile(np.array(kinds, dtype=int), problems)
    grid = np.full((len(kind), 3), -1)
    grid[kind == TokenKind.VISUAL, :2] = 0
    grid[kind == TokenKind.VISUAL, 2] = np.tile(np.arange(visual), problems)
    return LensTrace(
        entropy_base=floats(entropy),
        entropy_rlvr=floats(entropy + rng.normal(-0.05, 0.1, cells)),
        kl=floats(amount(tilts)),
        kl_null=floats(amount(null_tilt, draws)),
        cosine=floats(1 - rng.uniform(0, 0.1, cells)),
        shift_norm=floats(rng.uniform(0.1, 1, cells)),
        base_norm=floats(rng.uniform(5, 10, cells)),
        top_ids_base=integers(ids[0]),
        top_ids_rlvr=integers(ids[1]),
        top_probs_base=floats(chances[0]),
        top_probs_rlvr=floats(chances[1]),
        topk_overlap=floats(overlap),
        top1_agreement=torch.from_numpy(ids[0, ..., 0] == ids[1, ..., 0]),
        prompt=integers(prompt),
        position=integers(np.tile(np.arange(length), problems)),
        kind=integers(kind),
        token_id=integers(rng.integers(0, 8, len(kind))),
        visual_index=integers(np.where(kind == TokenKind.VISUAL, 0, -1)),
        grid=integers(grid),
        layers=traced,
        depth=depth,
        prompts=tuple(
            PromptInfo(
                problem_id=f"p{i}", question=f"question {i}", grids=((1, 1, visual),) if visual else ()
            )
            for i in range(problems)
        ),
        vocabulary={i: f"w{i}" for i in range(8)},
        provenance={"pair": "synthetic", "seed": seed},
    )
