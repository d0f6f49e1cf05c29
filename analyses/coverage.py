"""Coverage: Pass@1 and Pass@K of base, RLVR model and the trainings beside it, on the same draws."""

from workbench.interfaces.cli import run_analysis
from workbench.models.bundled import all_controls_of
from workbench.studies.coverage_claims import coverage_claims
from workbench.studies.paper import Finding, Given
from workbench.views.outcome_figures import pass_at_k_curves


def analyse(given: Given) -> Finding:
    controls = {} if given.options.run else all_controls_of(given.pair)
    found = given.ablation([], controls=controls)
    claims = coverage_claims(found.responses, [*controls])
    return Finding({"": pass_at_k_curves(found.summary)}, found.summary, claims)


if __name__ == "__main__":
    run_analysis("coverage")
