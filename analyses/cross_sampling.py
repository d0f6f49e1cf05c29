"""Cross-sampling: accuracy by the share of tokens that the other model draws, both ways, by five criteria."""

from workbench.experiments.crossing import crossing_grid, crossing_table
from workbench.interfaces.cli import run_analysis
from workbench.models.pairs import answers_are_dear
from workbench.studies.mixture_claims import crossing_claims
from workbench.studies.paper import Finding, Given
from workbench.studies.published import published_shares
from workbench.views.mixture_figures import accuracy_by_share

SHARES = (0.02, 0.05, 0.1, 0.2)
FEW = 0.1
SAMPLES, TAKEN_FROM, FEWER = 4, 48, 16
"""Samples at most, validation problems that thresholds are taken from, and fewer where answers are dear (``answers`` in a pair's
study settings): one share is measured there, that of the claims."""


def analyse(given: Given) -> Finding:
    o = given.options
    dear = answers_are_dear(given.pair)
    shares, count = ((FEW,), FEWER) if dear else (SHARES, TAKEN_FROM)
    grid = crossing_grid(given.pair, given.problems("validation", count), shares, seed=o.seed)
    found = given.ablation(conditions=grid, samples=min(SAMPLES, o.samples))
    table = crossing_table(found, grid, shares)
    figures = {
        "": accuracy_by_share(table),
        "greedy": accuracy_by_share(table, measure="greedy"),
        "published": accuracy_by_share(table, published=published_shares()),
    }
    return Finding(figures, table, crossing_claims(found.responses, FEW))


if __name__ == "__main__":
    run_analysis("cross_sampling")
