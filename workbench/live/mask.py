"""`Mask`: cells chosen by hand, as a value that can be kept, compared, written into code, and given to any intervention."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.errors import InputError

Spans = tuple[tuple[int, int], ...]
_CALL = "Mask({3: [(14, 20)], 4: [(14, 20)]})"


@dataclass(frozen=True, repr=False, init=False)
class Mask:
    """Cells of a prompt: per layer, spans of positions, (first, one past the last).

    It is a function of the encoded prompt, as ``cells`` of `Patch`, `Replay` and the others expects.

    Args:
        spans: layer -> spans.

    Raises:
        InputError: layers or spans that are none.

    Example:
        >>> mask = wb.Mask({3: [(0, 2), (4, 5)]})
        >>> mask.layers, mask.positions, mask.count
        ((3,), (0, 1, 4), 3)
    """

    rows: tuple[tuple[int, Spans], ...]

    def __init__(self, spans: Mapping[int, Sequence[Sequence[int]]]) -> None:
        rows = []
        for layer, row in sorted(spans.items()):
            ends = tuple((int(first), int(stop)) for first, stop in row)
            if layer < 0 or any(not 0 <= first < stop for first, stop in ends):
                raise InputError(
                    f"`spans` has {list(row)} at layer {layer}; expected (first, one past the last) position: {_CALL}"
                )
            if ends:
                rows.append((int(layer), _joined(ends)))
        object.__setattr__(self, "rows", tuple(rows))

    @classmethod
    def of(cls, cells: Bool[Tensor, "layers positions"]) -> "Mask":
        """The cells that are True."""
        return cls({layer: _spans(row.tolist()) for layer, row in enumerate(cells) if bool(row.any())})

    def __repr__(self) -> str:
        rows = {layer: list(spans) for layer, spans in self.rows}
        if len(rows) > 1 and len({spans for _, spans in self.rows}) == 1:
            return f"Mask(dict.fromkeys({self.layers}, {rows[self.layers[0]]}))"
        return f"Mask({rows})"

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers in which anything is chosen."""
        return tuple(layer for layer, _ in self.rows)

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions that are chosen in any layer."""
        return tuple(sorted({at for _, spans in self.rows for span in spans for at in range(*span)}))

    @property
    def count(self) -> int:
        """Cells."""
        return sum(stop - first for _, spans in self.rows for first, stop in spans)

    def cells(self, layers: int, positions: int) -> Bool[Tensor, "layers positions"]:
        """As a tensor.

        Raises:
            InputError: a cell lies outside of it.
        """
        tensor = torch.zeros(layers, positions, dtype=torch.bool)
        for layer, spans in self.rows:
            if layer >= layers or spans[-1][1] > positions:
                raise InputError(
                    f"the mask has position {spans[-1][1] - 1} of layer {layer}; expected layers 0 to {layers - 1} and positions "
                    f"0 to {positions - 1}: {_CALL}"
                )
            for first, stop in spans:
                tensor[layer, first:stop] = True
        return tensor

    def __call__(self, prompt: Any) -> Bool[Tensor, "layers positions"]:
        """The cells of an encoded prompt, up to the last layer in which any is chosen."""
        return self.cells(max(self.layers, default=0) + 1, len(prompt))

    @property
    def spans(self) -> dict[str, list[list[int]]]:
        """As JSON has it: layer -> spans."""
        return {str(layer): [list(span) for span in spans] for layer, spans in self.rows}

    @classmethod
    def from_spans(cls, spans: Any) -> "Mask":
        """What `spans` gave.

        Raises:
            InputError: it is not of that form.
        """
        try:
            return cls({int(layer): row for layer, row in spans.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"`cells` is {spans!r:.200}; expected layers and their spans: {{'3': [[14, 20]]}}"
            ) from error


def _spans(row: Iterable[bool]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for at, chosen in enumerate(row):
        if chosen and spans and spans[-1][1] == at:
            spans[-1] = (spans[-1][0], at + 1)
        elif chosen:
            spans.append((at, at + 1))
    return spans


def _joined(spans: Spans) -> Spans:
    """In order, those that touch as one."""
    chosen = {at for span in spans for at in range(*span)}
    return tuple(_spans(at in chosen for at in range(max(chosen) + 1)))
