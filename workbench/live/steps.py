"""`Steps`: a selection that can be undone and redone together with what is shown, and those who hear of every change."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.errors import InputError
from workbench.live.choose import Ground
from workbench.live.mask import Mask
from workbench.live.trial import Trial

HOW = ("set", "add", "remove")


class Moment(NamedTuple):
    """What undo goes back to."""

    mask: Mask
    shown: int


class Steps:
    """What of a bench is a selection."""

    ground: Ground
    trials: list[Trial]

    def __init__(self) -> None:
        self._heard: list[Callable[[], None]] = []

    def start(self, at: Moment) -> None:
        """Begin with nothing to undo."""
        self.now, self._past, self._future = at, list[Moment](), list[Moment]()

    @property
    def selection(self) -> Bool[Tensor, "layers positions"]:
        """The selected cells; set it to a mask, to spans (`Mask`), or to a function of the encoded prompt."""
        return self.now.mask.cells(*self.ground.shape)

    @selection.setter
    def selection(self, cells: Any) -> None:
        value = cells(self.ground.prompt) if callable(cells) else cells
        mask, (layers, positions) = torch.as_tensor(value), self.ground.shape
        if isinstance(cells, Mask):
            mask = cells.cells(layers, positions)
        if mask.dtype != torch.bool or mask.shape not in ((positions,), (layers, positions)):
            raise InputError(
                f"`selection` is {mask.dtype} {tuple(mask.shape)}; expected bool ({positions},) or ({layers}, {positions}), "
                "layers and positions: bench.selection = bench.prompt.kinds == 1"
            )
        self.move(Moment(Mask.of(mask.expand(layers, positions)), self.now.shown))

    @property
    def mask(self) -> Mask:
        """The selection as spans."""
        return self.now.mask

    def select(self, *positions: Any, how: str = "set", **where: Any) -> Mask:
        """Select cells, or add them to the selection, or remove them from it; the arguments are those of `Ground.choose`.

        Raises:
            InputError: what it refuses, or an unknown ``how``.
        """
        if how not in HOW:
            raise InputError(
                f"`how` is {how!r}; expected one of {', '.join(HOW)}: bench.select(word='red', how='add')"
            )
        cells, before = self.ground.choose(*positions, **where), self.selection
        self.selection = {"set": cells, "add": before | cells, "remove": before & ~cells}[how]
        return self.mask

    def invert(self) -> Mask:
        """Select what was not, in the layers of the selection; in all of them where nothing was."""
        before, mask = self.selection, self.mask
        rows = torch.zeros(len(before), dtype=torch.bool)
        rows[list(mask.layers) or slice(None)] = True
        self.selection = ~before & rows[:, None]
        return self.mask

    def clear(self) -> Mask:
        """Select nothing."""
        self.selection = torch.zeros(self.ground.shape, dtype=torch.bool)
        return self.mask

    @property
    def trial(self) -> Trial:
        """The one that is shown."""
        return self.trials[self.now.shown]

    @property
    def can_undo(self) -> bool:
        """Whether there is anything to undo."""
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether anything was undone."""
        return bool(self._future)

    def undo(self) -> Trial:
        """Go back to the selection and the answers before; the list of trials stays."""
        if self._past:
            self._future.append(self.now)
            self.now = self._past.pop()
            self.tell()
        return self.trial

    def redo(self) -> Trial:
        """Take an undo back."""
        if self._future:
            self._past.append(self.now)
            self.now = self._future.pop()
            self.tell()
        return self.trial

    def move(self, to: Moment) -> None:
        """Go to another selection or trial; what was undone is gone."""
        self._past.append(self.now)
        self.now, self._future = to, []
        self.tell()

    def drop(self, number: int, before: int) -> None:
        """Go on as if the trial of that number, which is gone, had never been shown after the one ``before``."""
        self._past = [one for one in self._past if one.shown != number]
        self._future = [one for one in self._future if one.shown != number]
        if self.now.shown == number:
            self.now = Moment(self.now.mask, before)
            if self._past and self._past[-1] == self.now:
                self._past.pop()
        self.tell()

    def listen(self, heard: Callable[[], None]) -> None:
        """Have a function called after every change, in whatever thread it happens."""
        self._heard.append(heard)

    def forget(self, heard: Callable[[], None]) -> None:
        """Call it no more."""
        self._heard = [one for one in self._heard if one != heard]

    def tell(self) -> None:
        """Call those who listen."""
        for heard in self._heard:
            heard()
