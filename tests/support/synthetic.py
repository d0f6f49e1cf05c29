"""Traces made of random numbers with a known relation between entropy, shift and null; no model involved."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from workbench.models.prompts import TokenKind
from workbench.tracing.follow import Followed, likeliest
from workbench.tracing.lens_trace import LensTrace, PromptInfo

SCRIPT = "<script>alert(1)</script>"
GRIDS = [((1, 3, 4),), ((1, 2, 3), (1, 3, 2)), ((3, 2, 2),), ((1, 2, 6),)]  # 12 visual tokens each


def synthetic_trace(
    *,
    problems: int = 12,
    visual: int = 16,
    text: int = 8,
    special: int = 2,
    response: int = 0,
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
    kinds += [TokenKind.RESPONSE] * response
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


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def info(number: int) -> PromptInfo:
    """One image, two images, a video, and an encoding without its picture, in turn."""
    grids = GRIDS[number % 4]
    images = () if number % 4 == 3 else tuple(picture(28 * columns, 28 * rows) for _, rows, columns in grids)
    tokens = (" <think>", "</script><!--", *["<|image_pad|>"] * 12, *[f" word{i}" for i in range(6)])
    question = f"{SCRIPT} How many\n<b>squares</b>?" if number == 0 else f"Question {number}?"
    return PromptInfo(f"p{number}", question, SCRIPT if number == 0 else "7", tokens, grids, images)


def pictured_trace(problems: int = 6, depth: int = 4) -> LensTrace:
    """A synthetic trace whose visual tokens lie in the grids above."""
    trace = synthetic_trace(problems=problems, visual=12, text=6, depth=depth, top_k=6, seed=3)
    grid, view = trace.grid.clone(), trace.visual_index.clone()
    for number in range(problems):
        places = [(v, *cell) for v, sizes in enumerate(GRIDS[number % 4]) for cell in np.ndindex(*sizes)]
        here = (trace.prompt == number) & (trace.kind == TokenKind.VISUAL)
        view[here] = torch.tensor([v for v, *_ in places], dtype=torch.int32)
        grid[here] = torch.tensor([cell for _, *cell in places], dtype=torch.int32)
    vocabulary = {**trace.vocabulary, 5: SCRIPT, 6: "</script>", 7: "\n"}
    return replace(
        trace,
        grid=grid,
        visual_index=view,
        vocabulary=vocabulary,
        prompts=tuple(info(number) for number in range(problems)),
        provenance={
            "pair": "a <pair>",
            "base": {"id": "b", "revision": "0a1"},
            "dtype": "float32",
            "seed": 3,
        },
    )


def synthetic_followed(trace: LensTrace, *, problems: int, tokens: int, seed: int = 0) -> Followed:
    """Random log-probabilities for the likeliest tokens of a trace's first problems; 1e-20 among them."""
    parts = [likeliest(trace.select(prompt=i), tokens) for i in range(problems)]
    ids, rng = torch.cat(parts).int(), np.random.default_rng(seed)
    shape = (len(trace.layers), *ids.shape)
    base, rlvr = (torch.from_numpy(np.log(rng.uniform(1e-4, 1, shape))).float() for _ in range(2))
    base[0, 0, 0] = np.log(1e-20)
    nothing = ids < 0
    return Followed(
        ids=ids,
        log_probs_base=base.masked_fill(nothing, np.nan),
        log_probs_rlvr=rlvr.masked_fill(nothing, np.nan),
        prompt=torch.cat([torch.full((len(part),), i) for i, part in enumerate(parts)]).int(),
        layers=trace.layers,
        depth=trace.depth,
        problem_ids=tuple(info.problem_id for info in trace.prompts[:problems]),
        vocabulary={i: trace.vocabulary[i] for i in ids.unique().tolist() if i >= 0},
    )
