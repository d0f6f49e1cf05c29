"""Claims about replay from one set of answers; `Claim.detectable` is the smallest effect that each would have found.

Of arXiv 2511.19972: low better than high (by tokens and by patch), tokens better than the patch that they stand for, replay
raises Pass@1 and Pass@K, and undoes narrowing. Paired over problems, in points of accuracy.
"""

import pandas as pd

from workbench.analysis.verdicts import Claim
from workbench.estimates import Interval
from workbench.experiments.outcomes import PASS_AT, scores
from workbench.studies.claims import HIGH, PATCH_HIGH, PATCH_LOW, REPLAY, gain_claim, points

COMPARED = (REPLAY, HIGH, PATCH_LOW, PATCH_HIGH)
"""Conditions that the claims are about, by their names in the default matrix."""


def replay_claims(responses: pd.DataFrame) -> list[Claim]:
    """What these answers say of replay, by Pass@1 and by the largest K that the samples allow.

    Args:
        responses: of `ablate`, with the conditions ``COMPARED``.
    """
    samples, problems = len(set(responses["sample"])) - 1, len(set(responses["problem"]))
    most = max(k for k in PASS_AT if k <= samples)
    measures = list(dict.fromkeys(("Pass@1", f"Pass@{most}")))
    held = scores(responses, samples=samples, pass_at=[int(name[5:]) for name in measures])
    obstacle = "one problem, so no interval" if problems < 2 else None

    def claim(what: str, place: str, measure: str, name: str, other: str) -> Claim:
        return gain_claim(held, what, place, measure, name, other, obstacle=obstacle)

    claims = []
    for measure in measures:
        claims += [
            claim("low is better than high, by tokens", "ablations", measure, REPLAY, HIGH),
            claim("low is better than high, by patch", "Table 1", measure, PATCH_LOW, PATCH_HIGH),
            claim("tokens are better than the patch", "ablations", measure, REPLAY, PATCH_LOW),
            claim(f"replay raises {measure}", "Figure 6", measure, REPLAY, "rlvr"),
        ]
    wide = measures[-1]
    narrowed = claim("RLVR narrows coverage", "Figure 6", wide, "base", "rlvr")
    return [*claims, narrowed, _undone(held, wide, narrowed.interval, problems, obstacle)]


def _undone(held: dict, wide: str, narrowed: Interval, problems: int, obstacle: str | None) -> Claim:
    """At least half of what RLVR narrowed: replay against the middle between RLVR model and base."""
    middle = (held["rlvr"][wide] + held["base"][wide]) / 2
    stop = None if narrowed.above(0.0) else f"no narrowing to undo: base − rlvr is {narrowed}"
    return Claim(
        "replay undoes narrowing",
        "Figure 6",
        f"{wide}, {REPLAY} − the middle between rlvr and base, points",
        points(middle, held[REPLAY][wide]),
        problems,
        why="at least half of the loss of coverage",
        obstacle=obstacle or stop,
    )
