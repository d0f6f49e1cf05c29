"""The low-entropy claim beside three nulls in activations, for RLVR and for training without RL.

1. Every model is traced against the same base, and against each null of `tracing.nulls`: random directions, noise with the
   covariance of the model's own changes, and other cells' changes, all as long as the real change. Its changes are collected
   once, for both nulls that draw from them.
2. Strata are those of the base's entropy, hence the same for all. Per stratum, KL over the null's KL; its contrast is that of
   the lowest stratum over that of the highest.
3. Beyond: RLVR's contrast over that of a model which was trained without RL, against the same null. Intervals resample problems.

`weight_nulls` changes weights at random instead; both are asked what the claim has beyond them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from workbench.analysis.null_models import same_base
from workbench.analysis.verdicts import Claim, state, times
from workbench.columns import describe
from workbench.errors import InputError
from workbench.estimates import Array, Interval, bootstrap, divide
from workbench.lens.strata import check_bins
from workbench.models.pairs import ModelPair, batch_of
from workbench.models.prompts import EncodedPrompt
from workbench.names import NULLS, SCOPES
from workbench.problems.problem import Problem, listed
from workbench.tracing.cells import Group, groups_of
from workbench.tracing.readings import LogitLens, Reading, check_shared, in_words
from workbench.tracing.trace import against, trace
from workbench.views import markup

RLVR = "rlvr"
RAW = "none"
"""No null: KL as it is."""
_CALL = "change_nulls(pair, load_problems('shapes', limit=64))"


@dataclass(frozen=True, eq=False, repr=False)
class ChangeNulls:
    """The shift by entropy beside nulls in activations, of RLVR and of other models with the same base."""

    table: pd.DataFrame
    """One row a condition ("rlvr", another model), null ("none": raw KL), kind, scope: problems; over, KL over the null's KL in
    all cells; contrast, the same in the lowest stratum over that in the highest; beyond, RLVR's contrast over this one; each
    with its interval; state: whether the contrast lies above 1, own: whether RLVR's is larger."""
    verdict: str
    """The line to remember."""
    provenance: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(self.table["condition"]))
        return f"ChangeNulls({names}; {max(self.table['problems'])} problems)\n{self.verdict}"

    def _repr_html_(self) -> str:
        note = (
            "over: KL over that of the null, in all cells; contrast: the same in the lowest stratum of base entropy over that "
            "in the highest; beyond: RLVR's contrast over that of the condition; 95% intervals over problems."
        )
        return markup.paragraph(self.verdict, strong=True) + markup.table(self.table) + markup.paragraph(note)

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of its table."""
        return describe({"change_nulls": self.table})

    def to_dataframe(self) -> pd.DataFrame:
        """A copy of ``table``."""
        return self.table.copy()

    @property
    def claims(self) -> list[Claim]:
        """The low-entropy claim against each null, and beside each other model, below the last layer."""
        return change_claims(self.table)

    def plot(self, kind: str | None = None) -> Any:
        """Contrasts by null and condition, as a plotly Figure; ``kind`` is visual if there is any."""
        from workbench.views.null_figures import change_contrasts

        return change_contrasts(self.table, kind=kind)


def change_nulls(
    pair: ModelPair,
    problems: Sequence[Problem | EncodedPrompt],
    *,
    others: Mapping[str, ModelPair] | None = None,
    draws: int = 3,
    bins: int = 5,
    seed: int = 0,
    resamples: int = 1000,
    reading: Reading | None = None,
    batch_size: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> ChangeNulls:
    """Trace RLVR, and other models with the same base, against each null in activations (`tracing.nulls`).

    Args:
        pair: what `load_pair` returned.
        problems: problems, or prompts already encoded; at least two.
        others: further pairs with the same base, such as one that was fine-tuned without RL, by name.
        draws: of each null, per cell.
        bins: strata of base entropy per layer and token kind.
        seed: of the draws and of the bootstrap.
        resamples: of the bootstrap over problems.
        reading: through what layers are read, as in `trace`; with ``others`` one of the base's alone.
        batch_size: prompts per forward; None: what suits the pair.
        progress: called with (condition, prompts done, prompts in all).

    Raises:
        InputError: fewer than two problems, draws below 1, another pair with another base.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> nulls = wb.change_nulls(pair, wb.load_problems("shapes", limit=8), draws=1)
        >>> sorted(set(nulls.table["null"]))
        ['covariance', 'exchanged', 'noise', 'none']
    """
    batch_size = batch_of(pair, batch_size)
    problems = listed(problems, _CALL, Problem, EncodedPrompt)
    check_bins(bins)
    _check(pair, problems, others or {}, draws)
    if others:
        check_shared(reading, "change_nulls(pair, problems, others=others")
    prompts = [pair.encode(item) for item in problems]
    groups: list[Group] = []
    sums: dict[tuple[str, str], list[Array]] = {}
    cells: list[Array] = []
    for name, model in {RLVR: pair, **(others or {})}.items():
        traced = trace(
            model,
            prompts,
            top_k=1,
            null_draws=draws,
            null=[*NULLS],
            seed=seed,
            reading=reading,
            batch_size=batch_size,
            progress=partial(progress, name) if progress else None,
        )
        if not groups:
            groups = groups_of(traced, bins)
            cells = [group.sums(traced, "cells") for group in groups]
        kl = [group.sums(traced) for group in groups]
        sums[name, RAW] = [np.stack(both) for both in zip(kl, cells, strict=True)]
        for null in NULLS:
            one = against(traced, null)
            sums[name, null] = [
                np.stack([kl[place], group.sums(one, "kl_null")]) for place, group in enumerate(groups)
            ]
    rows: list[dict[str, Any]] = []
    for index, group in enumerate(groups):
        rows += _rows(group, {key: each[index] for key, each in sums.items()}, cells[index], resamples, seed)
    table = pd.DataFrame(rows)
    used = {"draws": draws, "bins": bins, "seed": seed, "resamples": resamples, "others": [*(others or {})]}
    if reading is not None:
        used["reading"] = reading.described
    headline = _headline(table).removesuffix(".")
    headline = f"{in_words(headline, LogitLens().name if reading is None else reading.name)}."
    return ChangeNulls(table, headline, {**pair.provenance, "change_nulls": used})


def _rows(
    group: Group, sums: Mapping[tuple[str, str], Array], cells: Array, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Of one kind and scope, from sums of KL and of the null's KL (2, problems, strata)."""
    keys = [*sums]
    real = [keys.index((RLVR, null)) for _, null in keys]

    def statistic(counts: Array) -> Array:
        kl, null = (np.stack([counts @ sums[key][side] for key in keys], 1) for side in (0, 1))
        over, ratio = divide(kl.sum(2), null.sum(2)), divide(kl, null)  # (resamples, keys), with strata
        contrast = divide(ratio[..., 0], ratio[..., -1])
        return np.concatenate([over, contrast, divide(contrast[:, real], contrast)], 1)

    intervals = bootstrap(statistic, len(cells), bounds=(0.0, np.inf), resamples=resamples, seed=seed)
    problems, count = int((cells.sum(1) > 0).sum()), len(keys)
    rows = []
    for place, (name, null) in enumerate(keys):
        over, contrast, beyond = (intervals[place + step * count] for step in range(3))
        rows.append(
            {"condition": name, "null": null, "kind": group.kind, "scope": group.scope, "problems": problems}
            | over.columns("over")
            | contrast.columns("contrast")
            | beyond.columns("beyond")
            | {
                "state": state(contrast.above(1.0), contrast, problems),
                "own": "" if name == RLVR else state(beyond.above(1.0), beyond, problems),
            }
        )
    return rows


def change_claims(table: pd.DataFrame, *, raw: bool = False) -> list[Claim]:
    """The low-entropy claim against each null, and beside each other model, below the last layer.

    ``table`` is ``ChangeNulls.table``. The study's own verdict is against matched noise; these say what is left of it. With
    ``raw`` they are those of raw KL, too, which elsewhere the shift itself states.
    """
    claims = []
    rows = table.loc[(table["scope"] == "without last layer") & (raw | (table["null"] != RAW))]
    for row in rows.to_dict("records"):
        rlvr = row["condition"] == RLVR
        interval = Interval.in_row(row, "contrast" if rlvr else "beyond")
        where = f"{row['kind']} tokens, {row['scope']}"
        beside = "" if rlvr else f", RLVR's over that of {row['condition']} weights"
        over = "raw KL" if row["null"] == RAW else f"KL over {NULLS[row['null']]}"
        what = f"{over}, lowest over highest stratum{beside} (a factor), {where}"
        claim = "low-entropy cells shift more" if rlvr else "the low-entropy shift is RLVR's own"
        few = "too few problems for an interval" if np.isnan(interval.low) else None
        about: dict[str, Any] = {"bound": 1.0, "obstacle": few, "factor": True, "kind": str(row["kind"])}
        claims.append(Claim(claim, "nulls in activations", what, interval, int(row["problems"]), **about))
    return claims


def _headline(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    rows = table.loc[
        (table["condition"] == RLVR) & (table["kind"] == first["kind"]) & (table["scope"] == first["scope"])
    ]
    parts = [
        f"{'raw' if row['null'] == RAW else 'over ' + NULLS[row['null']]} {times(Interval.in_row(row, 'contrast'))}"
        for row in rows.to_dict("records")
    ]
    return (
        f"At {first['kind']} tokens, {SCOPES[first['scope']]}, RLVR's KL in the lowest stratum of entropy over that in the "
        f"highest: {'; '.join(parts)}."
    )


def _check(pair: ModelPair, problems: Sequence[object], others: Mapping[str, ModelPair], draws: int) -> None:
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise InputError(f"`draws` is {draws!r}; expected at least 1: change_nulls(pair, problems, draws=3)")
    if len(problems) < 2:
        raise InputError(
            f"`problems` has one alone, whose cells have no other problem's changes to draw from; give at least two: {_CALL}"
        )
    for name, other in others.items():
        if name == RLVR or not same_base(pair, other):
            raise InputError(
                f"`others`: {name!r} {'is the name of the pair' if name == RLVR else 'has another base than `pair`'}; name "
                "controls otherwise, and load them with the same base: load_pair(base=pair.base.model, rlvr=...)"
            )
