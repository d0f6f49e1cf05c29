"""Weight changes: what training changed in every module, and how well that tells where activations shift.

1. Per weight: the norm of its change, that norm over the norm of the base's weight, and of matrices the effective rank of the
   change, exp(H(p)) with p the singular values over their sum (Roy & Vetterli, "The effective rank: a measure of effective
   dimensionality", EUSIPCO 2007): 1 for a change along one direction, the smaller side for one that is even in all.
2. Per linear module and decoder layer, on prompts: the relative change of its output, |RLVR - base| / |base| with norms over
   all positions of all prompts. ``total`` is the change in the running models; ``own`` that of the RLVR module fed with what
   the base's receives, hence its own weights' doing alone.
3. Spearman correlation over modules of relative weight change and both of these. Modules of one layer read the same stream, so
   intervals resample layers (and blocks of the vision tower), not modules.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from workbench.analysis.null_models import check_update, named_weights
from workbench.columns import describe
from workbench.errors import InputError
from workbench.estimates import Array, Interval, bootstrap, divide, spearman
from workbench.lens.precision import double
from workbench.models.anatomy import Anatomy
from workbench.models.batches import collate
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.models.rope_memory import from_rest
from workbench.problems.problem import Problem, listed
from workbench.views import markup

LAYER = "layer"
"""The part that stands for a whole decoder layer."""


@dataclass(frozen=True, eq=False, repr=False)
class WeightChanges:
    """What training changed in weights, what that does to outputs, and how well the one tells the other."""

    table: pd.DataFrame
    """`weight_table` of the pair."""
    outputs: pd.DataFrame
    """One row a linear module, and a decoder layer (part "layer"): module, layer, part, relative (weight change); own and total,
    relative changes of its output, with intervals over problems (own is NaN for layers); problems."""
    prediction: pd.DataFrame
    """One row a set of modules and a change of output: modules ("linear modules", "decoder layers"), change, rho (Spearman) with
    relative weight change and its interval over layers, n modules, layers."""
    provenance: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        return "\n".join(
            [f"WeightChanges({len(self.table)} weights, {len(self.outputs)} modules)", *self.verdicts]
        )

    @property
    def verdicts(self) -> list[str]:
        """How well weight changes tell output changes, a line for each."""
        return [
            f"Relative weight change and {row['change']} change of output, {row['n']} {row['modules']}: Spearman "
            f"{Interval.in_row(row, 'rho')}."
            for row in self.prediction.to_dict("records")
        ]

    def _repr_html_(self) -> str:
        return (
            markup.listing(self.verdicts)
            + markup.table(self.prediction)
            + markup.folded("outputs of modules", markup.table(self.outputs))
            + markup.folded("every weight", markup.table(self.table))
        )

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of its tables."""
        return describe(self.tables())

    def to_dataframe(self) -> pd.DataFrame:
        """A copy of ``table``."""
        return self.table.copy()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Everything that was found, by the names that a run folder gives it."""
        return {
            "weight_changes": self.table,
            "output_changes": self.outputs,
            "weight_prediction": self.prediction,
        }

    def plot(self, measure: str = "relative") -> Any:
        """A measure of ``table`` by part and layer, as a plotly Figure."""
        from workbench.views.weight_figures import weight_heatmap

        return weight_heatmap(self.table, measure=measure)


def compare_weights(
    pair: ModelPair, problems: Sequence[Problem | EncodedPrompt], *, resamples: int = 1000, seed: int = 0
) -> WeightChanges:
    """The change of every weight beside that of every module's output, and how well one tells the other.

    1. Per weight: the norm of its change, over the norm of the base's weight, and of matrices its effective rank.
    2. Per linear module and decoder layer: the relative change of its output on the prompts, in the running models (``total``)
       and of the RLVR module fed with what the base's receives (``own``).
    3. Spearman correlations over modules of relative weight change and both of these.

    Args:
        pair: what `load_pair` returned.
        problems: problems, or prompts already encoded; one is in memory at a time.
        resamples: of the bootstraps.
        seed: of the bootstraps.

    Raises:
        InputError: no problems, or two models with equal weights.
    """
    call = "compare_weights(pair, load_problems('shapes', limit=32))"
    items = listed(problems, call, Problem, EncodedPrompt)
    table = weight_table(pair)
    prompts = [pair.encode(item) for item in items]
    outputs = _output_table(pair, prompts, table, resamples, seed)
    settings = {"problems": len(prompts), "resamples": resamples, "seed": seed}
    prediction = pd.DataFrame(_predictions(outputs, resamples, seed))
    return WeightChanges(table, outputs, prediction, {**pair.provenance, "weight_changes": settings})


def weight_table(pair: ModelPair) -> pd.DataFrame:
    """The change of every weight; runs nothing.

    One row a parameter that both models have in one shape: weight (its name), layer (of the decoder; -1: elsewhere), part (its
    name within), rows, columns, norm, relative (to the base's norm), effective_rank (of matrices that changed) and full_rank.

    Raises:
        InputError: two models with equal weights.
    """
    check_update(pair)
    start, rows = named_weights(pair.base.model), []
    for name, weight in pair.rlvr.model.named_parameters():  # names a tied weight once
        if name in start and start[name].shape == weight.shape and weight.is_floating_point():
            before = start[name].float()
            change = weight.detach().to(before) - before
            layer, part = place_of(name, pair.base)
            matrix = change.flatten(1) if change.ndim > 1 else change[:, None]
            size = float(change.norm())
            rank = effective_rank(matrix) if change.ndim > 1 and size > 0 else np.nan
            rows.append(
                {"weight": name, "layer": layer, "part": part}
                | {"rows": matrix.shape[0], "columns": matrix.shape[1], "norm": size}
                | {"relative": float(divide(size, float(before.norm())))}
                | {"effective_rank": rank, "full_rank": min(matrix.shape)}
            )
    return pd.DataFrame(rows)


def effective_rank(matrix: Tensor) -> float:
    """exp of the entropy (nats) of the singular values over their sum (Roy & Vetterli 2007); the matrix must not be zero."""
    values = torch.linalg.svdvals(double(matrix))
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def change_cosine(pair: ModelPair, other: ModelPair) -> float:
    """Cosine of the weight changes of two pairs with the same base, all weights as one vector.

    Raises:
        InputError: weights of different names or shapes.
    """
    starts, mine, theirs = (
        named_weights(model) for model in (pair.base.model, pair.rlvr.model, other.rlvr.model)
    )
    sums = torch.zeros(3, dtype=torch.float64)
    for name, start in starts.items():
        if name not in theirs or theirs[name].shape != start.shape:
            raise InputError(
                f"`other` has no {name} of {tuple(start.shape)}; expected a pair with the same base"
            )
        one, two = ((double(some[name]) - double(start)).flatten().cpu() for some in (mine, theirs))
        sums += torch.stack([one @ two, one @ one, two @ two])
    return float(sums[0] / (sums[1] * sums[2]).sqrt())


def place_of(name: str, anatomy: Anatomy) -> tuple[int, str]:
    """The decoder layer that a weight or module is in (-1: none), and its name within, without ``.weight``."""
    inside = re.fullmatch(rf"{re.escape(anatomy.layers_path)}\.(\d+)(?:\.(.+))?", name)
    layer, part = (int(inside[1]), inside[2] or LAYER) if inside else (-1, name)
    return layer, part.removesuffix(".weight")


def _output_table(
    pair: ModelPair, prompts: Sequence[EncodedPrompt], table: pd.DataFrame, resamples: int, seed: int
) -> pd.DataFrame:
    """What `WeightChanges.outputs` holds."""
    watched = _watched(pair)
    squares = np.stack([_squares(pair, prompt, watched) for prompt in prompts])  # (problems, modules, 3)
    labels = [prompt.problem_id for prompt in prompts]
    ids, owner = np.unique(labels, return_inverse=True)
    sums = np.stack([np.bincount(owner, weights=column) for column in squares.reshape(len(prompts), -1).T], 1)
    sums = sums.reshape(len(ids), *squares.shape[1:])

    def statistic(counts: Array) -> Array:
        total = np.tensordot(counts, sums, axes=1)
        return np.sqrt(divide(total[..., 1:], total[..., :1])).reshape(len(counts), -1)

    intervals = bootstrap(statistic, len(ids), bounds=(0.0, np.inf), resamples=resamples, seed=seed)
    of_layer = table.loc[table["layer"] >= 0].assign(
        change=table["norm"] ** 2, whole=(table["norm"] / table["relative"]) ** 2
    )
    layers = np.sqrt(of_layer.groupby("layer")["change"].sum() / of_layer.groupby("layer")["whole"].sum())
    relative = dict(zip(table["weight"], table["relative"], strict=True))
    rows = []
    for index, name in enumerate(watched):
        layer, part = place_of(name, pair.base)
        whole = part == LAYER
        weight_change = layers.get(layer, np.nan) if whole else relative.get(f"{name}.weight", np.nan)
        own = Interval(np.nan, np.nan, np.nan) if whole else intervals[2 * index]
        rows.append(
            {"module": name, "layer": layer, "part": part, "relative": float(weight_change)}
            | own.columns("own")
            | intervals[2 * index + 1].columns("total")
            | {"problems": len(ids)}
        )
    return pd.DataFrame(rows)


def _watched(pair: ModelPair) -> list[str]:
    """Linear modules that both models have, and the decoder's layers."""
    theirs = dict(pair.rlvr.model.named_modules())
    layers = [f"{pair.base.layers_path}.{index}" for index in range(pair.depth)]
    linear = [
        name
        for name, module in pair.base.model.named_modules()
        if isinstance(module, nn.Linear) and isinstance(theirs.get(name), nn.Linear)
    ]
    return [*linear, *layers]


def _squares(pair: ModelPair, prompt: EncodedPrompt, watched: Sequence[str]) -> Array:
    """(modules, 3): squared norms of the base's output, of its own and of its total change; 0 for what is not called."""
    sums = np.zeros((len(watched), 3))
    theirs = dict(pair.rlvr.model.named_modules())
    with torch.no_grad(), _calls(pair.base, watched) as before:
        _run(pair.base, prompt, pair.pad_id)
    with torch.no_grad(), _calls(pair.rlvr, watched) as after:
        _run(pair.rlvr, prompt, pair.pad_id)
    for index, name in enumerate(watched):
        for (fed_by_base, output), (_, other) in zip(before.get(name, []), after.get(name, []), strict=True):
            with torch.no_grad():
                fed = theirs[name](fed_by_base.to(other)) if fed_by_base is not None else other
            parts = (output, fed.to(output) - output, other.to(output) - output)
            sums[index] += [float(double(part).square().sum()) for part in parts]
    return sums


@from_rest
def _run(anatomy: Anatomy, prompt: EncodedPrompt, pad_id: int) -> None:
    anatomy.model(**anatomy.placed(collate([prompt], pad_id)), use_cache=False)


Call = tuple[Tensor | None, Tensor]
"""What a module was given (None for a layer) and what it returned."""


@contextmanager
def _calls(anatomy: Anatomy, watched: Sequence[str]) -> Iterator[dict[str, list[Call]]]:
    """Every call of the watched modules while this is open; nothing stays hooked."""
    calls: dict[str, list[Call]] = {}
    modules = dict(anatomy.model.named_modules())

    def keep(name: str, module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        calls.setdefault(name, []).append((given[0] if isinstance(module, nn.Linear) else None, output))

    handles = [modules[name].register_forward_hook(partial(keep, name)) for name in watched]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _predictions(outputs: pd.DataFrame, resamples: int, seed: int) -> Iterator[dict[str, Any]]:
    whole = outputs["part"] == LAYER
    # Vision blocks count as layers: "model.visual.blocks.0.attn.qkv" and its like belong together.
    blocks = [
        str(layer) if layer >= 0 else re.sub(r"(\.\d+)\..*", r"\1", module)
        for layer, module in zip(outputs["layer"], outputs["module"], strict=True)
    ]
    for modules, rows, changes in (
        ("linear modules", ~whole, ("own", "total")),
        ("linear modules of the decoder", ~whole & (outputs["layer"] >= 0), ("own", "total")),
        ("decoder layers", whole, ("total",)),
    ):
        for change in changes:
            finite = rows & np.isfinite(outputs["relative"]) & np.isfinite(outputs[change])
            part, cluster = outputs.loc[finite], np.asarray(blocks)[finite]
            rho = spearman(part["relative"], part[change], cluster, resamples=resamples, seed=seed)
            yield {"modules": modules, "change": change, **rho.columns("rho"), "n": len(part)} | {
                "layers": len(set(cluster))
            }
