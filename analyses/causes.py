"""Cause rather than correlation: does the shift follow a cell's entropy, when nothing else is moved?"""

import workbench as wb
from workbench.interfaces.cli import run_analysis
from workbench.studies.paper import Finding, Given


def analyse(given: Given) -> Finding:
    moved = wb.causes(
        given.pair,
        given.problems(),
        seed=given.options.seed,
        progress=lambda done, total: given.progress("changing one thing", done, total),
    )
    return Finding({"": moved.plot()}, moved.table, moved.claims)


if __name__ == "__main__":
    run_analysis("causes")
