"""What a stratified shift says about the low-entropy claim: its ends, its slope, its largest stratum.

The claim (arXiv 2511.19972): RLVR shifts low-entropy cells more than high-entropy ones. Each test is made twice: with
``kl``, the claim as the paper states it, and with ``ratio``, observed KL over that of the null which the trace drew (matched
noise, if nothing else was asked for), which is what is left of it when other changes of equal size, which also move confident
distributions less, are divided out.

``ends``   the lowest stratum over the highest lies above 1.
``trend``  the factor from one stratum to the next lies below 1: the exponential of the slope of log means.
``peak``   the lowest stratum over the largest of the others lies above 1, at Bonferroni's level for all the others.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
from typing import Any

import numpy as np

from workbench.analysis.verdicts import Claim, times
from workbench.estimates import ENOUGH, FEWEST, Interval
from workbench.names import SCOPES
from workbench.selection import Strata
from workbench.tracing.cells import Cells, Shape

ROUNDING = 1e-6  # nats: no KL above this counts as no shift, being what float32 log-probabilities leave open
MEASURED = {"kl": "raw KL", "ratio": "KL over {null}"}
PLACE = "section 3, entropy"


def judged(
    scope: str,
    kind: str,
    cells: Cells,
    strata: Sequence[Mapping[str, Any]],
    ends: Mapping[str, Interval],
    shapes: Mapping[str, Shape],
    *,
    stratum: str,
    level: float,
    null: str,
) -> list[Claim]:
    """The claims on some cells, by measure and test.

    Args:
        scope: which layers.
        kind: of token.
        cells: all of them.
        strata: rows of the shift's table, lowest first.
        ends: of ``Cells.stratified``.
        shapes: of ``Cells.shape``.
        stratum: what a stratum is called, such as ``"fifth"``.
        level: of the intervals.
        null: what the shift is held against, in words.
    """
    where = f"{kind} tokens, {SCOPES.get(scope, scope)}"
    claims = []
    for measure, template in MEASURED.items():
        name = template.format(null=null)
        shape = shapes[measure]
        other, lowest, highest = strata[shape.other], strata[0], strata[-1]
        for test, claim, what, interval, above, sides in (
            (
                "ends",
                "low-entropy cells shift more than high-entropy ones",
                f"{name}, lowest over highest {stratum}",
                ends[measure],
                True,
                (lowest, highest),
            ),
            (
                "trend",
                "the shift falls with entropy from stratum to stratum",
                f"{name}, factor from one {stratum} to the next",
                shape.trend,
                False,
                (lowest, highest),
            ),
            (
                "peak",
                "low-entropy cells shift most",
                f"{name}, lowest {stratum} over the largest of the others, stratum {shape.other}",
                shape.peak,
                True,
                (lowest, other),
            ),
        ):
            obstacle = _obstacle(measure, cells, sides, interval, stratum)
            no_shift = bool(obstacle) and obstacle.startswith("the two models agree")
            claims.append(
                Claim(
                    claim,
                    PLACE,
                    f"{what} (a factor), {where}",
                    Interval(nan, nan, nan) if no_shift else interval,  # of rounding errors
                    min(int(row["problems"]) for row in sides),
                    bound=1.0,
                    above=above,
                    obstacle=obstacle,
                    factor=True,
                    kind=kind,
                    cells=(int(sides[0]["cells"]), int(sides[1]["cells"])),
                    level=level,
                    comparisons=len(strata) - 1 if test == "peak" else 1,
                    key={"test": test, "measure": measure, "scope": scope, "kind": kind}
                    | ({"other": str(shape.other)} if test == "peak" else {}),
                )
            )
    return claims


def _obstacle(
    measure: str, cells: Cells, sides: Sequence[Mapping[str, Any]], interval: Interval, stratum: str
) -> str | None:
    """What stands in the way of a verdict."""
    largest = cells.values["kl"].max()
    empty = [name for name, row in zip(("lowest", "highest"), sides, strict=True) if not row["cells"]]
    if largest <= ROUNDING:
        return f"the two models agree to within rounding (largest KL {largest:.1g} nats), so nothing shifts"
    if empty:
        return f"the {empty[0]} {stratum} holds no cells"
    if measure == "ratio" and np.isnan(cells.values["kl_null"]).any():
        return "no null was drawn, so what entropy alone does to KL stays in"
    if cells.problems < 2:
        return "one problem, so no interval"
    if cells.problems < FEWEST or min(row["problems"] for row in sides) < FEWEST:
        return f"fewer than {FEWEST} problems hold these cells, so no interval"
    return "too few problems hold these cells for an interval" if isnan(interval.low) else None


def headline(verdicts: Iterable[Claim], null: str) -> str:
    """The line to remember: visual (else all) tokens without the last layer; against the null, then raw, then the shape.

    ``verdicts``: for both measures, on visual or all tokens, in all layers and perhaps without the last.
    """
    by_key = {
        tuple(claim.key[name] for name in ("test", "scope", "kind", "measure")): claim for claim in verdicts
    }
    kind = "visual" if any(key[2] == "visual" for key in by_key) else "all"
    scopes = [
        scope for scope in ("without last layer", "all layers") if ("ends", scope, kind, "kl") in by_key
    ]
    raw, noise = (by_key["ends", scopes[0], kind, measure] for measure in MEASURED)
    lead = raw if isnan(noise.interval.estimate) else noise
    where = f"{kind} tokens, {SCOPES.get(scopes[0], scopes[0])}"
    start = f"Low-entropy claim {lead.verdict} on this pair ({where})"
    if isnan(raw.interval.estimate):
        return f"{start}: {raw.obstacle}."
    start += f": {lead.obstacle}; " if lead.obstacle else ": "
    if lead is raw:
        return (
            f"{start}by raw KL the lowest stratum shifts {times(raw.interval)} the highest; {noise.obstacle}."
        )
    line = f"{start}against {null} the lowest stratum shifts {times(noise.interval)} the highest; "
    line += f"by raw KL {times(raw.interval)}"
    if not raw.obstacle:
        line += f", where it {raw.verdict}"
    line += _shape(by_key["peak", scopes[0], kind, "kl"], by_key["trend", scopes[0], kind, "kl"])
    raw_all, noise_all = (by_key["ends", "all layers", kind, measure] for measure in MEASURED)
    if (raw.holds, noise.holds) != (raw_all.holds, noise_all.holds):
        line += f"; counting the last layer {times(noise_all.interval)}, by raw KL {times(raw_all.interval)}"
    return f"{line}."


def _shape(peak: Claim, trend: Claim) -> str:
    """Which stratum shifts most by raw KL, and how the shift goes with the strata."""
    if peak.obstacle or trend.obstacle or peak.problems < ENOUGH:
        return ""
    first = peak.interval.estimate > 1
    most = "the lowest shifts most" if first else f"stratum {peak.key['other']} shifts most, not the lowest"
    certainty = "clearly so" if peak.holds is not None and peak.holds == first else "which is undecided"
    falls = {True: "falls", False: "rises", None: "neither falls nor rises for certain"}[trend.holds]
    return f"; of all strata {most} ({certainty}), and from one to the next the shift {falls} ({times(trend.interval)})"


def part_name(bins: int, by: str) -> str:
    """What one of ``bins`` strata is called: "fifth", or "fifth of the entropy range"."""
    return Strata(bins, by).part


def beside_controls(
    headline: str, contrasts: "Sequence[Mapping[str, Any]] | None", nulls: Sequence[str]
) -> str:
    """A headline with what training without RL shows; ``contrasts`` are rows of ``NullShift.contrasts``, RLVR's first."""
    line = headline.removesuffix(".")
    first = contrasts[0] if contrasts else None
    controls = [
        row
        for row in contrasts or ()
        if first
        and row["condition"] not in (first["condition"], *nulls)
        and (row["kind"], row["scope"]) == (first["kind"], first["scope"])
    ]
    if not controls:
        return f"{line}; not compared with training without RL."
    for row in controls:
        beyond = Interval.in_row(row, "beyond")
        line += f"; beside {row['condition']} weights {times(beyond)}, by which a shift of RLVR's own {row['state']}"
    return f"{line}."
