"""Choosing cells of a prompt: by position, rectangle, word, kind, or stratum of entropy, in a range of layers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import InputError, nearest
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.replay.chosen_cells import select
from workbench.selection import Selection

Layers = int | slice | Iterable[int] | None
_CALL = "bench.select(word='triangle', layers=range(3, 6))"


@dataclass(frozen=True)
class Ground:
    """What cells are chosen on: a prompt, and the base's entropy in nats at every layer and position."""

    prompt: EncodedPrompt
    entropy: Float[Tensor, "layers positions"]

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, positions)."""
        return len(self.entropy), len(self.prompt)

    def choose(
        self,
        positions: Iterable[int] | None = None,
        *,
        layers: Layers = None,
        word: str | None = None,
        rectangle: Sequence[int] | None = None,
        view: int | None = None,
        frame: int | None = None,
        kind: str | None = None,
        stratum: str | None = None,
        tau: float = 0.4,
    ) -> Bool[Tensor, "layers positions"]:
        """The cells that all of what is given agrees on; nothing given: all of them.

        Args:
            positions: of the prompt, from 0; negative ones from its end.
            layers: a layer, a range of them, or several; None: all.
            word: text of the prompt; every token that has a part in it, wherever it stands.
            rectangle: (first row, first column, last row, last column) of visual tokens, both ends included.
            view: which picture or video, from 0.
            frame: which moment of a video, from 0.
            kind: "visual", "text", "special" or "response".
            stratum: "low", "high" or "random" (as many as are low) of the base's entropy, as in `Patch`: "low" is at most ``tau``
                of the layer's largest.
            tau: a share from 0 to 1.

        Raises:
            InputError: a layer, position, word or rectangle that the prompt does not have, or no cell that is all of it.
        """
        places = torch.ones(self.shape[1], dtype=torch.bool)
        for part in (
            None if positions is None else self._listed(positions),
            None if word is None else self._word(word),
            None if rectangle is None else self._rectangle(rectangle),
            None if view is None else self.prompt.visual_index == view,
            None if frame is None else self.prompt.grid[:, 0] == frame,
            None if kind is None else self._kind(kind),
        ):
            if part is not None:
                places = places & part
        rows = torch.zeros(self.shape[0], dtype=torch.bool)
        rows[list(self._layers(layers))] = True
        cells = rows[:, None] & places
        if stratum is not None:
            cells &= self._stratum(stratum, tau)
        if not cells.any():
            raise InputError(
                f"no cell of {self.prompt.problem_id!r} is all of that at once; ask for less of it, or of other layers: {_CALL}"
            )
        return cells

    def _listed(self, positions: Iterable[int]) -> Tensor:
        mask, numbers, length = torch.zeros(self.shape[1], dtype=torch.bool), list(positions), self.shape[1]
        outside = [at for at in numbers if not isinstance(at, int) or not -length <= at < length]
        if outside:
            raise InputError(
                f"`positions` has {outside[0]!r}; expected 0 to {length - 1}, those of {self.prompt.problem_id!r}: "
                "bench.select([0, 1], layers=3)"
            )
        mask[numbers] = True
        return mask

    def _layers(self, layers: Layers) -> list[int]:
        depth = self.shape[0]
        if layers is None:
            return list(range(depth))
        if isinstance(layers, slice):
            return list(range(depth))[layers]
        numbers = [layers] if isinstance(layers, int) else list(layers)
        if not numbers or any(not isinstance(n, int) or not 0 <= n < depth for n in numbers):
            raise InputError(f"`layers` is {layers!r}; expected layers from 0 to {depth - 1}: {_CALL}")
        return numbers

    def _word(self, word: str) -> Tensor:
        text, ends = "", []
        for token in self.prompt.tokens:
            text += token
            ends.append(len(text))
        mask, wanted, at = torch.zeros(self.shape[1], dtype=torch.bool), word.strip(), -1
        visual = self.prompt.kinds == TokenKind.VISUAL
        while wanted and (at := text.lower().find(wanted.lower(), at + 1)) >= 0:
            for position, end in enumerate(ends):
                start = end - len(self.prompt.tokens[position])
                mask[position] |= start < at + len(wanted) and end > at
        mask &= ~visual
        if not mask.any():
            raise InputError(
                f"`word` {word!r} does not stand in {self.prompt.problem_id!r}; expected text of its prompt: {_CALL}"
            )
        return mask

    def _rectangle(self, rectangle: Sequence[int]) -> Tensor:
        if len(rectangle) != 4 or not all(isinstance(n, int) for n in rectangle):
            raise InputError(
                f"`rectangle` is {rectangle!r}; expected first row, first column, last row, last column: "
                "bench.select(rectangle=(0, 0, 1, 3))"
            )
        top, left, bottom, right = rectangle
        row, column = self.prompt.grid[:, 1], self.prompt.grid[:, 2]
        mask = (row >= top) & (row <= bottom) & (column >= left) & (column <= right) & (row >= 0)
        if not mask.any():
            raise InputError(
                f"`rectangle` {tuple(rectangle)} holds no visual token of {self.prompt.problem_id!r}, whose grids are "
                f"{[grid[1:] for grid in self.prompt.grids]}: bench.select(rectangle=(0, 0, 1, 1))"
            )
        return mask

    def _kind(self, kind: str) -> Tensor:
        names = {one.name.lower(): one for one in TokenKind}
        if kind not in names:
            raise InputError(
                f"`kind` is {kind!r}{nearest(kind, names)}; expected one of {', '.join(names)}: bench.select(kind='visual')"
            )
        return self.prompt.kinds == names[kind]

    def _stratum(self, stratum: str, tau: float) -> Tensor:
        """As a patch selects: among visual tokens, each image with a threshold of its own, or all where there are none."""
        visual = self.prompt.kinds == TokenKind.VISUAL
        within = visual if bool(visual.any()) else torch.ones_like(visual)
        values: Any = {"select": stratum, "tau": tau}
        selection = Selection(**values)
        selection.check(self.shape[0])
        cells = torch.zeros(self.shape, dtype=torch.bool)
        cells[:, within] = select(
            selection,
            self.prompt,
            self.entropy[:, within],
            layers=range(self.shape[0]),
            within=within,
            groups=self.prompt.image_index[within] if bool(visual.any()) else None,
        ).cpu()
        return cells
