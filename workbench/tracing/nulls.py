"""What a real change of the residual stream is held against: changes just as long that RL did not choose for this cell.

Three nulls, each another question about a cell (a layer at a position) whose residual stream RL moved by d:

``noise``       a random direction, every one as likely. Does it matter at all where RL moved the cell? Residual streams are not
                round: most random directions hardly move a logit, so that nearly every real change beats this null.
``covariance``  Gaussian noise with the covariance of the changes of this layer and kind of token. Does it matter where, among
                the directions in which RL moves this layer anyway?
``exchanged``   the change of another cell of this layer and kind, from another problem. Does it matter that it is *this* cell's
                change, and not what RL does to such a cell on the whole?

All are as long as d, and the RLVR model's head reads them. The last two need changes to draw from: `collect_changes` runs both
models once and keeps some cells' changes; a cell never draws from its own problem's.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from operator import sub
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.backoff import piecewise
from workbench.errors import InputError
from workbench.lens.fused import matched_noise, moved_along
from workbench.models.batches import batches_by
from workbench.models.pairs import ModelPair
from workbench.models.prompts import TokenKind
from workbench.tracing.both_models import Stretch, Values, over_conversations
from workbench.tracing.conversations import Conversation
from workbench.tracing.edits import Intervention

CELLS = 512
"""Changes kept of each layer and kind of token."""


class Null(Protocol):
    """Residuals to hold the RLVR model's against, at the positions of one stretch: (draws, positions, hidden)."""

    def __call__(self, layer: int, part: Stretch, h_base: Tensor, h_rlvr: Tensor) -> Tensor:
        """Of residuals (positions, hidden) before the final norm."""
        ...


@dataclass(frozen=True)
class Noise:
    """Random directions, every one as likely; a stream of draws for each problem and layer."""

    draws: int
    seed: int

    def __call__(self, layer: int, part: Stretch, h_base: Tensor, h_rlvr: Tensor) -> Tensor:
        """As in `Null`."""
        return matched_noise(h_base, h_rlvr, draws=self.draws, seed=stream(self.seed, part, layer))


@dataclass(frozen=True, eq=False)
class Changes:
    """Changes of the residual stream, RLVR less base, of cells of each layer and kind of token."""

    rows: Mapping[tuple[int, int], Float[Tensor, "cells hidden"]]
    """By layer and `TokenKind`, float32 on the CPU."""
    owners: Mapping[tuple[int, int], Sequence[str]]
    """The problem of each row."""

    def others(self, layer: int, kind: int, problem_id: str) -> Float[Tensor, "cells hidden"]:
        """The changes of a layer and kind, but for those of one problem.

        Raises:
            InputError: there are none: a kind of token that only one of the problems has.
        """
        owners = self.owners.get((layer, kind), ())
        kept = [row for row, owner in enumerate(owners) if owner != problem_id]
        if not kept:
            name = TokenKind(kind).name.lower()
            raise InputError(
                f"No problem but {problem_id!r} has {name} tokens, so that there is no change to draw from in their place: trace "
                "several problems, or take `trace(pair, problems, null='noise')`"
            )
        rows = self.rows[layer, kind]
        return rows if len(kept) == len(rows) else rows[kept]


@dataclass(frozen=True, eq=False)
class FromChanges:
    """Draws from other problems' changes: one of them (``exchanged``), or Gaussian with their covariance."""

    name: str
    changes: Changes
    draws: int
    seed: int

    def __call__(self, layer: int, part: Stretch, h_base: Tensor, h_rlvr: Tensor) -> Tensor:
        """As in `Null`."""
        generator = torch.Generator().manual_seed(stream(self.seed, part, layer))
        directions = torch.empty(self.draws, *h_base.shape)
        for kind in sorted(set(part.kinds.tolist())):
            here = part.kinds == kind
            rows = self.changes.others(layer, kind, part.problem_id)
            count = int(here.sum())
            directions[:, here] = _drawn(self.name, rows, self.draws * count, generator).view(
                self.draws, count, -1
            )
        return moved_along(h_base, h_rlvr, directions)


@dataclass(frozen=True)
class Together:
    """Several nulls, the draws of each behind those of the one before."""

    nulls: Sequence[Null]

    def __call__(self, layer: int, part: Stretch, h_base: Tensor, h_rlvr: Tensor) -> Tensor:
        """As in `Null`."""
        return torch.cat([null(layer, part, h_base, h_rlvr) for null in self.nulls])


def _drawn(
    name: str, rows: Float[Tensor, "cells hidden"], count: int, generator: torch.Generator
) -> Float[Tensor, "count hidden"]:
    if name == "exchanged":
        return rows[torch.randint(len(rows), (count,), generator=generator)]
    # Gaussian weights of the centred rows have just their covariance, and no (hidden, hidden) matrix is needed.
    centred = rows - rows.mean(0)
    return torch.randn(count, len(rows), generator=generator) @ centred


def collect_changes(
    pair: ModelPair,
    groups: Iterable[Sequence[Conversation]],
    *,
    problems: int,
    made: Sequence[Intervention | None],
    cells: int = CELLS,
    seed: int = 0,
    batch_size: int = 8,
    layers: Sequence[int] | None = None,
) -> Changes:
    """Run both models over prompts, and keep what changed at some of their cells: as many of every problem, drawn by lot.

    Args:
        pair: both models.
        groups: per problem its conversations.
        problems: how many groups there are.
        made: per problem what is written in the RLVR model.
        cells: kept of each layer and kind in all; at least one of every problem.
        seed: of which positions.
        batch_size: prompts per forward.
        layers: decoder layers; all when None.
    """
    share = max(1, cells // problems)

    def read(batch: Sequence[Sequence[Conversation]], here: slice) -> list[_Row]:
        kept = list[_Row]()

        def keep(layer: int, parts: Sequence[Stretch], h_base: Tensor, h_rlvr: Tensor) -> Values:
            lengths = [part.length for part in parts]
            for part, base, rlvr in zip(parts, h_base.split(lengths), h_rlvr.split(lengths), strict=True):
                for kind in sorted(set(part.kinds.tolist())):
                    places = _some((part.kinds == kind).nonzero().flatten(), share, stream(seed, part, 0))
                    change = (h[places.to(h.device)].float().cpu() for h in (rlvr, base))
                    kept.append(_Row((layer, kind), part.problem_id, sub(*change)))
            return {}

        over_conversations(
            pair, batch, keep, axis=lambda name: 0, made=made[here], layers=layers, rows=batch_size
        )
        return kept

    rows: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
    owners: dict[tuple[int, int], list[str]] = defaultdict(list)
    batches = batches_by(groups, batch_size, lambda group: group[0].prompt)
    for _, kept in piecewise(batches, read, model=pair.base, what="collecting changes"):
        for row in kept:
            rows[row.cell].append(row.change)
            owners[row.cell] += [row.problem_id] * len(row.change)
    return Changes({key: torch.cat(some) for key, some in rows.items()}, owners)


class _Row(NamedTuple):
    """Changes of some positions of one problem."""

    cell: tuple[int, int]
    problem_id: str
    change: Float[Tensor, "positions hidden"]


def _some(places: Int[Tensor, " all"], count: int, seed: int) -> Int[Tensor, " some"]:
    """The same of a problem at every layer, whatever else is in its batch."""
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    return places[order[:count].sort().values]


def stream(seed: int, part: Stretch, layer: int) -> int:
    """Seed of one stretch's draws. A response has a stream of its own: what follows a prompt changes none of its draws."""
    name = f"{part.problem_id}/response" if part.said else part.problem_id
    return int.from_bytes(blake2b(f"{seed}/{layer}/{name}".encode(), digest_size=7).digest())
