"""A study of a pair with controls of its user's own, a folder and an adapter: every claim as RLVR minus each of them."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import yaml
from peft import LoraConfig, get_peft_model

import workbench as wb
from workbench.analysis.control_claims import BESIDE
from workbench.errors import InputError
from workbench.models import loading
from workbench.replay.patching import Patch
from workbench.studies.study import study

SETTINGS = {"top_k": 3, "null_draws": 1, "bins": 2, "resamples": 20, "samples": 2, "max_new_tokens": 3}


pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Models, a control of each kind, eight problems, and the YAML that names them."""
    home = tmp_path_factory.mktemp("mine")
    made = tiny.pair("qwen2_5_vl")
    made.base.model.save_pretrained(home / "base")
    made.rlvr.model.save_pretrained(home / "rlvr")
    tiny.processor("qwen2_5_vl").save_pretrained(home / "base")
    tiny.model("qwen2_5_vl", 2).save_pretrained(home / "sft")
    torch.manual_seed(3)
    trained = get_peft_model(made.base.model, LoraConfig(r=2, lora_alpha=4, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.05)
    trained.save_pretrained(home / "longer")
    mine = {"base": "./base", "rlvr": "./rlvr", "controls": {"sft": "./sft", "longer": "./longer"}}
    gone = {**mine, "controls": {"sft": "./nowhere"}}
    (home / "pairs.yaml").write_text(yaml.safe_dump({"mine": mine, "gone": gone}, sort_keys=False))
    rows = []
    for i in range(8):
        tiny.image(seed=i).save(home / f"{i}.png")
        rows.append({"id": f"q{i}", "question": f"How many? {i}", "answer": "3", "image": f"{i}.png"})
    (home / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return home


@pytest.fixture(scope="module")
def made(home, tmp_path_factory):
    """Pair, problems, controls and a study of them with answers."""
    pair = wb.load_pair(f"{home}/pairs.yaml:mine", device="cpu")
    problems = list(wb.load_problems(str(home / "problems.jsonl")))
    controls = wb.controls_of(pair)
    out = tmp_path_factory.mktemp("study") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kaleido.write_fig_from_object_sync", lambda *a, **k: None)
        study(pair, problems, out, controls=controls, interventions={"patch": Patch(layers=2)}, **SETTINGS)
    return pair, problems, controls, out


def test_each_number_is_rlvrs_less_the_controls(made):
    pair, problems, controls, out = made
    claims = pd.read_parquet(out / "tables" / "claims.parquet").set_index("measured")
    how = {"top_k": 3, "null_draws": 1}
    last = "percent of visual positions whose top token differs, last layer"
    fall = "KL over matched noise, lowest over highest half"
    where = "(a factor), visual tokens, without the last layer"
    for name, control in controls.items():
        numbers = []
        for each in (pair, control):
            traced = wb.trace(each, problems, **how)
            visual = traced.kind == 1
            differ = 100 * (1 - traced.top1_agreement[-1, visual].double().mean().item())
            shift = wb.stratified_shift(traced, 2, resamples=20).table
            rows = shift.loc[(shift["kind"] == "visual") & (shift["scope"] == "without last layer")]
            low, high = rows.set_index("stratum")["ratio"].loc[[0, 1]]
            numbers.append((differ, low / high))
        (differ, fell), (others_differ, others_fell) = numbers
        row = claims.loc[f"{last}, RLVR minus {name}"]
        assert row["estimate"] == pytest.approx(differ - others_differ)
        assert row["place"] == BESIDE
        row = claims.loc[f"{fall}, RLVR's over that of {name} {where}"]
        assert row["estimate"] == pytest.approx(fell / others_fell)
        assert row["estimate_low"] < row["estimate"] < row["estimate_high"]
        assert f"lowest over highest stratum, RLVR's over that of {name} weights {where}".replace(
            "the last", "last"
        ) in set(claims.index)


def test_controls_answer_beside_rlvr(made):
    _, problems, controls, out = made
    responses = pd.read_parquet(out / "tables" / "responses.parquet")
    assert set(responses["intervention"]) == {"base", "rlvr", "patch", *controls}
    drawn = responses.loc[responses["sample"] >= 0].groupby("intervention")["correct"].mean()
    claims = pd.read_parquet(out / "tables" / "claims.parquet").set_index("measured")
    for name in controls:
        rows = responses.loc[responses["intervention"] == name]
        assert set(rows["model"]) == {"control"}
        assert len(rows) == 3 * len(problems)
        row = claims.loc[f"Pass@1, rlvr − {name}, points"]
        assert row["estimate"] == pytest.approx(100 * (drawn["rlvr"] - drawn[name]))
        assert not np.isnan(row["estimate_low"])
        assert f"Pass@2, {name} − rlvr, points" in claims.index
    drift = pd.read_parquet(out / "tables" / "drift.parquet")
    assert not {*controls} & set(drift["intervention"])


def test_what_a_run_was_beside_is_kept_and_compared(made, tmp_path):
    pair, problems, controls, out = made
    spec = json.loads((out / "spec.json").read_text())
    assert list(spec["settings"]["controls"]) == ["sft", "longer"]
    assert set(pd.read_parquet(out / "tables" / "nulls.parquet")["condition"]) == {"rlvr", *controls}
    assert "skipped" not in spec
    assert "beside sft weights" in (out / "report.html").read_text()
    alone = study(pair, problems, tmp_path / "alone", null_models=0, **SETTINGS)
    pairs = wb.compare(out, alone.folder, names=["with", "without"]).pairs.set_index("pair")
    assert pairs["controls"].tolist() == ["sft, longer", ""]


def test_bad_controls_are_refused_before_any_work(made, tmp_path, monkeypatch):
    pair, problems, controls, _ = made
    monkeypatch.setattr("workbench.studies.study.trace", lambda *a, **k: pytest.fail("a model ran"))
    call = r"study\(pair, problems, 'runs/mine', controls=controls_of\(pair, \{'sft': 'runs/sft'\}\)\)"
    other = tiny.pair("qwen2_5_vl", num_hidden_layers=2)
    for given, message in (
        ({"sft": "runs/sft"}, "'sft' is a str"),
        ({"permuted": controls["sft"]}, "the name 'permuted' stands for something else"),
        ({"other": other}, "'other' has another base than `pair`"),
    ):
        with pytest.raises(InputError, match=rf"`controls`: {message}; .*{call}"):
            study(pair, problems, tmp_path / "run", controls=given, **SETTINGS)
    with pytest.raises(InputError, match="`controls` and `interventions` both have 'patch'"):
        study(
            pair,
            problems,
            tmp_path / "run",
            controls={"patch": controls["sft"]},
            interventions={"patch": Patch(layers=2)},
            **SETTINGS,
        )
    with pytest.raises(InputError, match="`controls`: 'patch' is also a condition's name"):
        wb.ablate(pair, problems, {"patch": Patch(layers=2)}, controls={"patch": controls["sft"]}, samples=1)
    assert not list(tmp_path.iterdir())


def test_a_control_that_fails_costs_no_other(made, tmp_path, monkeypatch):
    pair, problems, controls, _ = made
    broken = replace(controls["sft"], rlvr=None)
    with pytest.warns(UserWarning, match="control sft could not be made and is left out"):
        run = study(
            pair,
            problems[:2],
            tmp_path / "run",
            controls={"sft": broken, "longer": controls["longer"]},
            **SETTINGS,
        )
    assert list(run.skipped) == ["control sft"]
    assert any("RLVR minus longer" in claim.measured for claim in run.claims)


def test_the_command_line_takes_them_from_the_yaml(home, tmp_path, workbench, monkeypatch):
    arguments = ("study", "--problems", str(home / "problems.jsonl"), "--limit", "2", "--bins", "2")
    code, _, err = workbench(*arguments, "--pair", f"{home}/pairs.yaml:mine", "--out", "run")
    assert code == 0, err
    claims = pd.read_parquet(tmp_path / "run" / "tables" / "claims.parquet")
    assert claims["measured"].str.contains("RLVR minus longer").any()
    code, _, err = workbench(
        *arguments, "--pair", f"{home}/pairs.yaml:mine", "--nulls", "no", "--out", "none"
    )
    assert code == 0, err
    assert BESIDE not in set(pd.read_parquet(tmp_path / "none" / "tables" / "claims.parquet")["place"])
    monkeypatch.setattr(loading, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    code, _, err = workbench(*arguments, "--pair", f"{home}/pairs.yaml:gone", "--out", "gone")
    assert code == 2
    assert "`controls` 'sft': `controls`" in err
    assert "nowhere' is not a folder" in err
    assert not (tmp_path / "gone").exists()
