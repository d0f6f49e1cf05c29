"""Conditions: what a model is compared under, as values; none of the libraries that run them is needed here.

A condition is a plain model, ``"base"`` or ``"rlvr"``, or an intervention: a `Replay`, a `Patch`, an ``Adapter``, or any frozen
value that says what a `Condition` says and for which ``replay.prepared.prepare`` is registered.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from workbench.errors import InputError
from workbench.selection import Select, Threshold, check_selection

Site = Literal["tokens", "mid_tokens"]
Direction = Literal["base_to_rlvr", "reverse", "self"]
Alignment = Literal["paper", "released"]
Positions = Literal["all", "visual"]
Model = Literal["base", "rlvr"]
PLAIN: tuple[str, ...] = get_args(Model)


@runtime_checkable
class Condition(Protocol):
    """What a model is compared under, as a value.

    It may also have ``check_depth(depth)``, which refuses models that it does not fit, and ``needs_pictures``: whether it is
    nothing to a prompt without visual tokens (False where it does not say).
    """

    @property
    def title(self) -> str:
        """What it is called in tables and figures where nobody named it."""
        ...

    @property
    def described(self) -> Any:
        """All that changes its results, as JSON's types."""
        ...

    @property
    def answered_by(self) -> Model:
        """Which of the two models answers."""
        ...

    @property
    def drawn_by_engine(self) -> bool:
        """Whether an engine can draw the responses: it takes a plain model, or tokens at layer 0, and no more."""
        ...


Named = Condition | Literal["base", "rlvr"]
"""A condition, or a plain model's name, which stands for that model as it is."""


@dataclass(frozen=True)
class Plain:
    """What a plain model's name stands for."""

    answered_by: Model

    @property
    def title(self) -> str:
        """The model's name."""
        return self.answered_by

    @property
    def described(self) -> Any:
        """The model's name."""
        return self.answered_by

    @property
    def drawn_by_engine(self) -> bool:
        """Always."""
        return True


def condition_of(value: Any) -> Condition:
    """A condition as it is, and what a plain model's name stands for.

    Raises:
        InputError: the value is neither.
    """
    if isinstance(value, str) and value in PLAIN:
        return Plain("base" if value == "base" else "rlvr")
    if isinstance(value, Condition) and not isinstance(value, type):
        return value
    raise InputError(
        f"`interventions` has {value!r}; expected 'base', 'rlvr', a Replay, a Patch, an Adapter, or a value of your own with "
        "title, described, answered_by and drawn_by_engine: ablate(pair, problems, [Replay(), Patch()])"
    )


def signature_of(value: Named) -> Any:
    """What tells a condition from all others, as JSON's types: a plain model's name, or a kind and what it is described by.

    Of a kind of your own the text of its module counts too: what it does stands there and nowhere else.
    """
    described, kind = condition_of(value).described, type(value)
    if isinstance(value, str):
        return described
    if kind.__module__.partition(".")[0] == __package__:
        return [kind.__name__, described]
    try:
        text = Path(inspect.getfile(kind)).read_bytes()
    except (OSError, TypeError):  # typed into a notebook: as far as it can be known
        text = f"{kind.__module__}.{kind.__qualname__}".encode()
    return [kind.__name__, described, sha256(text).hexdigest()]


def check_depth(value: Named, depth: int) -> None:
    """Refuse a condition that does not fit models of `depth` layers.

    Raises:
        InputError: it says so.
    """
    check = getattr(value, "check_depth", None)
    if check is not None:
        check(depth)


def needs_pictures(value: Named) -> bool:
    """Whether a condition does nothing to a prompt without pictures."""
    return getattr(value, "needs_pictures", False)


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
        if isinstance(self.levels, list):
            object.__setattr__(self, "levels", tuple(self.levels))
        rows = len(self.levels) if self.levels is not None else self.layers or 1
        check_selection(self.select, self.threshold, self.tau, self.levels, rows)

    @property
    def title(self) -> str:
        """What is learnt, and of which cells."""
        kind = {"reverse": "reverse", "self": "self-smoothing"}.get(self.direction)
        return f"{kind or self.site.replace('_', ' ')}, {self.select}"

    @property
    def described(self) -> dict[str, Any]:
        """Every field."""
        return asdict(self)

    @property
    def answered_by(self) -> Model:
        """The model that the tokens are added to."""
        return "base" if self.direction == "reverse" else "rlvr"

    @property
    def drawn_by_engine(self) -> bool:
        """Where the tokens are those of layer 0."""
        return self.site == "tokens"

    @property
    def needs_pictures(self) -> bool:
        """Without visual tokens there is nothing to add anything to."""
        return True

    def check_depth(self, depth: int) -> None:
        """Refuse layers that a model of `depth` layers does not have.

        Raises:
            InputError: what `loss_layers` refuses.
        """
        self.loss_layers(depth)

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
        for name in ("layers", "levels"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        chosen = self.patched
        if not chosen or min(chosen) < 0 or list(chosen) != sorted(set(chosen)):
            raise InputError(
                f"`layers` is {self.layers!r}; expected a number of layers of at least 1, or layers in order: "
                "Patch(layers=7) or Patch(layers=(4, 5, 6))"
            )
        check_selection(self.select, self.threshold, self.tau, self.levels, len(chosen))

    @property
    def title(self) -> str:
        """That it is a patch, and of which cells."""
        return f"patch, {self.select}"

    @property
    def described(self) -> dict[str, Any]:
        """Every field."""
        return asdict(self)

    @property
    def answered_by(self) -> Model:
        """The RLVR model, whose prefill is overwritten."""
        return "rlvr"

    @property
    def drawn_by_engine(self) -> bool:
        """Never: an engine takes no activations."""
        return False

    @property
    def needs_pictures(self) -> bool:
        """Where only visual tokens are patched."""
        return self.positions == "visual"

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
