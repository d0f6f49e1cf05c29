"""Tables 2 to 4: Activation Replay against the plain RLVR model, on problem sets, beside the published numbers."""

from importlib.util import find_spec

import pandas as pd

from workbench.experiments.outcomes import changes
from workbench.interfaces.cli import run_analysis
from workbench.problems.problem import load_problems
from workbench.studies.claims import REPLAY, outcome_claims
from workbench.studies.paper import Finding, Given
from workbench.studies.published import published_changes
from workbench.views.paper_figures import beside_published


def analyse(given: Given) -> Finding:
    given.need_pictures("replay")
    o, found = given.options, given.ablation([REPLAY])
    measured = [changes(found.responses, REPLAY).assign(row=f"{o.problems}, all")]
    if len(set(found.responses["family"])) > 1:
        families = changes(found.responses, REPLAY, by="family")
        measured.append(families.assign(row=[f"{o.problems}, {part}" for part in families["part"]]))
    if (
        o.problems == "shapes" and not o.run and find_spec("easy_vqa")
    ):  # the second set that the bundled pair knows
        easy = load_problems("easy-vqa", split="test", limit=o.limit, seed=o.seed)
        other = given.ablation([REPLAY], problems=easy).responses
        measured.append(changes(other, REPLAY).assign(row="easy-vqa"))
    here = pd.concat(measured, ignore_index=True).assign(source="measured", setting="replay")
    here = here.rename(columns={"part": "benchmark"})
    told = published_changes(["Table 2", "Table 3", "Table 4"], {"rlvr+replay": "replay"})
    table = pd.concat([here, told], ignore_index=True)
    problems = len(set(found.responses["problem"]))
    figure = beside_published(
        table,
        title="Replay against the plain RLVR model",
        subtitle=f"greedy; measured: {problems} problems, 95% intervals; published: other models and data, a mark a benchmark",
    )
    claims = [
        c for c in outcome_claims(found.responses, found.drift) if c.place in ("Tables 2 to 4", "section 4")
    ]
    return Finding({"": figure}, table, claims)


if __name__ == "__main__":
    run_analysis("tables2_4_replay")
