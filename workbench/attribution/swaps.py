"""What swapping one component between two models does: exactly, and by two approximations with gradients.

The *receiver* runs a prompt; at one component, over some positions, what it writes into the residual stream is replaced by what
the *donor*'s component wrote there on the same prompt. The effect is the metric with the swap minus that without:

- ``noising``: the receiver is the RLVR model, the donor the base: what is lost of RLVR's change without the component;
- ``denoising``: the receiver is the base, the donor the RLVR model: what the component brings of it alone.

The KL is always KL(base || rlvr), of the patched model's lens and the other one's as it is, so in both directions a
negative effect brings the two models together.

``exact``: every swap is a row of a batch. A row joins at its component's layer, until where it equals the receiver, so that
earlier layers, embedding and vision tower are not computed again.
``slopes``: the effect to first order, (donor's write - receiver's) times the metric's gradient at the receiver (attribution
patching), or times the coefficients that RelP propagates (arXiv 2508.21258); one forward and one backward for all components and
metrics. transformer_lens.tools.analysis.attribution_patching runs one model on token ids, one metric at a time.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.attribution.bridge import Activations, Bridge
from workbench.attribution.contributions import Answer, Component, value
from workbench.attribution.final_head import FinalHead
from workbench.lens.kl import kl_of_logits
from workbench.names import Metric

Direction = Literal["noising", "denoising"]
DIRECTIONS: tuple[Direction, ...] = ("noising", "denoising")
ROWS = 128
"""Swaps that run side by side."""


@dataclass(frozen=True, eq=False)
class Side:
    """One model on one prompt."""

    bridge: Bridge
    wrote: Activations
    head: FinalHead


@dataclass(frozen=True, eq=False)
class Swap:
    """A component and where it is swapped."""

    component: Component
    positions: Bool[Tensor, " positions"]


@dataclass(frozen=True, eq=False)
class Aim:
    """What is measured of a receiver while components are swapped into it."""

    metrics: tuple[Metric, ...]
    receiver: Side
    donor: Side
    direction: Direction
    cells: Bool[Tensor, "layers positions"]
    """Where the KL is taken; its mean over these cells."""
    answer: Answer | None

    def divergence(
        self,
        layers: Sequence[int],
        hidden: Sequence[Float[Tensor, "rows positions hidden"]],
        *,
        frozen: bool = False,
    ) -> Tensor:
        """The part of some layers in the mean KL, (rows,), from what they return; ``frozen``: with the norm's scale constant."""
        pairs = [
            (layer, after) for layer, after in zip(layers, hidden, strict=True) if self.cells[layer].any()
        ]
        if not pairs:
            return hidden[0].new_zeros(len(hidden[0]))
        mine = torch.cat([after[:, self.cells[layer]] for layer, after in pairs], 1)
        wrote = self.donor.wrote.residuals
        theirs = torch.cat([wrote[layer][self.cells[layer]] for layer, _ in pairs])
        mine, theirs = self._logits(mine, frozen), self.donor.head.logits(theirs)
        base, rlvr = (theirs, mine) if self.direction == "noising" else (mine, theirs)
        return kl_of_logits(base, rlvr).sum(-1) / int(self.cells.sum())

    def at_end(
        self, metric: Metric, hidden: Float[Tensor, "rows positions hidden"], *, frozen: bool = False
    ) -> Tensor:
        """A metric of the answer, from the last layer's residuals; (rows,)."""
        assert self.answer is not None
        return value(metric, self._logits(hidden[:, self.answer.position], frozen), self.answer)

    def _logits(self, hidden: Tensor, frozen: bool) -> Tensor:
        head = self.receiver.head
        return head.logits(hidden, head.scale(hidden).detach() if frozen else None)


def change_of(component: Component, donor: Side, receiver: Side) -> Float[Tensor, "positions hidden"]:
    """The donor's write minus the receiver's."""
    return write_of(component, donor) - write_of(component, receiver)


def write_of(component: Component, side: Side) -> Float[Tensor, "positions hidden"]:
    """What a component wrote into the residual stream at every position."""
    wrote, layer = side.wrote, component.layer
    match component.kind:
        case "embedding":
            return wrote.embedding
        case "head":
            heads = side.bridge.output_weights(layer)
            return wrote.heads[layer][:, component.head] @ heads[component.head]
        case "mlp":
            return wrote.mlps[layer]
        case "vision":
            return wrote.gaps[layer]
    bias = side.bridge.output_bias(layer)
    assert bias is not None
    return bias.expand_as(wrote.embedding)


@torch.no_grad()
def exact(aim: Aim, swaps: Sequence[Swap], *, rows: int = ROWS) -> Float[Tensor, "metrics swaps"]:
    """The effect of every swap, by running the receiver with it.

    Args:
        aim: what is measured of which model.
        swaps: what is swapped; embedding, heads and MLPs.
        rows: how many run side by side.
    """
    order = sorted(range(len(swaps)), key=lambda index: swaps[index].component.layer)
    effects = torch.zeros(len(aim.metrics), len(swaps))
    for start in range(0, len(order), rows):
        places = order[start : start + rows]
        effects[:, places] = _together(aim, [swaps[index] for index in places]).cpu()
    return effects


def _together(aim: Aim, swaps: Sequence[Swap]) -> Tensor:
    """Effects of swaps that are sorted by layer, in one pass; row 0 is the receiver as it is."""
    wrote, bridge = aim.receiver.wrote, aim.receiver.bridge
    first = swaps[0].component.layer
    entering = wrote.embedding if first == 0 else wrote.residuals[first - 1] + wrote.gaps[first - 1]
    hidden = output = entering[None]
    divergence = torch.zeros(1 + len(swaps), device=hidden.device)
    edits: dict[str, list[tuple[int, Tensor]]] = {}

    def edit(kind: str, layer: int, value: Tensor) -> Tensor:
        return _added(value, edits["head" if kind == "attn" else "mlp"])

    with bridge.edited(edit):
        for layer in range(first, bridge.depth):
            joining = [swap for swap in swaps if swap.component.layer == layer]
            edits = _edits(aim, joining, len(hidden))
            hidden = torch.cat([hidden, hidden[:1].expand(len(joining), -1, -1)])
            output = bridge.block(layer, _added(hidden, edits["embedding"]), wrote.calls[layer])
            if "kl" in aim.metrics:
                part = aim.divergence([layer], [output])
                divergence[: len(output)] += part - part[0]
            hidden = output + wrote.gaps[layer]
    changes = []
    for metric in aim.metrics:
        values = divergence if metric == "kl" else aim.at_end(metric, output)
        changes.append((values - values[0])[1:])
    return torch.stack(changes)


def _edits(aim: Aim, swaps: Sequence[Swap], first: int) -> dict[str, list[tuple[int, Tensor]]]:
    """What is added for swaps in rows from ``first`` on, by kind of component."""
    edits: dict[str, list[tuple[int, Tensor]]] = {"embedding": [], "head": [], "mlp": []}
    members = dict.fromkeys(swap.component for swap in swaps)
    changes = {component: change_of(component, aim.donor, aim.receiver) for component in members}
    for row, swap in enumerate(swaps, start=first):
        edits[swap.component.kind].append((row, changes[swap.component] * swap.positions[:, None]))
    return edits


def _added(value: Tensor, edits: Sequence[tuple[int, Tensor]]) -> Tensor:
    """The rows of ``value`` with what is added to some of them."""
    if not edits:
        return value
    changed = value.clone()
    for row, change in edits:
        changed[row] += change.to(changed.dtype)
    return changed


def slopes(aim: Aim, *, relevance: bool = False) -> "Slopes":
    """The metrics' gradients by what every component writes, at the receiver: one forward, and one backward of all metrics.

    ``relevance``: RelP's coefficients instead. Weights must not ask for gradients (`models.anatomy.frozen`).
    """
    with torch.enable_grad(), aim.receiver.bridge.relevance() if relevance else nullcontext():
        measured, writes = _measured(aim, frozen=relevance)
    each = torch.eye(len(measured), device=measured.device, dtype=measured.dtype)
    gradients = torch.autograd.grad(measured, writes, each, is_grads_batched=True, allow_unused=True)
    nothing = measured.new_zeros(len(measured), *writes[0].shape[1:])
    embedding, *blocks = (nothing if slope is None else slope[:, 0] for slope in gradients)
    return Slopes(embedding, blocks[::2], blocks[1::2])


@dataclass(frozen=True, eq=False)
class Slopes:
    """Gradients (metrics, positions, hidden) by the embedding, and by what attention and MLP of each layer write."""

    embedding: Tensor
    attention: Sequence[Tensor]
    mlp: Sequence[Tensor]

    @torch.no_grad()
    def effects(self, aim: Aim, swaps: Sequence[Swap]) -> Float[Tensor, "metrics swaps"]:
        """Approximate effects of swaps."""
        by_position: dict[Component, Tensor] = {}
        for swap in swaps:
            if swap.component not in by_position:
                by_position |= self._site(aim, swap.component)
        rows = {component: row for row, component in enumerate(by_position)}
        effects = torch.stack([*by_position.values()])[[rows[swap.component] for swap in swaps]]
        places = torch.stack([swap.positions for swap in swaps]).to(effects)
        return torch.einsum("smp,sp->ms", effects, places).float().cpu()

    def _site(self, aim: Aim, component: Component) -> dict[Component, Tensor]:
        """Effects (metrics, positions) of a component; of all heads of its layer at once, through the output projections."""
        layer = component.layer
        if component.kind != "head":
            slope = self.embedding if component.kind == "embedding" else self.mlp[layer]
            return {component: (slope * change_of(component, aim.donor, aim.receiver)).sum(-1)}
        products = [
            torch.einsum(
                "mpd,hwd,phw->mph",
                self.attention[layer],
                side.bridge.output_weights(layer),
                side.wrote.heads[layer],
            )
            for side in (aim.donor, aim.receiver)
        ]
        heads = (products[0] - products[1]).unbind(-1)
        return {Component("head", layer, head): effect for head, effect in enumerate(heads)}


def _measured(aim: Aim, *, frozen: bool) -> tuple[Tensor, list[Tensor]]:
    """The metrics, and what they are functions of: the embedding, then what attention and MLP of every layer write."""
    wrote, bridge = aim.receiver.wrote, aim.receiver.bridge
    hidden = wrote.embedding[None].clone().requires_grad_(True)
    writes, after = [hidden], []

    def keep(kind: str, layer: int, value: Tensor) -> Tensor:
        writes.append(value)
        return value

    with bridge.edited(keep):
        for layer in range(bridge.depth):
            after.append(bridge.block(layer, hidden, wrote.calls[layer]))
            hidden = after[-1] + wrote.gaps[layer]
    measured = [
        aim.divergence(range(bridge.depth), after, frozen=frozen)
        if metric == "kl"
        else aim.at_end(metric, after[-1], frozen=frozen)
        for metric in aim.metrics
    ]
    return torch.cat(measured), writes
