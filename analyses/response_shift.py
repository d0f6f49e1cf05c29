"""The low-entropy claim where a model speaks: along responses of both models, beside three nulls and the controls.

The controls read the same responses, which none of them wrote.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import pandas as pd

import workbench as wb
from workbench.analysis.change_nulls import change_claims
from workbench.conditions import Model
from workbench.decoding.decode import decode_many
from workbench.errors import InputError
from workbench.interfaces.cli import run_analysis
from workbench.models.bundled import controls_of
from workbench.models.pairs import ModelPair, study_settings
from workbench.studies.paper import Finding, Given

KIND = "response"
TITLES: dict[Model, str] = {"rlvr": "RLVR's responses", "base": "the base's responses"}


def analyse(given: Given) -> Finding:
    if given.options.run:
        raise InputError(
            "`--run` keeps no trace of responses; leave it out, and name the pair: --pair shapes"
        )
    figures, tables, claims = {}, [], []
    controls = controls_of(given.pair)
    for writer, title in TITLES.items():
        nulls = along_responses(given, writer, controls)
        table = nulls.table.loc[nulls.table["kind"] == KIND]
        figures["" if writer == "rlvr" else writer] = nulls.plot(KIND)
        tables.append(table.assign(written_by=writer))
        for claim in change_claims(table, raw=True):
            claims.append(replace(claim, measured=f"{claim.measured}, {title}"))
    return Finding(figures, pd.concat(tables, ignore_index=True), claims)


def along_responses(given: Given, writer: Model, controls: Mapping[str, ModelPair]) -> wb.ChangeNulls:
    """Both models' change along one sampled response of one of them to each problem."""
    pair, problems, seed = given.pair, given.problems(), given.options.seed
    answers = decode_many(
        pair,
        problems,
        model=writer,
        samples=1,
        temperature=1.0,
        seed=seed,
        progress=partial(given.progress, f"answering: {writer}"),
    )
    return wb.change_nulls(
        pair,
        [pair.encode(one, response=said.ids) for one, (said,) in zip(problems, answers, strict=True)],
        others=controls,
        draws=study_settings(pair)["null_draws"],
        seed=seed,
        progress=lambda what, done, total: given.progress(f"{what}, {TITLES[writer]}", done, total),
    )


if __name__ == "__main__":
    run_analysis("response_shift")
