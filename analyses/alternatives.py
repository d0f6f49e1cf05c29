"""Alternatives to replay: high, random and all positions, mid-layer tokens, reverse, self-smoothing, cross-model patches."""

from workbench.interfaces.cli import run_analysis
from workbench.studies.claims import outcome_claims
from workbench.studies.paper import Finding, Given
from workbench.views.outcome_figures import accuracy_differences, drift_bars

ON_BASE = ("base", "reverse, low")
"""These answer with the base model, so that they are compared with it alone."""


def analyse(given: Given) -> Finding:
    found = given.ablation()
    figures = {
        "": accuracy_differences(
            found.summary.loc[~found.summary["intervention"].isin(ON_BASE)], low=found.low
        ),
        "against_base": accuracy_differences(found.summary, against="base", low=found.low),
    }
    if len(found.drift):  # of visual tokens
        figures["drift"] = drift_bars(found.drift)
    claims = [c for c in outcome_claims(found.responses, found.drift) if c.place == "ablations"]
    return Finding(figures, found.summary, claims)


if __name__ == "__main__":
    run_analysis("alternatives")
