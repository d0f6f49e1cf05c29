"""The last norm and unembedding, frozen at one prompt."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from workbench.lens.precision import double


@dataclass(frozen=True, eq=False)
class FinalHead:
    """A final norm that divides by the root mean square, and the unembedding, as numbers."""

    gain: Float[Tensor, " hidden"]
    eps: float
    weight: Float[Tensor, "vocabulary hidden"]
    bias: Float[Tensor, " vocabulary"] | None = None
    multiplier: float = 1.0

    def scale(self, hidden: Tensor) -> Tensor:
        """The norm's scale, (..., 1)."""
        return (hidden.to(self.gain.dtype).square().mean(-1, keepdim=True) + self.eps).sqrt()

    def logits(self, hidden: Tensor, scale: Tensor | None = None) -> Tensor:
        """Logits (..., vocabulary) of residuals (..., hidden); ``scale`` in place of their own norm scale."""
        hidden = hidden.to(self.gain.dtype)
        scale = self.scale(hidden) if scale is None else scale
        logits = (hidden * self.gain / scale) @ self.weight.T
        return (logits if self.bias is None else logits + self.bias) * self.multiplier

    def double(self) -> "FinalHead":
        """The same in float64, as `precision.double`."""
        bias = None if self.bias is None else double(self.bias)
        return FinalHead(double(self.gain), self.eps, double(self.weight), bias, self.multiplier)
