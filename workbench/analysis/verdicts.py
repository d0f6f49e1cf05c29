"""Claims: a number with its interval, on which side of a bound it has to lie, and whether it does.

A claim holds when the whole interval lies on the expected side of the bound, does not hold when the whole interval lies on
the other, and is undecided otherwise. Fewer than ``estimates.ENOUGH`` problems decide nothing, whatever the interval.

Of many claims some come out by chance. Each has a p value, read from its interval (``Interval.p_value``: the level at
which the nearer end would reach the bound), and ``adjusted`` gives Holm's, which keep the chance of any wrong decision on
a page below 5%, however the claims depend on each other. Both verdicts are shown.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan

import numpy as np
import pandas as pd

from workbench.errors import InputError
from workbench.estimates import ENOUGH, Interval
from workbench.names import STATES, TOO_FEW, UNTESTED
from workbench.views import markup
from workbench.views.tables import number


@dataclass(frozen=True)
class Claim:
    """One claim and what a pair shows of it."""

    claim: str
    """What is claimed, such as what the paper says, in our words."""
    place: str
    """Where it is claimed."""
    measured: str
    """What the number is, with its unit."""
    interval: Interval
    problems: int
    """Problems (or ``unit``) that the interval resamples."""
    bound: float = 0.0
    above: bool = True
    """On which side of `bound` the number must lie."""
    why: str = ""
    """Why the bound is what it is, where that is not plain."""
    obstacle: str | None = None
    """Why it cannot be tested here."""
    factor: bool = False
    """Whether the number is a factor, so that distances from `bound` are measured in logarithms."""
    kind: str = ""
    """Which positions were compared: "visual", "text", "special", "response" or "all"; the same on both sides."""
    cells: tuple[int, int] | None = None
    """How many cells each of the two sides that are compared touched."""
    level: float = 0.95
    """Of the verdict."""
    comparisons: int = 1
    """Comparisons that share the level, so that the interval is that of the largest at 1 - (1 - level) / comparisons."""
    unit: str = "problems"
    """What was resampled."""
    key: Mapping[str, str] = field(default_factory=dict)
    """Where the number stands: measure, scope, kind, test, outcome, method, fit, as the table has it."""

    def __post_init__(self) -> None:
        if isinstance(self.problems, bool) or not isinstance(self.problems, int):
            raise InputError(
                f"`problems` is {self.problems!r}; expected how many {self.unit} the interval resamples: "
                "Claim('replay helps', 'Table 2', 'points', Interval(2, 1, 3), 64)"
            )

    @property
    def holds(self) -> bool | None:
        """True, False, or None where this is undecided."""
        if self.obstacle or self.problems < ENOUGH:
            return None
        side = self.interval.above(self.bound)
        return side if side is None or self.above else not side

    @property
    def verdict(self) -> str:
        """ "holds", "does NOT hold", "is undecided", "has too few problems" or "cannot be tested"."""
        return state(self.holds, self.interval, self.problems, unit=self.unit, obstacle=self.obstacle)

    @property
    def p(self) -> float:
        """Two-sided p value that the number is `bound`; NaN where this cannot be decided at all."""
        if self.obstacle or self.problems < ENOUGH:
            return nan
        level = 1 - (1 - self.level) / self.comparisons
        p = self.interval.p_value(self.bound, units=self.problems, level=level, factor=self.factor)
        return min(1.0, p * self.comparisons) if not isnan(p) else nan

    @property
    def detectable(self) -> float:
        """Smallest effect that this design finds in 80% of repetitions: off `bound`, or a factor; NaN without interval."""
        level = 1 - (1 - self.level) / self.comparisons
        return self.interval.detectable(units=self.problems, level=level, factor=self.factor)

    @property
    def found(self) -> str:
        """The number with its interval, or why there is none."""
        if self.obstacle:
            return self.obstacle
        return times(self.interval) if self.factor else bracketed(self.interval)

    @property
    def text(self) -> str:
        """One line in plain words."""
        touched = f"; {self.cells[0]:,} cells against {self.cells[1]:,}" if self.cells else ""
        head = f"{self.claim} ({self.place}): {self.verdict}; {self.measured}"
        return f"{head}: {self.found}{self._open}; {self.problems} {self.unit}{touched}"

    @property
    def _open(self) -> str:
        """What an undecided claim would have seen."""
        if self.verdict != STATES[None] or isnan(self.detectable):
            return ""
        return f" (with a power of 80% this finds {effect_of(self.detectable, factor=self.factor)} or more)"

    def _repr_html_(self) -> str:
        return claims_html([self])

    def __str__(self) -> str:
        return self.text


def state(
    holds: bool | None,
    interval: Interval,
    problems: int,
    *,
    unit: str = "problems",
    obstacle: str | None = None,
) -> str:
    """The verdict in words: "holds", "does NOT hold", "is undecided", "has too few problems" or "cannot be tested"."""
    if isnan(interval.estimate) or (obstacle and problems >= ENOUGH):
        return UNTESTED
    if problems < ENOUGH:
        return TOO_FEW.replace("problems", unit)
    return STATES[holds]


def adjusted(claims: Sequence[Claim]) -> list[float]:
    """Holm's p values (`statsmodels`) of claims that stand together; NaN for those that have none."""
    from statsmodels.stats.multitest import multipletests  # a second to import

    raw = [claim.p for claim in claims]
    tested = [place for place, p in enumerate(raw) if not isnan(p)]
    ps = [nan] * len(raw)
    if tested:
        holm = np.asarray(multipletests([raw[place] for place in tested], method="holm")[1])
        for place, p in zip(tested, holm.tolist(), strict=True):
            ps[place] = p
    return ps


def adjusted_verdict(claim: Claim, p: float) -> str:
    """The verdict when an adjusted p value takes the place of the claim's own."""
    decided = claim.holds is not None and p >= 1 - claim.level
    return STATES[None] if decided else claim.verdict


def by_chance(claims: Sequence[Claim]) -> str:
    """How many of these verdicts would come out by chance, and how many are left when that is taken into account."""
    ps = adjusted(claims)
    tested = sum(not isnan(p) for p in ps)
    if not tested:
        return "None of these claims can be decided with so few problems."
    decided = sum(claim.holds is not None for claim in claims)
    survivors = sum(
        adjusted_verdict(c, p) in (STATES[True], STATES[False]) for c, p in zip(claims, ps, strict=True)
    )
    rate = 1 - claims[0].level
    return (
        f"{tested} claims were tested, each at {rate:.0%}: with nothing behind any of them, about {tested * rate:.1f} would "
        f"still be decided by chance. {decided} are decided; after Holm's adjustment for all {tested}, {survivors} stay so."
    )


def claim_table(claims: Iterable[Claim]) -> pd.DataFrame:
    """One row a claim.

    Columns: claim, place, measured, estimate with estimate_low and estimate_high, expected, why (of the bound), kind (of
    position), cells and cells_other (of the two sides; NaN: not of cells), problems, detectable (effect found with a power
    of 80%), p, p_adjusted (Holm, over this table), verdict, adjusted (the verdict by p_adjusted), obstacle.
    """
    listed = list(claims)
    return pd.DataFrame(
        [
            {
                "claim": c.claim,
                "place": c.place,
                "measured": c.measured,
                **c.interval.columns("estimate"),
                "expected": f"{'above' if c.above else 'below'} {c.bound:g}",
                "why": c.why,
                "kind": c.kind,
                "cells": c.cells[0] if c.cells else nan,
                "cells_other": c.cells[1] if c.cells else nan,
                "problems": c.problems,
                "detectable": c.detectable,
                "p": c.p,
                "p_adjusted": p,
                "verdict": c.verdict,
                "adjusted": adjusted_verdict(c, p),
                "obstacle": c.obstacle or "",
            }
            for c, p in zip(listed, adjusted(listed), strict=True)
        ]
    )


def claims_html(claims: Iterable[Claim]) -> str:
    """The same for Jupyter, estimates with their intervals."""
    listed = list(claims)
    if not listed:
        return markup.paragraph("No claims.")
    return markup.paragraph(by_chance(listed)) + markup.table(claim_table(listed))


def effect_of(detectable: float, *, factor: bool) -> str:
    """The smallest effect that a design finds (`Claim.detectable`), in words."""
    return f"a factor of {_factor(detectable)}" if factor else number(detectable)


def seen(detectable: float, verdicts: Iterable[str], *, factor: bool) -> str:
    """What stands beside an undecided verdict: the smallest effect that would have been found; "" where nothing is undecided."""
    if STATES[None] not in verdicts or isnan(detectable):
        return ""
    return f"power 80% from {effect_of(detectable, factor=factor)}"


def times(interval: Interval) -> str:
    """A factor with its interval, such as "0.41x [0.35, 0.48]"."""
    bounds = "" if isnan(interval.low) else f" [{_factor(interval.low)}, {_factor(interval.high)}]"
    return f"{_factor(interval.estimate)}x{bounds}"


def bracketed(interval: Interval) -> str:
    """A number with its interval to three digits, such as "0.0144 [0.0129, 0.0160]"."""
    bounds = "" if isnan(interval.low) else f" [{number(interval.low)}, {number(interval.high)}]"
    return f"{number(interval.estimate)}{bounds}"


def _factor(value: float) -> str:
    if 100 <= value < 1e6:
        return f"{float(f'{value:.2g}'):.0f}"  # never 1.4e+02
    return f"{value:.2f}" if 0.1 <= value < 100 else f"{value:.2g}"
