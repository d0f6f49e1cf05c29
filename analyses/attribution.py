"""Attribution: which heads and MLPs write the shift at low-entropy cells, and how well approximations of swaps do."""

from functools import partial
from typing import Any

import pandas as pd

from workbench.analysis.verdicts import Claim
from workbench.attribution.attribute import attribute
from workbench.attribution.effects import minus_control, relp_gain
from workbench.attribution.one_prompt import Cells
from workbench.attribution.swaps import DIRECTIONS
from workbench.interfaces.cli import run_analysis
from workbench.models.bundled import controls_of
from workbench.names import METRICS
from workbench.selection import low_note
from workbench.studies.paper import Finding, Given
from workbench.views.attribution_figures import component_heatmap, exact_scatter, largest

PROBLEMS, ANSWERED = 100, ("chain", "wrong")


def analyse(given: Given) -> Finding:
    problems, seed = given.problems(limit=PROBLEMS), given.options.seed
    answers = all({*ANSWERED} <= {*problem.metadata} for problem in problems)
    metrics: list[Any] = list(METRICS) if answers else ["kl"]
    tell, keep = partial(given.progress, "attributing to components"), given.options.cache / "attribution"
    found = attribute(given.pair, problems, metrics=metrics, seed=seed, keep=keep, progress=tell)
    parts, beside = {"low": found.summary}, list[Claim]()
    others = {"high": (given.pair, Cells(select="high", tau=0.8))}
    others |= {f"low, {name}": (pair, Cells()) for name, pair in controls_of(given.pair).items()}
    for name, (pair, cells) in others.items():
        once = {"cells": cells, "swaps": False, "seed": seed, "keep": keep}
        other = attribute(pair, problems, metrics=["kl"], **once)
        parts[name] = other.summary
        if pair is not given.pair:
            beside += minus_control(found.direct, other.direct, name.removeprefix("low, "), seed=seed)
    held = [part.assign(cells=name) for name, part in parts.items()]
    table = pd.concat([*held, found.correlations.assign(cells="low")], ignore_index=True)
    drawn: dict[str, Any] = {}
    for metric in metrics:  # all figures of a metric share their colours
        most, end = largest(*parts.values(), metric=metric), "" if metric == "kl" else f"_{metric}"
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
            obstacle="one problem, so no interval" * (len(problems) < 2) or None,
        )
        for metric in metrics
        for direction in DIRECTIONS
    ]
    return Finding(drawn, table, claims + beside)


if __name__ == "__main__":
    run_analysis("attribution")
