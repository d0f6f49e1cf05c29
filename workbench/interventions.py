"""Replay and cross-model patches as values: what to learn or overwrite, and where. Nothing that runs them is needed here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from workbench.conditions import Model
from workbench.errors import InputError, knows_its_fields
from workbench.selection import Chosen, Select, Selection, Threshold, described

Site = Literal["tokens", "mid_tokens"]
Direction = Literal["base_to_rlvr", "reverse", "self"]
Alignment = Literal["paper", "released"]
Positions = Literal["all", "visual"]
Where = Literal["visual", "text", "all"]
Solver = Literal["plain", "adaptive"]
When = Literal["prefill", "decoding", "both"]
Spans = tuple[tuple[int, int], ...]
EVERYWHERE = ", all positions"
"""Ends the name of a patch that selects among all positions of the prompt rather than visual tokens."""


@knows_its_fields
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
        iterations: steps of descent; of the adaptive solver, how far these would go.
        top_v: tokens that the KL covers, the target's most probable; None: the whole vocabulary.
        normalize: divide the loss by the number of `positions`.
        direction: ``base_to_rlvr``: tokens on the RLVR model, target base. ``reverse``: tokens on the base, target RLVR.
            ``self``: tokens on the RLVR model for a disturbed picture, target the same model on the clean one.
        alignment: ``paper``: the learner is read after the same layer as the target; ``released``: before it.
        patience: stop early after so many iterations without improvement; None: never. Not for the adaptive solver.
        seed: of ``random``.
        cells: cells chosen by hand, of which ``select`` takes its part; None: all.
        positions: where tokens are learnt and the loss is read: ``visual`` (the paper); ``text``, the prompt's text without
            special tokens; ``all`` of the prompt; or spans, (first, one past the last) each, from the prompt's end where
            negative. Text is beyond the paper: it makes replay possible where there is no picture.
        solver: ``plain``: ``iterations`` of gradient descent (the paper). ``adaptive``: as small a loss with tokens about as
            small in 7 passes instead of 25, by a quasi-Newton method; ``alpha * iterations`` says how far to go.

    Raises:
        InputError: a value outside its range, or two that do not go together.

    Example:
        >>> def upper(prompt):  # the upper half of each picture, as the 28 visual tokens of rows and columns lie
        ...     return (prompt.kinds == 1) & (prompt.grid[:, 1] < 3)
        >>> wb.Replay(select="all", cells=upper).title
        'tokens, all of upper'
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
    cells: Chosen | None = None
    positions: Where | Spans = "visual"
    solver: Solver = "plain"

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", _where(self.positions))
        for name, kind in (
            ("site", Site),
            ("direction", Direction),
            ("alignment", Alignment),
            ("solver", Solver),
        ):
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
        if self.patience is not None and self.solver == "adaptive":
            raise InputError(
                f"`patience` is {self.patience} with solver 'adaptive', which takes few passes anyway; leave it out: "
                "Replay(solver='adaptive')"
            )
        Selection.of(self).check(rows)

    @property
    def title(self) -> str:
        """What is learnt, and of which cells."""
        kind = {"reverse": "reverse", "self": "self-smoothing"}.get(self.direction)
        where = self.positions if isinstance(self.positions, str) else "spans"
        place = "" if where == "visual" else f" at {where}"
        how = "" if self.solver == "plain" else f", {self.solver}"
        return f"{kind or self.site.replace('_', ' ')}, {self.select}{_by_hand(self.cells)}{place}{how}"

    @property
    def described(self) -> dict[str, Any]:
        """Every field."""
        return described(self)

    @property
    def answered_by(self) -> Model:
        """The model that the tokens are added to."""
        return "base" if self.direction == "reverse" else "rlvr"

    @property
    def drawn_by_engine(self) -> bool:
        """Where the tokens are visual ones, at layer 0."""
        return self.site == "tokens" and self.positions == "visual"

    @property
    def needs_pictures(self) -> bool:
        """Where tokens are learnt at visual positions, or for a disturbed picture."""
        return self.positions == "visual" or self.direction == "self"

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
            numbers = (self.layer or 0,)
        else:
            numbers = tuple(range(max(1, round(depth * 16 / 28)) if self.layers is None else self.layers))
        if numbers[-1] >= depth:
            name = "layer" if self.site == "mid_tokens" else "layers"
            raise InputError(
                f"`{name}` is {getattr(self, name)}, but the models have {depth} layers; "
                f"Replay({name}={depth - (name == 'layer')}) is the most"
            )
        Selection.of(self).check(len(numbers))
        return numbers


@knows_its_fields
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
        positions: ``visual``, where each image has a threshold of its own, or ``all`` of the prompt; None: visual where the
            prompt has any, else all. No matter with ``when="decoding"``.
        seed: of ``random``.
        cells: cells chosen by hand, of which ``select`` takes its part; None: all of ``positions``.
        when: ``prefill``: in the prompt (the released code). ``decoding``: at every token of the response as the model reads it,
            the base reading the same tokens beside it; the first token, which the prompt predicts, stays RLVR's own. What is low
            is then decided among the response's cells of a layer so far: ``random`` takes each with the share of these that is
            low. ``both``: the prompt as ``positions`` says, then the response.

    Raises:
        InputError: a value outside its range, or two that do not go together.

    Example:
        >>> wb.Patch(layers=(3, 4, 5), select="all", cells=lambda prompt: prompt.grid[:, 1] == 2).patched
        (3, 4, 5)
    """

    select: Select = "low"
    threshold: Threshold = "max_fraction"
    tau: float = 0.4
    levels: tuple[float, ...] | None = None
    only_where_base_lower: bool = False
    layers: int | tuple[int, ...] = 7
    positions: Positions | None = None
    seed: int = 0
    cells: Chosen | None = None
    when: When = "prefill"

    def __post_init__(self) -> None:
        if self.when not in get_args(When):
            raise InputError(
                f"`when` is {self.when!r}; expected one of {', '.join(get_args(When))}: Patch(when='decoding')"
            )
        if self.cells is not None and self.while_decoding:
            raise InputError(
                f"`cells` are chosen of a prompt, and when={self.when!r} overwrites a response that is not there yet; leave them "
                "out, or patch the prompt alone: Patch(cells=..., when='prefill')"
            )
        if self.positions not in (None, *get_args(Positions)):
            raise InputError(
                f"`positions` is {self.positions!r}; expected 'all' or 'visual': Patch(positions='visual')"
            )
        for name in ("layers", "levels"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        numbers = self.patched
        if not numbers or min(numbers) < 0 or list(numbers) != sorted(set(numbers)):
            raise InputError(
                f"`layers` is {self.layers!r}; expected a number of layers of at least 1, or layers in order: "
                "Patch(layers=7) or Patch(layers=(4, 5, 6))"
            )
        Selection.of(self).check(len(numbers))

    @property
    def title(self) -> str:
        """That it is a patch, of which cells, and when if not in the prompt alone."""
        when = {"decoding": " while decoding", "both": " in prompt and response"}.get(self.when, "")
        return f"patch{when}, {self.select}{_by_hand(self.cells)}"

    @property
    def described(self) -> dict[str, Any]:
        """Every field."""
        return described(self)

    @property
    def answered_by(self) -> Model:
        """The RLVR model, which is overwritten."""
        return "rlvr"

    @property
    def drawn_by_engine(self) -> bool:
        """Never: an engine takes no activations."""
        return False

    @property
    def needs_pictures(self) -> bool:
        """Where it names visual tokens."""
        return self.positions == "visual" and self.when != "decoding"

    @property
    def while_decoding(self) -> bool:
        """Whether the response is overwritten, with the prompt or without."""
        return self.when != "prefill"

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
    pictures: bool = True,
) -> dict[str, Replay | Patch]:
    """The card's comparisons: low and high by tokens and by cross-model patch, and every control, in one setting.

    Patches select among visual tokens, as tokens do, and again among all positions. Low and high are then the same kind of
    cell wherever they are compared; of all positions a low threshold would overwrite almost no visual token.

    Args:
        depth: layers of the models.
        tau: of `Replay` and `Patch`, as are layers and threshold.
        alpha: of `Replay`, as are iterations and top_v.
        layers: None: the paper's share of the depth.
        threshold: what makes a cell low.
        iterations: steps of descent.
        top_v: tokens that the KL covers.
        patch: fields of `Patch` that the patches have for themselves.
        pictures: whether the models read any. Without, tokens are learnt at the prompt's text, and nothing is smoothed over
            disturbed pictures.

    Raises:
        InputError: what `Replay` and `Patch` refuse.
    """
    tokens = Replay(
        tau=tau,
        alpha=alpha,
        layers=layers,
        threshold=threshold,
        iterations=iterations,
        top_v=top_v,
        positions="visual" if pictures else "text",
    )
    layers = len(tokens.loss_layers(depth))
    own = {name: value for name, value in (patch or {}).items() if (name, value) != ("positions", "all")}
    overwritten = Patch(**{"tau": tau, "threshold": threshold, "layers": layers, **own})
    patches = {"patch, low": overwritten, "patch, high": replace(overwritten, select="high")}
    everywhere = {
        f"{name}{EVERYWHERE}": replace(condition, positions="all") for name, condition in patches.items()
    }
    matrix = {
        "tokens, low": tokens,
        "tokens, high": replace(tokens, select="high"),
        "tokens, random": replace(tokens, select="random"),
        "tokens, all": replace(tokens, select="all"),
        "mid tokens, low": replace(tokens, site="mid_tokens", layer=layers - 1, layers=None),
        "reverse, low": replace(tokens, direction="reverse"),
    }
    if not pictures:  # all positions are those of the text
        return {**matrix, **patches}
    smoothing = {"self-smoothing": replace(tokens, direction="self", select="all")}
    return {**matrix, **smoothing, **patches, **everywhere}


def _where(positions: Any) -> Where | Spans:
    """One of the names, or spans as tuples.

    Raises:
        InputError: neither.
    """
    call = "Replay(positions='text') or Replay(positions=((4, 9), (-3, -1)))"
    if isinstance(positions, str):
        if positions not in get_args(Where):
            raise InputError(
                f"`positions` is {positions!r}; expected {', '.join(get_args(Where))} or spans: {call}"
            )
        return cast(Where, positions)
    try:
        spans = tuple((int(first), int(stop)) for first, stop in positions)
    except (TypeError, ValueError):
        spans = ()
    if not spans:
        raise InputError(
            f"`positions` is {positions!r}; expected a name or spans of (first, one past the last) position: {call}"
        )
    return spans


def _by_hand(cells: Chosen | None) -> str:
    name = getattr(cells, "__name__", "chosen cells")
    return "" if cells is None else f" of {'chosen cells' if name == '<lambda>' else name}"
