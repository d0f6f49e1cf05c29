"""Numbers that leave a precision: NaN or infinity in a forward ends it, with the place where it began.

One such number in a residual stream reaches everything after it: all later positions, all later layers. So what a reading
or an answer rests on is checked once, where it leaves the model; only if that fails does a second pass look for the first place.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from workbench.errors import InputError


class NotFiniteError(InputError):
    """NaN or infinity in a forward: which row of the batch, at which position of its prompt, after which layer."""

    def __init__(self, message: str, row: int = 0, position: int = 0, layer: int | None = None) -> None:
        super().__init__(message)
        self.row, self.position, self.layer = row, position, layer

    @classmethod
    def at(
        cls, model: Any, row: int, position: int, layer: int | None, dtype: torch.dtype
    ) -> "NotFiniteError":
        """With the place in words; layer -1 is what layer 0 receives, None the logits."""
        short = str(dtype).removeprefix("torch.")
        places = {
            None: "in the logits",
            -1: "before layer 0, in what words, pictures or an intervention put there",
        }
        wider = {"float16": '"bfloat16" or "float32"', "bfloat16": '"float32"'}
        advice = (
            f"take more room: load_pair(..., dtype={wider[short]})"
            if short in wider
            else "no precision holds them: look at the weights and at what an intervention wrote"
        )
        return cls(
            f"prompt {row} of the batch: {type(model).__name__} gives NaN or infinity in {short}, first at position {position} "
            f"{places.get(layer, f'after layer {layer}')}, so that nothing can be read or answered; {advice}",
            row,
            position,
            layer,
        )

    def of(self, what: str) -> "NotFiniteError":
        """The same, said of something that has a name."""
        words = str(self).replace(f"prompt {self.row} of the batch", what, 1)
        return type(self)(words, self.row, self.position, self.layer)


@contextmanager
def naming(problem_ids: Sequence[str]) -> Iterator[None]:
    """Meanwhile such an error names the problem of its row."""
    try:
        yield
    except NotFiniteError as error:
        raise error.of(f"problem {problem_ids[error.row]!r}") from None


def first_wrong(hidden: Tensor, real: Tensor) -> tuple[int, int] | None:
    """(row, position within the row's own prompt) of the first NaN or infinity; None where all is finite.

    Args:
        hidden: (batch, positions, any) of a padded batch, or of its last positions alone.
        real: (batch, all positions), 0 at padding.
    """
    last = hidden.shape[1]
    wrong = ~hidden.isfinite().all(-1) & real[:, -last:].to(hidden.device).bool()
    if not bool(wrong.any()):
        return None
    row, column = wrong.nonzero()[0].tolist()
    column += real.shape[1] - last
    return row, column - int((real[row, :column] == 0).sum())
