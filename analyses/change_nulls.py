"""The low-entropy claim beside three nulls in activations: random directions, the changes' covariance, exchanged changes."""

import workbench as wb
from workbench.interfaces.cli import run_analysis
from workbench.models.bundled import controls_of
from workbench.studies.paper import Finding, Given


def analyse(given: Given) -> Finding:
    nulls = wb.change_nulls(
        given.pair,
        given.problems(),
        others=controls_of(given.pair),
        seed=given.options.seed,
        progress=lambda what, done, total: given.progress(what, done, total),
    )
    kinds = list(dict.fromkeys(nulls.table["kind"]))
    figures = {"" if kind == kinds[0] else str(kind): nulls.plot(str(kind)) for kind in kinds}
    return Finding(figures, nulls.table, nulls.claims)


if __name__ == "__main__":
    run_analysis("change_nulls")
