"""Claims about what training does to Pass@1 and to coverage, of the RLVR model and of the trainings beside it.

Paired over problems, in points of accuracy. Coverage is Pass@K at 16 samples, or at as many as there are, and at the most drawn.
"""

from collections.abc import Sequence

import pandas as pd

from workbench.analysis.verdicts import Claim
from workbench.experiments.outcomes import PASS_AT, scores
from workbench.studies.claims import gain_claim

USUAL = 16
"""K of the claims about coverage, where that many were drawn."""


def coverage_claims(responses: pd.DataFrame, controls: Sequence[str] = ()) -> list[Claim]:
    """What these answers say of RL, and of RL beside each control.

    Args:
        responses: of `ablate`, plain models and controls.
        controls: names of conditions in which a model answered that RL did not train.
    """
    samples, problems = len(set(responses["sample"])) - 1, len(set(responses["problem"]))
    drawn = [k for k in PASS_AT if k <= samples]
    wide = sorted({max(k for k in drawn if k <= USUAL), drawn[-1]})
    measures = ["Pass@1", *(f"Pass@{k}" for k in wide if k > 1)]
    held = scores(responses, samples=samples, pass_at=[int(name[5:]) for name in measures])
    obstacle = "one problem, so no interval" if problems < 2 else None

    def claim(what: str, measure: str, name: str, other: str) -> Claim:
        return gain_claim(held, what, "Figure 6", measure, name, other, obstacle=obstacle)

    once, *many = measures
    claims = [claim("RLVR raises Pass@1", once, "rlvr", "base")]
    claims += [claim("RLVR narrows coverage", measure, "base", "rlvr") for measure in many]
    for control in controls:
        claims.append(claim("RLVR raises Pass@1 more than a control", once, "rlvr", control))
        for measure in many:
            claims.append(claim("training without RLVR narrows coverage", measure, "base", control))
            claims.append(claim("RLVR narrows coverage more than a control", measure, control, "rlvr"))
    return claims
