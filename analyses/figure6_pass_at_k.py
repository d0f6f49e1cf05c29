"""Figure 6: Pass@K of base, RLVR model and replay, and whose samples solve what."""

from itertools import pairwise

import pandas as pd

from workbench.interfaces.cli import run_analysis
from workbench.studies.claims import REPLAY, outcome_claims
from workbench.studies.paper import Finding, Given
from workbench.views.outcome_figures import pass_at_k_curves
from workbench.views.paper_figures import coverage_bars


def analyse(given: Given) -> Finding:
    replay = given.suited([REPLAY])
    found = given.ablation(replay)
    drawn = found.responses.loc[found.responses["sample"] >= 0]
    solved = drawn.groupby(["intervention", "problem"])["correct"].any().unstack("intervention")
    rows = []
    for first, second in pairwise(["base", "rlvr", *replay]):
        a, b = solved[first], solved[second]
        parts = {"both": a & b, "only the first": a & ~b, "only the second": b & ~a, "neither": ~a & ~b}
        for part, where in parts.items():
            name = f"{first} (first), {second} (second)"
            rows.append(
                {"comparison": name, "part": part, "share": 100 * where.mean(), "problems": int(where.sum())}
            )
    coverage = pd.DataFrame(rows)
    samples = drawn["sample"].nunique()
    subtitle = f"{given.name}, {len(solved)} problems, {samples} samples each at temperature 1<br>{found.low}"
    figures = {
        "": pass_at_k_curves(found.summary, low=found.low),
        "coverage": coverage_bars(coverage, subtitle=subtitle),
    }
    claims = [c for c in outcome_claims(found.responses, found.drift) if c.place == "Figure 6"]
    return Finding(figures, pd.concat([found.summary, coverage], ignore_index=True), claims)


if __name__ == "__main__":
    run_analysis("figure6_pass_at_k")
