"""`read_neighbours`: both models' nearest contextual states at every layer and position, and how far they agree.

Where a reading has no distribution there is no KL. What shifts is told by

* *overlap*: the share of the base's k nearest states that are among the RLVR model's, in any order;
* *rank*: how many states are nearer to the RLVR model's residual than the one that is nearest to the base's (0: it still leads).

Both models are compared with the same states, those of a `LatentLens`. Beside the overlap stands that of matched noise: the
base's residual plus a random direction as long as the real change (`nulls.Noise`), compared likewise.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from workbench.backoff import piecewise
from workbench.columns import describe
from workbench.errors import InputError
from workbench.lens.neighbours import nearest, rank_of
from workbench.models.batches import batches
from workbench.models.identity import recorded_weights
from workbench.models.pairs import ModelPair, batch_of, weights_of
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.problems.problem import Problem, listed
from workbench.tracing.both_models import compare_residuals, stretches_of
from workbench.tracing.edits import Intervention, batch_edits, one_each
from workbench.tracing.latent_lens import LatentLens
from workbench.tracing.nulls import Noise
from workbench.tracing.tensor_files import write_tensors
from workbench.views import markup

_CALL = "read_neighbours(pair, load_problems('shapes', limit=8), LatentLens.build(pair, texts))"
_AXES = {
    **dict.fromkeys(("ids_base", "cosines_base", "ids_rlvr", "cosines_rlvr", "overlap", "rank"), 1),
    "overlap_null": 2,
}
"""The tensors of `Neighbours`, and the axis of their positions."""


@dataclass(frozen=True, eq=False, repr=False)
class Neighbours:
    """Nearest states of a pair at (layer, position) cells; positions of all prompts one after another, on the CPU."""

    ids_base: Int[Tensor, "layers positions k"]
    """Rows of `lens`, nearest first."""
    cosines_base: Float[Tensor, "layers positions k"]
    ids_rlvr: Int[Tensor, "layers positions k"]
    cosines_rlvr: Float[Tensor, "layers positions k"]
    overlap: Float[Tensor, "layers positions"]
    """Share of the k nearest that both have."""
    rank: Int[Tensor, "layers positions"]
    """Of the base's nearest state, among all states, in the RLVR model; 0 is the nearest."""
    overlap_null: Float[Tensor, "draws layers positions"]
    """The same share for matched noise in the RLVR model's place."""
    layers: tuple[int, ...]
    prompts: tuple[EncodedPrompt, ...] = field(repr=False)
    lens: LatentLens = field(repr=False)
    weights: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Digests of the weights of ``base`` and ``rlvr``; without them it is not known which pair was read."""

    def __repr__(self) -> str:
        layers, positions, k = self.ids_base.shape
        size = f"{len(self.prompts)} prompts, {positions} positions, {layers} layers"
        return f"Neighbours({size}, {k} nearest of {len(self.lens):,})"

    def _repr_html_(self) -> str:
        rows = self.to_dataframe()
        last = rows.loc[(rows["prompt"] == 0) & (rows["position"] == len(self.prompts[0]) - 1)]
        shown = last.loc[:, ["layer", "nearest_base", "nearest_rlvr", "overlap", "rank"]]
        return markup.paragraph(f"{self!r}; at the end of the first prompt:") + markup.table(shown)

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of `to_dataframe`."""
        return describe({"neighbours": None})

    @property
    def problem(self) -> list[str]:
        """The problem of every position."""
        return [prompt.problem_id for prompt in self.prompts for _ in range(len(prompt))]

    def words(self, model: str, place: int = 0) -> list[list[str]]:
        """What stands at each cell's nearest state (layers, positions), or at a further one."""
        ids = getattr(self, f"ids_{model}")[..., place].tolist()
        return [[self.lens.tokens[i] for i in row] for row in ids]

    def select(self, *, prompt: int) -> "Neighbours":
        """One prompt alone, which becomes prompt 0.

        Raises:
            InputError: no such prompt.
        """
        if not 0 <= prompt < len(self.prompts):
            raise InputError(
                f"`prompt` is {prompt}, but prompts 0 to {len(self.prompts) - 1} were read: `neighbours.select(prompt=0)`"
            )
        start = sum(len(one) for one in self.prompts[:prompt])
        length = len(self.prompts[prompt])
        own = {name: getattr(self, name).narrow(axis, start, length) for name, axis in _AXES.items()}
        return replace(self, **own, prompts=self.prompts[prompt : prompt + 1])

    @classmethod
    def join(cls, parts: "Sequence[Neighbours]") -> "Neighbours":
        """One of several that were read alike, by the same lens, at the same layers; prompts one after another.

        Raises:
            InputError: none, or of several pairs.
        """
        if not parts:
            raise InputError(f"`parts` is empty, expected what was read: Neighbours.join([{_CALL}])")
        known = [one.weights for one in parts if one.weights]
        if any(weights != known[0] for weights in known):
            raise InputError(f"`parts` are of several pairs, expected one: Neighbours.join([{_CALL}])")
        whole = {name: torch.cat([getattr(one, name) for one in parts], axis) for name, axis in _AXES.items()}
        prompts = tuple(prompt for one in parts for prompt in one.prompts)
        return replace(parts[0], **whole, prompts=prompts, weights=known[0] if known else {})

    def save(self, folder: str | Path) -> Path:
        """Write its numbers, ``neighbours.safetensors`` and, last, ``neighbours.json``, into a folder; returns it.

        Raises:
            InputError: the folder cannot be written.
        """
        about = {"layers": self.layers, "lens": self.lens.described, "weights": dict(self.weights)}
        about["prompts"] = [prompt.fingerprint for prompt in self.prompts]
        tensors = {name: getattr(self, name) for name in _AXES}
        return write_tensors(folder, "neighbours", tensors, json.dumps(about))

    @classmethod
    def load(cls, folder: str | Path, prompts: Sequence[EncodedPrompt], lens: LatentLens) -> "Neighbours":
        """Read what `save` wrote, of the same prompts and states.

        Raises:
            InputError: no such folder, nothing of the kind in it, or of other prompts or states.
        """
        home = Path(folder)
        try:
            about = json.loads((home / "neighbours.json").read_text(encoding="utf-8"))
            tensors = load_file(home / "neighbours.safetensors")
            same = about["lens"] == lens.described
            if not same or about["prompts"] != [prompt.fingerprint for prompt in prompts]:
                raise ValueError("of other prompts" if same else "of other states")
            numbers: dict[str, Any] = {name: tensors[name] for name in _AXES}
            weights = dict(about.get("weights", {}))  # which folders of earlier versions lack
            return cls(
                **numbers, layers=tuple(about["layers"]), prompts=tuple(prompts), lens=lens, weights=weights
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"`folder` {str(home)!r} holds no neighbours of these ({type(error).__name__}: {error}); write them with "
                "`neighbours.save(folder)`"
            ) from error

    def to_dataframe(self) -> pd.DataFrame:
        """One row per (layer, position) cell."""
        layers, positions = self.overlap.shape
        kinds = torch.cat([prompt.kinds for prompt in self.prompts]).tolist()
        numbers = [number for number, prompt in enumerate(self.prompts) for _ in range(len(prompt))]
        places = [place for prompt in self.prompts for place in range(len(prompt))]
        columns: dict[str, Any] = {
            "layer": np.repeat(self.layers, positions),
            "problem": self.problem * layers,
            "prompt": numbers * layers,
            "position": places * layers,
            "kind": [TokenKind(kind).name.lower() for kind in kinds] * layers,
            "token": [token for prompt in self.prompts for token in prompt.tokens] * layers,
        }
        for model in ("base", "rlvr"):
            columns[f"nearest_{model}"] = [word for row in self.words(model) for word in row]
            columns[f"cosine_{model}"] = getattr(self, f"cosines_{model}")[..., 0].flatten().numpy()
            nearest = getattr(self, f"ids_{model}")[..., 0].flatten()
            columns[f"nearest_layer_{model}"] = self.lens.layer[nearest].numpy()
        columns["overlap_null"] = self.overlap_null.mean(0).flatten().numpy()  # NaN without draws
        columns |= {"overlap": self.overlap.flatten().numpy(), "rank": self.rank.flatten().numpy()}
        return pd.DataFrame(columns)


def read_neighbours(
    pair: ModelPair,
    problems: Sequence[Problem | EncodedPrompt],
    lens: LatentLens,
    *,
    k: int = 10,
    layers: Sequence[int] | None = None,
    null_draws: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    interventions: Sequence[Intervention | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    """The nearest states of both models' residual streams, at every layer and position of some prompts.

    Args:
        pair: what `load_pair` returned.
        problems: problems, or prompts already encoded (with a response: ``pair.encode(problem, response=...)``).
        lens: states to compare with.
        k: how many.
        layers: decoder layers to read, 0-based; all when None.
        null_draws: random directions per cell for the matched-noise overlap; each costs one search more.
        seed: of these directions.
        batch_size: prompts per forward; None: what suits the pair.
        interventions: one (or None) for each problem, in place in the RLVR model.
        progress: called with (prompts done, prompts in all), at the start and after every batch.

    Raises:
        InputError: no problems, states of another model or width, ``k`` out of range, a layer that does not exist, or
            interventions of other problems.
    """
    check_states(lens, pair, k)
    prompts = [pair.encode(item) for item in listed(problems, _CALL, Problem, EncodedPrompt)]
    entries = one_each(interventions, [prompt.problem_id for prompt in prompts])
    states = lens.states.to(pair.rlvr.unembedding.weight.device)
    null = Noise(null_draws, seed)
    report, parts, done = progress or (lambda done, total: None), [], 0
    report(0, len(prompts))

    def read(batch: Sequence[EncodedPrompt], here: slice) -> list[dict[str, Tensor]]:
        stretches = [part for prompt in batch for part in stretches_of(prompt)]

        def meet(layer: int, h_base: Tensor, h_rlvr: Tensor) -> dict[str, Tensor]:
            lengths = [part.length for part in stretches]
            by_part = zip(stretches, h_base.split(lengths), h_rlvr.split(lengths), strict=True)
            noise = [*torch.cat([null(layer, *each) for each in by_part], 1)] if null_draws else []
            found = compared(h_base, h_rlvr, states, k, noise)
            return {name: value.cpu() for name, value in found.items()}

        write = batch_edits(batch, entries[here])
        return [*compare_residuals(pair, batch, meet, layers=layers, write=write).values()]

    for batch, part in piecewise(
        batches(prompts, batch_of(pair, batch_size)), read, model=pair.base, what="tracing"
    ):
        parts.append(
            {name: torch.stack([values[name] for values in part], axis - 1) for name, axis in _AXES.items()}
        )
        done += len(batch)
        report(done, len(prompts))
    tensors = {name: torch.cat([part[name] for part in parts], axis) for name, axis in _AXES.items()}
    numbers = range(pair.depth) if layers is None else sorted({*layers})
    return Neighbours(
        **tensors, layers=tuple(numbers), prompts=tuple(prompts), lens=lens, weights=weights_of(pair)
    )


def check_states(lens: LatentLens, pair: ModelPair, k: int = 1) -> None:
    """Refuse what is no `LatentLens`, or one of other models, or of fewer than ``k`` states.

    Raises:
        InputError: names it.
    """
    if not isinstance(lens, LatentLens):
        raise InputError(f"`lens` is a {type(lens).__name__}, expected a LatentLens: {_CALL}")
    if lens.states.shape[1] != pair.base.hidden_size:
        raise InputError(
            f"`lens` has states of width {lens.states.shape[1]}, the models of {pair.name!r} have {pair.base.hidden_size}; build "
            f"it of this pair: {_CALL}"
        )
    size = max(pair.base.vocab_size, pair.rlvr.vocab_size)
    for name, held, most in (("layer", lens.layer, pair.depth), ("token_id", lens.token_id, size)):
        if int(held.max()) >= most:
            raise InputError(
                f"`lens` has states with {name} {int(held.max())}, the models of {pair.name!r} have 0 to {most - 1}; build it of "
                f"this pair: {_CALL}"
            )
    built = recorded_weights(lens.provenance, "model")
    if built not in (None, *weights_of(pair).values()):
        raise InputError(
            f"`lens` has states of a model with weights {built}, which is neither of {pair.name!r}; build it of this pair: "
            f"{_CALL}"
        )
    if isinstance(k, bool) or not 1 <= k <= len(lens):
        raise InputError(f"`k` is {k}, expected 1 to the {len(lens)} states of `lens`: {_CALL}")


def compared(
    h_base: Float[Tensor, "positions hidden"],
    h_rlvr: Float[Tensor, "positions hidden"],
    states: Float[Tensor, "states hidden"],
    k: int,
    noise: Sequence[Tensor] = (),
) -> dict[str, Tensor]:
    """Neighbours of two residuals at some positions, overlap and rank; of draws of noise the overlap."""
    base, rlvr, *null = (nearest(hidden.float(), states, k) for hidden in (h_base, h_rlvr, *noise))
    overlaps = [shared(base.ids, other.ids) for other in (rlvr, *null)]
    found = {"ids_base": base.ids, "cosines_base": base.cosines, "ids_rlvr": rlvr.ids}
    found |= {"cosines_rlvr": rlvr.cosines, "overlap": overlaps[0]}
    found["rank"] = rank_of(h_rlvr.float(), states, base.ids[:, 0])
    found["overlap_null"] = torch.stack(overlaps[1:]) if null else overlaps[0].new_zeros(0, len(h_base))
    return found


def shared(
    ids: Int[Tensor, "positions k"], others: Int[Tensor, "positions k"]
) -> Float[Tensor, " positions"]:
    """Share of ids that are among the others, in any order."""
    return (ids[:, :, None] == others[:, None, :]).any(2).float().mean(1)
