"""Cost: seconds a problem for learning tokens or preparing a patch, beside decoding. Run it while nothing else runs."""

import numpy as np
import pandas as pd

from workbench.estimates import mean
from workbench.interfaces.cli import run_analysis
from workbench.studies.claims import REPLAY
from workbench.studies.paper import Finding, Given
from workbench.views.paper_figures import cost_bars

PROBLEMS, BATCH = 128, 8
"""A batch has one time, which its problems share, so that intervals are over batches."""


def analyse(given: Given) -> Finding:
    run = given.options.run is not None
    problems = None if run else given.problems(limit=PROBLEMS)
    names = given.suited([REPLAY, "patch, low"])
    found = given.ablation(names, problems=problems, batch_size=BATCH, keep=False)
    responses = found.responses
    number, samples = len(set(responses["problem"])), len(set(responses["sample"])) - 1
    batch, rows = np.arange(number) // BATCH, []
    for name in ("rlvr", *names):
        part = responses.loc[responses["intervention"] == name]
        greedy = part["sample"] < 0
        making = _by_problem(part.loc[greedy], "making_seconds")
        for what, chosen in (("greedy", greedy), (f"{samples} samples", ~greedy)):
            decoding, tokens = (_by_problem(part.loc[chosen], column) for column in ("seconds", "tokens"))
            row = {"condition": name, "what": what, "making": making.mean(), "decoding": decoding.mean()}
            total = mean(making + decoding, batch, seed=given.options.seed)
            rows.append(row | total.columns("total") | {"tokens": tokens.mean()})
    sizes = "" if run else f" in batches of {BATCH}; 95% intervals over batches"
    table = pd.DataFrame(rows)
    if run:  # whose batches are not known
        table = table.drop(columns=["total_low", "total_high"])
    subtitle = f"{given.name} on {given.device}, {number} problems{sizes}<br>{found.low}"
    return Finding({"": cost_bars(table, subtitle=subtitle)}, table)


def _by_problem(rows: pd.DataFrame, column: str) -> np.ndarray:
    return np.array([part[column].sum() for _, part in rows.groupby("problem", sort=False)], float)


if __name__ == "__main__":
    run_analysis("cost")
