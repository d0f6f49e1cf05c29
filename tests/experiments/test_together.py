"""Two models that decode together, wherever a condition goes: ablations, studies, sweeps, the agent, harnesses."""

import json
import math

import pandas as pd
import pytest
import tiny

import workbench as wb
from workbench.columns import describe
from workbench.errors import InputError
from workbench.experiments import ablation
from workbench.interfaces.harness import Question, Responder
from workbench.sweeps.cells import settings_rows
from workbench.sweeps.costs import Prompt, Shape, cell_cost, group_cost
from workbench.sweeps.spec import parse_sweep, seeded

SETTINGS = {"samples": 3, "max_new_tokens": 8, "resamples": 20}
MIXTURES = {
    "never": wb.CrossSample("base", "divergence", threshold=math.inf),
    "always": wb.CrossSample("base", "divergence", threshold=0.0),
    "some": wb.CrossSample("rlvr", "divergence", budget=0.3),
    "random": wb.CrossSample("rlvr", "random", budget=0.3),
    "further": wb.Extrapolate(1.0),
    "back": wb.Extrapolate(-1, under=wb.Patch(layers=2)),
}
SAME = {"never": "base", "always": "rlvr", "back": "base"}
ASKED = ["sample", "problem", "text", "tokens", "correct"]


def asked(table: pd.DataFrame, name: str) -> list[dict]:
    return table.loc[table["intervention"] == name, ASKED].to_dict("records")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2"])
def test_ablate_runs_them_and_reports_the_share_replaced(pair_of, family):
    problems = [tiny.problem(family, seed=i) for i in range(2)]
    found = wb.ablate(pair_of(family), problems, MIXTURES, **SETTINGS)
    table = found.responses
    assert [*dict.fromkeys(table["intervention"])] == ["base", "rlvr", *MIXTURES]
    for name, same in SAME.items():
        assert asked(table, name) == asked(table, same)
    by_name = table.groupby("intervention")
    assert by_name["replaced_share"].mean()[["base", "rlvr", "never", "always", "further", "back"]].tolist() == [
        0, 0, 0, 1, 1, 1
    ]  # fmt: skip
    assert (table["replaced"] == table["replaced_share"] * table["tokens"]).all()
    for name in ("some", "random"):
        part = table[table["intervention"] == name]
        assert ((part["replaced"] - 0.3 * part["tokens"]) <= 1).all()
        assert part["replaced"].sum() > 0
    assert (describe(found.tables())["meaning"] != "").all()
    assert {name: found.settings["interventions"][name] for name in MIXTURES} == {
        name: condition.described for name, condition in MIXTURES.items()
    }
    assert "further" in found.plot().to_json()


def test_drift_is_that_of_what_is_done_to_the_model_that_answers(tiny_pair):
    problems = [tiny.problem(seed=i) for i in range(2)]
    patch = wb.Patch(select="all", layers=2)
    mixtures = {"plain": wb.Extrapolate(1.0), "patched": wb.Extrapolate(1.0, under=patch), "patch": patch}
    drift = wb.ablate(tiny_pair, problems, mixtures, **SETTINGS).drift.set_index("intervention")
    assert drift.loc["plain", "kl"].tolist() == drift.loc["rlvr", "kl"].tolist()
    assert (
        drift.loc["patched", "kl"].tolist()
        == drift.loc["patch", "kl"].tolist()
        != drift.loc["rlvr", "kl"].tolist()
    )


def test_where_there_is_no_picture_replay_does_nothing_and_says_so(pair_of, tiny_pair):
    under = wb.Extrapolate(0, under=wb.Replay(layers=2))
    blind = wb.ablate(pair_of("qwen2"), [tiny.problem("qwen2")], {"under": under}, **SETTINGS).responses
    assert set(blind.loc[blind["intervention"] == "under", "stopped"]) == {"no picture"}
    assert asked(blind, "under") == asked(blind, "rlvr")
    nothing = wb.Extrapolate(0, under=wb.Replay(layers=2, tau=1e-9))
    found = wb.ablate(tiny_pair, [tiny.problem()], {"under": nothing}, **SETTINGS).responses
    assert set(found.loc[found["intervention"] == "under", "stopped"]) == {"nothing selected"}


def test_an_ablation_that_was_kept_goes_on_from_there(tiny_pair, tmp_path, monkeypatch):
    problems, given = [tiny.problem()], {"some": MIXTURES["some"]}
    first = wb.ablate(tiny_pair, problems, given, keep=tmp_path, **SETTINGS)
    measured = []
    real = ablation.measure
    monkeypatch.setattr(ablation, "measure", lambda *a, **k: measured.append(a[1]) or real(*a, **k))
    again = wb.ablate(tiny_pair, problems, given, keep=tmp_path, **SETTINGS)
    pd.testing.assert_frame_equal(first.responses, again.responses)
    assert measured == []
    other = wb.CrossSample("rlvr", budget=0.31)
    wb.ablate(tiny_pair, problems, other, keep=tmp_path, **SETTINGS)
    assert measured == [other]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2"])
def test_a_study_takes_them_into_its_report(pair_of, family, tmp_path):
    problems = [tiny.problem(family, seed=i) for i in range(2)]
    how = {"samples": 2, "max_new_tokens": 4, "resamples": 10, "null_draws": 1}
    mixtures = {name: MIXTURES[name] for name in ("never", "always", "further")}
    run = wb.study(pair_of(family), problems, tmp_path / "run", interventions=mixtures, **how)
    assert not run.skipped
    assert "further" in run.report.read_text()
    responses = pd.read_parquet(run.folder / "tables" / "responses.parquet")
    assert responses.loc[responses["intervention"] == "always", "replaced_share"].eq(1).all()
    json.loads((run.folder / "spec.json").read_text(), parse_constant=pytest.fail)  # no bare Infinity
    deep = {"deep": wb.Extrapolate(1.0, under=wb.Patch(layers=9))}
    with pytest.raises(InputError, match="`layers` of the patch go up to 8"):
        wb.study(pair_of(family), problems, tmp_path / "other", interventions=deep, **how)


# --- the agent -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.MULTIMODAL)
def test_the_agent_decodes_every_turn_so(pair_of, family):
    pair, problem = pair_of(family), tiny.problem(family, images=1, system="Look.")
    how = {"turns": 3, "temperature": 1.0, "max_new_tokens": 5}
    for name, condition in MIXTURES.items():
        model = condition.answered_by
        transcript = wb.run_agent(pair, problem, model=model, intervention=condition, **how)
        assert len(transcript.turns) == 3
        assert (describe({"turns": transcript.to_dataframe()})["meaning"] != "").all()
        if same := SAME.get(name):
            plain = wb.run_agent(pair, problem, model=same, **how)
            assert [turn.text for turn in transcript.turns] == [turn.text for turn in plain.turns]
        shares = [turn.replaced / turn.tokens for turn in transcript.turns]
        assert {"never": max(shares) == 0, "always": min(shares) == 1}.get(name, True)


# --- sweeps --------------------------------------------------------------------------------------------------

SWEEP = """\
pairs: [shapes]
problems: [{source: shapes, limit: 1}]
seeds: [0, 1]
interventions:
  crossed: {cross_sample: {host: [base, rlvr], criterion: [divergence, random], budget: [0.05, 0.2]}}
  level: {cross_sample: {threshold: [0, 0.1, .inf]}}
  further: {extrapolate: {gamma: [-1, 0.5]}}
  there: {extrapolate: {gamma: 1, where: divergence, threshold: 0.1}}
  tokens: {replay: {tau: 0.4}}
exclude: [{intervention: crossed, criterion: random, host: base}]
"""


def test_a_sweeps_file_names_them():
    sweep = parse_sweep(SWEEP)
    made = sweep.conditions(sweep.pairs[0], 8)
    assert len(made) == 2 + 8 - 2 + 3 + 2 + 1 + 1
    assert made["crossed host=rlvr criterion=random budget=0.2"] == wb.CrossSample(
        "rlvr", "random", budget=0.2
    )
    assert made["level threshold=inf"] == wb.CrossSample(threshold=math.inf)
    assert made["there"] == wb.Extrapolate(1, where="divergence", threshold=0.1)
    rows = pd.DataFrame([*settings_rows(sweep)]).set_index("intervention")
    assert rows.loc["further gamma=0.5", ["kind", "gamma"]].tolist() == ["extrapolate", 0.5]
    assert seeded(made["crossed host=rlvr criterion=random budget=0.2"], 3).seed == 3
    assert seeded(wb.CrossSample(budget=0.1, seed=5), 3).seed == 0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{extrapolate: {where: all}}", "`gamma` is missing; expected a number"),
        ("{extrapolate: {gama: 1}}", r"unknown key 'gama' \(did you mean 'gamma'\?\)"),
        ("{extrapolate: {gamma: .inf}}", "`gamma` is inf; expected a finite number"),
        (
            "{cross_sample: {budget: [0.1, 2]}}",
            r"`budget` is 2\.0; expected a share of the tokens from 0 to 1",
        ),
        (
            "{cross_sample: {criterion: [entropy, dlogp]}}",
            "^[^\\n]*`threshold` or `budget` is missing[^\\n]*$",
        ),
        ("{replay: {positions: [[4, 9]]}}", "positions"),
        ("{cross_sample: {host: both, budget: 0.1}}", "`host` is 'both'"),
    ],
)
def test_mistakes_in_a_sweeps_file_are_told(entry, message):
    with pytest.raises(InputError, match=message):
        parse_sweep(f"pairs: [shapes]\nproblems: [shapes]\ninterventions:\n  t: {entry}\n")


def test_spans_are_written_as_lists_of_lists():
    text = SWEEP.replace("{tau: 0.4}", "{positions: [text, [[4, 9], [-3, -1]]]}")
    made = parse_sweep(text).conditions(parse_sweep(text).pairs[0], 8)
    assert made["tokens positions=4:9+-3:-1"].positions == ((4, 9), (-3, -1))
    assert made["tokens positions=text"].positions == "text"


def test_they_cost_two_models_decoding():
    shape = Shape(layers=4, hidden=64, layer=10_000, vocabulary=1000, vision=0, keys=32)
    prompt = Prompt(10, samples=4)
    plain, mixed = (cell_cost(shape, prompt, c) for c in ("base", wb.Extrapolate(1.0)))
    assert 2 * plain.bytes == mixed.bytes
    assert group_cost(shape, prompt, ["base", "rlvr", *MIXTURES.values()]).flops > len(MIXTURES) * plain.flops


def test_a_small_sweep_gives_what_ablate_gives(tmp_path):
    (tmp_path / "s.yaml").write_text(
        SWEEP.replace("seeds: [0, 1]", "seeds: [0]\nsamples: 2\nmax_new_tokens: 12")
    )
    wb.run_sweep(tmp_path / "s.yaml", tmp_path / "out", workers=1)
    tables = wb.export_sweep(tmp_path / "out")
    responses = pd.read_parquet(tables / "responses.parquet")
    settings = pd.read_parquet(tables / "interventions.parquet").set_index("intervention")
    assert settings.loc["level threshold=0.1", "threshold"] == "0.1"
    assert settings.loc["tokens", "threshold"] == "quantile"
    level = wb.CrossSample(threshold=0.1)
    found = wb.ablate(
        wb.load_pair("shapes", device="cpu"),
        wb.load_problems("shapes", limit=1),
        {"level threshold=0.1": level},
        samples=2,
        max_new_tokens=12,
    ).responses
    for name in ("level threshold=0.1", "rlvr"):
        here = responses.loc[responses["intervention"] == name]
        there = found.loc[found["intervention"] == name]
        for column in ("sample", "text", "tokens", "replaced"):
            assert here[column].tolist() == there[column].tolist()


# --- harnesses -----------------------------------------------------------------------------------------------


def test_a_harness_lets_them_answer_but_scores_no_text(tiny_pair):
    problem = tiny.problem()
    everywhere = wb.CrossSample("base", "divergence", threshold=0.0)
    responder, plain = (Responder.of(tiny_pair, one) for one in (everywhere, "rlvr"))
    question = [lambda: Question(problem)]
    assert responder.answer(question, max_new_tokens=8) == plain.answer(question, max_new_tokens=8)
    with pytest.raises(InputError, match="decodes from two models, and scores no given text"):
        responder.likelihoods(question[0], ["3"])
    spoken = Responder.of(tiny_pair, wb.Patch(layers=2, when="decoding"))
    with pytest.raises(InputError, match="'patch while decoding, low' decodes from two models, and scores"):
        spoken.likelihoods(question[0], ["3"])
