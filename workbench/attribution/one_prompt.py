"""One prompt attributed: both models behind TransformerLens, the cells and the answer that are measured, rows of the tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.attribution.bridge import bridge
from workbench.attribution.contributions import Answer, Component, split_change
from workbench.attribution.final_head import FinalHead
from workbench.attribution.swaps import DIRECTIONS, Aim, Side, Swap, exact, slopes, write_of
from workbench.decoding.likelihoods import response_ids
from workbench.errors import InputError
from workbench.estimates import divide
from workbench.lens.fused import summarise
from workbench.lens.strata import mask
from workbench.models.anatomy import Anatomy, frozen
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.names import Metric
from workbench.selection import ATTRIBUTED, Select, Selection, Threshold
from workbench.tracing.model_heads import lens_head


@dataclass(frozen=True)
class Cells:
    """Which cells the KL is taken at, by the base's entropy at each layer of a prompt.

    Raises:
        InputError: a value outside its range.
    """

    select: Select = "low"
    threshold: Threshold = ATTRIBUTED.threshold
    tau: float = ATTRIBUTED.tau
    tokens: Literal["visual", "text", "all"] | None = None
    """None: visual where the prompt has visual tokens, else all."""
    layers: tuple[int, ...] | None = None
    """None: every layer."""
    seed: int = 0
    """Of ``select="random"``."""

    def __post_init__(self) -> None:
        if self.tokens not in (None, "visual", "text", "all"):
            raise InputError(
                f"`tokens` is {self.tokens!r}; expected visual, text or all: Cells(tokens='visual')"
            )
        if self.layers is not None:
            layers = self.layers
            if (
                not isinstance(layers, Sequence)
                or isinstance(layers, str)
                or not layers
                or not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in layers)
            ):
                raise InputError(
                    f"`layers` is {layers!r}; expected decoder layers, from 0: Cells(layers=(3,))"
                )
            object.__setattr__(self, "layers", tuple(layers))
        self.selection.check(1)

    @property
    def selection(self) -> Selection:
        """Which are low, and which of them to take."""
        return Selection(self.select, self.threshold, self.tau, seed=self.seed)


@dataclass(frozen=True, eq=False)
class AttributedPrompt:
    """Both models on one prompt, which goes on with what the responses share."""

    name: str
    sides: tuple[Side, Side]
    """Base, RLVR."""
    anatomies: tuple[Anatomy, Anatomy]
    metrics: tuple[Metric, ...]
    cells: Bool[Tensor, "layers positions"]
    answer: Answer | None
    places: dict[str, Bool[Tensor, " positions"]]

    @classmethod
    def of(
        cls,
        pair: ModelPair,
        prompt: EncodedPrompt,
        chosen: Any,
        metrics: tuple[Metric, ...],
        said: tuple[str, str] | None,
    ) -> "AttributedPrompt":
        """Run both models on a prompt; ``said``: a right and a wrong response, for metrics of the answer."""
        length, answer = len(prompt), None
        if said is not None:
            prompt, answer = _parted(pair, prompt, said)
        sides = []
        for anatomy in (pair.base, pair.rlvr):
            behind = bridge(anatomy)
            wrote = behind.read(anatomy.placed(prompt.model_inputs))
            sides.append(Side(behind, wrote, final_head(anatomy, pair.vocab_size)))
        visual = (prompt.kinds == int(TokenKind.VISUAL)).to(pair.device)
        said_so_far = torch.arange(len(prompt), device=visual.device) >= length
        places = {
            "all": torch.ones_like(visual),
            "visual": visual,
            "text": ~visual & ~said_so_far,
            "response": said_so_far,
        }
        places = {name: place for name, place in places.items() if place.any()}
        cells = torch.zeros(pair.depth, len(prompt), dtype=torch.bool, device=pair.device)
        if "kl" in metrics:
            cells[:, :length] = _choose(chosen, pair, sides[0].wrote.residuals, visual[:length], length)
        return cls(
            prompt.problem_id, (sides[0], sides[1]), (pair.base, pair.rlvr), metrics, cells, answer, places
        )

    @property
    def components(self) -> list[Component]:
        """Embedding, heads and MLPs, in the order they write."""
        side = self.sides[0]
        heads = side.wrote.heads.shape[2]
        return [Component("embedding", 0)] + [
            component
            for layer in range(side.bridge.depth)
            for component in (
                *(Component("head", layer, head) for head in range(heads)),
                Component("mlp", layer),
            )
        ]

    @property
    def further(self) -> list[Component]:
        """What else is in the residual stream: biases of attention, visual features added between layers."""
        side, depth = self.sides[0], self.sides[0].bridge.depth
        biases = [
            Component("attention bias", layer)
            for layer in range(depth)
            if side.bridge.output_bias(layer) is not None
        ]
        gaps = [Component("vision", layer) for layer in range(depth) if side.wrote.gaps[layer].any()]
        return biases + gaps

    def direct(self, totals: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of ``Attribution.direct``; those of ``totals`` are appended to it."""
        direct_rows = []
        base, rlvr = self.sides
        for metric in self.metrics:
            cells = [(int(layer), int(position)) for layer, position in self.cells.nonzero().tolist()]
            if metric != "kl":
                assert self.answer is not None
                cells = [(base.bridge.depth - 1, self.answer.position)]
            layers, positions = zip(*cells, strict=True)
            split = split_change(
                metric,
                [*self.components, *self.further],
                cells,
                (base.wrote.residuals[layers, positions], rlvr.wrote.residuals[layers, positions]),
                (_reader(base), _reader(rlvr)),
                (base.head, rlvr.head),
                self.answer,
            )
            shared = {"problem": self.name, "metric": metric}
            for component, change in split.change.items():
                sides = {"base": split.base[component], "rlvr": split.rlvr[component], "change": change}
                direct_rows.append(shared | _named(component) | sides)
            for kind, change in (("norm scale", split.scale), ("unembedding", split.unembedding)):
                place = {"component": kind, "kind": kind, "layer": -1, "head": -1}
                direct_rows.append(shared | place | {"base": np.nan, "rlvr": np.nan, "change": change})
            error = float(divide(abs(split.scale), abs(split.total)))
            totals.append(
                shared
                | {"cells": len(cells), "total": split.total, "explained": split.explained}
                | {"scale_error": error}
            )
        return direct_rows

    def swaps(self) -> tuple[list[Swap], list[dict[str, Any]]]:
        """Every component at every place, and what it is called in the tables."""
        pairs = [(component, where) for component in self.components for where in self.places]
        swaps = [Swap(component, self.places[where]) for component, where in pairs]
        return swaps, [_named(component) | {"where": where} for component, where in pairs]

    def effects(self, approximations: Sequence[str], rows: int) -> list[dict[str, Any]]:
        """Rows of ``Attribution.effects``."""
        swaps, keys = self.swaps()
        base, rlvr = self.sides
        effect_rows = []
        for direction in DIRECTIONS:
            receiver, donor = (rlvr, base) if direction == "noising" else (base, rlvr)
            aim = Aim(self.metrics, receiver, donor, direction, self.cells, self.answer)
            measured = {"exact": exact(aim, swaps, rows=rows)}
            with frozen(self.anatomies[0]), frozen(self.anatomies[1]):
                for name in approximations:
                    measured[name] = slopes(aim, relevance=name == "relp").effects(aim, swaps)
            for row, metric in enumerate(self.metrics):
                shared = {"problem": self.name, "metric": metric, "direction": direction}
                effect_rows += [
                    shared | key | {name: float(values[row, column]) for name, values in measured.items()}
                    for column, key in enumerate(keys)
                    if (metric, key["where"]) != ("kl", "response")  # its cells come before
                ]
        return effect_rows


def final_head(anatomy: Anatomy, vocabulary: int) -> FinalHead:
    """A model's final norm and unembedding as numbers, in at least float32, checked against the modules.

    Raises:
        InputError: the norm is not a gain over the root mean square.
    """
    norm: Any = anatomy.norm
    wide = torch.promote_types(anatomy.dtype, torch.float32)
    bias = anatomy.unembedding.bias
    head = FinalHead(
        norm.weight.detach().to(wide),
        float(getattr(norm, "variance_epsilon", getattr(norm, "eps", None)) or 0.0),
        anatomy.unembedding.weight.detach()[:vocabulary].to(wide),
        None if bias is None else bias.detach()[:vocabulary].to(wide),
        anatomy.logit_multiplier,
    )
    with torch.no_grad():
        probe = torch.linspace(-1, 1, anatomy.hidden_size, device=anatomy.unembedding.weight.device)
        probe = probe[None].to(anatomy.dtype)
        logits = anatomy.logits(probe)[:, :vocabulary]
        miss = (head.logits(probe) - logits).abs().max()
    # The same numbers, summed in another order.
    if not miss <= 16 * torch.finfo(anatomy.dtype).eps * logits.abs().max().clamp_min(1):
        raise InputError(
            f"`pair` of the family {anatomy.family!r} has a final norm that is not a gain over the root mean square; "
            "expected one that is, as in Qwen2.5-VL: load_pair('shapes')"
        )
    return head


def _named(component: Component) -> dict[str, Any]:
    head = -1 if component.head is None else component.head
    return {"component": component.name, "kind": component.kind, "layer": component.layer, "head": head}


def _reader(side: Side) -> Callable[[Component, Tensor], Tensor]:
    return lambda component, positions: write_of(component, side)[positions]


def _parted(pair: ModelPair, prompt: EncodedPrompt, said: tuple[str, str]) -> tuple[EncodedPrompt, Answer]:
    """The prompt, continued with what both responses share, and the tokens that follow."""
    right, wrong = (response_ids(pair, text).tolist() for text in said)
    shared = next((i for i, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b), None)
    if shared is None:
        raise InputError(
            f"`responses` of {prompt.problem_id!r} do not differ before one of them ends; expected a right and a wrong one: "
            "attribute(..., responses=[('<answer> 3</answer>', '<answer> 4</answer>')])"
        )
    if shared:
        prompt = prompt.continued(torch.tensor(right[:shared]))
    return prompt, Answer(len(prompt) - 1, right[shared], wrong[shared])


def _choose(
    chosen: Any, pair: ModelPair, residuals: Tensor, visual: Tensor, length: int
) -> Bool[Tensor, "layers positions"]:
    """The cells of a prompt, from the base's residuals; ``length`` positions, before any response."""
    depth = pair.depth
    if not isinstance(chosen, Cells):
        cells = torch.zeros(depth, length, dtype=torch.bool, device=visual.device)
        for layer, position in chosen:
            cells[layer, position] = True
        return cells
    head = lens_head(pair.base, pair.vocab_size)
    entropy = [summarise(hidden, head, top_k=1).entropy for hidden in residuals[:, :length]]
    tokens = chosen.tokens or ("visual" if visual.any() else "all")
    candidates = {"visual": visual, "text": ~visual, "all": torch.ones_like(visual)}[tokens]
    cells = mask(torch.stack(entropy), chosen.selection, candidates=candidates)
    if chosen.layers is not None:
        of_layers = torch.zeros(depth, 1, dtype=torch.bool, device=cells.device)
        of_layers[list(chosen.layers)] = True
        cells = cells & of_layers
    if not cells.any():
        raise InputError(
            f"`cells` selects none of the {int(candidates.sum())} {tokens} positions; expected a larger share or other tokens: "
            "Cells(tau=0.4)"
        )
    return cells
