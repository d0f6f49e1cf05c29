"""Beyond top-level entropy: whether a cell's entropy is linked with its shift beside other quantities, or for them.

1. ``analysis.cell_table``: entropy, residual norm, attention, place, object or background of every cell, and its shift.
2. The shift by stratum of any of them, as ``shift`` does it by entropy.
3. Spearman correlations of the shift with each, simple, and partial with the others held equal (``analysis.partial_ranks``).

A cause that is among the quantities takes away the link of its proxies; a cause that is not, or one measured badly, leaves
it. Partial correlation is not causation.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import isnan
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from workbench.analysis.partial_ranks import PartialRanks
from workbench.analysis.verdicts import Claim
from workbench.errors import InputError
from workbench.estimates import ENOUGH, Array, Interval, Settings, bootstrap, number_problems
from workbench.lens.strata import check_bins, quantile_strata
from workbench.names import QUANTITIES, SCOPES
from workbench.tracing.cells import TOKENS, Cells

OUTCOMES = ("kl", "ratio")
ENTROPIES = ("entropy_base", "entropy_translated")
ROLES = ("beyond the others", "as a proxy", "reversed", "masked", "not at all")
_SHIFTED = ("kl", "kl_null", "entropy_change", "top1_agreement", "cosine")
_OF_PICTURES = ("row", "column", "distance", "object")
_BELOW, _ALL = "without last layer", "all layers"


def stratified_by(
    table: pd.DataFrame,
    quantity: str,
    *,
    bins: int = 5,
    kinds: Sequence[str] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """The shift by stratum of any quantity, per layer and pooled; intervals clustered by problem.

    Strata are cut per layer and kind: of equal size, or one for each value of a quantity with no more than ``bins`` values.
    Columns: scope, layer, kind, quantity, stratum, value_low, value_high, cells, problems; then of
    each of ``tracing.cells.MEASURES``
    the estimate and its interval; kl_contrast and ratio_contrast, the lowest stratum over the highest, alike in all strata.

    Raises:
        InputError: a table without these columns, an unknown or undefined quantity or kind, or more strata than cells.
    """
    check_bins(bins)
    settings, rows = Settings(resamples=resamples, level=level, seed=seed), []
    for kind, part in _parts(table, [quantity], kinds, _SHIFTED):
        strata = part.groupby("layer")[quantity].transform(partial(_strata, bins=bins)).to_numpy(np.int64)
        owner, problems = number_problems(part["problem"], len(part))
        for scope, layer, members in _scopes(part):
            values = {name: part[name].to_numpy(float)[None, members] for name in (*_SHIFTED, "entropy_base")}
            cells = Cells(values, owner[members], problems)
            inside, value = strata[members], part[quantity].to_numpy(float)[members]
            count = int(inside.max()) + 1
            measured, contrasts = cells.stratified(inside[None], count, settings)
            for stratum, row in enumerate(measured):
                own_values = value[inside == stratum]
                key = {"scope": scope, "layer": layer, "kind": kind, "quantity": quantity, "stratum": stratum}
                key |= {
                    "value_low": own_values.min(initial=np.inf),
                    "value_high": own_values.max(initial=-np.inf),
                }
                measures = {name: row[name] for name in row if name not in ("entropy_low", "entropy_high")}
                rows.append(key | measures | _contrasts(contrasts))
    return pd.DataFrame(rows)


def rank_correlations(
    table: pd.DataFrame,
    quantities: Sequence[str] | None = None,
    *,
    outcomes: Sequence[str] = OUTCOMES,
    against: Mapping[str, str] | None = None,
    kinds: Sequence[str] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman correlation of what shifts with each quantity: simple, and partial with all others held equal.

    Per layer, and pooled over layers (the layer held fixed) without the last one. Columns: scope, layer, kind, outcome,
    quantity, cells, problems; simple and partial with their intervals (bootstrap over problems, ranks taken anew); role,
    one of ROLES by whether the intervals contain 0 ("" for differences). An interval that contains 0 does not show that
    nothing is left.

    Args:
        table: of `analysis.cell_table`, or any with the columns problem, layer, last_layer, kind and those asked for.
        quantities: columns; None: those of QUANTITIES that are defined for a kind of token.
        outcomes: columns that say what shifts.
        against: outcome -> another, such as that of a control pair; their difference is added as "outcome − other".
        kinds: of tokens; None: visual, text and responses, as far as they are there.
        resamples: of the bootstrap.
        level: of the intervals.
        seed: of the bootstrap.

    Raises:
        InputError: missing columns, values that are not finite, quantities that repeat or are outcomes.
    """
    _check_names(quantities, outcomes, against)
    settings, rows = Settings(resamples=resamples, level=level, seed=seed), []
    pairs = dict(against or {})
    measured = [*dict.fromkeys([*outcomes, *pairs.keys(), *pairs.values()])]
    for kind, part in _parts(table, quantities, kinds, measured):
        names = [*quantities] if quantities else _defined(part, kind)
        layers, last = part["layer"].to_numpy(np.int64), part["last_layer"].to_numpy(bool)
        numbers, index = np.unique(layers, return_inverse=True)
        below = [place for place, layer in enumerate(numbers) if not last[layers == layer].all()]
        owner, problems = number_problems(part["problem"], len(part))
        values, shifted = (part[of].to_numpy(float).T for of in (names, measured))
        statistic = PartialRanks(values, shifted, index, owner, problems, pooled=below or None)
        places = [(measured.index(one), measured.index(other)) for one, other in pairs.items()]
        titles = [*measured, *(f"{one} − {other}" for one, other in pairs.items())]
        statistics = partial(_with_differences, statistic=statistic, pairs=places)
        intervals = bootstrap(statistics, problems, method="correlation", **settings)
        cells = [*np.bincount(index), np.isin(index, below).sum() if below else len(index)]
        scopes = [*(("layer", int(layer)) for layer in numbers), (_BELOW if below else _ALL, -1)]
        sizes = (len(scopes), len(titles), 2, len(names))
        for place in np.ndindex(sizes[0], sizes[1], sizes[3]):
            at = (place[0], place[1], [0, 1], place[2])
            whole = 1.0 if place[1] < len(measured) else 2.0
            simple, controlled = (
                intervals[i].times(whole) for i in np.arange(len(intervals.low)).reshape(sizes)[at]
            )
            key = dict(zip(("scope", "layer"), scopes[place[0]], strict=True)) | {"kind": kind}
            key |= {"outcome": titles[place[1]], "quantity": names[place[2]]}
            key |= {"cells": int(cells[place[0]]), "problems": problems}
            verdict = role(simple, controlled, problems) if place[1] < len(measured) else ""
            rows.append(key | simple.columns("simple") | controlled.columns("partial") | {"role": verdict})
    return pd.DataFrame(rows)


def role(simple: Interval, left: Interval, problems: int) -> str:
    """One of ROLES: what becomes of a simple link when the other quantities are held equal.

    "" without intervals and with fewer than ``estimates.ENOUGH`` problems.
    """
    if isnan(simple.low) or isnan(left.low) or problems < ENOUGH:
        return ""
    before, after = simple.above(0.0), left.above(0.0)
    if before is None:
        return "not at all" if after is None else "masked"
    if after is None:
        return "as a proxy"
    return "beyond the others" if before == after else "reversed"


def covariate_claims(correlations: pd.DataFrame) -> list[Claim]:
    """Whether low entropy goes with more shift, by itself and with the other quantities held equal.

    ``correlations`` is what `rank_correlations` returned; layers pooled, the last one left out.
    """
    titles, claims = {"kl": "KL", "ratio": "KL over matched noise"}, []
    rows = correlations.loc[(correlations["scope"] == _BELOW) & correlations["quantity"].isin(ENTROPIES)]
    sentences = {
        "simple": "low-entropy cells shift more",
        "partial": "low-entropy cells shift more, the other quantities held equal",
    }
    for row in rows.loc[rows["outcome"].isin([*titles])].to_dict("records"):
        for what, claim in sentences.items():
            interval = Interval.in_row(row, what)
            measured = f"{what} Spearman of {QUANTITIES[row['quantity']]} with {titles[row['outcome']]}"
            few = "no interval" if isnan(interval.low) else None
            where = f"{measured}, {row['kind']} tokens, {SCOPES[_BELOW]}"
            claims.append(
                Claim(
                    claim,
                    "entropy or proxy",
                    where,
                    interval,
                    int(row["problems"]),
                    above=False,
                    obstacle=few,
                    kind=str(row["kind"]),
                    cells=(int(row["cells"]), int(row["cells"])),
                )
            )
    return claims


def _parts(
    table: pd.DataFrame,
    quantities: Sequence[str] | None,
    kinds: Sequence[str] | None,
    measures: Sequence[str],
) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of every kind, checked."""
    needed = ["problem", "layer", "last_layer", "kind", *(quantities or ()), *measures]
    missing = [name for name in dict.fromkeys(needed) if name not in table]
    if missing or not len(table):
        raise InputError(
            f"`table` lacks {missing or 'rows'}; it has {[*table.columns]}: pass cell_table(pair, problems, ...)"
        )
    present = [*dict.fromkeys(table["kind"])]
    names = [kind for kind in TOKENS if kind in present] or present if kinds is None else [*kinds]
    for kind in names:
        part = table.loc[table["kind"] == kind]
        if not len(part):
            raise InputError(f"`kinds` asks for {kind!r}, but `table` holds {present}; leave it out")
        for name in dict.fromkeys([*(quantities or ()), *measures]):
            wrong = int((~np.isfinite(part[name].to_numpy(float))).sum())
            if wrong:
                raise InputError(
                    f"`table`: {name!r} is not finite at {wrong} of {len(part)} cells of kind {kind!r}; leave these rows, this "
                    f"quantity or this kind out, e.g. kinds=[{present[0]!r}]"
                )
        yield kind, part


def _defined(part: pd.DataFrame, kind: str) -> list[str]:
    """Quantities that every cell of a kind has. The place of visual tokens is that in the picture."""
    names = [name for name in QUANTITIES if name in part and np.isfinite(part[name].to_numpy(float)).all()]
    placed = set(_OF_PICTURES) <= {*names} or {"row", "column"} <= {*names}
    names = [name for name in names if name != "position" or not placed]
    if not names:
        raise InputError(
            f"`table` has no quantity that all cells of kind {kind!r} have; name some: quantities=[...]"
        )
    return names


def _scopes(part: pd.DataFrame) -> Iterator[tuple[str, int, NDArray[np.bool_]]]:
    layers, last = part["layer"].to_numpy(), part["last_layer"].to_numpy(bool)
    for layer in np.unique(layers):
        yield "layer", int(layer), layers == layer
    yield (_ALL, -1, ~last | last) if last.all() else (_BELOW, -1, ~last)


def _strata(values: pd.Series, bins: int) -> NDArray[np.int64]:
    distinct, place = np.unique(values.to_numpy(float), return_inverse=True)
    if len(distinct) <= bins:
        return place.astype(np.int64)
    return quantile_strata(torch.tensor(values.tolist(), dtype=torch.float64), bins).numpy()


def _contrasts(contrasts: Mapping[str, Interval]) -> dict[str, Any]:
    parts = [interval.columns(f"{name}_contrast") for name, interval in contrasts.items()]
    return {key: value for part in parts for key, value in part.items()}


def _with_differences(counts: Array, statistic: PartialRanks, pairs: Sequence[tuple[int, int]]) -> Array:
    values = statistic(counts).reshape(len(counts), *statistic.shape)
    # Halved, so that they are between -1 and 1 as correlations are.
    more = [(values[:, :, [one]] - values[:, :, [other]]) / 2 for one, other in pairs]
    return np.concatenate([values, *more], 2).reshape(len(counts), -1)


def _check_names(
    quantities: Sequence[str] | None, outcomes: Sequence[str], against: Mapping[str, str] | None
) -> None:
    call = "rank_correlations(table, ['entropy_base', 'base_norm'], outcomes=['kl'])"
    if isinstance(quantities, str) or isinstance(outcomes, str) or not outcomes:
        raise InputError(f"`quantities` and `outcomes` must be lists of columns: {call}")
    names = [*(quantities or ()), *outcomes]
    if len({*names}) < len(names) or {*(against or {}).values()} & {*(quantities or ())}:
        raise InputError(f"`quantities` and `outcomes` must name each column once, found {names}: {call}")
