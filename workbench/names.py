"""Words that tables, figures and verdicts share."""

from typing import Literal

STATES = {True: "holds", False: "does NOT hold", None: "is undecided"}
TOO_FEW = "has too few problems"
UNTESTED = "cannot be tested"
MARKS = {STATES[True]: "yes", STATES[False]: "no"}
"""Verdict -> the mark it has on a page; others are open."""
SCOPES = {"without last layer": "without the last layer", "last layer": "last layer alone"}
NULLS = {
    "noise": "matched noise",
    "covariance": "noise of the changes' covariance",
    "exchanged": "exchanged changes",
}
"""What a shift is held against (`tracing.nulls`) -> what to call it."""
QUANTITIES = {
    "entropy_base": "lens entropy",
    "entropy_translated": "tuned-lens entropy",
    "base_norm": "residual norm",
    "attention": "attention received",
    "row": "row",
    "column": "column",
    "distance": "distance from the centre",
    "object": "object or background",
    "position": "place in the prompt",
}
"""Column of a cell table -> what to call it."""
Metric = Literal["kl", "logit_difference", "log_probability", "probability"]
METRICS: dict[str, str] = {
    "kl": "KL(base‖RLVR) at the chosen cells, nats",
    "logit_difference": "logit of the right token minus that of the wrong one",
    "log_probability": "log probability of the right token, nats",
    "probability": "probability of the right token",
}
OUTCOMES = ("correct", "incorrect", "margin")
STRATA = ("low", "high")
FITS = ("alone", "joint")
ALL, CLEAN = "all", "none"
"""The kinds of all disturbances pooled, and of the undisturbed draw."""


def short(verdict: str) -> str:
    """A verdict in a word or two."""
    words = {
        STATES[True]: "holds",
        STATES[False]: "does not",
        STATES[None]: "undecided",
        UNTESTED: "untestable",
    }
    return words.get(verdict, "too few")
