"""Translators: an affine map of each layer's residual stream, so that the lens reads what the model will predict.

The tuned lens (Belrose et al., arXiv 2303.08112), fitted anew for one model:

1. Translated residual = h + A h + b, with A and b of its layer. Both begin at 0, which is the plain lens, bit for bit.
2. Fit: Adam on KL(final || lens of the translated residual), averaged over positions of training prompts. The final
   distribution is the model's own, through the same norm and unembedding; no weight of the model changes.
3. Stop: layer by layer, when KL on held-out prompts has not fallen for some epochs; the best epoch is kept, so a layer
   that gains nothing keeps the plain lens. The last layer has nothing to translate.
4. ``start="ridge"`` begins at a map in closed form instead (`tracing.ridge`), and so needs fewer epochs.

Layers are fitted one after another, and a finished one is found again in the folder `keep` by the digest of all that
can change it: what was interrupted goes on from there.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from workbench.conditions import Model
from workbench.digests import versions
from workbench.errors import InputError
from workbench.lens.fused import compare
from workbench.lens.heads import LensHead
from workbench.models.anatomy import Anatomy
from workbench.models.batches import batches, collate
from workbench.models.pairs import ModelPair
from workbench.models.products import products_of
from workbench.models.prompts import EncodedPrompt
from workbench.problems.problem import Problem
from workbench.tracing.model_heads import lens_head
from workbench.tracing.residuals import Reduce, read_residuals
from workbench.tracing.ridge import ridge_start
from workbench.tracing.tensor_files import write_tensors

FORMAT = 1
"""Version of the folder that `Translators.save` writes."""
_TENSORS = ("weight", "bias")

Start = Literal["identity", "ridge"]
Residuals = Float[Tensor, "layers positions hidden"]
"""The residual stream after every decoder layer, before the final norm."""


@dataclass(frozen=True, eq=False, repr=False)
class Translators:
    """One affine map a decoder layer; on the CPU, float32."""

    weight: Float[Tensor, "layers hidden hidden"]
    bias: Float[Tensor, "layers hidden"]
    curves: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["layer", "epoch", "kl"]))
    """layer, epoch (0: the start, the plain lens by default), kl: nats from the final distribution on held-out prompts."""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layers, hidden = self.bias.shape if self.bias.ndim == 2 else (0, 0)
        if not layers or self.weight.shape != (layers, hidden, hidden):
            raise InputError(
                f"`weight` is {tuple(self.weight.shape)} and `bias` {tuple(self.bias.shape)}; expected (layers, hidden, "
                "hidden) and (layers, hidden): Translators.identity(layers=8, hidden=160)"
            )
        if not (self.weight.isfinite().all() and self.bias.isfinite().all()):
            raise InputError("`weight` or `bias` is not finite; fit with a smaller `learning_rate`")

    @classmethod
    def identity(cls, layers: int, hidden: int) -> "Translators":
        """The plain lens."""
        return cls(torch.zeros(layers, hidden, hidden), torch.zeros(layers, hidden))

    def translate(
        self, layer: int, hidden: Float[Tensor, "positions hidden"]
    ) -> Float[Tensor, "positions hidden"]:
        """Residuals after ``layer`` as the lens is to read them, in their own dtype and on their device.

        Raises:
            InputError: no such layer, or residuals of another width.
        """
        layers, width = self.bias.shape
        if not 0 <= layer < layers or hidden.shape[-1] != width:
            raise InputError(
                f"`layer` is {layer} and `hidden` {tuple(hidden.shape)}; these translators have layers 0 to {layers - 1} of "
                f"width {width}: fit translators on this model with fit_translators(pair, train, validation)"
            )
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        weight, bias = (part[layer].to(hidden.device, wide.dtype) for part in (self.weight, self.bias))
        return translated(wide, weight, bias).to(hidden.dtype)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for both tensors."""
        return digest_of_tensors((self.weight, self.bias))

    def save(self, folder: str | Path) -> Path:
        """Write ``translators.safetensors`` and, last, ``translators.json`` into a folder; returns it.

        Raises:
            InputError: the folder cannot be written.
        """
        metadata = {"format": FORMAT, "curves": self.curves.to_dict("records")}
        metadata |= {"provenance": dict(self.provenance)}
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return write_tensors(folder, "translators", tensors, json.dumps(metadata, indent=1, default=str))

    @classmethod
    def load(cls, folder: str | Path) -> "Translators":
        """Read what `save` wrote.

        Raises:
            InputError: no such folder, or not one that `save` wrote.
        """
        source = Path(folder)
        try:
            metadata = json.loads((source / "translators.json").read_text())
            if metadata["format"] != FORMAT:
                raise ValueError(f"format {metadata['format']}, expected {FORMAT}")
            tensors = load_file(source / "translators.safetensors")
            curves = pd.DataFrame(metadata["curves"], columns=["layer", "epoch", "kl"])
            return cls(tensors["weight"], tensors["bias"], curves, metadata["provenance"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"`folder` {str(source)!r} holds no translators ({type(error).__name__}: {error}); write them with "
                "`translators.save(folder)`"
            ) from error

    def __repr__(self) -> str:
        layers, hidden = self.bias.shape
        moved = int((self.weight.flatten(1).any(1) | self.bias.any(1)).sum())
        return f"Translators({layers} layers of width {hidden}; {moved} differ from the plain lens)"


def translated(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``h + A h + b`` of residuals (positions, hidden)."""
    return hidden + (hidden @ weight.T + bias)


def fit(
    residuals: Residuals,
    held_out: Residuals,
    head: LensHead,
    *,
    epochs: int = 40,
    patience: int = 3,
    learning_rate: float = 1e-3,
    batch_positions: int = 256,
    start: Start = "identity",
    seed: int = 0,
    keep: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Translators:
    """Translators of one model from its residuals alone: Adam on KL (final || translated lens), layer by layer, stopped early.

    Args:
        residuals: of training prompts; the last layer's give the final distribution.
        held_out: of prompts that decide when to stop.
        head: the model's final norm and unembedding.
        epochs: passes over the training positions at most.
        patience: epochs without a lower KL on ``held_out`` before a layer stops.
        learning_rate: Adam's at the start; it falls linearly to 0 over ``epochs``.
        batch_positions: positions per step.
        start: the plain lens, or the best of it and of some maps in closed form.
        seed: of their order.
        keep: a folder for finished layers, which are not fitted again.
        progress: called with (layers done, layers in all).

    Raises:
        InputError: residuals that do not fit each other or the head, or settings below their least.
    """
    _check_fit(residuals, held_out, head, epochs, patience, learning_rate, batch_positions)
    if start not in get_args(Start):
        raise InputError(f'`start` is {start!r}, expected one of {get_args(Start)}: fit(..., start="ridge")')
    report = progress or (lambda done, total: None)
    layers, _, width = residuals.shape
    used = {"epochs": epochs, "patience": patience, "learning_rate": learning_rate}
    used |= {"batch_positions": batch_positions, "seed": seed, "start": start}
    precision = {"matmul": torch.get_float32_matmul_precision()}  # what is kept depends on it, too
    translators, rows = Translators.identity(layers, width), []
    report(0, layers - 1)
    for layer in range(layers - 1):
        parts = (residuals[layer], residuals[-1], held_out[layer], held_out[-1], head.weight)
        file = (
            None
            if keep is None
            else Path(keep) / f"{digest_of_tensors(parts, about(used | precision))}.safetensors"
        )
        tensors = load_file(file) if file and file.exists() else _fit_layer(*parts[:4], head, **used)
        if file and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, partial := file.with_suffix(".partial"))
            partial.rename(file)
        translators.weight[layer], translators.bias[layer] = tensors["weight"], tensors["bias"]
        curve = tensors["curve"].tolist()
        rows += [{"layer": layer, "epoch": epoch, "kl": kl} for epoch, kl in enumerate(curve)]
        report(layer + 1, layers - 1)
    used |= {"positions": residuals.shape[1]}
    return Translators(translators.weight, translators.bias, pd.DataFrame(rows), {"fit": used})


def fit_translators(
    pair: ModelPair,
    train: Sequence[Problem | EncodedPrompt],
    validation: Sequence[Problem | EncodedPrompt],
    *,
    model: Model = "base",
    batch_size: int = 8,
    **settings: Any,
) -> Translators:
    """Translators of one model of ``pair``, fitted on every position of training prompts.

    The residuals of all prompts are kept in memory: layers x positions x hidden float32 numbers.

    Args:
        pair: what `load_pair` returned.
        train: problems, or prompts already encoded, to fit on.
        validation: others, which decide when to stop.
        model: which of the two.
        batch_size: prompts per forward.
        **settings: of `fit`.

    Raises:
        InputError: no prompts, a prompt in both splits, or bad settings.
    """
    encoded = [[pair.encode(item) for item in part] for part in (train, validation)]
    names = [{prompt.problem_id for prompt in part} for part in encoded]
    if not all(names) or names[0] & names[1]:
        overlap = f"both hold {min(names[0] & names[1])!r}" if all(names) else "one is empty"
        raise InputError(
            f"`train` and `validation` must be different prompts, but {overlap}: fit_translators(pair, "
            "load_problems('shapes', split='train'), load_problems('shapes', split='validation'))"
        )
    anatomy = pair.base if model == "base" else pair.rlvr
    head = lens_head(anatomy, pair.vocab_size)
    training, validation_residuals = (
        read_all(anatomy, part, pair.pad_id, batch_size=batch_size) for part in encoded
    )
    with products_of(pair):
        translators = fit(training, validation_residuals, head, **settings)
    metadata = {"pair": pair.name, model: pair.provenance[model]}
    metadata |= {"train": sorted(names[0]), "validation": sorted(names[1])}
    return Translators(
        translators.weight, translators.bias, translators.curves, {**metadata, **translators.provenance}
    )


def read_all(
    anatomy: Anatomy,
    prompts: Sequence[EncodedPrompt],
    pad_id: int,
    *,
    batch_size: int = 8,
    reduce: Reduce = lambda _, hidden: hidden.float(),
) -> Float[Tensor, "layers positions *rest"]:
    """What ``reduce`` makes of the residuals of the real positions of all prompts, one prompt after another.

    It is given (positions, hidden), where the unembedding is; by default it keeps them, float32.
    """
    device, parts = anatomy.unembedding.weight.device, []
    for batch in batches(prompts, batch_size):
        inputs = collate(batch, pad_id)
        real = inputs["attention_mask"].bool()

        def keep(layer: int, hidden: Tensor, real: Tensor = real) -> Tensor:
            return reduce(layer, hidden[real.to(hidden.device)].to(device))

        parts.append(torch.stack([*read_residuals(anatomy, inputs, reduce=keep).values()]))
    return torch.cat(parts, 1)


def _fit_layer(
    hidden: Tensor,
    final: Tensor,
    held_out: Tensor,
    held_final: Tensor,
    head: LensHead,
    *,
    epochs: int,
    patience: int,
    learning_rate: float,
    batch_positions: int,
    start: Start,
    seed: int,
) -> dict[str, Tensor]:
    """The best ``weight`` and ``bias`` of a layer, and its ``curve``: held-out KL by epoch, that of the start first."""
    width, generator = hidden.shape[1], torch.Generator().manual_seed(seed)

    def held(weight: Tensor, bias: Tensor) -> float:
        view = translated(held_out, weight.detach(), bias.detach())
        return float(compare(held_final, view, head, head, top_k=1).kl.mean())

    if start == "ridge":
        weight, bias, first = ridge_start(hidden, final, held)
    else:
        weight, bias = hidden.new_zeros(width, width).float(), hidden.new_zeros(width).float()
        first = held(weight, bias)
    best, curve = {"weight": weight.clone().cpu(), "bias": bias.clone().cpu()}, [first]
    weight.requires_grad_()
    bias.requires_grad_()
    optimiser = torch.optim.Adam([weight, bias], lr=learning_rate)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, epochs)
    for _ in range(epochs):
        order = torch.randperm(len(hidden), generator=generator).to(hidden.device)
        for index in order.split(batch_positions):
            with torch.no_grad():
                target = head.logits(final[index]).log_softmax(-1)
            with torch.enable_grad():
                lens = head.logits(translated(hidden[index], weight, bias)).log_softmax(-1)
                loss = torch.nn.functional.kl_div(lens, target, reduction="batchmean", log_target=True)
                # Not `backward`: the norm's own weights may ask for a gradient, and must not get one.
                weight.grad, bias.grad = torch.autograd.grad(loss, [weight, bias])
            optimiser.step()
        decay.step()
        curve.append(held(weight, bias))
        if curve[-1] < min(curve[:-1]):
            best = {"weight": weight.detach().clone().cpu(), "bias": bias.detach().clone().cpu()}
        if len(curve) - 1 - curve.index(min(curve)) >= patience:
            break
    return best | {"curve": torch.tensor(curve, dtype=torch.float64)}


def digest_of_tensors(parts: Sequence[Tensor], about: str = "") -> str:
    """16 hexadecimal digits that stand for tensors, and text about them."""
    digest = hashlib.sha256(about.encode())
    for part in parts:
        digest.update(repr((part.dtype, tuple(part.shape))).encode())
        digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def about(settings: Mapping[str, Any]) -> str:
    """Settings and the code that uses them, as text."""
    return json.dumps([settings, versions()], sort_keys=True)


def _check_fit(
    residuals: Tensor,
    held_out: Tensor,
    head: LensHead,
    epochs: int,
    patience: int,
    learning_rate: float,
    batch_positions: int,
) -> None:
    width, call = head.weight.shape[1], "fit(residuals, held_out, head, epochs=40, patience=3)"
    for name, value in (("residuals", residuals), ("held_out", held_out)):
        if value.ndim != 3 or value.shape[1] < 1 or value.shape[2] != width or len(value) != len(residuals):
            raise InputError(
                f"`{name}` is {tuple(value.shape)}, expected (layers, positions, {width}), not empty and of as many layers "
                f"as `residuals`: {call}"
            )
    if len(residuals) < 2:
        raise InputError(
            "`residuals` has one layer; the last layer needs no translator, so there is nothing to fit"
        )
    for name, value in (("epochs", epochs), ("patience", patience), ("batch_positions", batch_positions)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"`{name}` is {value!r}, expected a whole number of at least 1: {call}")
    if not 0 < learning_rate < 1:
        raise InputError(
            f"`learning_rate` is {learning_rate}, expected a number in (0, 1): fit(..., learning_rate=1e-3)"
        )
