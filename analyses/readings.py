"""Readings: what visual tokens say under the logit lens, the tuned lens and LatentLens, and the entropy claim under each.

Where it is not known what lies in a cell (any set but the bundled `shapes` and `cards`) there are claim and fidelity alone.
"""

from functools import partial
from typing import Any

import pandas as pd

from workbench.analysis.cell_names import cell_names, naming_claims
from workbench.analysis.neighbour_shift import neighbour_shift
from workbench.analysis.shift import stratified_shift
from workbench.interfaces.cli import run_analysis
from workbench.models.pairs import answers_are_dear, study_settings
from workbench.problems.problem import load_unseen
from workbench.problems.shapes_contents import contents
from workbench.studies.paper import Finding, Given, Unsuited
from workbench.tracing.fidelity import neighbour_fidelity, reading_fidelity
from workbench.tracing.latent_lens import LatentLens
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.neighbours import Neighbours, read_neighbours
from workbench.tracing.readings import LogitLens, TunedLens
from workbench.tracing.trace import trace
from workbench.views.reading_figures import claim_forest, fidelity_by_reading, naming_curves

WORDS = 5
KEY = {"test": "ends", "scope": "without last layer"}


def analyse(given: Given) -> Finding:
    o, pair, problems = given.options, given.pair, given.problems()
    if o.run:
        raise Unsuited("`--run` has no models, which this analysis needs; leave it out")
    known = all(p.id.startswith(("shapes/", "cards/")) for p in problems)
    key = KEY | {"kind": "visual" if given.pictured else "text"}
    dear = answers_are_dear(pair)  # of such, layers' products with 49,152 tokens take hours
    most = (2 if dear else 4) * o.limit
    train, held = load_unseen(o.problems, problems, seed=o.seed, train=most, validation=o.limit)
    tell, layers = partial(partial, given.progress), range(pair.depth - 1)
    settings = {"start": "ridge", "epochs": 2} if dear else {}
    settings |= {"keep": o.cache / "translators", "progress": tell("fitting translators")}
    tuned = TunedLens.fit(pair, train, held, seed=o.seed, **settings)
    chains = [str(problem.metadata["chain"]) for problem in train] if known else []
    asked = [pair.encode(one, response=text) for one, text in zip(train, chains, strict=known)]
    how: dict[str, Any] = {"null_draws": study_settings(pair)["null_draws"], "seed": o.seed}
    read: dict[str, LensTrace | Neighbours] = {"logit lens": given.trace}
    read["tuned lens"] = traced = trace(pair, problems, reading=tuned, progress=tell("tuned lens"), **how)
    shifts = {"logit lens": given.shift, "tuned lens": stratified_shift(traced, seed=o.seed)}
    claims = {what: [] for what in ("as it is", "over matched noise")}
    for name, shift in shifts.items():
        ends = {c.key["measure"]: c for c in shift.verdicts if {**key, "measure": c.key["measure"]} == c.key}
        for what, measure in zip(claims, ("kl", "ratio"), strict=True):
            claims[what].append((name, ends[measure]))
    own, named = {}, []
    corpora = {"latent lens, text alone": chains, "latent lens, with pictures": asked}
    for name, corpus in corpora.items() if known else ():
        lens = LatentLens.build(pair, corpus, layers=layers, progress=tell(f"states of {name}"))
        read[name] = found = read_neighbours(pair, problems, lens, progress=tell(name), **how)
        own[f"fidelity of {name}"] = neighbour_fidelity(found, seed=o.seed)
        shifts_of = neighbour_shift(found, given.trace, name=name, seed=o.seed).claims
        for what, claim in zip(claims, [c for c in shifts_of if c.kind == key["kind"]], strict=True):
            claims[what].append((name, claim))
    fidelity = reading_fidelity(pair, problems, [LogitLens(), tuned], seed=o.seed, progress=tell("fidelity"))
    parts, drawn = {"fidelity": fidelity, **own}, {"fidelity": fidelity_by_reading(fidelity)}
    drawn["claim" if known else ""] = claim_forest(claims)
    if known:
        shown = {one.id: contents(one.id) for one in problems}
        names = cell_names(read, shown, k=WORDS, seed=o.seed)
        named = naming_claims(read, shown, seed=o.seed)
        parts, more = {"names": names} | parts, {"": naming_curves(names)}
        drawn |= more | {"words": naming_curves(names, words=WORDS)}
    table = pd.concat([part.assign(table=name) for name, part in parts.items()], ignore_index=True)
    return Finding(drawn, table, [claim for several in claims.values() for _, claim in several] + named)


if __name__ == "__main__":
    run_analysis("readings")
