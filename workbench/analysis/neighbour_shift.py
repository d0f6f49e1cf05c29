"""The shift where a reading has no distribution (LatentLens): nearest text states that changed, by stratum of base entropy.

1. Cut the cells of each layer and token kind into strata of the base's logit-lens entropy, over the whole split.
2. Per stratum: the share of the base's k nearest states that are not among the RLVR model's, beside the same for matched noise;
   the share of cells whose nearest state no longer leads; and how many states overtook it (rank shift).
3. Claims set the lowest stratum against the highest, over all layers but the last: as it is, over noise, and over a control's.

Intervals resample problems. There is no KL here, and no unit but shares and states.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.analysis.control_claims import BESIDE
from workbench.analysis.verdicts import Claim, claims_html
from workbench.columns import describe
from workbench.errors import InputError
from workbench.estimates import Array, Settings, bootstrap, divide, number_problems, sums_by_problem
from workbench.lens.strata import check_bins, quantile_strata
from workbench.models.prompts import TokenKind
from workbench.names import SCOPES
from workbench.tracing.cells import TOKENS
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.neighbours import Neighbours
from workbench.tracing.readings import LogitLens
from workbench.tracing.same_prompts import check_same_models, check_same_prompts, weights_in
from workbench.views import markup
from workbench.views.tables import first_kind

POOLED = "without last layer"
MEASURES = ("changed", "changed_null", "over_null", "moved", "rank")
_CALL = "neighbour_shift(read_neighbours(pair, problems, lens), trace(pair, problems))"
_PLACE = "section 3, entropy"


@dataclass(frozen=True, eq=False, repr=False)
class NeighbourShift:
    """What changed of the nearest states, by scope, layer, kind of token and stratum."""

    table: pd.DataFrame
    """scope ("layer" or "without last layer"), layer (-1: several), kind, stratum, strata_by, entropy_low, entropy_high,
    cells, problems,    then of each of MEASURES the estimate and its interval."""
    claims: tuple[Claim, ...]
    """Of each kind: whether low-entropy cells shift more, as it is, over noise, and more than with each control."""
    reading: str
    bins: int
    depth: int
    """Decoder layers of the models."""

    def __repr__(self) -> str:
        kinds = ", ".join(self.table["kind"].unique())
        return (
            f"NeighbourShift({self.reading}, {self.bins} strata, tokens: {kinds}; {len(self.claims)} claims)"
        )

    def _repr_html_(self) -> str:
        pooled = self.table.loc[self.table["scope"] == POOLED].drop(columns=["scope", "layer"])
        shown = pooled.loc[pooled["kind"] == first_kind(pooled)]
        return markup.paragraph(repr(self)) + claims_html(self.claims) + markup.table(shown)

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of its table."""
        return describe(self.tables())

    def tables(self) -> dict[str, pd.DataFrame]:
        """Everything that was found, by the name that a run folder gives it."""
        return {"neighbour_shift": self.table}

    def plot(self, kind: str | None = None) -> Any:
        """Plotly figure of the changed share by stratum, beside noise; ``kind`` is visual if there is any."""
        from workbench.views.reading_figures import neighbours_by_entropy

        return neighbours_by_entropy(self.table, kind=kind, reading=self.reading)


def neighbour_shift(
    found: Neighbours,
    traced: LensTrace,
    *,
    bins: int = 5,
    controls: Mapping[str, Neighbours] | None = None,
    name: str = "latent lens",
    **settings: Unpack[Settings],
) -> NeighbourShift:
    """How much of both models' nearest states differs, by stratum of base entropy, and the low-entropy claim.

    Args:
        found: both models' neighbours, with draws of noise for what stands over noise.
        traced: the same prompts and layers of the same pair through the logit lens, whose entropies of the base make the strata.
        bins: strata per layer and kind.
        controls: the same of pairs with the same base that RL did not train, at the same cells.
        name: of the reading, in claims.
        **settings: of the intervals.

    Raises:
        InputError: a trace of other prompts, in another order, of another pair or through another lens; controls of other cells
            or with another base; ``bins`` below 2, or fewer cells than ``bins`` of every kind.
    """
    check_bins(bins)
    _check(found, traced, controls or {})
    entropy = traced.entropy_base
    kinds = torch.cat([prompt.kinds for prompt in found.prompts])
    present = [kind for kind in TOKENS if (kinds == TokenKind[kind.upper()]).sum() >= bins]
    if not present:
        raise InputError(f"`bins` is {bins}, more than there are cells of any kind in a layer: {_CALL}")
    rows, claims = [], []
    for kind in present:
        here = kinds == TokenKind[kind.upper()]
        owner, problems = number_problems(np.array(found.problem)[here.numpy()], int(here.sum()))
        strata = quantile_strata(entropy[:, here], bins).numpy()
        cells = _Cells(entropy[:, here].double().numpy(), strata, owner, problems, bins)
        values = _values(found, here)
        below = [row for row, layer in enumerate(found.layers) if layer < traced.depth - 1]
        scopes = [("layer", layer, [row]) for row, layer in enumerate(found.layers)]
        for scope, layer, members in [*scopes, (POOLED, -1, below)] if below else scopes:
            key = {"scope": scope, "layer": layer, "kind": kind}
            rows += [key | row for row in cells.measured(values, members, settings)]
        if below:
            others = {control: _values(other, here) for control, other in (controls or {}).items()}
            claims += _claims(cells, values, others, below, kind, name, settings)
    return NeighbourShift(pd.DataFrame(rows), tuple(claims), name, bins, traced.depth)


def _check(found: Neighbours, traced: LensTrace, controls: Mapping[str, Neighbours]) -> None:
    """Refuse what was not read of the same cells of the same models; all of it has one shape, and would give numbers."""
    parts = [("`found`", found, Neighbours), ("`traced`", traced, LensTrace)]
    parts += [(f"`controls`: {control!r}", other, Neighbours) for control, other in controls.items()]
    for name, value, kind in parts:
        if not isinstance(value, kind):
            raise InputError(f"{name} is a {type(value).__name__}, expected {kind.__name__}: {_CALL}")
    if traced.entropy_base.shape != found.overlap.shape or traced.layers != found.layers:
        raise InputError(
            f"`traced` has {tuple(traced.entropy_base.shape)} cells (layers, positions), expected the "
            f"{tuple(found.overlap.shape)} that were read, at the same layers: {_CALL}"
        )
    check_same_prompts("`traced`", traced, found.prompts, _CALL)
    if traced.reading != LogitLens().name:
        raise InputError(f"`traced` was read through the {traced.reading}, expected the logit lens: {_CALL}")
    check_same_models("`traced`", weights_in(traced), found.weights, _CALL)
    for control, other in controls.items():
        name = f"`controls`: {control!r}"
        if other.layers != found.layers:
            raise InputError(
                f"{name} was read at layers {[*other.layers]}, expected {[*found.layers]}: {_CALL}"
            )
        check_same_prompts(name, other.prompts, found.prompts, _CALL)
        base = {model: weights for model, weights in found.weights.items() if model == "base"}
        check_same_models(name, other.weights, base, _CALL)


@dataclass(frozen=True, eq=False)
class _Cells:
    """The cells of one kind: entropies and strata (layers, positions), and the problem of every position."""

    entropy: Array
    strata: NDArray[np.int64]
    owner: NDArray[np.int64]
    problems: int
    bins: int

    def sums(self, values: Array, members: list[int], stratum: int) -> Array:
        """(problems,): the sum of values (layers, positions) over a stratum of some layers."""
        inside = np.where(self.strata[members] == stratum, values[members], 0.0)
        return sums_by_problem(inside.sum(0), self.owner, self.problems)

    def measured(
        self, values: Mapping[str, Array], members: list[int], settings: Settings
    ) -> list[dict[str, Any]]:
        """A row for each stratum of some layers."""
        every = {"cells": np.ones_like(values["changed"]), **values}
        table = np.stack(
            [
                np.stack([self.sums(one, members, stratum) for one in every.values()], 1)
                for stratum in range(self.bins)
            ],
            2,
        )  # (problems, 1 + values, strata)

        def statistic(counts: Array) -> Array:
            cells, changed, null, moved, rank = np.moveaxis(np.tensordot(counts, table, axes=1), 1, 0)
            means = [divide(part, cells) for part in (changed, null, moved, rank)]
            return np.concatenate([*means[:2], divide(changed, null), *means[2:]], 1)

        high = np.repeat([1.0, 1.0, np.inf, 1.0, np.inf], self.bins)
        intervals = bootstrap(statistic, self.problems, bounds=(np.zeros_like(high), high), **settings)
        rows = []
        for stratum in range(self.bins):
            inside = self.strata[members] == stratum
            own = self.entropy[members][inside]
            row: dict[str, Any] = {"stratum": stratum, "strata_by": "quantile"}
            row |= {"entropy_low": own.min(initial=np.inf), "entropy_high": own.max(initial=-np.inf)}
            row |= {"cells": int(inside.sum()), "problems": int((table[:, 0, stratum] > 0).sum())}
            for place, measure in enumerate(MEASURES):
                row |= intervals[place * self.bins + stratum].columns(measure)
            rows.append(row)
        return rows


def _values(found: Neighbours, here: Tensor) -> dict[str, Array]:
    """What changed at the cells of a kind, (layers, positions) each; without draws of noise, NaN in its place."""
    changed = 1 - found.overlap[:, here].double().numpy()
    drawn = len(found.overlap_null) > 0
    null = (
        1 - found.overlap_null[:, :, here].double().mean(0).numpy()
        if drawn
        else np.full_like(changed, np.nan)
    )
    rank = found.rank[:, here].double().numpy()
    return {"changed": changed, "changed_null": null, "moved": (rank > 0).astype(float), "rank": rank}


def _claims(
    cells: _Cells,
    values: Mapping[str, Array],
    controls: Mapping[str, Mapping[str, Array]],
    members: list[int],
    kind: str,
    name: str,
    settings: Settings,
) -> list[Claim]:
    """The lowest stratum against the highest: as it is and over noise, of RLVR, and RLVR's factor over each control's."""
    ends = (0, cells.bins - 1)
    drawn = bool(np.isfinite(values["changed_null"]).all())
    measures = ("changed", "changed_null") if drawn else ("changed",)
    models = [values, *controls.values()]
    parts = [cells.sums(model[m], members, end) for model in models for m in measures for end in ends]
    counts_of = [cells.sums(np.ones_like(values["changed"]), members, end) for end in ends]
    table = np.stack([*parts, *counts_of], 1)

    def statistic(counts: Array) -> Array:
        totals = counts @ table
        means = [divide(totals[:, i], totals[:, -2 + i % 2]) for i in range(len(parts))]
        factors = [divide(*means[i : i + 2]) for i in range(0, len(means), 2)]
        own = [factors[i : i + len(measures)] for i in range(0, len(factors), len(measures))]
        held = [[one[0], divide(*one)] if drawn else one for one in own]
        beside = [divide(a, b) for other in held[1:] for a, b in zip(held[0], other, strict=True)]
        return np.stack([*held[0], *beside], 1)

    intervals = bootstrap(statistic, cells.problems, bounds=(0.0, np.inf), **settings)
    what = ("share of nearest states that changed", "the same over matched noise")[: len(measures)]
    where = f"lowest over highest stratum of entropy (a factor), {kind} tokens, {SCOPES[POOLED]}, {name}"
    sides = tuple(int((cells.strata[members] == end).sum()) for end in ends)
    about: dict[str, Any] = {"bound": 1.0, "factor": True, "kind": kind, "cells": sides}
    claim, own = "low-entropy cells shift more than high-entropy ones", "the low-entropy shift is RLVR's own"
    named = [(claim, _PLACE, f"{measured}, {where}") for measured in what]
    named += [
        (own, BESIDE, f"{measured}, RLVR's over that of {control}, {where}")
        for control in controls
        for measured in what
    ]
    return [
        Claim(said, place, measured, intervals[index], cells.problems, **about)
        for index, (said, place, measured) in enumerate(named)
    ]
