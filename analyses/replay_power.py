"""Replay under power: the paper's claims at settings chosen on validation, with the effect that the design would have found."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from workbench.analysis.verdicts import claim_table
from workbench.conditions import Named, condition_of
from workbench.interfaces.cli import run_analysis
from workbench.models.pairs import answers_are_dear
from workbench.problems.problem import Problem
from workbench.studies.claims import HIGH, PATCH_HIGH, PATCH_LOW, REPLAY
from workbench.studies.paper import Finding, Given
from workbench.studies.replay_claims import COMPARED, replay_claims
from workbench.views.outcome_figures import accuracy_differences

TAUS, ALPHAS = (0.2, 0.4), (1 / 3, 1.0, 3.0)
CHOSEN_ON, CHOSEN_ON_FEWER, SAMPLES = 64, 12, 4
"""Validation problems and samples, at most; step sizes are multiples of the pair's own. Where answers are dear (``answers`` in a
pair's study settings) there are fewer problems, and tau is the pair's."""


def chosen(given: Given, problems: Sequence[Problem]) -> tuple[dict[str, Named], pd.DataFrame]:
    """The four conditions at the settings with the best Pass@1 on these problems, and what every setting reached there."""
    own: Any = given.pair.replay()
    pictures = {} if given.pictured else {"pictures": False}
    taus = (own.tau,) if answers_are_dear(given.pair) else TAUS
    grid = {
        (t, a): given.pair.matrix(tau=t, alpha=a * own.alpha, **pictures) for t, a in product(taus, ALPHAS)
    }
    tried: dict[str, Named] = {}
    for (tau, alpha), conditions in grid.items():
        tried[f"{REPLAY}, tau {tau:g}, alpha {alpha * own.alpha:g}"] = conditions[REPLAY]
        tried.setdefault(f"{PATCH_LOW}, tau {tau:g}", conditions[PATCH_LOW])
    found = given.ablation(conditions=tried, problems=problems, samples=min(SAMPLES, given.options.samples))
    rows = found.summary.loc[found.summary["measure"] == "Pass@1"].set_index("intervention")["estimate"]
    best = {
        kind: max((n for n in tried if n.startswith(kind)), key=lambda n: rows[n])
        for kind in (REPLAY, PATCH_LOW)
    }
    return paired(grid, tried, best), found.summary.assign(split="validation")


def paired(
    grid: Mapping[Any, Mapping[str, Named]], tried: Mapping[str, Named], best: Mapping[str, str]
) -> dict[str, Named]:
    """What was chosen at low entropy, and the same at high."""
    partners = {REPLAY: HIGH, PATCH_LOW: PATCH_HIGH}
    conditions = {}
    for low, high in partners.items():
        setting = next(one for one in grid.values() if one[low] == tried[best[low]])
        conditions |= {low: setting[low], high: setting[high]}
    return {name: conditions[name] for name in COMPARED}


def analyse(given: Given) -> Finding:
    test = given.problems()
    validation = given.problems("validation", CHOSEN_ON_FEWER if answers_are_dear(given.pair) else CHOSEN_ON)
    if {problem.id for problem in validation} & {problem.id for problem in test}:  # a file without splits
        own = given.pair.matrix(**({} if given.pictured else {"pictures": False}))
        conditions, tried = {name: own[name] for name in COMPARED}, pd.DataFrame()
    else:
        conditions, tried = chosen(given, validation)
    found = given.ablation(conditions=conditions)
    claims = replay_claims(found.responses)
    how = {name: str(condition_of(condition).described) for name, condition in conditions.items()}
    settings = [how.get(name, "") for name in found.summary["intervention"]]
    reached = found.summary.assign(split="test", settings=settings)
    parts = [reached, tried, claim_table(claims).assign(split="test")]
    named = zip(("accuracy", "validation", "claims"), parts, strict=True)
    table = pd.concat([part.assign(table=name) for name, part in named], ignore_index=True)
    return Finding({"": accuracy_differences(found.summary, low=found.low)}, table, claims)


if __name__ == "__main__":
    run_analysis("replay_power")
