"""What cells cost before any runs: multiply-adds and bytes from configs, over what a card or a core achieves.

1. A forward of n tokens through k decoder layers takes ``2 n`` operations a weight, and attention ``2 n^2`` a layer and
   channel; a backward to the input alone takes as many again (the weights are frozen).
2. The lens takes ``2 n`` operations for each entry of the unembedding, at every layer.
3. A decoded token reads every weight once, for all samples together, and its own sample's keys and values.

`cell_cost` is this implementation, `released_cost` a loop as the paper's released code runs it: both whole models, the vision
tower and the whole unembedding in every iteration, and all of it again for every sample. Estimates, within a factor of two or so.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from workbench.conditions import Named
from workbench.errors import InputError
from workbench.interventions import Patch, Replay
from workbench.mixtures import CrossSample, Extrapolate
from workbench.models.presets import ROLES
from workbench.sweeps.cells import Cell, by_problem, folder_of, load_set
from workbench.sweeps.spec import PairSource, Sweep
from workbench.views.tables import duration

if TYPE_CHECKING:
    from rich.table import Table

TEXT = 300
"""Tokens of a prompt beside its pictures, where only configs are known."""


@dataclass(frozen=True)
class Machine:
    """What one worker achieves: not the data sheet's peak."""

    flops: float
    """Operations a second."""
    bandwidth: float
    """Bytes a second from memory."""


CORE, CARD = Machine(2e10, 1e10), Machine(3e14, 2e12)
"""A CPU core; a card of the H100's kind in bfloat16."""


@dataclass(frozen=True)
class Shape:
    """The sizes of one model."""

    layers: int
    hidden: int
    layer: int
    """Weights of one decoder layer."""
    vocabulary: int
    vision: int
    """Weights of the vision tower."""
    keys: int
    """Key and value entries of a token in one layer."""
    bytes: int = 2
    """Of a weight."""

    @classmethod
    def of(cls, config: Mapping[str, Any], bytes: int = 2) -> "Shape":
        """From a config's dictionary."""
        text = {**config, **(config.get("text_config") or {})}
        hidden, heads = text["hidden_size"], text["num_attention_heads"]
        width = text.get("head_dim") or hidden // heads
        keys = 2 * width * (text.get("num_key_value_heads") or heads)
        layer = hidden * (2 * width * heads + keys) + 3 * hidden * text["intermediate_size"]
        tower = config.get("vision_config") or {}
        side = tower.get("hidden_size") or tower.get("embed_dim") or 0
        deep = tower.get("depth") or tower.get("num_hidden_layers") or 0
        vision = deep * (4 * side**2 + 3 * side * tower.get("intermediate_size", 4 * side))
        return cls(text["num_hidden_layers"], hidden, layer, text["vocab_size"], vision, keys, bytes)

    @property
    def weights(self) -> int:
        """All of them, embedding and unembedding included."""
        return self.layers * self.layer + 2 * self.vocabulary * self.hidden + self.vision

    def forward(self, tokens: float, layers: int | None = None, seen: float | None = None) -> float:
        """Operations of `tokens` through the first `layers`, with attention to `seen` tokens."""
        attention = 2 * tokens * (seen or tokens) * self.hidden
        return (self.layers if layers is None else layers) * (2 * tokens * self.layer + attention)

    def lens(self, tokens: float, layers: int) -> float:
        """Operations of reading the whole vocabulary at some layers."""
        return 2 * tokens * layers * self.hidden * self.vocabulary

    def tower(self, visual: float) -> float:
        """Operations of the vision tower, which sees four patches a token."""
        return 2 * 4 * visual * self.vision


@dataclass(frozen=True)
class Prompt:
    """Lengths of a prompt and its responses, in tokens."""

    visual: float
    text: float = TEXT
    response: float = 512
    samples: int = 16

    @property
    def length(self) -> float:
        """All of the prompt."""
        return self.visual + self.text


@dataclass(frozen=True)
class Cost:
    """Operations and bytes; they add."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.flops * times, self.bytes * times)

    def seconds(self, machine: Machine) -> float:
        """On one worker."""
        return self.flops / machine.flops + self.bytes / machine.bandwidth


def decoding(shape: Shape, prompt: Prompt, samples: int) -> Cost:
    """A prefill, and all samples from it."""
    prefill = shape.tower(prompt.visual) + shape.forward(prompt.length)
    body = shape.weights - shape.vision - shape.vocabulary * shape.hidden
    cached = samples * shape.layers * shape.keys * (prompt.length + prompt.response / 2)
    traffic = prompt.response * shape.bytes * (body + cached)
    return Cost(prefill + samples * prompt.response * 2 * body, traffic)


def shared_cost(shape: Shape, prompt: Prompt, condition: Named) -> Cost:
    """What cells of one problem have in common: the base's targets, and the drift without an intervention."""
    if isinstance(condition, str | CrossSample | Extrapolate):
        return Cost()
    layers = _layers(shape, condition)
    targets = (
        shape.tower(prompt.visual) + shape.forward(prompt.length, layers) + shape.lens(prompt.visual, layers)
    )
    return Cost(targets * (2 if isinstance(condition, Patch) else 1))


def drift_cost(shape: Shape, prompt: Prompt) -> Cost:
    """Both models' whole lens over a prompt's visual cells."""
    return Cost(
        2
        * (
            shape.tower(prompt.visual)
            + shape.forward(prompt.length)
            + shape.lens(prompt.visual, shape.layers)
        )
    )


def cell_cost(shape: Shape, prompt: Prompt, condition: Named) -> Cost:
    """One cell, without what it shares with others of its problem."""
    cost = decoding(shape, prompt, 1) + decoding(shape, prompt, prompt.samples)
    if isinstance(condition, CrossSample | Extrapolate):
        return cost * 2 + drift_cost(shape, prompt)
    if condition == "base":
        return cost
    if condition != "rlvr":
        cost += drift_cost(shape, prompt)
    if isinstance(condition, Patch) and condition.while_decoding:
        cost += _beside(shape, prompt, condition)
    if isinstance(condition, Replay):
        layers = _layers(shape, condition)
        entry = shape.tower(prompt.visual) + shape.forward(prompt.length, layers)
        moved = prompt.visual if condition.positions == "visual" else prompt.length
        step = 2 * shape.forward(moved, layers, prompt.length)  # there and back
        cost += Cost(entry + condition.iterations * step)
    return cost


def _beside(shape: Shape, prompt: Prompt, patch: Patch) -> Cost:
    """The base reading along, up to the last patched layer, and its lens at each of these."""
    responses = prompt.samples + 1
    read = decoding(shape, prompt, 1) + decoding(shape, prompt, prompt.samples)
    lens = shape.lens(responses * prompt.response, len(patch.patched)) if patch.select != "all" else 0.0
    return read * ((patch.patched[-1] + 1) / shape.layers) + Cost(lens)


def released_cost(shape: Shape, prompt: Prompt, condition: Named) -> Cost:
    """One (problem, condition) of the released loop: everything anew for the greedy response and for every sample."""
    once = decoding(shape, prompt, 1)
    if isinstance(condition, CrossSample | Extrapolate):
        once *= 2
    if isinstance(condition, Replay):
        layers = _layers(shape, condition)
        whole = shape.tower(prompt.visual) + shape.forward(prompt.length) + shape.lens(prompt.length, 1)
        step = 2 * whole + 2 * shape.lens(prompt.visual, layers)
        back = shape.forward(prompt.length, layers) + shape.lens(prompt.visual, layers)
        once += Cost(condition.iterations * (step + back))
    elif isinstance(condition, Patch):
        once += Cost(
            2
            * (
                shape.tower(prompt.visual)
                + shape.forward(prompt.length)
                + shape.lens(prompt.length, shape.layers)
            )
        )
    return once * (1 + prompt.samples)


def memory(base: Shape, rlvr: Shape, prompt: Prompt, conditions: Sequence[Named] = ()) -> float:
    """Bytes of one worker: both models, the samples' keys and values, and the residuals that drift is measured on.

    Keys and values are those of both models where a condition lets both read a response.
    """
    both = any(
        isinstance(c, CrossSample | Extrapolate) or getattr(c, "while_decoding", False) for c in conditions
    )
    cached = prompt.samples * rlvr.layers * rlvr.keys * (prompt.length + prompt.response) * (1 + both)
    residuals = rlvr.layers * prompt.visual * rlvr.hidden
    return (base.weights + rlvr.weights + cached + residuals) * rlvr.bytes


def group_cost(shape: Shape, prompt: Prompt, conditions: Sequence[Named], seeds: int = 1) -> Cost:
    """All cells of one problem: each condition for every seed, what they share once."""
    cost = drift_cost(shape, prompt) if any(c != "base" for c in conditions) else Cost()
    kinds = {
        (_layers(shape, c), type(c), getattr(c, "direction", "")): c
        for c in conditions
        if not isinstance(c, str)
    }
    for condition in kinds.values():
        cost += shared_cost(shape, prompt, condition)
    for condition in conditions:
        cost += cell_cost(shape, prompt, condition) * seeds
    return cost


def _layers(shape: Shape, condition: Named) -> int:
    if isinstance(condition, Patch):
        return len(condition.patched)
    return max(condition.loss_layers(shape.layers)) + 1 if isinstance(condition, Replay) else shape.layers


# --- of a sweep ----------------------------------------------------------------------------------------------


def plan_table(sweep: Sweep, cells: Sequence[Cell], device: str, throughput: float | None = None) -> "Table":
    """What a sweep would cost, pair by pair and set by set, for the terminal."""
    from rich.table import Table

    if throughput is not None and not throughput > 0:
        raise InputError(
            f"`throughput` is {throughput:g}; expected TFLOP/s above 0: workbench sweep plan sweep.yaml --throughput 300"
        )
    machine = CARD if device == "cuda" else CORE
    machine = machine if throughput is None else Machine(throughput * 1e12, machine.bandwidth)
    content = {cell.key for cell in cells}
    table = Table(
        "pair", "problems", "cells", "base targets", "at most", "GB a worker",
        title=f"{len(cells)} cells, {len(content)} different", title_justify="left",
    )  # fmt: skip
    conditions = {pair.title: _conditions(sweep, pair) for pair in sweep.pairs}
    groups = by_problem(cells)
    for pair in sweep.pairs:
        base, rlvr = (shape_of(pair, role) for role in ("base", "rlvr"))
        for problems in sweep.problems:
            label = problems.label
            here = [group for name, group in groups.items() if name[:2] == (pair.title, label)]
            longest = sweep.max_new_tokens or (pair.preset.longest_answer if pair.preset else 1024)
            prompt = Prompt(_visual(pair, load_set(problems)), response=longest, samples=sweep.samples)
            cost, makes = Cost(), 0
            for group in here[:1]:
                counted: list[Named] = [conditions[pair.title][cell.intervention] for cell in group]
                cost = group_cost(rlvr, prompt, counted) * len(here)
                makes = sum(not isinstance(condition, str) for condition in counted) * len(here)
            table.add_row(
                pair.title, label, str(sum(map(len, here))), f"{len(here)} for {makes}",
                duration(cost.seconds(machine)), f"{memory(base, rlvr, prompt, list(conditions[pair.title].values())) / 1e9:.2f}",
            )  # fmt: skip
    where = "a card" if device == "cuda" else "a core"
    table.caption = (
        f"time of one worker, every response as long as it may be; GB of models and tensors; {where} achieves "
        f"{machine.flops / 1e12:g} TFLOP/s and {machine.bandwidth / 1e9:g} GB/s"
    )
    table.caption_justify = "left"
    return table


def shape_of(pair: PairSource, role: str) -> Shape:
    """A model's sizes, from its config on this machine."""
    config = json.loads((folder_of(pair, role) / "config.json").read_text())
    kind = (
        pair.dtype
        or (pair.preset.dtype if pair.preset else None)
        or config.get("dtype")
        or config.get("torch_dtype")
    )
    return Shape.of(config, {"float32": 4, "float64": 8}.get(str(kind), 2))


def _conditions(sweep: Sweep, pair: PairSource) -> dict[str, Named]:
    return sweep.conditions(pair, shape_of(pair, "rlvr").layers)


def _visual(pair: PairSource, problems: Sequence[Any]) -> float:
    """Visual tokens of the first few problems on average, as the pair's processor cuts their pictures."""
    from workbench.machine.prompt_sizes import QWEN_VL, configured_budget, visual_grid
    from workbench.models.checkpoints import read_config

    settings = json.loads((folder_of(pair, "rlvr") / "config.json").read_text()).get("vision_config") or {}
    patch, merge = settings.get("patch_size", 14), settings.get("spatial_merge_size", 2)
    config: Any = None
    if settings.get("model_type", "").removesuffix("_vision") in QWEN_VL:
        config = read_config("rlvr", folder_of(pair, "rlvr"))
    preset = pair.preset
    readers = (preset and preset.processor, *ROLES)

    def configured(videos: bool) -> tuple[int, int] | None:
        if config is None:
            return None
        budgets = (configured_budget(folder_of(pair, r), config, videos=videos) for r in readers if r)
        return next((budget for budget in budgets if budget), None)

    still = (preset and preset.image_pixels) or configured(videos=False)
    moving = (preset and preset.frame_pixels) or (
        configured(videos=True) if any(p.video for p in problems) else None
    )

    @cache
    def tokens(size: tuple[int, int], budget: tuple[int, int] | None) -> float:
        if config is not None:
            return math.prod(visual_grid(config, size, budget)) / merge**2
        least, most = budget or (1, 1280 * (patch * merge) ** 2)
        return math.ceil(min(max(math.prod(size), least), most) / (patch * merge) ** 2)

    counts = [
        sum(tokens(p.size, still) for p in problem.images)
        + sum(tokens(p.size, moving) for p in problem.video) / settings.get("temporal_patch_size", 2)
        for problem in islice(problems, 8)
    ]
    return sum(counts) / max(1, len(counts))
