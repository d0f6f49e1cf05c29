"""Cost: seconds a problem for learning tokens or preparing a patch, beside decoding. Run it while nothing else runs."""

import pandas as pd

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
        making = part.loc[greedy, "making_seconds"].mean()
        for what, chosen in (("greedy", greedy), (f"{samples} samples", ~greedy)):
            decoding = part.loc[chosen, "seconds"].sum() / number
            tokens = part.loc[chosen, "tokens"].sum() / number
            rows.append(
                {"condition": name, "what": what, "making": making, "decoding": decoding, "tokens": tokens}
            )
    subtitle = f"{given.name} on {given.device}, {number} problems; batches share their time"
    table = pd.DataFrame(rows)
    return Finding({"": cost_bars(table, subtitle=subtitle)}, table)


if __name__ == "__main__":
    run_analysis("cost")
