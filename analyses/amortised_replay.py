"""Amortised replay: tokens predicted in one pass by an adapter, against tokens optimised for each prompt."""

from typing import cast

import numpy as np
import pandas as pd

from workbench.estimates import mean
from workbench.interfaces.cli import run_analysis
from workbench.models.pairs import batch_of, is_bundled
from workbench.replay.adapter_training import train_adapter
from workbench.replay.adapters import Adapter, load_adapter
from workbench.replay.amortised import losses_beside
from workbench.studies.claims import ONE_PASS, ONE_VECTOR, REPLAY, amortised_claims
from workbench.studies.paper import Finding, Given
from workbench.views.outcome_figures import accuracy_differences, drift_bars
from workbench.views.replay_figures import loss_against_steps

PROBLEMS, VALIDATION, STEPS, RATES = 64, 96, 200, (1e-2, 3e-2)


def trained(given: Given, width: int) -> Adapter:
    """An adapter of the pair's replay: trained on the split train, chosen on the split validation."""
    return train_adapter(
        given.pair,
        given.problems(split="train"),
        given.matrix[REPLAY],
        validation=given.problems(split="validation", limit=VALIDATION),
        width=width,
        rates=RATES,
        seed=given.options.seed,
        keep=given.options.cache / "adapters",
        progress=lambda done, total: given.progress(f"training, width {width}", done, total),
    )


def analyse(given: Given) -> Finding:
    given.need_pictures("replay")
    pair, size, replay = given.pair, batch_of(given.pair), given.matrix[REPLAY]
    adapter = load_adapter("shapes") if is_bundled(pair) and pair.name == "shapes" else trained(given, 64)
    vector = trained(given, 0)
    found = given.ablation(conditions={REPLAY: replay, ONE_PASS: adapter, ONE_VECTOR: vector})
    prompts = [pair.encode(problem) for problem in given.problems(limit=PROBLEMS)]
    adapters = {ONE_PASS: adapter, ONE_VECTOR: vector}
    losses = losses_beside(pair, prompts, replay, adapters, iterations=STEPS, batch_size=size)
    rows = []
    for key, part in losses.groupby(["name", "iteration"], sort=False):
        name, iteration = cast(tuple[str, int], key)
        interval = mean(part["loss"], np.arange(len(part)), seed=given.options.seed)
        rows.append({"name": name, "iteration": iteration, **interval.columns("estimate")})
    steps = pd.DataFrame(rows)
    making = [
        {"intervention": name, "making_seconds": part["making_seconds"].mean()}
        for name, part in found.responses.groupby("intervention", sort=False)
    ]
    figures = {
        "": loss_against_steps(
            steps, subtitle=f"{given.name}, {len(prompts)} problems, 95% intervals over problems"
        ),
        "accuracy": accuracy_differences(found.summary.query("intervention != 'base'"), low=found.low),
        "drift": drift_bars(found.drift),
        "training": adapter.plot(),
    }
    table = pd.concat([steps, pd.DataFrame(making), found.summary, found.drift], ignore_index=True)
    told = amortised_claims(found.responses, found.drift, losses, iterations=replay.iterations)
    return Finding(figures, table, told)


if __name__ == "__main__":
    run_analysis("amortised_replay")
