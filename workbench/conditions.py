"""Conditions: what a model is compared under, as values; none of the libraries that run them is needed here.

A condition is a plain model, ``"base"`` or ``"rlvr"``, or an intervention: a `Replay` (``replay`` learns its tokens) or a
`Patch` (``patching`` prepares it).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from workbench.errors import InputError

Select = Literal["low", "high", "all", "random"]
Threshold = Literal["max_fraction", "quantile", "fixed"]
SELECTS: tuple[str, ...] = get_args(Select)
THRESHOLDS: tuple[str, ...] = get_args(Threshold)
Site = Literal["tokens", "mid_tokens"]
Direction = Literal["base_to_rlvr", "reverse", "self"]
Alignment = Literal["paper", "released"]
Positions = Literal["all", "visual"]


@dataclass(frozen=True)
class Replay:
    """Which tokens to learn, and how. The defaults are the paper's, with K in proportion to the model's depth.

    Attributes:
        site: ``tokens``: x is added to layer 0's input, the loss covers K layers. ``mid_tokens``: x is added to the input of
            ``layer``, and the loss is that of this layer alone.
        select: which cells the loss covers: ``low``, of low entropy in the target's model; ``high``, all others; ``random``,
            as many as are low; ``all``.
        threshold: what makes a cell low: ``max_fraction``: at most ``tau`` of the largest entropy of its layer (the paper);
            ``quantile``: the lowest share ``tau``; ``fixed``: less than ``levels``.
        tau: the share, from 0 to 1.
        levels: for ``fixed``: an entropy in nats for each layer of the loss.
        only_where_base_lower: only cells whose entropy is lower in the target's model than in the learner's.
        alpha: the step size.
        layers: K, how many layers the loss covers. None: 16 of 28 layers, the paper's share of Qwen2.5-VL-7B, rounded.
        layer: for ``mid_tokens``: which.
        iterations: steps of descent.
        top_v: tokens that the KL covers, the target's most probable; None: the whole vocabulary.
        normalize: divide the loss by the number of visual positions.
        direction: ``base_to_rlvr``: tokens on the RLVR model, target base. ``reverse``: tokens on the base, target RLVR.
            ``self``: tokens on the RLVR model for a disturbed picture, target the same model on the clean one.
        alignment: ``paper``: the learner is read after the same layer as the target; ``released``: before it.
        patience: stop early after so many iterations without improvement; None: never.
        seed: of ``random``.

    Raises:
        InputError: a value outside its range, or two that do not go together.
    """

    site: Site = "tokens"
    select: Select = "low"
    threshold: Threshold = "max_fraction"
    tau: float = 0.4
    levels: tuple[float, ...] | None = None
    only_where_base_lower: bool = False
    alpha: float = 10.0
    layers: int | None = None
    layer: int | None = None
    iterations: int = 25
    top_v: int | None = 50
    normalize: bool = True
    direction: Direction = "base_to_rlvr"
    alignment: Alignment = "paper"
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("site", Site), ("direction", Direction), ("alignment", Alignment)):
            if getattr(self, name) not in get_args(kind):
                raise InputError(
                    f"`{name}` is {getattr(self, name)!r}; expected one of {', '.join(get_args(kind))}: "
                    f"Replay({name}={get_args(kind)[0]!r})"
                )
        for name, least in (("layers", 1), ("layer", 0), ("iterations", 0), ("top_v", 2), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(
                    f"`{name}` is {value!r}; expected a whole number of at least {least}: Replay({name}={least})"
                )
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise InputError(
                f"`alpha` is {self.alpha}; expected a step size of 0 or more: Replay(alpha=10.0)"
            )
        if (self.site == "mid_tokens") != (self.layer is not None):
            raise InputError(
                f"`layer` is {self.layer} with site {self.site!r}; name a layer for mid tokens, and only for them: "
                "Replay(site='mid_tokens', layer=8)"
            )
        rows = len(self.levels) if self.levels is not None else self.layers or 1
        check_selection(self.select, self.threshold, self.tau, self.levels, rows)

    def loss_layers(self, depth: int) -> tuple[int, ...]:
        """The layers that the loss covers, in a model of `depth` layers.

        Raises:
            InputError: the model is not that deep, or `levels` does not fit.
        """
        if self.site == "mid_tokens":
            chosen = (self.layer or 0,)
        else:
            chosen = tuple(range(max(1, round(depth * 16 / 28)) if self.layers is None else self.layers))
        if chosen[-1] >= depth:
            name = "layer" if self.site == "mid_tokens" else "layers"
            raise InputError(
                f"`{name}` is {getattr(self, name)}, but the models have {depth} layers; "
                f"Replay({name}={depth - (name == 'layer')}) is the most"
            )
        check_selection(self.select, self.threshold, self.tau, self.levels, len(chosen))
        return chosen


@dataclass(frozen=True)
class Patch:
    """Which cells to overwrite.

    Attributes:
        select: ``low``, cells of low entropy in the base; ``high``, all others; ``random``, as many as are low; ``all``.
        threshold: what makes a cell low: ``max_fraction``: at most ``tau`` of the largest entropy of its layer;
            ``quantile``: the lowest share ``tau``; ``fixed``: less than ``levels``.
        tau: the share, from 0 to 1.
        levels: for ``fixed``: an entropy in nats for each patched layer.
        only_where_base_lower: only cells whose entropy is lower in the base than in the RLVR model.
        layers: the first so many layers, or which: ``7`` or ``(4, 5, 6)``.
        positions: ``all``, or ``visual``, where each image has a threshold of its own.
        seed: of ``random``.

    Raises:
        InputError: a value outside its range, or two that do not go together.
    """

    select: Select = "low"
    threshold: Threshold = "max_fraction"
    tau: float = 0.4
    levels: tuple[float, ...] | None = None
    only_where_base_lower: bool = False
    layers: int | tuple[int, ...] = 7
    positions: Positions = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.positions not in get_args(Positions):
            raise InputError(
                f"`positions` is {self.positions!r}; expected 'all' or 'visual': Patch(positions='visual')"
            )
        chosen = self.patched
        if not chosen or min(chosen) < 0 or list(chosen) != sorted(set(chosen)):
            raise InputError(
                f"`layers` is {self.layers!r}; expected a number of layers of at least 1, or layers in order: "
                "Patch(layers=7) or Patch(layers=(4, 5, 6))"
            )
        check_selection(self.select, self.threshold, self.tau, self.levels, len(chosen))

    @property
    def patched(self) -> tuple[int, ...]:
        """The layers whose input is overwritten."""
        return tuple(range(self.layers)) if isinstance(self.layers, int) else tuple(self.layers)

    def check_depth(self, depth: int) -> None:
        """Refuse layers that a model of `depth` layers does not have.

        Raises:
            InputError: there are such.
        """
        if self.patched[-1] >= depth:
            raise InputError(
                f"`layers` of the patch go up to {self.patched[-1]}, but the models have layers 0 to {depth - 1}: "
                f"Patch(layers={min(7, depth)})"
            )


Condition = Literal["base", "rlvr"] | Replay | Patch
PLAIN = ("base", "rlvr")


def title_of(condition: Condition) -> str:
    """What a condition is called where nobody named it."""
    if isinstance(condition, str):
        return condition
    if isinstance(condition, Patch):
        return f"patch, {condition.select}"
    kind = {"reverse": "reverse", "self": "self-smoothing"}.get(condition.direction)
    kind = kind or condition.site.replace("_", " ")
    return f"{kind}, {condition.select}"


def default_matrix(
    depth: int,
    *,
    tau: float = 0.4,
    alpha: float = 10.0,
    layers: int | None = None,
    threshold: Any = "max_fraction",
    iterations: int = 25,
    top_v: int | None = 50,
    patch: Mapping[str, Any] | None = None,
) -> dict[str, Replay | Patch]:
    """The card's comparisons: low and high by tokens and by cross-model patch, and every control, in one setting.

    Args:
        depth: layers of the models.
        tau: of `Replay` and `Patch`, as are layers and threshold.
        alpha: of `Replay`, as are iterations and top_v.
        layers: None: the paper's share of the depth.
        threshold: what makes a cell low.
        iterations: steps of descent.
        top_v: tokens that the KL covers.
        patch: fields of `Patch` that the patches have for themselves.

    Raises:
        InputError: what `Replay` and `Patch` refuse.
    """
    tokens = Replay(
        tau=tau, alpha=alpha, layers=layers, threshold=threshold, iterations=iterations, top_v=top_v
    )
    layers = len(tokens.loss_layers(depth))
    overwritten = Patch(**{"tau": tau, "threshold": threshold, "layers": layers, **(patch or {})})
    return {
        "tokens, low": tokens,
        "tokens, high": replace(tokens, select="high"),
        "tokens, random": replace(tokens, select="random"),
        "tokens, all": replace(tokens, select="all"),
        "mid tokens, low": replace(tokens, site="mid_tokens", layer=layers - 1, layers=None),
        "reverse, low": replace(tokens, direction="reverse"),
        "self-smoothing": replace(tokens, direction="self", select="all"),
        "patch, low": overwritten,
        "patch, high": replace(overwritten, select="high"),
    }


def check_selection(
    select: str, threshold: str, tau: float, levels: Sequence[float] | None, layers: int
) -> None:
    """Raise InputError unless these are arguments that `select_cells` takes."""
    for name, value, known in (("select", select, SELECTS), ("threshold", threshold, THRESHOLDS)):
        if value not in known:
            raise InputError(
                f"`{name}` is {value!r}; expected one of {', '.join(known)}: {name}={known[0]!r}"
            )
    if not 0 <= tau <= 1:
        raise InputError(f"`tau` is {tau}; expected a fraction from 0 to 1: tau=0.4")
    if threshold == "fixed" and (levels is None or len(levels) != layers):
        given = "none" if levels is None else len(levels)
        raise InputError(
            f"`levels` gives {given} entropies, expected {layers}, one for each layer, in nats: "
            f"threshold='fixed', levels=({', '.join(['2.0'] * min(layers, 3))}{', ...' * (layers > 3)})"
        )
    if threshold != "fixed" and levels is not None:
        raise InputError(f"`levels` belongs to threshold='fixed', not to {threshold!r}; leave it out")
