"""The cells of one token kind in a trace, and what is measured on them.

A cell is one (layer, position). Strata say how confident the base model is there; problems are what intervals
resample. Numbers only: `shift` makes tables of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from workbench.errors import InputError
from workbench.estimates import (
    FEWEST,
    Array,
    Interval,
    Median,
    RankCorrelation,
    Settings,
    bootstrap,
    divide,
    number_problems,
    shares,
    sums_by_problem,
    together,
)
from workbench.lens.strata import quantile_strata
from workbench.models.prompts import TokenKind
from workbench.names import SCOPES
from workbench.tracing.lens_trace import KIND_NAMES, LensTrace

TOKENS = ("visual", "text", "response")
KINDS = ("all", *KIND_NAMES)
MEASURES = (
    *("kl", "kl_null", "ratio", "median_kl", "total_kl", "share"),
    *("entropy_change", "top1_agreement", "cosine"),
)
_SUMMED = ("kl", "kl_null", "entropy_change", "top1_agreement", "cosine")
_FROM_SUMS = ("kl", "kl_null", "ratio", "total_kl", "share", "entropy_change", "cosine")
_BOUNDS = {"share": (0.0, 1.0), "entropy_change": (-np.inf, np.inf), "cosine": (-1.0, 1.0)}
"""Of measures; of the others 0 and infinity."""
_SHARES = ("top1_agreement", "topk_overlap")
_KEPT = ("entropy_base", "entropy_rlvr", "kl", "cosine", "top1_agreement", "topk_overlap")


@dataclass(frozen=True, eq=False)
class Cells:
    """Layers x positions of one token kind: the values there, and the problem every position belongs to."""

    values: dict[str, Array]
    """Per measure (layers, positions); KL, entropies in nats; ``kl_null`` is the mean draw (NaN: none)."""
    problem: NDArray[np.int64]
    """(positions,) ids below ``problems``."""
    problems: int
    """Problems of the whole trace, whether or not they hold cells of this kind."""

    def __post_init__(self) -> None:
        shapes = {name: value.shape for name, value in self.values.items()}
        if len({*shapes.values()}) != 1 or any(shape[1:] != self.problem.shape for shape in shapes.values()):
            raise InputError(f"`values` must be (layers, {len(self.problem)} positions), found {shapes}.")

    @classmethod
    def of(cls, trace: LensTrace, kind: str) -> "Cells":
        """The cells of a kind, all layers."""
        here = positions_of(trace, kind)
        # Two prompts of one problem (two phrasings, say) are one cluster.
        ids, problems = number_problems([info.problem_id for info in trace.prompts], len(trace.prompts))
        values = {name: getattr(trace, name)[:, here].double().numpy() for name in _KEPT}
        values["entropy_change"] = values["entropy_rlvr"] - values["entropy_base"]
        values["kl_null"] = trace.kl_null[:, :, here].double().mean(dim=0).numpy()
        return cls(values, ids[trace.prompt[here].numpy()], problems)

    def layers(self, rows: list[int]) -> "Cells":
        """The cells of some layers, by row."""
        return replace(self, values={name: value[rows] for name, value in self.values.items()})

    def means(self, names: Sequence[str], settings: Settings) -> dict[str, list[Interval]]:
        """Per name, the mean over positions in every layer."""
        of_shares = [name for name in names if name in _SHARES]
        others = [name for name in names if name not in _SHARES]
        ordered = [*others, *of_shares]
        stacked = np.stack([np.ones_like(self.values["kl"]), *(self.values[name] for name in ordered)])
        sums = sums_by_problem(stacked, self.problem, self.problems)
        weights, layers = sums[:, :1], sums.shape[-1]

        def statistic(counts: Array) -> Array:
            totals = np.tensordot(counts, sums[:, 1 : 1 + len(others)], axes=1)
            return divide(totals, np.tensordot(counts, weights, axes=1)).reshape(len(counts), -1)

        per_name = bootstrap(statistic, self.problems, bounds=_bounds(others, layers), **settings)
        right = sums[:, 1 + len(others) :]
        agreed = shares(
            right.reshape(self.problems, -1),
            np.broadcast_to(weights, right.shape).reshape(self.problems, -1),
            level=settings.get("level", 0.95),
        )
        parts = [(others, per_name), (of_shares, agreed)]
        return {
            name: [intervals[index * layers + row] for row in range(layers)]
            for named, intervals in parts
            for index, name in enumerate(named)
        }

    def stratified(
        self, strata: NDArray[np.int64], bins: int, settings: Settings
    ) -> tuple[list[dict[str, Any]], dict[str, Interval]]:
        """What is measured in every stratum, all layers of these cells together.

        Args:
            strata: (layers, positions), 0 to ``bins - 1``.
            bins: number of strata; one without cells is NaN.
            settings: of the bootstrap.

        Returns:
            Per stratum the columns entropy_low, entropy_high, cells, problems and those of MEASURES; and for
            "kl" and "ratio" the lowest stratum's over the highest's.
        """
        members = [strata == stratum for stratum in range(bins)]
        sums = self._sums(members)
        owner, kl = np.broadcast_to(self.problem, strata.shape), self.values["kl"]
        medians = [Median(kl[inside], owner[inside], self.problems) for inside in members]
        middle = bootstrap(together(*medians), self.problems, method="order", **settings)
        bounds = [
            np.concatenate([part, [end] * 2])
            for part, end in zip(_bounds(_FROM_SUMS, bins), (0.0, np.inf), strict=True)
        ]
        statistic = partial(_stratified_statistics, sums=sums)
        intervals = bootstrap(statistic, self.problems, bounds=(bounds[0], bounds[1]), **settings)
        cells = sums[:, 0]
        agreed = shares(
            sums[:, 1 + _SUMMED.index("top1_agreement")], cells, level=settings.get("level", 0.95)
        )
        speaking = (cells > 0).sum(axis=0)
        rows = []
        for stratum, inside in enumerate(members):
            entropy = self.values["entropy_base"][inside]
            measured = {name: intervals[index * bins + stratum] for index, name in enumerate(_FROM_SUMS)}
            measured |= {"median_kl": middle[stratum], "top1_agreement": agreed[stratum]}
            if speaking[stratum] < FEWEST:  # medians don't notice
                measured["median_kl"] = replace(measured["median_kl"], low=np.nan, high=np.nan)
            rows.append(
                {
                    "entropy_low": entropy.min() if entropy.size else np.nan,
                    "entropy_high": entropy.max() if entropy.size else np.nan,
                    "cells": entropy.size,
                    "problems": int(speaking[stratum]),
                    **{
                        key: value for name in MEASURES for key, value in measured[name].columns(name).items()
                    },
                }
            )
        return rows, {"kl": intervals[-2], "ratio": intervals[-1]}

    def shape(self, strata: NDArray[np.int64], bins: int, settings: Settings) -> dict[str, "Shape"]:
        """For "kl" and "ratio", how the shift goes with the strata, beyond the lowest against the highest."""
        sums = self._sums([strata == stratum for stratum in range(bins)])
        level = settings.get("level", 0.95)

        def means(counts: Array) -> Array:
            cells, kl, null = np.moveaxis(np.tensordot(counts, sums[:, :3], axes=1), 1, 0)
            return np.stack([divide(kl, cells), divide(kl, null)], axis=1)  # (resamples, measures, strata)

        whole = means(np.ones((1, self.problems)))[0]
        filled = np.flatnonzero((sums[:, 0] > 0).any(axis=0))
        steps = filled - filled.mean()

        def trend(counts: Array) -> Array:
            with np.errstate(divide="ignore", invalid="ignore"):
                slopes = np.log(means(counts)[..., filled]) @ steps
            return np.exp(divide(slopes, (steps**2).sum()))

        def beside(counts: Array) -> Array:
            values = means(counts)
            return divide(values[..., :1], values[..., 1:]).reshape(len(counts), -1)

        trends = bootstrap(trend, self.problems, bounds=(0.0, np.inf), **settings)
        apart = settings | Settings(level=1 - (1 - level) / (bins - 1))
        ratios = bootstrap(beside, self.problems, bounds=(0.0, np.inf), **apart)
        shapes = {}
        for place, name in enumerate(("kl", "ratio")):
            others = np.where(np.isfinite(whole[place, 1:]), whole[place, 1:], -np.inf)
            most = int(np.argmax(others))
            shapes[name] = Shape(trends[place], ratios[place * (bins - 1) + most], most + 1)
        return shapes

    def _sums(self, members: Sequence[NDArray[np.bool_]]) -> Array:
        """(problems, 1 + summed measures, strata): how many cells, and sums of _SUMMED."""
        stacked = np.stack([np.ones_like(self.values["kl"]), *(self.values[name] for name in _SUMMED)])
        per_position = np.stack([np.where(inside, stacked, 0.0).sum(axis=1) for inside in members], axis=1)
        return sums_by_problem(per_position, self.problem, self.problems)

    def correlations(self, settings: Settings) -> list[dict[str, Any]]:
        """Spearman correlation of base entropy with KL, null KL and their ratio, where these are defined."""
        entropy = self.values["entropy_base"]
        owner = np.broadcast_to(self.problem, entropy.shape)
        measures = {name: self.values[name] for name in ("kl", "kl_null")}
        measures["ratio"] = divide(measures["kl"], measures["kl_null"])
        defined = {name: np.isfinite(measure) for name, measure in measures.items()}
        statistics = {
            name: RankCorrelation(entropy[there], measures[name][there], owner[there], self.problems)
            for name, there in defined.items()
        }
        intervals = bootstrap(together(*statistics.values()), self.problems, method="correlation", **settings)
        rows = []
        for index, (name, statistic) in enumerate(statistics.items()):
            rho = replace(intervals[index], estimate=statistic.exact)
            rows.append({"measure": name, "cells": int(defined[name].sum()), **rho.columns("rho")})
        return rows


@dataclass(frozen=True)
class Shape:
    """How a measure goes with strata of base entropy, counted from 0 for the lowest."""

    trend: Interval
    """The factor from one stratum to the next: the exponential of the slope of log means on the stratum's number."""
    peak: Interval
    """The lowest stratum over the largest of the others; its level is Bonferroni's for all the others."""
    other: int
    """Which of the others is the largest."""


def _bounds(measures: Sequence[str], each: int) -> tuple[Array, Array]:
    """What measures can be, ``each`` times in turn."""
    ends = [_BOUNDS.get(name, (0.0, np.inf)) for name in measures]
    return np.repeat([low for low, _ in ends], each), np.repeat([high for _, high in ends], each)


def _stratified_statistics(counts: Array, sums: Array) -> Array:
    """Per resample the measures of _FROM_SUMS, stratum by stratum, then the contrasts of KL and ratio."""
    totals = np.tensordot(counts, sums, axes=1)
    cells, kl, null, change, _, cosine = np.moveaxis(totals, 1, 0)
    mean, ratio = divide(kl, cells), divide(kl, null)
    share = divide(kl, kl.sum(axis=1, keepdims=True))
    values = [mean, divide(null, cells), ratio, kl, share, divide(change, cells), divide(cosine, cells)]
    contrasts = [divide(value[:, :1], value[:, -1:]) for value in (mean, ratio)]
    return np.concatenate([*values, *contrasts], axis=1)


def positions_of(trace: LensTrace, kind: str) -> Bool[Tensor, " positions"]:
    """Which positions are of a kind."""
    if kind == "all":
        return trace.kind >= 0
    return trace.kind == TokenKind[kind.upper()]


def choose_kinds(trace: LensTrace, kinds: Sequence[str] | None, bins: int = 1) -> list[str]:
    """The kinds asked for, else all that have at least ``bins`` positions.

    Raises:
        InputError: an empty trace, an unknown kind, or fewer positions than strata.
    """
    if not trace.layers or not len(trace.prompt):
        raise InputError(
            f"`trace` is empty: {len(trace.layers)} layers, {len(trace.prompt)} positions; "
            "trace at least one problem: trace(pair, load_problems('shapes', limit=8))."
        )
    if kinds is not None and (not kinds or isinstance(kinds, str) or set(kinds) - set(KINDS)):
        raise InputError(
            f"`kinds` must be a list of some of {KINDS}, found {kinds!r}; for example kinds=['visual']."
        )
    sizes = {kind: int(positions_of(trace, kind).sum()) for kind in KINDS}
    for kind in kinds or ("all",):
        if sizes[kind] < bins:
            raise InputError(
                f"`bins` asks for {bins} strata, but a layer has only {sizes[kind]} cells of kind {kind!r}; "
                "use more prompts or fewer strata, e.g. stratified_shift(trace, bins=2)."
                if sizes[kind]
                else f"`kinds` asks for {kind!r}, but the trace holds no such position; leave it out."
            )
    return [kind for kind in kinds or KINDS if sizes[kind] >= bins]


@dataclass(frozen=True, eq=False)
class Group:
    """The cells of one token kind in one scope, and their strata."""

    kind: str
    scope: str
    layers: list[int]
    strata: NDArray[np.int64]
    """(layers, positions)."""
    bins: int

    def sums(self, found: LensTrace, measure: str = "kl") -> Array:
        """(problems, strata): sums of a measure in a trace of the same prompts."""
        cells = Cells.of(found, self.kind).layers(self.layers)
        values = np.ones_like(cells.values["kl"]) if measure == "cells" else cells.values[measure]
        inside = [np.where(self.strata == stratum, values, 0.0).sum(0) for stratum in range(self.bins)]
        return sums_by_problem(np.stack(inside), cells.problem, cells.problems)

    def entropy(self, real: LensTrace) -> list[dict[str, float]]:
        """Lowest and highest base entropy of each stratum, in nats."""
        values = Cells.of(real, self.kind).layers(self.layers).values["entropy_base"]
        parts = [values[self.strata == stratum] for stratum in range(self.bins)]
        return [
            {"entropy_low": part.min(initial=np.inf), "entropy_high": part.max(initial=-np.inf)}
            if part.size
            else {"entropy_low": np.nan, "entropy_high": np.nan}
            for part in parts
        ]


def groups_of(real: LensTrace, bins: int) -> list[Group]:
    """Both scopes of visual and of text tokens, as far as there are enough of them, else of all tokens."""
    groups, kinds = [], choose_kinds(real, None, bins)
    for kind in [kind for kind in TOKENS if kind in kinds] or kinds[:1]:
        strata = quantile_strata(real.entropy_base[:, positions_of(real, kind)], bins).numpy()
        for scope in SCOPES:
            alone = scope == "last layer"
            layers = [i for i, layer in enumerate(real.layers) if (layer == real.depth - 1) == alone]
            if layers:
                groups.append(Group(kind, scope, layers, strata[layers], bins))
    return groups
