"""Claims about two models that decode together: cross-sampling and extrapolation, from the responses of an ablation.

Of arXiv 2603.22446 (few tokens of the RLVR model lift the base, few of the base bring the RLVR model down) and 2603.22117
(what recovers the gain with the fewest tokens; going beyond RLVR). Paired over problems, in points of accuracy.
"""

import pandas as pd

from workbench.analysis.verdicts import Claim
from workbench.experiments.crossing import crossing_name
from workbench.experiments.outcomes import scores
from workbench.studies.claims import gain_claim

_FEW = "arXiv 2603.22446"
_DIRECTION = "arXiv 2603.22117"


def crossing_claims(responses: pd.DataFrame, share: float) -> list[Claim]:
    """What cross-sampling of about `share` of the tokens says, for conditions named by `crossing_name`."""
    samples = len(set(responses["sample"])) - 1
    measure, held = "Pass@1", scores(responses, samples=samples, pass_at=[1])
    forward = {c: crossing_name("base", c, share) for c in ("divergence", "entropy", "dlogp", "random")}
    reverse = {c: crossing_name("rlvr", c, share) for c in ("divergence", "random")}
    asked = [
        ("a few tokens of the RLVR model lift the base", _FEW, forward["divergence"], "base", True),
        ("these tokens do more than as many at random", _FEW, forward["divergence"], forward["random"], True),
        ("a few tokens of the RLVR model are enough", _FEW, forward["divergence"], "rlvr", True),
        ("a few tokens of the base bring the RLVR model down", _FEW, reverse["divergence"], "rlvr", False),
        (
            "these tokens do more harm than as many at random",
            _FEW,
            reverse["divergence"],
            reverse["random"],
            False,
        ),
        ("dlogp recovers more than divergence", _DIRECTION, forward["dlogp"], forward["divergence"], True),
        ("dlogp recovers more than entropy", _DIRECTION, forward["dlogp"], forward["entropy"], True),
    ]
    claims = []
    for claim, place, name, other, above in asked:
        bound, why = (-5.0, "within 5 points of the RLVR model") if other == "rlvr" and above else (0.0, "")
        about = {"bound": bound, "above": above, "why": why}
        claims.append(gain_claim(held, claim, place, measure, name, other, **about))
    return claims


def extrapolation_claims(responses: pd.DataFrame, name: str, most: int) -> list[Claim]:
    """What going beyond RLVR, condition `name`, does to Pass@1 and Pass@`most`."""
    samples = len(set(responses["sample"])) - 1
    held = scores(responses, samples=samples, pass_at=[1, most])
    return [
        gain_claim(held, f"going beyond RLVR raises {measure}", _DIRECTION, measure, name, "rlvr")
        for measure in dict.fromkeys(("Pass@1", f"Pass@{most}"))
    ]
