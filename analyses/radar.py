"""Radar: accuracy of base, RLVR model and replay by family of problems."""

import pandas as pd

from workbench.interfaces.cli import run_analysis
from workbench.studies.claims import REPLAY
from workbench.studies.paper import Finding, Given
from workbench.views.paper_figures import radar

STYLES = {"base": "base", "rlvr": "rlvr", REPLAY: "replay"}


def analyse(given: Given) -> Finding:
    responses = given.ablation([REPLAY]).responses
    drawn = responses.loc[responses["sample"] >= 0]
    table = drawn.groupby(["intervention", "family"], sort=False)["correct"].mean().mul(100).reset_index()
    table = table.rename(columns={"intervention": "condition", "family": "axis", "correct": "accuracy"})
    table["style"] = table["condition"].map(STYLES)
    table["condition"] = pd.Categorical(table["condition"], list(STYLES))
    table = table.sort_values("condition", kind="stable").astype({"condition": str})
    problems, samples = drawn["problem"].nunique(), drawn["sample"].nunique()
    subtitle = (
        f"{given.name}, percent right at temperature 1, {problems} problems with {samples} samples each"
    )
    return Finding({"": radar(table, subtitle=subtitle)}, table)


if __name__ == "__main__":
    run_analysis("radar")
