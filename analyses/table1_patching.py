"""Table 1: the base model's activations written over the RLVR model's, at low and at high entropy."""

import pandas as pd

from workbench.experiments.outcomes import changes
from workbench.interfaces.cli import run_analysis
from workbench.studies.claims import outcome_claims
from workbench.studies.paper import Finding, Given
from workbench.studies.published import published_changes
from workbench.views.paper_figures import beside_published

SETTINGS = {"patch low-entropy": "patch, low", "patch high-entropy": "patch, high"}


def analyse(given: Given) -> Finding:
    settings = dict(zip(SETTINGS, given.suited(SETTINGS.values()), strict=True))
    found = given.ablation(settings.values())
    measured = []
    for setting, name in settings.items():
        part = changes(found.responses, name)
        here = {
            "source": "measured",
            "row": f"{given.name} (measured here)",
            "benchmark": given.options.problems,
        }
        measured.append(part.drop(columns="part").assign(setting=setting, **here))
    table = pd.concat(
        [*measured, published_changes(["Table 1"], {s: s for s in SETTINGS})], ignore_index=True
    )
    problems = len(set(found.responses["problem"]))
    figure = beside_published(
        table,
        title="Patching low- against high-entropy activations",
        subtitle=f"greedy, {problems} problems, 95% intervals; hollow: published, other models and data<br>{found.low}",
    )
    claims = [c for c in outcome_claims(found.responses, found.drift) if c.place == "Table 1"]
    return Finding({"": figure}, table, claims)


if __name__ == "__main__":
    run_analysis("table1_patching")
