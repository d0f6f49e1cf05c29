"""Cost: seconds a problem for learning tokens or preparing a patch, beside decoding. Run it while nothing else runs."""

import pandas as pd

from workbench.estimates import mean
from workbench.interfaces.cli import run_analysis
from workbench.studies.claims import REPLAY
from workbench.studies.paper import Finding, Given
from workbench.views.paper_figures import cost_bars

PROBLEMS = 64


def analyse(given: Given) -> Finding:
    problems = None if given.options.run else given.problems(limit=PROBLEMS)
    responses = given.ablation([REPLAY, "patch, low"], problems=problems, keep=False).responses
    number, samples = responses["problem"].nunique(), responses["sample"].nunique() - 1
    rows = []
    for name in ("rlvr", REPLAY, "patch, low"):
        part = responses.loc[responses["intervention"] == name]
        greedy = part["sample"] < 0
        making = part.loc[greedy].groupby("problem")["making_seconds"].sum()
        for what, chosen in (("greedy", greedy), (f"{samples} samples", ~greedy)):
            spent = part.loc[chosen].groupby("problem")[["seconds", "tokens"]].sum()
            total = mean(making + spent["seconds"], making.index, seed=given.options.seed)
            row = {
                "condition": name,
                "what": what,
                "making": making.mean(),
                "decoding": spent["seconds"].mean(),
            }
            rows.append(row | total.columns("total") | {"tokens": spent["tokens"].mean()})
    subtitle = f"{given.name} on {given.device}, {number} problems; batches share their time; 95% intervals over problems"
    table = pd.DataFrame(rows)
    return Finding({"": cost_bars(table, subtitle=subtitle)}, table)


if __name__ == "__main__":
    run_analysis("cost")
