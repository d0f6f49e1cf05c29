"""A pair without visual tokens: the study, its page and every analysis make what suits it, and say what they leave out."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import tiny

import workbench as wb
from workbench.errors import InputError
from workbench.interfaces import cli
from workbench.models.anatomy import dissect
from workbench.models.preset_files import pair_preset
from workbench.studies.paper import Given, Options, Unsuited, find_analyses
from workbench.studies.study import study

SETTINGS = {"top_k": 3, "null_draws": 1, "bins": 2, "resamples": 20, "samples": 2, "max_new_tokens": 3}
MADE = (
    *("alternatives", "attribution", "cost", "entropy_shift", "figure6_pass_at_k", "null_models", "radar"),
    *("table1_patching", "top_predictions", "weight_changes"),
)
LEFT_OUT = ("amortised_replay", "perturbation", "scenarios", "table5_grid", "tables2_4_replay")


pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def pair():
    return tiny.pair("llama")


@pytest.fixture(scope="module")
def problems():
    return [
        replace(tiny.problem("llama"), id=f"text/{i}", question=f"{i} and {i}?", answer=str(2 * i))
        for i in range(3)
    ]


@pytest.fixture(scope="module")
def given(pair, problems, tmp_path_factory):
    """The pair and its problems on disk, as an analysis is given them."""
    home = tmp_path_factory.mktemp("text")
    for name, anatomy in (("base", pair.base), ("rlvr", pair.rlvr)):
        anatomy.model.save_pretrained(home / name)
        pair.processor.save_pretrained(home / name)
    rows = [{"id": p.id, "question": p.question, "answer": p.answer} for p in problems]
    (home / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = Options(
        base=str(home / "base"),
        rlvr=str(home / "rlvr"),
        problems=str(home / "sums.jsonl"),
        samples=2,
        cache=home / "cache",
    )
    given = Given(options)
    # Of a random model nearly all cells have the same entropy: a share of the largest selects none.
    given.__dict__["matrix"] = pair.matrix(threshold="quantile", iterations=2, alpha=0.1)
    return given


def test_a_study_leaves_nothing_out_and_speaks_of_no_pictures(pair, problems, tmp_path):
    seen = []
    result = study(
        pair,
        problems,
        tmp_path / "run",
        **SETTINGS,
        interventions=pair.matrix(threshold="quantile"),
        null_models=1,
        controls={"another": replace(pair, rlvr=dissect(tiny.model("llama", seed=3).eval()))},
        progress=lambda *told: seen.append(told),
    )
    assert dict(result.skipped) == {}
    tables = tmp_path / "run" / "tables"
    responses = pd.read_parquet(tables / "responses.parquet")
    tokens = [f"tokens, {select}" for select in ("low", "high", "random", "all")]
    more = ["mid tokens, low", "reverse, low", "patch, low", "patch, high"]
    assert [*dict.fromkeys(responses["intervention"])] == ["base", "rlvr", *tokens, *more, "another"]
    assert (responses.loc[responses["intervention"] == "patch, low", "cells"] > 0).all()
    assert {*pd.read_parquet(tables / "drift.parquet")["kind"]} == {"text"}
    assert {*pd.read_parquet(tables / "nulls.parquet")["condition"]} == {
        "rlvr",
        "permuted",
        "gaussian",
        "another",
    }
    assert ("answering: base", 0, 3) in seen  # before the first response, and after every batch
    assert ("answering: patch, high", 3, 3) in seen
    body = re.sub(r"<(script|style)\b.*?</\1>", "", result.report.read_text(), flags=re.DOTALL)
    assert "answer begins" in body
    assert "visual" not in body


def test_null_models_take_the_trace_that_there_is_and_no_other(pair, problems):
    how = {"draws": 1, "kinds": ("permuted",), "bins": 2, "resamples": 20}
    traced, seen = wb.trace(pair, problems), []
    found = wb.weight_nulls(pair, problems, traced=traced, progress=lambda what, *_: seen.append(what), **how)
    assert {*seen} == {"permuted 1"}
    alone = wb.weight_nulls(pair, problems, **how)
    pd.testing.assert_frame_equal(found.table, alone.table, rtol=1e-3)
    with pytest.raises(InputError, match="`traced` has 3 prompts, expected the same 2"):
        wb.weight_nulls(pair, problems[:2], traced=traced, **how)
    with pytest.raises(InputError, match="`traced` has 1 layers, expected all 3"):
        wb.weight_nulls(pair, problems, traced=wb.trace(pair, problems, layers=[1]), **how)


@pytest.mark.parametrize("name", MADE)
def test_an_analysis_shows_what_there_is(name, given, tmp_path):
    (one,) = find_analyses(names=[name])
    found, _ = one.make(given, tmp_path, images=())
    assert len(found.table) > 0
    assert all(figure.data for figure in found.figures.values())
    told = " ".join(str(figure.layout.title.subtitle.text) for figure in found.figures.values())
    assert "visual" not in told


@pytest.mark.parametrize("name", LEFT_OUT)
def test_an_analysis_of_visual_tokens_says_that_there_are_none(name, given):
    (one,) = find_analyses(names=[name])
    with pytest.raises(Unsuited, match="needs visual tokens, and none of the problems has a picture"):
        one.analyse(given)


def test_all_figures_of_a_text_pair_are_no_failure(given, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    some = find_analyses(names=["radar", "table5_grid"])
    made, failed = cli._make(some, given, tmp_path, False, False, lambda *_: None)
    assert failed == []
    assert [line for line in made if "table5_grid: left out, replay needs visual tokens" in line]
    assert len(cli._make(some, given, tmp_path, False, True, lambda *_: None)[1]) == 1  # named


def test_smol_is_asked_its_own_problems():
    preset = pair_preset("smol")
    assert preset.problems == "sums"
    assert Options(pair="smol").problems == "sums"
    assert Options().problems == Options(pair="shapes").problems == "shapes"
    assert Options(pair="smol", problems="mine.tsv").problems == "mine.tsv"
    assert preset.study_settings == {"null_draws": 1, "null_models": 1, "answers": 9}
