"""Null models: RLVR's shift by entropy beside random weight changes of its size, and training without RL."""

from workbench.interfaces.cli import run_analysis
from workbench.studies.claims import null_claims
from workbench.studies.paper import Finding, Given
from workbench.views.null_figures import null_shift


def analyse(given: Given) -> Finding:
    table = given.nulls["table"]
    kinds = list(dict.fromkeys(table["kind"]))
    figures = {"" if kind == kinds[0] else str(kind): null_shift(table, kind=str(kind)) for kind in kinds}
    return Finding(figures, table, null_claims(given.nulls["contrasts"]))


if __name__ == "__main__":
    run_analysis("null_models")
