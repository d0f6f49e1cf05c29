"""An intervention that the package does not know: a value, what it is at a prompt, and one registered function."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

import workbench as wb


@dataclass(frozen=True)
class Zeroed:
    """The RLVR model's residual stream is zero at every visual position, before one layer."""

    layer: int
    title: str = "zeroed"
    answered_by: str = "rlvr"
    drawn_by_engine: bool = False

    @property
    def described(self):
        return asdict(self)


@dataclass(frozen=True, eq=False)
class ZeroedCells:
    problem_id: str
    sites: tuple[int, ...]
    chosen: Tensor

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        chosen = torch.nn.functional.pad(self.chosen, (0, hidden.shape[-2] - len(self.chosen)))
        return hidden.masked_fill(chosen.to(hidden.device)[:, None], 0.0)


@wb.prepare.register
def _(condition: Zeroed, pair, prompts, **others):
    return [ZeroedCells(p.problem_id, (condition.layer,), p.kinds == wb.TokenKind.VISUAL) for p in prompts]
