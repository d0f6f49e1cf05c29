"""Attribution: which heads and MLPs write the shift at low-entropy cells, and how well approximations of swaps do."""

from functools import partial
from typing import Any

import pandas as pd

from workbench.analysis.verdicts import Claim
from workbench.attribution.attribute import attribute
from workbench.attribution.effects import relp_gain
from workbench.attribution.one_prompt import Cells
from workbench.attribution.swaps import DIRECTIONS
from workbench.interfaces.cli import run_analysis
from workbench.models.bundled import controls_of
from workbench.names import METRICS
from workbench.selection import low_note
from workbench.studies.paper import Finding, Given
from workbench.views.attribution_figures import component_heatmap, exact_scatter, largest

PROBLEMS = 100
ANSWERED = ("chain", "wrong")


def analyse(given: Given) -> Finding:
    problems, seed = given.problems(limit=PROBLEMS), given.options.seed
    answers = all({*ANSWERED} <= {*problem.metadata} for problem in problems)
    metrics = list(METRICS) if answers else ["kl"]
    tell = partial(given.progress, "attributing to components")
    keep = given.options.cache / "attribution"
    found = attribute(given.pair, problems, metrics=metrics, seed=seed, keep=keep, progress=tell)  # pyright: ignore[reportArgumentType]
    parts = {"low": found.summary}
    others = {"high": (given.pair, Cells(select="high", tau=0.8))}
    others |= {f"low, {name}": (pair, Cells()) for name, pair in controls_of(given.pair).items()}
    for name, (pair, cells) in others.items():
        once = {"cells": cells, "swaps": False, "seed": seed, "keep": keep}
        parts[name] = attribute(pair, problems, metrics=["kl"], **once).summary
    held = [part.assign(cells=name) for name, part in parts.items()]
    table = pd.concat([*held, found.correlations.assign(cells="low")], ignore_index=True)
    drawn: dict[str, Any] = {}
    for metric in metrics:
        most = largest(*parts.values(), metric=metric)  # all figures of a metric share their colours
        end = "" if metric == "kl" else f"_{metric}"
        drawn[end.lstrip("_")] = component_heatmap(found.summary, metric=metric, most=most)
        for direction in DIRECTIONS:
            drawn[direction + end] = component_heatmap(
                found.summary, metric=metric, direction=direction, most=most
            )
        drawn[f"approximations{end}"] = exact_scatter(found.effects, found.correlations, metric=metric)
    files = {"low": ""} | {name: name.replace(", ", "_").replace(" ", "_") for name in others}
    drawn |= {
        files[name]: component_heatmap(parts[name], most=largest(*parts.values(), metric="kl"))
        for name in others
    }
    for name, file in files.items():
        figure, (cells, _, model) = drawn[file], name.partition(", ")
        subtitle = figure.layout.title.subtitle
        where = f"{cells}-entropy {'visual ' * given.pictured}cells"
        subtitle.text = subtitle.text.replace("the chosen cells", where)
        subtitle.text += f"<br>{low_note(others.get(name, (None, Cells()))[1].selection)}; high: the others"
        figure.update_layout(margin={"t": 144})
        if model:
            subtitle.text = subtitle.text.replace("RLVR", "control")
            figure.update_layout(title_text=f"Direct contributions to the change of KL, {model}")
    claims = [
        Claim(
            "RelP approximates exact swaps better than attribution patching does",
            "RelP, arXiv 2508.21258",
            f"Pearson's r, RelP − attribution patching, {metric}, {direction}",
            relp_gain(found.effects, metric, direction, seed=seed),
            len(problems),
            obstacle="one problem, so no interval" if len(problems) < 2 else None,
        )
        for metric in metrics
        for direction in DIRECTIONS
    ]
    return Finding(drawn, table, claims)


if __name__ == "__main__":
    run_analysis("attribution")
