"""Entropy-stratified shift: KL between the models by layer and fifth of base entropy (the paper's section 3)."""

from workbench.interfaces.cli import run_analysis
from workbench.studies.claims import shift_claims
from workbench.studies.paper import Finding, Given
from workbench.views.shift_figures import correlation_curves, shift_bars, shift_heatmap, shift_ratio


def analyse(given: Given) -> Finding:
    shift, depth = given.shift, given.shift.depth
    kinds = [kind for kind in ("visual", "text") if kind in set(shift.table["kind"])]
    drawn = {}
    for kind in kinds:
        end = "" if kind == kinds[0] else f"_{kind}"
        drawn[end.lstrip("_")] = shift_heatmap(shift.table, kind=kind, depth=depth)
        drawn[f"ratio{end}"] = shift_ratio(shift.table, kind=kind, depth=depth)
        drawn[f"bars{end}"] = shift_bars(shift.table, kind=kind, depth=depth)
        problems = shift.table.loc[shift.table["kind"] == kind, "problems"].max()
        correlations = shift.correlations.assign(problems=problems)
        drawn[f"correlation{end}"] = correlation_curves(correlations, kind, depth=depth)
    claims = [c for c in shift_claims(shift, given.agreement) if "entropy" in c.place]
    return Finding(drawn, shift.table, claims)


if __name__ == "__main__":
    run_analysis("entropy_shift")
