"""Weight changes: what RLVR and its controls changed in each module, and whether that tells where outputs change."""

import pandas as pd

from workbench.analysis.weight_changes import change_cosine, compare_weights
from workbench.errors import InputError
from workbench.interfaces.cli import run_analysis
from workbench.models.bundled import FIRST, checkpoints_of
from workbench.models.pairs import ModelPair, is_bundled
from workbench.runs import kept
from workbench.studies.claims import weight_claims
from workbench.studies.paper import Finding, Given
from workbench.views.weight_figures import prediction_scatter, weight_heatmap

PROBLEMS = 64
PARTS = ("weights", "outputs", "prediction")


def analyse(given: Given) -> Finding:
    if given.options.run:
        raise InputError("`--run` has no models, and weights are what this is about; leave it out")
    pairs = {"rlvr": given.pair} | _controls(given.pair)
    found = {name: _changes(given, name, pair) for name, pair in pairs.items()}
    rows = [
        part.assign(condition=name, part_of=p) for name, parts in found.items() for p, part in parts.items()
    ]
    cosines = {name: change_cosine(given.pair, pair) for name, pair in pairs.items() if name != "rlvr"}
    rows += [
        pd.DataFrame([{"condition": n, "part_of": "cosine to rlvr", "cosine": c}]) for n, c in cosines.items()
    ]
    weights, outputs, prediction = found["rlvr"].values()
    figures = {
        "": weight_heatmap(weights),
        "rank": weight_heatmap(weights, measure="effective_rank"),
        "outputs": prediction_scatter(outputs),
    }
    return Finding(figures, pd.concat(rows, ignore_index=True), weight_claims(prediction))


def _controls(pair: ModelPair) -> dict[str, ModelPair]:
    """The controls of a bundled pair, by name."""
    if not is_bundled(pair):
        return {}
    named = {str(name): load for name, load in checkpoints_of(pair).items() if isinstance(name, str)}
    return {name: load() for name, load in named.items() if not name.startswith(FIRST)}


def _changes(given: Given, name: str, pair: ModelPair) -> dict[str, pd.DataFrame]:
    given.progress(f"weights of {name}", 0, 1)
    problems, seed = given.problems(limit=PROBLEMS), given.options.seed
    told = {"pair": {**pair.provenance}, "problems": [p.fingerprint for p in problems], "seed": seed}
    tables = kept(
        given.options.cache / "weight_changes",
        told,
        PARTS,
        lambda: [*compare_weights(pair, problems, seed=seed).tables().values()],
    )
    return dict(zip(PARTS, tables, strict=True))


if __name__ == "__main__":
    run_analysis("weight_changes")
