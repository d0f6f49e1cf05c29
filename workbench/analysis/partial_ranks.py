"""Rank correlations of outcomes with several quantities, simple and partial, under problem counts.

1. Cells come in groups (decoder layers). Ranks are taken within a group, anew in every resample, mean rank for ties.
2. Simple: the correlation of ranks, Spearman's rho.
3. Partial: what is left of it when the ranks of all other quantities are held equal, from the inverse of the matrix of
   rank correlations (Whittaker 1990, Graphical Models in Applied Multivariate Statistics, corollary 5.8.2).
4. Pooled over groups: covariances of ranks within groups, summed, so that differences between groups play no part; the
   same as ranks within groups with the group as a further, categorical, quantity held equal.

A partial correlation is a statement about ranks that are linked linearly, and about the quantities at hand; it is not
causation. Numbers only: `covariates` makes tables of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workbench.errors import InputError
from workbench.estimates import Array, divide

_CHUNK = 1 << 22
"""Ranks that exist at a time."""
_COLLINEAR = 1e-6
"""Smallest eigenvalue of a correlation matrix below which its quantities are not told apart."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Cells of one layer: whose they are, and how each measure orders them."""

    owner: NDArray[np.int64]
    order: NDArray[np.int64]
    """(measures, cells): cells from the lowest value to the highest."""
    first: NDArray[np.int64]
    """(measures, cells): for each cell, how many cells lie below its tie."""
    last: NDArray[np.int64]
    """(measures, cells): the same, its tie counted in."""

    @classmethod
    def of(cls, values: Array, owner: NDArray[np.int64]) -> "_Group":
        order = np.argsort(values, axis=1, kind="stable")
        ordered = np.take_along_axis(values, order, 1)
        first, last = (
            np.stack([np.searchsorted(line, row, side) for line, row in zip(ordered, values, strict=True)])
            for side in ("left", "right")
        )
        return cls(owner, order, first, last)

    def covariance(self, counts: Array) -> Array:
        """(resamples, measures, measures): sums of squares and products of centred ranks, ranks as shares of the cells."""
        weight = counts[:, self.owner]
        total = weight.sum(1)
        ranks = np.empty((len(counts), *self.order.shape))
        for measure, order in enumerate(self.order):
            upto = np.cumsum(np.pad(weight[:, order], ((0, 0), (1, 0))), axis=1)
            middle = (upto[:, self.first[measure]] + upto[:, self.last[measure]]) / 2
            ranks[:, measure] = divide(middle, total[:, None]) - 0.5
        return (ranks * weight[:, None]) @ ranks.swapaxes(1, 2)


class PartialRanks:
    """A statistic for `estimates.bootstrap`: (resamples, problems) -> (resamples, values).

    The values are, in this order: scope (each group, then those in ``pooled`` together), outcome, simple and partial,
    quantity; `shape` says how many of each. NaN where a measure is constant, and where a quantity is a function of those
    before it (its partial correlation is not defined, and it is left out for the others).

    Raises:
        InputError: shapes that do not fit, no outcome or quantity, or values that are not finite.
    """

    def __init__(
        self,
        quantities: Array,
        outcomes: Array,
        group: NDArray[np.int64],
        problem: NDArray[np.int64],
        problems: int,
        *,
        pooled: Sequence[int] | None = None,
    ) -> None:
        """``analysis.cell_table`` (k, cells), ``outcomes`` (m, cells), ``group`` and ``problem`` (cells,) ids from 0."""
        cells = group.shape[-1]
        for name, measures in (("quantities", quantities), ("outcomes", outcomes)):
            if measures.ndim != 2 or not len(measures) or measures.shape[1] != cells or not cells:
                raise InputError(f"`{name}` has shape {measures.shape}, expected (at least 1, {cells} cells)")
            if not np.isfinite(measures).all():
                raise InputError(f"`{name}` must be finite; leave out the cells where it is not defined")
        if problem.shape != group.shape or problem.min() < 0 or problem.max() >= problems:
            raise InputError(f"`problem` must name one of {problems} problems for each of the {cells} cells")
        self.quantities, self.problems = len(quantities), problems
        values = np.concatenate([quantities, outcomes])
        groups = range(int(group.max()) + 1)
        self.groups = [_Group.of(values[:, group == one], problem[group == one]) for one in groups]
        self.pooled = [*groups] if pooled is None else [*pooled]
        self.shape = (len(self.groups) + 1, len(outcomes), 2, self.quantities)
        whole = self._correlations(np.ones((1, problems)))[:, 0]
        self.kept = [_independent(scope[: self.quantities, : self.quantities]) for scope in whole]

    def __call__(self, counts: Array) -> Array:
        """Every correlation in each resample."""
        matrices = self._correlations(counts)
        rho = np.full((len(counts), *self.shape), np.nan)
        for scope, correlation in enumerate(matrices):
            for outcome in range(self.shape[1]):
                place = self.quantities + outcome
                rho[:, scope, outcome, 0] = correlation[:, : self.quantities, place]
                independent = self.kept[scope]
                if independent:
                    inside = np.ix_([*independent, place], [*independent, place])
                    rho[:, scope, outcome, 1, independent] = partial(correlation[:, inside[0], inside[1]])
        return rho.reshape(len(counts), -1)

    def _correlations(self, counts: Array) -> Array:
        """(scopes, resamples, measures, measures)."""
        measures = len(self.groups[0].order)
        size = max(1, _CHUNK // (measures * max(len(group.owner) for group in self.groups)))
        parts = []
        for start in range(0, len(counts), size):
            some = counts[start : start + size]
            sums = np.stack([group.covariance(some) for group in self.groups])
            sums = np.concatenate([sums, sums[self.pooled].sum(0)[None]])
            spread = np.sqrt(np.einsum("...ii->...i", sums))
            parts.append(divide(sums, spread[..., :, None] * spread[..., None, :]))
        return np.concatenate(parts, 1)


def partial(correlations: Array) -> Array:
    """Partial correlations (..., k) of the last of k + 1 measures with each other one, the rest held equal.

    ``correlations`` is (..., k + 1, k + 1). NaN where it is singular or not finite.
    """
    usable = np.asarray(np.isfinite(correlations).all((-1, -2)))
    safe = np.where(usable[..., None, None], correlations, np.eye(correlations.shape[-1]))
    usable = usable & (np.linalg.eigvalsh(safe)[..., 0] > _COLLINEAR)
    precision = np.linalg.inv(np.where(usable[..., None, None], safe, np.eye(correlations.shape[-1])))
    diagonal = np.einsum("...ii->...i", precision)
    rho = -precision[..., :-1, -1] / np.sqrt(diagonal[..., :-1] * diagonal[..., -1:])
    return np.where(usable[..., None], rho, np.nan)


def _independent(correlations: Array) -> list[int]:
    """Which measures, the first ones first, are neither constant nor functions of those kept before."""
    measures: list[int] = []
    for measure in range(len(correlations)):
        inside = correlations[np.ix_([*measures, measure], [*measures, measure])]
        if np.isfinite(inside).all() and np.linalg.eigvalsh(inside)[0] > _COLLINEAR:
            measures.append(measure)
    return measures
