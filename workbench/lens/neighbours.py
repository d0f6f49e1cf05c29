"""Nearest states by cosine, exactly: the search behind LatentLens (arXiv 2602.00462), on tensors alone.

For blocks of queries and blocks of states, so that (queries, states) never exists:

1. one matrix product gives the cosines of unit vectors;
2. the largest of every stretch of them; the k best of a block lie in the k stretches with the largest maxima;
3. only these stretches are looked through, and merged with the k best so far.

The second step reads a block once, in cache, which costs far less than sorting it. No product is in reduced precision, and
ties go either way.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import InputError

_QUERIES, _STATES, _STRETCH = {"cpu": 512, "cuda": 4096}, {"cpu": 4096, "cuda": 32768}, 64
_CALL = "nearest(hidden, states, k=10)"


class Nearest(NamedTuple):
    """The k nearest states of every query, nearest first."""

    cosines: Float[Tensor, "queries k"]
    ids: Int[Tensor, "queries k"]
    """Rows of the states."""


@torch.no_grad()
def unit(vectors: Float[Tensor, "n hidden"]) -> Float[Tensor, "n hidden"]:
    """Vectors of length 1, float32; one of length 0 stays."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


@torch.no_grad()
def nearest(
    queries: Float[Tensor, "queries hidden"], states: Float[Tensor, "states hidden"], k: int = 10
) -> Nearest:
    """The ``k`` states with the largest cosine, for every query.

    Args:
        queries: of any length; on the device of ``states``.
        states: of length 1 (`unit`).
        k: at most the number of states.

    Raises:
        InputError: shapes or devices that do not fit, vectors that are not finite, or ``k`` out of range.
    """
    _check(queries, states)
    if isinstance(k, bool) or not 1 <= k <= len(states):
        raise InputError(f"`k` is {k}, expected 1 to the {len(states)} `states`: {_CALL}")
    parts = [_nearest(unit(part), states, k) for part in queries.split(_QUERIES[_kind(states)])]
    return Nearest(*(torch.cat(part) for part in zip(*parts, strict=True)))


@torch.no_grad()
def rank_of(
    queries: Float[Tensor, "queries hidden"],
    states: Float[Tensor, "states hidden"],
    ids: Int[Tensor, " queries"],
) -> Int[Tensor, " queries"]:
    """How many states are nearer to each query than the one with its id; 0: none is.

    Raises:
        InputError: shapes or devices that do not fit, or ids outside the states.
    """
    _check(queries, states)
    if ids.shape != queries.shape[:1] or not 0 <= int(ids.min()) <= int(ids.max()) < len(states):
        raise InputError(
            f"`ids` is {tuple(ids.shape)}, from {int(ids.min())} to {int(ids.max())}; expected ({len(queries)},) rows of the "
            f"{len(states)} `states`: rank_of(hidden, states, nearest(other, states).ids[:, 0])"
        )
    ranks = []
    size = _QUERIES[_kind(states)]
    for part, own in zip(queries.split(size), ids.split(size), strict=True):
        query = unit(part)
        mine = torch.zeros_like(query[:, :1])
        for start, cosines in _blocks(
            query, states
        ):  # from the same product, or rounding would tell equals apart
            here = (own >= start) & (own < start + cosines.shape[1])
            mine[here, 0] = cosines[here, own[here] - start]
        ranks.append(sum((cosines > mine).sum(1) for _, cosines in _blocks(query, states)))
    return torch.cat(ranks)


def _nearest(query: Tensor, states: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best, ids = query.new_empty(len(query), 0), query.new_empty(len(query), 0, dtype=torch.int64)
    for start, cosines in _blocks(query, states):
        whole = cosines.shape[1] // _STRETCH * _STRETCH
        if k * _STRETCH < whole:
            stretches = cosines[:, :whole].unflatten(1, (-1, _STRETCH))
            chosen = stretches.amax(2).topk(k, dim=1).indices
            values = stretches.gather(1, chosen[..., None].expand(-1, -1, _STRETCH)).flatten(1)
            places = (chosen[..., None] * _STRETCH + torch.arange(_STRETCH, device=query.device)).flatten(1)
            rest = torch.arange(whole, cosines.shape[1], device=query.device).expand(len(query), -1)
            values, places = torch.cat([values, cosines[:, whole:]], 1), torch.cat([places, rest], 1)
        else:
            values = cosines
            places = torch.arange(cosines.shape[1], device=query.device).expand(len(query), -1)
        found = values.topk(min(k, values.shape[1]), dim=1)
        best = torch.cat([best, found.values], 1)
        ids = torch.cat([ids, start + places.gather(1, found.indices)], 1)
        order = best.topk(min(k, best.shape[1]), dim=1)
        best, ids = order.values, ids.gather(1, order.indices)
    return best, ids


def _blocks(query: Tensor, states: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Where a block of states begins, and its cosines with the queries."""
    size = _STATES[_kind(states)]
    room = query.new_empty(len(query), min(size, len(states)))
    for start in range(0, len(states), size):
        part = states[start : start + size]
        if len(part) == room.shape[1]:
            yield start, torch.mm(query, part.t(), out=room)
        else:
            yield start, query @ part.t()


def _kind(states: Tensor) -> str:
    return "cpu" if states.device.type == "cpu" else "cuda"


def _check(queries: Tensor, states: Tensor) -> None:
    for name, value in (("queries", queries), ("states", states)):
        if value.ndim != 2 or not len(value) or not value.is_floating_point():
            raise InputError(
                f"`{name}` is {value.dtype} {tuple(value.shape)}, expected floating-point vectors (n, hidden), not none: {_CALL}"
            )
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"`{name}` must be finite, found NaN or infinity: {_CALL}")
    if queries.shape[1] != states.shape[1] or queries.device != states.device:
        raise InputError(
            f"`queries` are of width {queries.shape[1]} on {queries.device}, `states` of width {states.shape[1]} on "
            f"{states.device}; expected the same: {_CALL}"
        )
    if states.dtype != torch.float32:
        raise InputError(f"`states` are {states.dtype}, expected float32: nearest(hidden, unit(states))")
