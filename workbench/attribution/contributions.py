"""What each component of two models contributes to how their lens predictions differ; pure tensors.

1. A residual stream is the sum of what was written into it: embedding, every head, every MLP. Logits are W (g * r) / s, with
   the final norm's gain g and scale s = sqrt(mean(r^2) + eps). From base (b) to RLVR (r) they change by, exactly,

       sum over components of  W_b (g_b * (write_r - write_b)) / s_b      the base's norm scale frozen
       + W_b (g_b * r_r) (1/s_r - 1/s_b)                                 ``scale``: the change of the norm's scale
       + W_r (g_r * r_r) / s_r - W_b (g_b * r_r) / s_r                   ``unembedding``: the change of gain, W and bias.

2. A measure of the change is split over these terms along the straight path from the base's logits to RLVR's: its derivative by
   the logits, averaged over the path, times each term (Aumann and Shapley; 16 Gauss-Legendre nodes). So contributions
   sum to the whole: KL(base || rlvr) in nats, a logit difference, a log probability in nats, or a probability.

``scale`` is the error of freezing the norm's scale, as transformer_lens.tools.analysis.direct_logit_attribution does.
Everything here is computed in float64 (on the CPU for a device that has none); what is added up are the models' own activations.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attribution.final_head import FinalHead
from workbench.errors import InputError
from workbench.lens.kl import kl_of_logits
from workbench.lens.precision import double
from workbench.names import METRICS, Metric

NODES = 16
CHUNK = 1 << 24
"""Logits at a time."""


@dataclass(frozen=True)
class Component:
    """Something that writes into the residual stream."""

    kind: Literal["embedding", "head", "mlp", "attention bias", "vision"]
    """``vision``: visual features that the decoder adds after a layer (Qwen3-VL)."""
    layer: int
    head: int | None = None

    @property
    def name(self) -> str:
        """ "embedding", "L3H1", "L3 MLP"."""
        if self.kind == "embedding":
            return self.kind
        if self.kind == "head":
            return f"L{self.layer}H{self.head}"
        return f"L{self.layer} {self.kind.replace('mlp', 'MLP')}"


@dataclass(frozen=True)
class Answer:
    """Where a right and a wrong response part, and how: next-token ids after ``position``."""

    position: int
    right: int
    wrong: int


@dataclass(frozen=True, eq=False)
class Split:
    """One measure of the change, split; sums over cells divided by their number."""

    total: float
    """The measured change: the KL, or the measure of RLVR minus that of base."""
    base: dict[Component, float]
    """What the base's own component contributes, through the base's frozen head."""
    rlvr: dict[Component, float]
    """What the RLVR model's component would, through the same head."""
    scale: float
    unembedding: float

    @property
    def change(self) -> dict[Component, float]:
        """Contribution of each component to the change."""
        return {component: self.rlvr[component] - self.base[component] for component in self.rlvr}

    @property
    def explained(self) -> float:
        """The sum of all terms."""
        return sum(self.change.values()) + self.scale + self.unembedding


Writes = Callable[[Component, Int[Tensor, " cells"]], Float[Tensor, "cells hidden"]]
"""(component, positions of the cells) -> what it wrote there."""


def check_metrics(metrics: Any) -> tuple[Metric, ...]:
    """The metrics as a tuple; InputError for none, an unknown one, or a bare string."""
    names = [*metrics] if isinstance(metrics, Iterable) and not isinstance(metrics, str) else []
    unknown = [name for name in names if name not in METRICS]
    if not names or unknown or len({*names}) < len(names):
        raise InputError(
            f"`metrics` is {metrics!r}; expected some of {', '.join(METRICS)}, each once: "
            'attribute(pair, problems, metrics=["kl", "logit_difference"])'
        )
    return cast(tuple[Metric, ...], tuple(names))


def split_change(
    metric: Metric,
    components: Iterable[Component],
    cells: Sequence[tuple[int, int]],
    residuals: tuple[Float[Tensor, "cells hidden"], Float[Tensor, "cells hidden"]],
    writes: tuple[Writes, Writes],
    heads: tuple[FinalHead, FinalHead],
    answer: Answer | None = None,
) -> Split:
    """Split one measure of the change at some (layer, position) cells over components; (base, RLVR) in all pairs.

    A component counts at the cells of its own and of later layers; visual features that follow a layer, at those of later ones.
    """
    base, rlvr = (head.double() for head in heads)
    layer, position = (torch.tensor(axis) for axis in zip(*cells, strict=True))
    readings, total, scale, unembedding = [], 0.0, 0.0, 0.0
    size = max(1, CHUNK // len(base.weight))
    for start in range(0, len(cells), size):
        r_base, r_rlvr = (double(r[start : start + size]) for r in residuals)
        s_base, s_rlvr = base.scale(r_base), rlvr.scale(r_rlvr)
        z_base, z_rlvr = base.logits(r_base), rlvr.logits(r_rlvr)
        slope = mean_slope(metric, z_base, z_rlvr, answer)
        direction = (slope @ base.weight) * base.gain * base.multiplier
        unscaled = (direction * r_rlvr).sum(-1, keepdim=True)
        bias = 0.0 if base.bias is None else (slope @ base.bias * base.multiplier).sum()
        readings.append(direction / s_base)
        scale += float((unscaled * (1 / s_rlvr - 1 / s_base)).sum())
        unembedding += float((slope * z_rlvr).sum() - (unscaled / s_rlvr).sum() - bias)
        total += float(measure(metric, z_base, z_rlvr, answer).sum())
    reading, by_side = torch.cat(readings), ({}, {})
    for component in components:
        later = layer >= component.layer + (component.kind == "vision")
        for side, of in zip(by_side, writes, strict=True):
            wrote = double(of(component, position[later]))
            side[component] = float((wrote * reading[later]).sum()) / len(cells)
    count = len(cells)
    return Split(total / count, *by_side, scale / count, unembedding / count)


def measure(metric: Metric, z_base: Tensor, z_rlvr: Tensor, answer: Answer | None) -> Tensor:
    """The measured change of every cell, from logits (cells, vocabulary)."""
    if metric == "kl":
        return kl_of_logits(z_base, z_rlvr)
    return value(metric, z_rlvr, answer) - value(metric, z_base, answer)


def value(metric: Metric, logits: Tensor, answer: Answer | None) -> Tensor:
    """A measure of one model's logits (..., vocabulary)."""
    assert answer is not None
    if metric == "logit_difference":
        return logits[..., answer.right] - logits[..., answer.wrong]
    log_probability = logits[..., answer.right] - logits.logsumexp(-1)
    return log_probability.exp() if metric == "probability" else log_probability


def mean_slope(metric: Metric, z_base: Tensor, z_rlvr: Tensor, answer: Answer | None) -> Tensor:
    """The measure's derivative by the logits, averaged over the straight path from base to RLVR; (cells, vocabulary)."""

    def averaged(of: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of the probabilities, over the path."""
        mean = torch.zeros_like(z_base)
        for node, weight in zip(*np.polynomial.legendre.leggauss(NODES), strict=True):
            mean += 0.5 * weight * of(torch.lerp(z_base, z_rlvr, 0.5 * (node + 1)).softmax(-1))
        return mean

    if metric == "kl":
        return averaged(lambda p: p) - z_base.softmax(-1)
    assert answer is not None
    right = torch.zeros_like(z_base)
    right[:, answer.right] = 1.0
    if metric == "logit_difference":
        right[:, answer.wrong] -= 1.0
        return right
    if metric == "log_probability":
        return right - averaged(lambda p: p)
    return averaged(lambda p: p[:, answer.right, None] * (right - p))
