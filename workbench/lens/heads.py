"""What turns a model's residual stream into logits, as numbers rather than modules: `LensHead`."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import InputError

# In place of -inf, whose differences are NaN: its exponential is 0 too, and it swallows what is added to it.
_MASKED = -1e30


@dataclass(frozen=True, eq=False)
class LensHead:
    """One model's final norm and unembedding.

    Logits are `multiplier * (norm(h) @ weight.T + bias)`, then `softcap * tanh(logits / softcap)` if there is
    a softcap (Gemma 2). Entries of `bias` may be -inf: vocabulary rows that are never predicted.

    Raises:
        InputError: shapes that do not fit together; a softcap or multiplier that is not a positive number.
    """

    norm: Callable[[Tensor], Tensor]
    weight: Float[Tensor, "vocabulary hidden"]
    bias: Float[Tensor, " vocabulary"] | None = None
    softcap: float | None = None
    multiplier: float = 1.0
    changes: torch.dtype | None = None
    """Of the product of what differs from the first distribution, where heads share one `weight` (`blocks`); None: as it is."""

    def __post_init__(self):
        if self.weight.ndim != 2 or 0 in self.weight.shape:
            raise InputError(
                f"`weight` must be a (vocabulary, hidden) matrix, found shape {tuple(self.weight.shape)}; "
                "pass `LensHead(norm, model.get_output_embeddings().weight)`"
            )
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise InputError(
                f"`bias` must have shape ({len(self.weight)},), one entry per row of `weight`, found "
                f"{tuple(self.bias.shape)}; pass `bias=None` if the unembedding has none"
            )
        for name, value in (("softcap", self.softcap), ("multiplier", self.multiplier)):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"`{name}` must be a positive number, found {value}; leave it out for none")

    def __repr__(self):
        return f"LensHead(vocabulary={len(self.weight)}, hidden={self.weight.shape[1]})"

    def normed(self, residual: Tensor, dtype: torch.dtype) -> Tensor:
        """The final norm, in the precision that `write_products` multiplies."""
        hidden = self.norm(residual)
        # Only CUDA multiplies half-precision operands into float32; a CPU is no slower after widening them.
        halves = hidden.dtype == self.weight.dtype and hidden.dtype in (torch.float16, torch.bfloat16)
        return hidden if hidden.is_cuda and halves and dtype == torch.float32 else hidden.to(dtype)

    def multiplied(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """Some rows of the unembedding as residuals `normed` to a dtype are multiplied by; widened, they are a copy."""
        return self.weight[rows].t().to(dtype)

    def write_products(self, out: Tensor, hidden: Tensor, weight: Tensor) -> None:
        """Write the products of normed residuals and some vocabulary rows, `multiplied`, into `out`, in its precision."""
        if hidden.dtype == out.dtype:
            torch.mm(hidden, weight, out=out)
        else:
            out.copy_(torch.mm(hidden, weight, out_dtype=out.dtype))

    def finish(self, out: Tensor, rows: slice) -> None:
        """Make products the logits of their vocabulary rows, in place: bias, multiplier, softcap."""
        if self.bias is not None:
            out += self.bias[rows].to(out.dtype).clamp(min=_MASKED)
        if self.multiplier != 1.0:
            out *= self.multiplier
        if self.softcap is not None:
            out.div_(self.softcap).tanh_().mul_(self.softcap)

    def logits(self, residual: Float[Tensor, "positions hidden"]) -> Float[Tensor, "positions vocabulary"]:
        """The logits of some residuals all at once, differentiable in them; float32, or float64 for float64 ones."""
        dtype = torch.float64 if residual.dtype == torch.float64 else torch.float32
        logits = self.norm(residual).to(dtype) @ self.weight.t().to(dtype)
        if self.bias is not None:
            logits = logits + self.bias.to(dtype).clamp(min=_MASKED)
        logits = logits * self.multiplier
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def masked(self) -> Bool[Tensor, " vocabulary"]:
        """Vocabulary rows of probability 0. A softcap makes every logit finite, so it leaves none."""
        if self.bias is None or self.softcap is not None:
            return torch.zeros(len(self.weight), dtype=torch.bool, device=self.weight.device)
        return self.bias == -math.inf
