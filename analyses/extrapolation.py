"""Extrapolation: accuracy and Pass@K of logits beyond RLVR's, gamma chosen on validation and reported once on test."""

import pandas as pd

from workbench.interfaces.cli import run_analysis
from workbench.mixtures import Extrapolate
from workbench.models.pairs import answers_are_dear
from workbench.studies.mixture_claims import extrapolation_claims
from workbench.studies.paper import Finding, Given
from workbench.views.mixture_figures import accuracy_by_gamma

GAMMAS = (-0.75, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)
FEWER = (-0.5, 0.25, 0.5, 1.0)
CHOSEN_ON, CHOSEN_ON_FEWER = 100, 40
"""Validation problems, at most; fewer, and fewer gammas, where answers are dear (``answers`` in a pair's study settings)."""


def analyse(given: Given) -> Finding:
    samples = min(8, given.options.samples)
    dear = answers_are_dear(given.pair)
    tries, count = (FEWER, CHOSEN_ON_FEWER) if dear else (GAMMAS, CHOSEN_ON)
    grid = {f"gamma {gamma:g}": Extrapolate(gamma) for gamma in tries}
    tried = given.ablation(conditions=grid, problems=given.problems("validation", count), samples=samples)
    gammas = {"base": -1.0, "rlvr": 0.0, **{name: one.gamma for name, one in grid.items()}}
    curve = tried.summary.assign(
        gamma=[gammas[name] for name in tried.summary["intervention"]], split="validation"
    )
    beyond = curve.loc[(curve["measure"] == "Pass@1") & (curve["gamma"] > 0)]
    gamma = float(beyond.loc[beyond["estimate"].idxmax(), "gamma"])
    name = f"gamma {gamma:g}"
    reported = given.ablation(conditions={name: grid[name]}, samples=samples)
    once = reported.summary.assign(
        gamma=[gammas[name] for name in reported.summary["intervention"]], split="test"
    )
    most = max(k for k in (1, 2, 4, 8) if k <= samples)
    claims = extrapolation_claims(reported.responses, name, most)
    figure = accuracy_by_gamma(curve, chosen=gamma, split="validation")
    return Finding({"": figure}, pd.concat([curve, once], ignore_index=True), claims)


if __name__ == "__main__":
    run_analysis("extrapolation")
