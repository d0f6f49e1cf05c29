"""Entropy or proxy: is a cell's entropy linked with its shift beside residual norm, attention and place?"""

from functools import partial

import pandas as pd

from workbench.analysis.cell_table import cell_table
from workbench.analysis.covariates import covariate_claims, rank_correlations, stratified_by
from workbench.errors import InputError
from workbench.interfaces.cli import run_analysis
from workbench.models.bundled import controls_of
from workbench.models.pairs import batch_of
from workbench.problems.problem import load_unseen
from workbench.runs import kept
from workbench.studies.paper import Finding, Given
from workbench.tracing.fidelity import lens_fidelity
from workbench.tracing.tuned_lens import fit_translators
from workbench.views.covariate_figures import correlation_forest, fidelity_curves, strata_panels

NAMES = ("cells", "fidelity")
OUTCOMES = ("kl", "kl_null", "ratio")


def measured(given: Given) -> list[pd.DataFrame]:
    """The cells with their shift, a control's beside it, and how faithful the translators are."""
    o, pair, problems = given.options, given.pair, given.problems()
    sizes = {"train": o.limit, "validation": max(1, o.limit // 3)}
    train, held = load_unseen(o.problems, problems, seed=o.seed, **sizes)
    size = batch_of(pair)
    fitted = fit_translators(
        *(pair, train, held),
        batch_size=size,
        seed=o.seed,
        keep=o.cache / "translators",
        progress=partial(given.progress, "fitting translators"),
    )
    known = {"translators": fitted, "traced": given.trace}
    cells = cell_table(pair, problems, batch_size=size, progress=given.progress, **known)
    for name, control in controls_of(pair).items():
        beside = cell_table(
            control,
            problems,
            batch_size=size,
            seed=o.seed,
            progress=lambda what, *counts, name=name: given.progress(f"{what} of {name}", *counts),
        )
        cells = cells.assign(**{f"{what}, {name}": beside[what] for what in ("kl", "ratio")})
    return [cells, lens_fidelity(pair, problems, fitted, batch_size=size)]


def analyse(given: Given) -> Finding:
    if given.options.run:
        raise InputError("`--run` has no models, which this analysis needs; leave it out")
    keep, seed = given.options.cache / "quantities", given.options.seed
    cells, fidelity = kept(keep, {**given.spec, "quantities": 1}, NAMES, lambda: measured(given))
    controls = {one: name for name in cells for one in ("kl", "ratio") if name.startswith(f"{one}, ")}
    found = rank_correlations(cells, outcomes=OUTCOMES, against=controls, seed=seed)
    fewer = cells.drop(columns="entropy_translated")
    one = rank_correlations(fewer, outcomes=OUTCOMES, against=controls, seed=seed)
    drawn, strata = {"fidelity": fidelity_curves(fidelity, problems=len(set(cells["problem"])))}, []
    for kind in dict.fromkeys(found["kind"]):
        end = "" if kind == found["kind"].iloc[0] else str(kind)
        names = list(dict.fromkeys(found.loc[found["kind"] == kind, "quantity"]))
        strata += [stratified_by(cells, name, kinds=[str(kind)], seed=seed) for name in names]
        drawn[end] = correlation_forest(found, kind=str(kind), outcomes=[*OUTCOMES, *controls.values()])
        drawn[f"strata{'_' * bool(end)}{end}"] = strata_panels(pd.concat(strata), kind=str(kind))
    parts = {
        "correlations": found,
        "correlations with one entropy": one,
        "strata": pd.concat(strata),
        "fidelity": fidelity,
    }
    table = pd.concat([part.assign(table=name) for name, part in parts.items()], ignore_index=True)
    return Finding(drawn, table, covariate_claims(found))


if __name__ == "__main__":
    run_analysis("entropy_or_proxy")
