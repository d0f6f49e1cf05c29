"""What a stratified shift says about the low-entropy claim, in words.

The claim (arXiv 2511.19972): RLVR shifts low-entropy cells more than high-entropy ones. It is tested as the
ratio of the lowest to the highest entropy stratum:

1. ``kl``: mean KL of the lowest stratum over that of the highest. The claim as the paper states it.
2. ``ratio``: the same of observed KL over matched-noise KL. What is left of it when random changes of equal
   size, which also move confident distributions less, are divided out.

It holds when the whole interval of that ratio lies above 1, does not hold when it lies below, and is
undecided otherwise. An interval by percentiles is the same for the ratio and for its logarithm.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan

import numpy as np
import pandas as pd

from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.names import SCOPES, STATES
from workbench.views import markup

ROUNDING = 1e-6  # nats: no KL above this counts as no shift, being what float32 log-probabilities leave open
_PARTS = ("half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True)
class Verdict:
    """Whether the low-entropy claim holds for one measure, in one scope, for one kind of token."""

    measure: str
    """``"kl"``, or ``"ratio"`` of observed to matched-noise KL."""
    scope: str
    """``"without last layer"``, ``"all layers"`` or ``"last layer"``."""
    kind: str
    """``"visual"``, ``"text"``, ``"special"`` or ``"all"``."""
    interval: Interval
    """Lowest over highest stratum (a factor)."""
    stratum: str
    """What a stratum is called, such as ``"fifth"``."""
    obstacle: str | None = None
    """Why the claim cannot be tested here, or None."""

    def __post_init__(self) -> None:
        if self.measure not in ("kl", "ratio"):
            raise InputError(f"`measure` must be 'kl' or 'ratio', found {self.measure!r}.")

    @property
    def holds(self) -> bool | None:
        """True, False, or None where this is undecided."""
        return None if self.obstacle else self.interval.above(1.0)

    @property
    def measured(self) -> bool:
        """Whether there is a factor, though perhaps without an interval."""
        return not isnan(self.interval.estimate)

    @property
    def state(self) -> str:
        """ "holds", "does NOT hold", "is undecided" or "cannot be tested"."""
        return STATES[self.holds] if self.measured else "cannot be tested"

    @property
    def place(self) -> str:
        """Which cells this is about, in words."""
        return f"{self.kind} tokens, {SCOPES.get(self.scope, self.scope)}"

    @property
    def text(self) -> str:
        """One line in plain words."""
        test = "raw KL" if self.measure == "kl" else "KL against matched noise"
        found = f"the lowest stratum shifts {times(self.interval)} the highest"
        return f"Low-entropy claim {self.state} for {test} ({self.place}): {self.obstacle or found}."

    def __str__(self) -> str:
        return self.text


def headline(verdicts: Iterable[Verdict]) -> str:
    """The line to remember: visual (else all) tokens without the last layer, against noise first, then raw.

    ``verdicts``: for both measures, on visual or all tokens, in all layers and perhaps without the last.
    """
    found = {(verdict.scope, verdict.kind, verdict.measure): verdict for verdict in verdicts}
    kind = "visual" if any(key[1] == "visual" for key in found) else "all"
    scopes = [scope for scope in ("without last layer", "all layers") if (scope, kind, "kl") in found]
    raw, noise = (found[scopes[0], kind, measure] for measure in ("kl", "ratio"))
    lead = noise if noise.measured else raw
    start = f"Low-entropy claim {lead.state} on this pair ({raw.place})"
    if not raw.measured:
        return f"{start}: {raw.obstacle}."
    start += f": {lead.obstacle}; " if lead.obstacle else ": "
    if not noise.measured:
        return (
            f"{start}by raw KL the lowest stratum shifts {times(raw.interval)} the highest; {noise.obstacle}."
        )
    line = f"{start}against matched noise the lowest stratum shifts {times(noise.interval)} the highest; "
    line += f"by raw KL {times(raw.interval)}"
    if not raw.obstacle:
        line += f", where it {raw.state}"
    raw_all, noise_all = (found["all layers", kind, measure] for measure in ("kl", "ratio"))
    if (raw.holds, noise.holds) != (raw_all.holds, noise_all.holds):
        line += f"; counting the last layer {times(noise_all.interval)}, by raw KL {times(raw_all.interval)}"
    return f"{line}."


def part_name(bins: int, by: str) -> str:
    """What one of ``bins`` strata is called: "fifth", or "fifth of the entropy range"."""
    part = _PARTS[bins - 2] if bins - 2 < len(_PARTS) else f"of {bins} parts"
    return f"{part} of the entropy range" if by == "fraction" else part


def times(interval: Interval) -> str:
    """A factor with its interval, such as "0.41x [0.35, 0.48]"."""
    bounds = "" if isnan(interval.low) else f" [{_number(interval.low)}, {_number(interval.high)}]"
    return f"{_number(interval.estimate)}x{bounds}"


def _number(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= value < 100 else f"{value:.2g}"


@dataclass(frozen=True)
class Claim:
    """One claim and what a pair shows."""

    claim: str
    """What the paper says, in our words."""
    place: str
    """Where in the paper."""
    measured: str
    """What the number is, with its unit."""
    interval: Interval
    bound: float = 0.0
    above: bool = True
    """On which side of `bound` the number must lie."""
    obstacle: str | None = None
    """Why it cannot be tested here."""

    @property
    def holds(self) -> bool | None:
        """True, False, or None where this is undecided."""
        if self.obstacle:
            return None
        side = self.interval.above(self.bound)
        return side if side is None or self.above else not side

    @property
    def verdict(self) -> str:
        """ "holds", "does NOT hold", "is undecided" or "cannot be tested"."""
        if self.obstacle or np.isnan(self.interval.estimate):
            return "cannot be tested"
        return STATES[self.holds]

    def _repr_html_(self) -> str:
        return claims_html([self])

    def __str__(self) -> str:
        found = self.obstacle or f"{self.measured}: {self.interval}"
        return f"{self.claim} ({self.place}): {self.verdict}; {found}"


def claim_table(claims: Iterable[Claim]) -> pd.DataFrame:
    """One row a claim: claim, place, measured, estimate, low, high, expected, verdict, obstacle."""
    return pd.DataFrame(
        [
            {
                "claim": c.claim,
                "place": c.place,
                "measured": c.measured,
                "estimate": c.interval.estimate,
                "low": c.interval.low,
                "high": c.interval.high,
                "expected": f"{'above' if c.above else 'below'} {c.bound:g}",
                "verdict": c.verdict,
                "obstacle": c.obstacle or "",
            }
            for c in claims
        ]
    )


def claims_html(claims: Iterable[Claim]) -> str:
    """The same for Jupyter, estimates with their intervals."""
    told = claim_table(claims).rename(columns={"low": "estimate_low", "high": "estimate_high"})
    return markup.table(told) if len(told) else markup.paragraph("No claims.")
