"""The paper's radar as bars: accuracy of base, RLVR model and replay by family of problems, with intervals."""

import pandas as pd

from workbench.experiments.outcomes import changes
from workbench.interfaces.cli import run_analysis
from workbench.studies.claims import REPLAY
from workbench.studies.paper import Finding, Given
from workbench.views.paper_figures import family_bars

STYLES = {"base": "base", "rlvr": "rlvr", REPLAY: "replay"}


def analyse(given: Given) -> Finding:
    found = given.ablation(given.suited([REPLAY]))
    responses, rows = found.responses, []
    for condition, style in STYLES.items():
        if condition not in set(responses["intervention"]):  # replay, without visual tokens
            continue
        table = changes(responses, condition, measure="Pass@1", by="family")
        rows.append(table.assign(condition=condition, style=style))
    table = pd.concat(rows, ignore_index=True).rename(columns={"part": "axis"})
    problems, samples = responses["problem"].nunique(), responses["sample"].nunique() - 1
    subtitle = f"{given.name}, at temperature 1, {problems} problems with {samples} samples each; {found.low}"
    return Finding({"": family_bars(table, subtitle=subtitle)}, table)


if __name__ == "__main__":
    run_analysis("radar")
