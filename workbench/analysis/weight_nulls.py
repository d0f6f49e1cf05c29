"""Null models in weights: what a random change of the same size would shift, beside what RLVR shifts.

1. Null models: the base plus the RLVR update permuted within each tensor, or plus noise of its norm (``null_models``).
2. Every model is traced against the same base on the same prompts. Strata are those of the base's entropy, hence the
   same for all; mean KL in each, per problem.
3. RLVR over null, stratum by stratum, and the low-over-high contrast of RLVR over that of the null: what the low-entropy
   claim has beyond a random change of weights. Intervals resample problems; the range over single draws of the null is
   given beside, since problems say nothing about it.

Only one null model is in memory at a time, beside the pair.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from workbench.analysis.low_entropy import part_name
from workbench.analysis.null_models import (
    NULLS,
    NullKind,
    check_scale,
    check_update,
    null_pair,
    same_base,
)
from workbench.analysis.verdicts import state, times
from workbench.columns import describe
from workbench.errors import InputError
from workbench.estimates import Array, Interval, bootstrap, divide
from workbench.lens.strata import check_bins
from workbench.models.batches import problem_seed
from workbench.models.pairs import ModelPair, batch_of, weights_of
from workbench.models.prompts import EncodedPrompt
from workbench.names import SCOPES
from workbench.problems.problem import Problem, listed
from workbench.tracing.cells import Group, groups_of
from workbench.tracing.conversations import Responses, with_responses
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.readings import Reading, check_shared, same_reading
from workbench.tracing.same_prompts import check_same_models, check_same_prompts, weights_in
from workbench.tracing.trace import trace
from workbench.views import markup

__all__ = ["NullShift", "null_pair", "weight_nulls"]

RLVR = "rlvr"


@dataclass(frozen=True, eq=False, repr=False)
class NullShift:
    """The shift of a pair beside that of null models (and of other pairs with the same base), by entropy stratum."""

    table: pd.DataFrame
    """One row a condition ("rlvr", a null, another pair), kind, scope and stratum of base entropy: entropy_low,
    entropy_high, cells, problems, draws; kl in nats (mean over draws) and rlvr_over, the KL of RLVR over it, with
    intervals; rlvr_over_least and rlvr_over_most: the range over single draws."""
    contrasts: pd.DataFrame
    """Per condition, kind and scope: contrast, mean KL of the lowest stratum over that of the highest; beyond, the
    contrast of RLVR over this one, with intervals and its range over draws; state: whether RLVR's is larger."""
    verdict: str
    """The line to remember."""
    bins: int
    provenance: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        conditions = [name for name in dict.fromkeys(self.table["condition"]) if name != RLVR]
        problems = max(self.table["problems"])
        return f"NullShift(rlvr, {', '.join(conditions)}; {self.bins} strata, {problems} problems)\n{self.verdict}"

    def _repr_html_(self) -> str:
        names = [
            "condition",
            "kind",
            "scope",
            "draws",
            *Interval.names("contrast"),
            *Interval.names("beyond"),
            "state",
        ]
        strata = [
            "condition",
            "kind",
            "scope",
            "stratum",
            "cells",
            *Interval.names("kl"),
            *Interval.names("rlvr_over"),
        ]
        named = self.contrasts.loc[:, names].rename(columns={"state": "beyond it, the claim"})
        return (
            markup.paragraph(self.verdict, strong=True)
            + markup.table(named)
            + markup.paragraph(
                "contrast: mean KL of the lowest stratum over that of the highest; beyond: RLVR's contrast over that of "
                "the condition; 95% intervals over problems."
            )
            + markup.folded("by stratum, KL in nats", markup.table(self.table.loc[:, strata]))
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
        return {"nulls": self.table, "null_contrasts": self.contrasts}

    def plot(self, kind: str | None = None) -> Any:
        """Mean KL by entropy stratum of every condition, as a plotly Figure; ``kind`` is visual if there is any."""
        from workbench.views.null_figures import null_shift

        return null_shift(self.table, kind=kind, scale=self.provenance["nulls"]["scale"])


_CALL = "weight_nulls(pair, load_problems('shapes', limit=64))"


def weight_nulls(
    pair: ModelPair,
    problems: Sequence[Problem | EncodedPrompt],
    *,
    kinds: Sequence[NullKind] = ("permuted", "gaussian"),
    draws: int = 3,
    others: Mapping[str, ModelPair | LensTrace] | None = None,
    bins: int = 5,
    scale: float = 1.0,
    seed: int = 0,
    resamples: int = 1000,
    batch_size: int | None = None,
    traced: LensTrace | None = None,
    responses: Responses | None = None,
    reading: Reading | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> NullShift:
    """Trace the pair, null models and other pairs, and compare what shifts where.

    1. Null models: the base plus the RLVR update permuted within each tensor, or plus noise of its norm.
    2. Every model is traced against the same base on the same prompts; strata are those of the base's entropy.
    3. RLVR over null, stratum by stratum, and the low-over-high contrast of RLVR over that of the null, with intervals.

    Args:
        pair: what `load_pair` returned.
        problems: problems, or prompts already encoded.
        kinds: of null models; may be empty if there are ``others``.
        draws: null models of each kind.
        others: further pairs with the same base, such as one that was fine-tuned without RL, by name; or their traces of these
            problems, where they have been made already.
        bins: strata of base entropy per layer and token kind.
        scale: of the random updates; 1: as large as that of RLVR. A random update shifts far less than one of the same
            size that was trained; a larger one tells whether the contrast depends on how much is shifted.
        seed: of the null models and of the bootstrap.
        resamples: of the bootstrap over problems.
        batch_size: prompts per forward; changes speed and memory, results only by rounding. None: what suits the pair.
        traced: the pair's own trace of these problems (and responses), at all layers, where it has been made already.
        responses: to the problems, as in `trace`; every model reads the same.
        reading: as in `trace`; one of the base's alone, since no other model than the pair's has translators of its own.
        progress: called with (condition, prompts done, prompts in all).

    Raises:
        InputError: equal models, an unknown kind, draws below 1, another pair with another base, nothing to compare with.
    """
    batch_size = batch_of(pair, batch_size)
    others = dict(others or {})
    problems = listed(problems, _CALL, Problem, EncodedPrompt)
    _check(pair, kinds, draws, others, bins, scale)
    check_shared(reading, "weight_nulls(pair, problems")
    prompts = [pair.encode(item) for item in problems]

    def look(name: str, some: ModelPair) -> LensTrace:
        tell = partial(progress, name) if progress else None
        how: dict[str, Any] = {"top_k": 1, "null_draws": 0, "batch_size": batch_size, "progress": tell}
        how["reading"] = reading
        return trace(some, prompts, responses=responses, **how)

    whole = [prompt for _, prompt in with_responses(pair, prompts, responses)]
    given = partial(_same, prompts=whole, pair=pair, reading=reading)
    if traced is not None:
        check_same_models("`traced`", weights_in(traced), weights_of(pair), _CALL)
    real = look(RLVR, pair) if traced is None else given("`traced`", traced)
    groups, sizes = groups_of(real, bins), {kind: [] for kind in kinds}
    sums = {RLVR: [[group.sums(real) for group in groups]]} | {kind: [] for kind in kinds}
    for kind, draw in product(kinds, range(draws)):
        null = null_pair(pair, kind, problem_seed(seed, f"null/{draw}"), scale=scale)
        sizes[kind].append(null.provenance["null"]["size"])
        null_trace = look(f"{kind} {draw + 1}", null)
        sums[kind].append([group.sums(null_trace) for group in groups])
    for name, other in others.items():
        known = isinstance(other, LensTrace)
        trained = given(f"`others`: {name!r}", other) if known else look(name, other)
        sums[name] = [[group.sums(trained) for group in groups]]
    table, contrasts = [], []
    for index, group in enumerate(groups):
        per_draw = {name: np.stack([draw[index] for draw in draws_of]) for name, draws_of in sums.items()}
        rows, compared = _compared(group, real, per_draw, resamples, seed)
        table += rows
        contrasts += compared
    frame = pd.DataFrame(contrasts)
    used = {"kinds": [*kinds], "draws": draws, "others": [*others], "bins": bins, "scale": scale}
    used |= {"seed": seed, "resamples": resamples, "sizes": sizes}
    return NullShift(
        pd.DataFrame(table),
        frame,
        _headline(frame, bins, scale),
        bins,
        {**pair.provenance, "nulls": used},
    )


def _same(
    name: str,
    traced: LensTrace,
    prompts: Sequence[EncodedPrompt],
    pair: ModelPair,
    reading: Reading | None,
) -> LensTrace:
    """The trace, if it is of these prompts at every layer, through this reading.

    Raises:
        InputError: it is not.
    """
    call = f"{_CALL}, {name} left out"
    same_reading(reading, pair, traced.provenance, "weight_nulls(pair, problems, traced=traced")
    if len(traced.layers) != pair.depth:
        raise InputError(f"{name} has {len(traced.layers)} layers, expected all {pair.depth}: {call}")
    check_same_prompts(name, traced, prompts, call)
    return traced


def _compared(
    group: Group, trace_of_rlvr: LensTrace, per_draw: Mapping[str, Array], resamples: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the two tables, from sums of KL (draws, problems, strata) of each condition."""
    names, mean = list(per_draw), [sums.mean(0) for sums in per_draw.values()]
    counts_of, entropy, bins = group.sums(trace_of_rlvr, "cells"), group.entropy(trace_of_rlvr), group.bins

    def statistic(counts: Array) -> Array:
        cells = counts @ counts_of
        kl = np.stack([divide(counts @ sums, cells) for sums in mean], 1)  # (resamples, conditions, strata)
        over = divide(kl[:, :1], kl)
        contrast = divide(kl[..., 0], kl[..., -1])
        beyond = divide(contrast[:, :1], contrast)
        return np.concatenate([kl.reshape(len(kl), -1), over.reshape(len(kl), -1), contrast, beyond], 1)

    intervals = bootstrap(statistic, len(counts_of), bounds=(0.0, np.inf), resamples=resamples, seed=seed)
    shared, strata = {"kind": group.kind, "scope": group.scope}, range(bins)
    rows, contrasts, count = [], [], len(names) * bins
    real = mean[0].sum(0)
    for place, (name, sums) in enumerate(per_draw.items()):
        single = divide(real, sums.sum(1))  # (draws, strata)
        beyond = divide(single[:, 0], single[:, -1])
        rows += [
            {"condition": name, **shared, "stratum": stratum}
            | entropy[stratum]
            | {
                "cells": int(counts_of[:, stratum].sum()),
                "problems": int((counts_of[:, stratum] > 0).sum()),
            }
            | {"draws": len(sums), **intervals[place * bins + stratum].columns("kl")}
            | intervals[count + place * bins + stratum].columns("rlvr_over")
            | {"rlvr_over_least": single[:, stratum].min(), "rlvr_over_most": single[:, stratum].max()}
            for stratum in strata
        ]
        ratio, problems = intervals[2 * count + len(names) + place], int((counts_of.sum(1) > 0).sum())
        contrasts.append(
            {"condition": name, **shared, "problems": problems, "draws": len(sums)}
            | intervals[2 * count + place].columns("contrast")
            | ratio.columns("beyond")
            | {"beyond_least": beyond.min(), "beyond_most": beyond.max()}
            | {"state": "" if name == RLVR else state(ratio.above(1.0), ratio, problems)}
        )
    return rows, contrasts


def _headline(contrasts: pd.DataFrame, bins: int, scale: float) -> str:
    """The line to remember: visual tokens (else the first kind), without the last layer if there are others."""
    rows: list[dict[str, Any]] = contrasts.to_dict("records")
    first = rows[0]
    line = (
        f"At {first['kind']} tokens, {SCOPES[first['scope']]}, RLVR shifts the lowest {part_name(bins, 'quantile')} of "
        f"entropy {times(Interval.in_row(first, 'contrast'))} the highest"
    )
    for row in rows[1:]:
        if (row["kind"], row["scope"]) == (first["kind"], first["scope"]):
            line += f"; {_article(row['condition'], scale)} {times(Interval.in_row(row, 'contrast'))}, so that the low-entropy "
            line += f"claim beyond it {row['state']} ({times(Interval.in_row(row, 'beyond'))})"
    return f"{line}{'; one problem, so no interval' * (first['problems'] < 2)}."


def _article(condition: str, scale: float) -> str:
    size = "equal" if scale == 1 else f"{scale:g} times the"
    return f"a {condition} update of {size} size" if condition in NULLS else condition


def _check(
    pair: ModelPair,
    kinds: Sequence[str],
    draws: int,
    others: Mapping[str, ModelPair | LensTrace],
    bins: int,
    scale: float,
) -> None:
    call = "weight_nulls(pair, problems, kinds=('permuted', 'gaussian'))"
    check_bins(bins)
    if isinstance(kinds, str) or set(kinds) - set(NULLS) or len({*kinds}) < len(kinds):
        raise InputError(f"`kinds` is {kinds!r}; expected some of {', '.join(NULLS)}, each once: {call}")
    if not kinds and not others:
        raise InputError(f"`kinds` and `others` are empty; there is nothing to compare with: {call}")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise InputError(f"`draws` is {draws!r}; expected at least 1: weight_nulls(pair, problems, draws=3)")
    check_scale(scale)
    check_update(pair)
    for name, other in others.items():
        if name in (RLVR, *NULLS):
            raise InputError(
                f"`others` names a pair {name!r}, which stands for something else; name it otherwise"
            )
        if not _shares_base(pair, other):
            raise InputError(
                f"`others`: {name!r} has another base than `pair`, so their entropy strata differ; load it with the same one: "
                "load_pair(base=pair.base.model, rlvr=...)"
            )


def _shares_base(pair: ModelPair, other: ModelPair | LensTrace) -> bool:
    if isinstance(other, LensTrace):
        return other.provenance["base"]["weights"] == pair.provenance["base"]["weights"]
    return same_base(pair, other)
