"""The low-entropy claim where the model speaks: along the RLVR model's own responses, beside three nulls and controls."""

import workbench as wb
from workbench.analysis.change_nulls import change_claims
from workbench.decoding.decode import decode_many
from workbench.errors import InputError
from workbench.interfaces.cli import run_analysis
from workbench.models.bundled import controls_of
from workbench.models.pairs import study_settings
from workbench.studies.paper import Finding, Given

KIND = "response"


def analyse(given: Given) -> Finding:
    o, pair, problems = given.options, given.pair, given.problems()
    if o.run:
        raise InputError(
            "`--run` keeps no trace of responses; leave it out, and name the pair: --pair shapes"
        )
    answers = decode_many(
        pair,
        problems,
        model="rlvr",
        samples=1,
        temperature=1.0,
        seed=o.seed,
        progress=lambda done, total: given.progress("answering", done, total),
    )
    prompts = [pair.encode(one, response=said.ids) for one, (said,) in zip(problems, answers, strict=True)]
    nulls = wb.change_nulls(
        pair,
        prompts,
        others=controls_of(pair),
        draws=study_settings(pair)["null_draws"],
        seed=o.seed,
        progress=given.progress,
    )
    table = nulls.table.loc[nulls.table["kind"] == KIND]
    return Finding({"": nulls.plot(KIND)}, table, change_claims(table, raw=True))


if __name__ == "__main__":
    run_analysis("response_shift")
