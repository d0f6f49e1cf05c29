"""The three scenarios: accuracy by family of problems on pictures, on videos and as a visual agent with a zoom tool."""

import pandas as pd

from workbench.conditions import condition_of
from workbench.experiments.agent import run_agents
from workbench.experiments.outcomes import changes
from workbench.interfaces.cli import run_analysis
from workbench.problems.problem import load_problems
from workbench.selection import low_note
from workbench.studies.claims import REPLAY
from workbench.studies.paper import Finding, Given
from workbench.views.paper_figures import family_bars

SCENARIOS = {"pictures": "shapes", "videos": "shapes-video", "agent": "shapes-agent"}
VIDEOS, SCENES, TURNS = 150, 40, 3
INTERVENTIONS = (REPLAY, "tokens, high", "patch, low", "patch, high")
STYLES = {"base": "base", "rlvr": "rlvr", REPLAY: "replay"}


def analyse(given: Given) -> Finding:
    given.need_pictures("replay")
    rows = []
    for scenario, name in SCENARIOS.items():
        found = _agents(given) if scenario == "agent" else _responses(given, name)
        for condition in found["intervention"].unique():
            for by in (None, "family"):
                table = changes(found, condition, against="rlvr", by=by)
                rows.append(table.assign(scenario=scenario, condition=condition))
    table = pd.concat(rows, ignore_index=True)
    axes = table.loc[(table["part"] != "all") & table["condition"].isin(list(STYLES))]
    drawn = axes.assign(style=axes["condition"].map(STYLES)).rename(
        columns={"part": "axis", "scenario": "group"}
    )
    drawn["condition"] = pd.Categorical(drawn["condition"], list(STYLES))
    drawn = drawn.sort_values("condition", kind="stable").astype({"condition": str})
    described = {REPLAY: condition_of(given.matrix[REPLAY]).described}
    subtitle = (
        f"{given.name}, greedy, on pictures, on videos and as an agent that zooms; {low_note(described)}"
    )
    return Finding({"": family_bars(drawn, subtitle=subtitle)}, table)


def _responses(given: Given, name: str) -> pd.DataFrame:
    """Greedy responses; those to pictures are those of the other analyses."""
    o = given.options
    if name == "shapes":
        return given.ablation(INTERVENTIONS).responses
    problems = load_problems(name, split=o.split, limit=min(VIDEOS, o.limit), seed=o.seed)
    conditions = {key: given.matrix[key] for key in INTERVENTIONS}
    return given.ablation(conditions=conditions, problems=problems).responses


def _agents(given: Given) -> pd.DataFrame:
    """The agents' answers in the form of greedy responses; interventions are made anew at every turn."""
    o, rows = given.options, []
    problems = load_problems("shapes-agent", split=o.split, limit=min(SCENES, o.limit), seed=o.seed)
    for name in ("base", "rlvr", *INTERVENTIONS):
        found = run_agents(
            given.pair,
            problems,
            o.cache / "agent-pages" / name,
            keep=o.cache / "agent",
            model="base" if name == "base" else "rlvr",
            intervention=given.matrix.get(name),
            turns=TURNS,
            progress=lambda what, done, total, name=name: given.progress(f"{what}: {name}", done, total),
        )
        rows.append(found["agents"].assign(intervention=name, sample=-1))
    return pd.concat(rows, ignore_index=True)


if __name__ == "__main__":
    run_analysis("scenarios")
