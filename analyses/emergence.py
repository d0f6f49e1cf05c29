"""Emergence: shift by entropy, accuracy and coverage over the checkpoints of RL, and what comes first."""

import pandas as pd

from workbench.attribution.attribute import contributions
from workbench.errors import InputError
from workbench.experiments.emergence import follow_training
from workbench.interfaces.cli import run_analysis
from workbench.models.bundled import FIRST, checkpoints_of
from workbench.models.pairs import is_bundled
from workbench.studies.claims import emergence_claims
from workbench.studies.paper import Finding, Given
from workbench.views.emergence_figures import emergence_curves


def analyse(given: Given) -> Finding:
    o = given.options
    if o.run or not is_bundled(given.pair):
        raise InputError(
            "`--pair`: the checkpoints of this training are not saved; leave `--run`, `--base` and `--rlvr` out, or call "
            "workbench.follow_training with loaders of your own"
        )
    checkpoints = checkpoints_of(given.pair)
    found = follow_training(
        given.problems(),
        checkpoints,
        samples=o.samples,
        further={"contributions": contributions},
        seed=o.seed,
        keep=o.cache / "emergence",
        progress=lambda name, done, total: given.progress(f"checkpoint {name}", done, total),
    )
    kinds = [kind for kind in dict.fromkeys(found.order["kind"]) if kind != "visual"]
    figures = {"": found.plot()} | {kind: emergence_curves(found.table, kind=kind) for kind in kinds}
    figures["contributions"] = found.plot_further()
    parts = {"curves": found.table, "half-times": found.timing, "order": found.order}
    table = pd.concat([part.assign(part=name) for name, part in parts.items()], ignore_index=True)
    controls = [name for name in checkpoints if isinstance(name, str) and not name.startswith(FIRST)]
    return Finding(figures, table, emergence_claims(found.order, found.table, controls=controls))


if __name__ == "__main__":
    run_analysis("emergence")
