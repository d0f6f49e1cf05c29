"""Perturbation: drift of disturbed inputs against the perplexity of right and wrong responses (the paper's section 3)."""

from workbench.interfaces.cli import run_analysis
from workbench.studies.claims import perturbation_claims
from workbench.studies.paper import Finding, Given
from workbench.views.perturbation_figures import perplexity_against_drift, slope_forest


def analyse(given: Given) -> Finding:
    given.need_pictures("noise in pictures")
    found = given.perturbation
    figures = {
        "": slope_forest(found["slopes"]),
        "points": perplexity_against_drift(found["table"], found["slopes"]),
    }
    return Finding(figures, found["slopes"], perturbation_claims(found["slopes"]))


if __name__ == "__main__":
    run_analysis("perturbation")
