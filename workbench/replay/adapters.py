"""Adapters: small networks that say from the visual embeddings of both models what replay would learn.

For every visual token of a prompt, on its own:

1. Inputs (`token_inputs`): the base model's embedding there, the RLVR model's minus it, and the place in the picture.
   Centred and scaled by what the training prompts had.
2. x = gelu(inputs @ first + first_bias) @ last + last_bias. Of width 0 it is last_bias alone, the same for every token
   of every prompt: what an adapter reaches without looking.

``last`` and ``last_bias`` begin at zero, so that an untrained adapter leaves the RLVR model as it is, bit for bit. How one is
trained is in ``adapter_training``, how it is used in ``amortised``. arXiv 2511.19972 leaves this to future work.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu

from workbench.conditions import Model
from workbench.errors import InputError
from workbench.interventions import Replay
from workbench.views import markup
from workbench.views.markup import settings_text

BUNDLED = Path(__file__).parents[1] / "organism" / "weights" / "adapter"
"""Adapters that ship with the package, by name of their pair."""

_PLACE = 3
_TRAIN = "train_adapter(pair, problems, replay, validation=others)"


@dataclass(frozen=True, eq=False)
class Adapter:
    """A condition like `Replay` and `Patch`: `ablate` and `run_agent` take it, `predict_tokens` applies it to a prompt.

    Raises:
        InputError: weights that are missing, misshapen or not finite, or settings that no adapter can stand in for.
    """

    weights: Mapping[str, Tensor] = field(repr=False)
    """centre and scale (inputs,), first (inputs, width), first_bias (width,), last (width, hidden), last_bias (hidden,)."""
    replay: Replay
    """Whose objective it was trained on."""
    pair: Mapping[str, str]
    """Fingerprints of the weights of ``base`` and ``rlvr`` that it was fitted to, and what they are called (``name``)."""
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """How it was trained, and ``curves``: the loss by rate and epoch."""

    def __post_init__(self) -> None:
        check_replay(self.replay)
        missing = {*_SHAPES} ^ {*self.weights}
        if missing or self.weights["last"].ndim != 2:
            raise InputError(
                f"`weights` must hold {', '.join(_SHAPES)}; {', '.join(sorted(missing))} is amiss"
            )
        sizes = {"inputs": inputs_of(self.hidden), "width": self.width, "hidden": self.hidden}
        for name, axes in _SHAPES.items():
            shape, expected = tuple(self.weights[name].shape), tuple(sizes[axis] for axis in axes)
            if shape != expected or not bool(self.weights[name].isfinite().all()):
                what = f"of shape {shape}, expected {expected}" if shape != expected else "not finite"
                raise InputError(f"`weights`: {name} is {what}; begin with Adapter.untrained(...)")

    def __repr__(self) -> str:
        return (
            f"Adapter({self.digest}, for {self.pair.get('name', 'a pair')!r}, hidden {self.hidden}, width {self.width}, "
            f"{self.parameters:,} parameters, select {self.replay.select!r})"
        )

    def _repr_html_(self) -> str:
        return adapter_html(self)

    @classmethod
    def untrained(
        cls,
        hidden: int,
        width: int,
        replay: Replay,
        pair: Mapping[str, str],
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "Adapter":
        """One that predicts x = 0 whatever it is given.

        Raises:
            InputError: a size below 1, or a width below 0.
        """
        for name, value, least in (("hidden", hidden, 1), ("width", width, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(
                    f"`{name}` is {value!r}; expected a whole number of at least {least}: width=64 (0 for one vector)"
                )
        inputs, draws = inputs_of(hidden), torch.Generator().manual_seed(seed)
        weights = {
            "centre": torch.zeros(inputs),
            "scale": torch.ones(inputs),
            "first": torch.randn(inputs, width, generator=draws) * inputs**-0.5,
            "first_bias": torch.zeros(width),
            "last": torch.zeros(width, hidden),
            "last_bias": torch.zeros(hidden),
        }
        return cls({name: value.to(dtype) for name, value in weights.items()}, replay, dict(pair))

    @property
    def hidden(self) -> int:
        """Width of the models' residual stream."""
        return self.weights["last"].shape[1]

    @property
    def width(self) -> int:
        """Units of the layer between; 0: one vector for all tokens."""
        return self.weights["last"].shape[0]

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""
        return sum(self.weights[name].numel() for name in TRAINED)

    @property
    def curves(self) -> pd.DataFrame:
        """rate, epoch, train and validation (mean loss in nats of the prompts), seconds so far; epoch 0 is x = 0."""
        return pd.DataFrame(self.training.get("curves", []))

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for all that changes its predictions."""
        digest = hashlib.sha256(json.dumps([asdict(self.replay), dict(self.pair)], sort_keys=True).encode())
        for name in _SHAPES:
            digest.update(self.weights[name].double().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def title(self) -> str:
        """That tokens are predicted, and of which cells."""
        return f"amortised, {self.replay.select}"

    @property
    def answered_by(self) -> Model:
        """The RLVR model, as `check_replay` makes sure."""
        return "rlvr"

    @property
    def drawn_by_engine(self) -> bool:
        """Always: its tokens are those of layer 0."""
        return True

    @property
    def needs_pictures(self) -> bool:
        """Without visual tokens there is nothing to add anything to."""
        return True

    @property
    def described(self) -> dict[str, Any]:
        """What stands for it where a condition is told as JSON."""
        return {"adapter": self.digest, "width": self.width, "replay": asdict(self.replay)}

    def __call__(self, inputs: Float[Tensor, "n inputs"]) -> Float[Tensor, "n hidden"]:
        """x, from what `token_inputs` returned."""
        w = {name: value.to(inputs) for name, value in self.weights.items()}
        return predicted(w, inputs)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; everything else is in its metadata, as JSON."""
        from safetensors.torch import save_file

        metadata = {"replay": asdict(self.replay), "pair": dict(self.pair), "training": dict(self.training)}
        weights = {name: value.detach().cpu().contiguous() for name, value in self.weights.items()}
        partial = Path(path).with_name(f"{Path(path).name}.partial")
        save_file(weights, str(partial), metadata={"adapter": json.dumps(metadata)})
        partial.rename(path)

    def plot(self) -> Any:
        """The objective by epoch and rate, on training and validation prompts, as a plotly Figure."""
        from workbench.views.replay_figures import training_curves

        return training_curves(self.curves)


_SHAPES = {
    "centre": ("inputs",),
    "scale": ("inputs",),
    "first": ("inputs", "width"),
    "first_bias": ("width",),
    "last": ("width", "hidden"),
    "last_bias": ("hidden",),
}
TRAINED = ("first", "first_bias", "last", "last_bias")
"""The weights that gradients change."""


def predicted(weights: Mapping[str, Tensor], inputs: Float[Tensor, "n inputs"]) -> Float[Tensor, "n hidden"]:
    """x: gelu(inputs @ first + first_bias) @ last + last_bias, of inputs that are centred and scaled as in training."""
    z = (inputs - weights["centre"]) / weights["scale"]
    return gelu(z @ weights["first"] + weights["first_bias"]) @ weights["last"] + weights["last_bias"]


def token_inputs(
    base: Float[Tensor, "visual hidden"],
    rlvr: Float[Tensor, "visual hidden"],
    place: Float[Tensor, "visual 3"],
) -> Float[Tensor, "visual inputs"]:
    """What an adapter sees: the base's embedding, RLVR's minus it, and ``place``, (t, row, column) as shares of the picture's."""
    return torch.cat([base, rlvr - base, place.to(base)], 1)


def inputs_of(hidden: int) -> int:
    """How many numbers `token_inputs` gives for each token."""
    return 2 * hidden + _PLACE


def load_adapter(path: str | Path) -> Adapter:
    """An adapter that `Adapter.save` wrote, or a bundled one by its pair's name: ``load_adapter("shapes")``.

    Raises:
        InputError: no such file, or one that holds something else.
    """
    from safetensors import SafetensorError, safe_open

    file = BUNDLED / f"{path}.safetensors"
    file = file if isinstance(path, str) and path.isidentifier() and file.is_file() else Path(path)
    try:
        with safe_open(str(file), "pt") as stored:
            metadata = json.loads((stored.metadata() or {})["adapter"])
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  (no mapping)
        settings = metadata["replay"]
        replay = Replay(**settings)
        return Adapter(weights, replay, metadata["pair"], metadata["training"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        names = ", ".join(sorted(p.stem for p in BUNDLED.glob("*.safetensors"))) or "none"
        raise InputError(
            f"`path` {str(path)!r} holds no adapter ({error}); write one with `adapter.save(path)`, or name a bundled one "
            f"({names})"
        ) from error


def check_replay(replay: Replay) -> None:
    """Refuse settings that need more than one look at the two models' embeddings.

    Raises:
        InputError: tokens elsewhere than at layer 0 of the RLVR model.
    """
    fits = ("tokens", "base_to_rlvr", "visual")
    if not isinstance(replay, Replay) or (replay.site, replay.direction, replay.positions) != fits:
        settings = (
            f"{replay.site}, {replay.direction}, at {replay.positions} tokens"
            if isinstance(replay, Replay)
            else repr(replay)
        )
        raise InputError(
            f"`replay` is {settings}; an adapter stands in for visual tokens at the RLVR model's first layer, "
            f"'tokens', 'base_to_rlvr' and 'visual': {_TRAIN}"
        )


def check_pair(adapter: Adapter, weights: Mapping[str, str]) -> None:
    """Refuse a pair that an adapter was not fitted to; ``weights`` are its fingerprints, by role.

    Raises:
        InputError: says which weights differ.
    """
    other = [role for role in ("base", "rlvr") if adapter.pair.get(role) != weights.get(role)]
    if other:
        named = ", ".join(f"{r} {weights.get(r)}, it knows {adapter.pair.get(r)}" for r in other)
        raise InputError(
            f"`adapter` was fitted to {adapter.pair.get('name', 'another pair')!r} with other weights than this pair's ({named}; "
            f"a dtype changes them too); train one for this pair: {_TRAIN}"
        )


def adapter_html(adapter: Adapter) -> str:
    """Its sizes, and the validation loss by epoch of the rate that was kept."""
    curves, rate = adapter.training.get("curves", []), adapter.training.get("rate")
    losses = [row["validation"] for row in curves if row["rate"] == rate]
    parts = {}
    if losses:
        caption = f"validation loss, nats: {markup.shown(losses[0])} → {markup.shown(min(losses))}"
        parts[caption] = markup.curve(losses, name=caption)
    return (
        markup.paragraph(repr(adapter), strong=True)
        + markup.side_by_side(parts)
        + markup.paragraph(f"Replay: {settings_text(asdict(adapter.replay))}")
    )
