"""The pass over the vocabulary: logits of all distributions, a block of rows at a time, never all at once.

Where heads share one unembedding and say so (`LensHead.changes`), only the first distribution is multiplied in full precision:
the logits of every other are its logits plus the product of the *difference* of their normed residuals, in bfloat16. Rounding
then changes a shift by parts in a thousand of itself, where rounded logits would drown it; a CPU that multiplies bfloat16
natively does so at more than twice the speed.
"""

from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from workbench.lens.heads import LensHead

# Logits that exist at a time, all distributions together: enough for efficient matrix products, and no more. Less, for
# the rest of the process, where memory ran out.
BLOCK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 25}
# A CPU sums a block in strips of positions that stay in the second-level cache of each core: a third faster.
STRIP_ELEMENTS = 1 << 17
# Top predictions are looked for only in those stretches of vocabulary rows whose maximum is high enough.
STRETCH = 64
# Blocks are not smaller than this.
LEAST_BLOCK = 4 * STRETCH
# D distributions at N positions, each by its head and normed residuals: the base, the RLVR model, null draws.
Heads: TypeAlias = list[tuple[LensHead, Tensor]]


def blocks(heads: Heads, dtype: torch.dtype, block: int) -> Iterator[tuple[int, Tensor]]:
    """The first vocabulary row and the logits (N, D, rows) of every block, always in the same buffer."""
    (head, hidden), vocabulary = heads[0], len(heads[0][0].weight)
    buffer = hidden.new_empty(len(hidden) * len(heads) * block, dtype=dtype)
    changes = _changes(heads, dtype)
    for start in range(0, vocabulary, block):
        rows = slice(start, min(start + block, vocabulary))
        logits = buffer[: len(hidden) * len(heads) * (rows.stop - start)].view(len(hidden), len(heads), -1)
        if changes is None:
            _write_each(heads, logits, rows)
        else:
            _write_changes(heads[0], changes, logits, rows)
        for index, (head, _) in enumerate(heads):
            head.finish(logits[:, index], rows)
        yield start, logits


def _changes(heads: Heads, dtype: torch.dtype) -> Tensor | None:
    """((D - 1) N, hidden): what normed residuals differ from the first, rounded, where heads are to be multiplied so."""
    (first, start), *others = heads
    alike = all(head.weight is first.weight for head, _ in others)
    if first.changes is None or not others or not alike or dtype != torch.float32:
        return None
    return torch.cat([hidden.to(dtype) - start.to(dtype) for _, hidden in others]).to(first.changes)


def _write_each(heads: Heads, logits: Tensor, rows: slice) -> None:
    last = weight = None
    for index, (head, hidden) in enumerate(heads):
        if (
            weight is None or head is not last
        ):  # null draws have the RLVR model's: widened once for all of them
            last, weight = head, head.multiplied(rows, hidden.dtype)
        head.write_products(logits[:, index], hidden, weight)


def _write_changes(first: tuple[LensHead, Tensor], changes: Tensor, logits: Tensor, rows: slice) -> None:
    head, hidden = first
    head.write_products(logits[:, 0], hidden, head.multiplied(rows, hidden.dtype))
    changed = torch.mm(changes, head.weight[rows].t().to(changes.dtype)).view(-1, *logits[:, 0].shape)
    for index, change in enumerate(changed, start=1):
        torch.add(logits[:, 0], change, out=logits[:, index])


def working_sizes(
    positions: int, distributions: int, vocabulary: int, device: str, block: int | None = None
) -> tuple[int, int]:
    """Vocabulary rows in a block and positions in a strip; memory is (positions + 3 strip) x distributions x block."""
    on_cpu = device == "cpu"
    elements = BLOCK_ELEMENTS["cpu" if on_cpu else "cuda"]
    block = block or max(LEAST_BLOCK, elements // (positions * distributions) // STRETCH * STRETCH)
    block = min(block, vocabulary)
    strip = max(1, STRIP_ELEMENTS * torch.get_num_threads() // (distributions * block))
    return block, min(strip, positions) if on_cpu else positions
