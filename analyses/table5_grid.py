"""Table 5: threshold x step size of replay, and its number of layers and iterations, on the validation split."""

from dataclasses import replace

import pandas as pd

from workbench.experiments.outcomes import changes
from workbench.interfaces.cli import run_analysis
from workbench.studies.paper import Finding, Given
from workbench.studies.published import published
from workbench.views.paper_figures import settings_grid

PROBLEMS, SAMPLES = 96, 8
TAUS, ALPHAS, ITERATIONS = (0.2, 0.4), (0.3, 1.0, 3.0), (5, 10, 50)


def analyse(given: Given) -> Finding:
    given.need_pictures("replay")
    kept = given.pair.replay()
    depth = len(kept.loss_layers(given.pair.depth))
    kept = replace(kept, layers=depth)
    varied = {"tau x alpha": [replace(kept, tau=t, alpha=a * kept.alpha) for t in TAUS for a in ALPHAS]}
    layers = [k for k in (depth - 2, depth, depth + 2) if 1 <= k < given.pair.depth]
    varied["layers"] = [replace(kept, layers=k) for k in layers]
    varied["iterations"] = [replace(kept, iterations=n) for n in sorted({*ITERATIONS, kept.iterations})]
    named = {f"{axis} {i}": settings for axis, many in varied.items() for i, settings in enumerate(many)}
    split = "validation" if given.options.problems == "shapes" else given.options.split
    problems = given.problems(split=split, limit=PROBLEMS)
    samples = min(SAMPLES, given.options.samples)
    found = given.ablation(conditions=named, problems=problems, samples=samples)
    rows = []
    for name, settings in named.items():
        change = changes(found.responses, name, measure="Pass@1").iloc[0].to_dict()
        drift = found.drift.loc[
            (found.drift["intervention"] == name) & (found.drift["scope"] == "without last layer")
        ]
        kl = drift.set_index("stratum")["kl"]
        told = {key: getattr(settings, key) for key in ("tau", "alpha", "layers", "iterations")}
        rows.append({"source": "measured", "varied": name.rpartition(" ")[0], **told, **change})
        rows[-1] |= {f"kl_{stratum}": kl.get(stratum) for stratum in ("low", "high")}
    table = pd.DataFrame(rows)
    subtitle = f"{given.name}, {len(problems)} problems of the split {split!r}, {samples} samples at temperature 1, 95% intervals"
    figure = settings_grid(table, measure="Pass@1", subtitle=subtitle)
    told = published().query("table == 'Table 5'").assign(source="published")
    return Finding({"": figure}, pd.concat([table, told], ignore_index=True))


if __name__ == "__main__":
    run_analysis("table5_grid")
