"""Plain edits of chosen cells, as conditions: scaled (0 takes them away), overwritten from RLVR, without a head or an MLP.

1. `Scale` multiplies the input of chosen layers at chosen positions. `Overwrite` writes one model's residuals into the other:
   from RLVR into the base it is what `Patch` does not do.
2. `Remove` takes a head or an MLP out of one layer at chosen positions, exactly: the layer runs once without it, and what it then
   returns is the next layer's input there. What the last layer returns the final norm alone reads, position by position, and an
   answer begins after the last position: of the last layer, only what it does there can change an answer, by its first token.

Like every intervention they act in the prefill alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from workbench.conditions import PLAIN, Model
from workbench.errors import InputError, knows_its_fields
from workbench.models.anatomy import Anatomy
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.replay.chosen_cells import by_hand
from workbench.replay.patching import Recording, record
from workbench.replay.prepared import prepare
from workbench.selection import Chosen, Selection, described
from workbench.tracing.residuals import read_calls

_PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj", "wo")
"""What families call the product that mixes the heads."""


class CellEdit:
    """What the conditions of this file have in common."""

    @property
    def described(self) -> dict[str, Any]:
        """Every field."""
        return described(self)

    @property
    def drawn_by_engine(self) -> bool:
        """Never: an engine takes no activations."""
        return False


@knows_its_fields
@dataclass(frozen=True)
class Scale(CellEdit):
    """Multiply the input of layers at chosen cells.

    Attributes:
        factor: by what; 0 zeroes them, 1 changes nothing.
        layers: which.
        cells: a function of the encoded prompt that gives bool (positions,) or (layers, positions); None: all positions.
        model: which of the two is changed, and answers.

    Raises:
        InputError: a factor that is not finite, no layers, or an unknown model.
    """

    factor: float = 0.0
    layers: tuple[int, ...] = (0,)
    cells: Chosen | None = None
    model: Model = "rlvr"

    def __post_init__(self) -> None:
        number = isinstance(self.factor, int | float) and not isinstance(self.factor, bool)
        if not number or not abs(self.factor) < float("inf"):
            raise InputError(
                f"`factor` is {self.factor!r}; expected a finite number: Scale(0.5, layers=(3,))"
            )
        object.__setattr__(self, "layers", _layers(self.layers, "Scale(0.5, layers=(3, 4))"))
        _known("model", self.model, "Scale(0.5, layers=(3,), model='rlvr')")

    @property
    def title(self) -> str:
        """By what."""
        return "zeroed" if self.factor == 0 else f"scaled by {self.factor:g}"

    @property
    def answered_by(self) -> Model:
        """The model that is changed."""
        return self.model

    def check_depth(self, depth: int) -> None:
        """Refuse layers that a model of `depth` layers does not have."""
        _check_depth(self.layers, depth - 1, "Scale(0.5, layers=(0,))")


@knows_its_fields
@dataclass(frozen=True)
class Overwrite(CellEdit):
    """Write one model's residual stream into the other's, at chosen cells of the inputs of layers.

    Attributes:
        source: whose activations are written; the other model is overwritten, and answers.
        layers: which.
        cells: as in `Scale`.

    Raises:
        InputError: no layers, or an unknown source.
    """

    source: Model = "rlvr"
    layers: tuple[int, ...] = (0,)
    cells: Chosen | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _layers(self.layers, "Overwrite('rlvr', layers=(3, 4))"))
        _known("source", self.source, "Overwrite('rlvr', layers=(3,))")

    @property
    def title(self) -> str:
        """Who into whom."""
        return f"{self.source} into {self.answered_by}"

    @property
    def answered_by(self) -> Model:
        """The model that is overwritten."""
        return "base" if self.source == "rlvr" else "rlvr"

    def check_depth(self, depth: int) -> None:
        """Refuse layers that a model of `depth` layers does not have."""
        _check_depth(self.layers, depth - 1, "Overwrite('rlvr', layers=(0,))")


@knows_its_fields
@dataclass(frozen=True)
class Remove(CellEdit):
    """Take a head, or the MLP, out of a layer at chosen positions.

    Attributes:
        layer: which.
        head: which of its heads; None: its MLP.
        cells: as in `Scale`.
        model: which of the two is changed, and answers.

    Raises:
        InputError: a number below 0, or an unknown model.
    """

    layer: int = 0
    head: int | None = None
    cells: Chosen | None = None
    model: Model = "rlvr"

    def __post_init__(self) -> None:
        for name in ("layer", "head"):
            value = getattr(self, name)
            if (value is not None or name == "layer") and (
                not isinstance(value, int) or isinstance(value, bool) or value < 0
            ):
                raise InputError(
                    f"`{name}` is {value!r}; expected a whole number of at least 0: Remove(layer=3, head=1)"
                )
        _known("model", self.model, "Remove(layer=3, model='rlvr')")

    @property
    def title(self) -> str:
        """What of which layer."""
        part = "the MLP" if self.head is None else f"head {self.head}"
        return f"without {part} of layer {self.layer}"

    @property
    def answered_by(self) -> Model:
        """The model that is changed."""
        return self.model

    def check_depth(self, depth: int) -> None:
        """Refuse a layer that a model of `depth` layers does not have."""
        if self.layer >= depth:
            raise InputError(
                f"`layer` is {self.layer}, but the models have layers 0 to {depth - 1}: Remove(layer={depth - 1})"
            )


@dataclass(frozen=True, eq=False)
class EditedCells:
    """An edit at one prompt: which cells, and what they become."""

    problem_id: str
    condition: Scale | Overwrite | Remove
    sites: tuple[int, ...]
    """The layers whose input is written; one past the last for what the final norm receives."""
    mask: Bool[Tensor, "layers positions"] = field(repr=False)
    """Cells of ``sites`` that are changed."""
    become: Callable[[int, Tensor], Tensor] = field(repr=False)
    """(row of ``sites``, the prompt's residuals (..., T, hidden)) -> what they are where the mask is set."""

    @property
    def summary(self) -> dict[str, float]:
        """In a line of a table: share of cells that are changed."""
        return {"cells": float(self.mask.float().mean())}

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        """The input of `layer`, (..., T or more, hidden), with the cells changed; any after the prompt stay."""
        row, length = self.sites.index(layer), self.mask.shape[1]
        prompt, after = hidden.split([length, hidden.shape[-2] - length], -2)
        chosen = self.mask[row].to(hidden.device)[:, None]
        return torch.cat([torch.where(chosen, self.become(row, prompt).to(hidden), prompt), after], -2)


@prepare.register
def _scale(
    condition: Scale, pair: ModelPair, prompts: Sequence[EncodedPrompt], **_: Any
) -> list[EditedCells]:
    condition.check_depth(pair.depth)
    return [
        EditedCells(
            prompt.problem_id,
            condition,
            condition.layers,
            _mask(condition.cells, prompt, condition.layers),
            lambda row, hidden: hidden * condition.factor,
        )
        for prompt in prompts
    ]


@prepare.register
def _overwrite(
    condition: Overwrite, pair: ModelPair, prompts: Sequence[EncodedPrompt], **_: Any
) -> list[EditedCells]:
    condition.check_depth(pair.depth)
    source = pair.base if condition.source == "base" else pair.rlvr
    return [
        _recorded(
            condition,
            record(source, prompt, condition.layers),
            _mask(condition.cells, prompt, condition.layers),
        )
        for prompt in prompts
    ]


@prepare.register
def _remove(
    condition: Remove, pair: ModelPair, prompts: Sequence[EncodedPrompt], **_: Any
) -> list[EditedCells]:
    condition.check_depth(pair.depth)
    anatomy = pair.base if condition.model == "base" else pair.rlvr
    made = []
    for prompt in prompts:
        with _without(anatomy, condition):
            calls = read_calls(anatomy, prompt.model_inputs, condition.layer + 1)
        after = Recording(prompt.problem_id, prompt.input_ids, (condition.layer + 1,), calls[-1].output)
        made.append(_recorded(condition, after, _mask(condition.cells, prompt, (condition.layer,))))
    return made


def _recorded(condition: Overwrite | Remove, source: Recording, mask: Tensor) -> EditedCells:
    return EditedCells(
        source.problem_id,
        condition,
        source.layers,
        mask,
        lambda row, hidden: source.hidden[row].expand_as(hidden),
    )


def _mask(cells: Chosen | None, prompt: EncodedPrompt, layers: tuple[int, ...]) -> Tensor:
    """(layers, positions) bool."""
    everywhere = torch.ones(len(prompt), dtype=torch.bool)
    chosen = by_hand(Selection("all", cells=cells), prompt, layers, everywhere)
    return (everywhere if chosen is None else chosen).expand(len(layers), len(prompt))


@contextmanager
def _without(anatomy: Anatomy, condition: Remove) -> Iterator[None]:
    """Meanwhile the layer's head or MLP writes nothing."""
    layer = anatomy.layers[condition.layer]
    if condition.head is None:
        handle = _module(layer, ("mlp", "feed_forward"), anatomy).register_forward_hook(_silent)
    else:
        mixing = _module(_module(layer, ("self_attn", "attention"), anatomy), _PROJECTIONS, anatomy)
        heads = anatomy.model.config.get_text_config(decoder=True).num_attention_heads
        if condition.head >= heads:
            raise InputError(
                f"`head` is {condition.head}, and the layers of {anatomy.family} have heads 0 to {heads - 1}: "
                f"Remove(layer={condition.layer}, head={heads - 1})"
            )
        width = int(mixing.in_features) // heads  # pyright: ignore[reportArgumentType]
        start = condition.head * width

        def silence(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            written = arguments[0].clone()
            written[..., start : start + width] = 0
            return (written, *arguments[1:])

        handle = mixing.register_forward_pre_hook(silence)
    try:
        yield
    finally:
        handle.remove()


def _silent(_: nn.Module, __: Any, output: Any) -> Any:
    return torch.zeros_like(output)


def _module(parent: nn.Module, names: Sequence[str], anatomy: Anatomy) -> nn.Module:
    child = next(
        (getattr(parent, name) for name in names if isinstance(getattr(parent, name, None), nn.Module)), None
    )
    if child is None:
        raise InputError(
            f"`pair`: a layer of {anatomy.family} has none of {', '.join(names)}, so its parts can't be removed one by one; "
            "scale or patch its cells: Scale(0.0, layers=(3,))"
        )
    return child


def _layers(layers: Any, call: str) -> tuple[int, ...]:
    numbers = tuple(layers) if isinstance(layers, list | tuple) else (layers,)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers)
    if not numbers or not whole or list(numbers) != sorted(set(numbers)):
        raise InputError(f"`layers` is {layers!r}; expected layers in order, from 0: {call}")
    return numbers


def _known(name: str, value: Any, call: str) -> None:
    if value not in PLAIN:
        raise InputError(f"`{name}` is {value!r}; expected 'base' or 'rlvr': {call}")


def _check_depth(layers: tuple[int, ...], last: int, call: str) -> None:
    if layers[-1] > last:
        raise InputError(f"`layers` go up to {layers[-1]}, but the models have layers 0 to {last}: {call}")
