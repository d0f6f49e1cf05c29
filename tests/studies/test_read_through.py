"""A LatentLens in explorer and study: the passages on the page, the part in the run folder, and what an interruption leaves."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import tiny
from browser import open_page
from synthetic import SCRIPT

import workbench as wb
from workbench.errors import InputError
from workbench.lens.neighbours import unit
from workbench.models.anatomy import dissect
from workbench.studies import read_through
from workbench.studies.explore import Explorer, explore
from workbench.studies.study import study
from workbench.tracing.latent_lens import LatentLens
from workbench.tracing.neighbours import read_neighbours
from workbench.tracing.readings import TunedLens, load_reading
from workbench.tracing.tuned_lens import Translators
from workbench.views.explorer_neighbours import passages
from workbench.views.tables import visible

SETTINGS = {"top_k": 3, "null_draws": 1, "bins": 2, "resamples": 20}
CORPUS = ["a red circle", f"two blue {SCRIPT} crosses", "red red red"]


@pytest.fixture(scope="module")
def problems():
    return [replace(tiny.problem("qwen2_5_vl"), id=f"tiny/{i}", question=f"shape {i}?") for i in range(3)]


@pytest.fixture(scope="module")
def lens(tiny_pair):
    return LatentLens.build(tiny_pair, CORPUS, skip=0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No PNG: the figures' own tests draw them."""
    monkeypatch.setattr("kaleido.write_fig_from_object_sync", lambda *a, **k: None)


@pytest.mark.browser
def test_the_page_shows_both_models_nearest_states(tiny_pair, problems, lens, browser, tmp_path):
    file = explore(tiny_pair, problems, reading=lens, followed=0, max_new_tokens=0).save(tmp_path / "e.html")
    near = read_neighbours(tiny_pair, problems, lens, k=8)
    page, trouble = open_page(browser, file)
    assert page.locator(".lens-title").inner_text().endswith("latent lens")
    page.locator(".picker").select_option("1")
    one, layer, position = near.select(prompt=1), 1, len(near.prompts[1]) - 1
    page.locator(f".words [data-position='{position}']").click()
    page.locator(f".through tr[data-layer='{layer}'] th button").click()
    for model, other in (("base", "rlvr"), ("rlvr", "base")):
        ids = {name: getattr(one, f"ids_{name}")[layer, position].tolist() for name in (model, other)}
        rows = page.locator(f".near.{model} li")
        assert rows.locator("b").all_inner_texts() == [visible(lens.tokens[i]) for i in ids[model]]
        cosines = getattr(one, f"cosines_{model}")[layer, position].tolist()
        assert rows.locator(".p").all_inner_texts() == [
            f"{cosine:.2f} · {int(lens.layer[i])}" for i, cosine in zip(ids[model], cosines, strict=True)
        ]
        alone = [i not in ids[other] for i in ids[model]]
        assert ["alone" in (row.get_attribute("class") or "") for row in rows.all()] == alone
    changed = 100 * (1 - float(one.overlap[layer, position]))
    assert float(page.locator(".readout h3 .muted").inner_text().split("%")[0]) == pytest.approx(changed)
    for measure in ("near", "overtaken"):
        page.locator(f"input[value={measure}] + span").click()
    assert page.locator(".legend").inner_text().endswith("states")
    assert SCRIPT not in file.read_text()
    assert trouble == []
    page.context.close()


@pytest.mark.browser
def test_without_text_states_the_page_has_none(tiny_pair, problems, browser, tmp_path):
    file = explore(tiny_pair, problems[:1], followed=0, max_new_tokens=0).save(tmp_path / "e.html")
    page, trouble = open_page(browser, file)
    assert page.locator(".near").count() == 0
    assert page.locator("input[value=near]").locator("..").is_hidden()
    assert trouble == []
    page.context.close()


def test_neighbours_of_what_an_intervention_leaves(tiny_pair, problems, lens):
    learned = [
        *wb.learn_many(tiny_pair, problems[:2], wb.Replay(layers=2, alpha=50.0, iterations=3, tau=0.99)),
        None,
    ]
    page = explore(tiny_pair, problems, reading=lens, interventions=learned, followed=0, max_new_tokens=0)
    plain = read_neighbours(tiny_pair, problems, lens, k=8)
    found = page.neighbours
    assert (found.cosines_base == plain.cosines_base).all()
    same = [
        bool((found.select(prompt=i).cosines_rlvr == plain.select(prompt=i).cosines_rlvr).all())
        for i in range(3)
    ]
    assert same == [False, False, True]


def test_a_passage_stands_at_its_place(lens):
    states = [i for i, context in enumerate(lens.context.tolist()) if lens.contexts[context] == "red red red"]
    rows = passages(lens, states)
    for state, (word, layer, before, after) in zip(states, rows, strict=True):
        assert (word, layer) == (visible(lens.tokens[state]), int(lens.layer[state]))
        assert (before + word + after).replace("␣", " ") == "red red red"
    last = max(states, key=lambda i: int(lens.position[i]))
    assert rows[states.index(last)][3] == ""
    bare = replace(lens, contexts=tuple("" for _ in lens.contexts))
    assert {(before, after) for _, _, before, after in passages(bare, states)} == {("", "")}


def test_a_study_has_a_part_for_text_states(tiny_pair, problems, lens, tmp_path, browser):
    other = replace(tiny_pair, rlvr=dissect(tiny.model("qwen2_5_vl", seed=5)), name="sft")
    found = study(tiny_pair, problems, tmp_path / "run", reading=lens, controls={"sft": other}, **SETTINGS)
    assert not found.skipped
    assert found.trace.reading == "logit lens"
    near = [claim for claim in found.claims if "nearest states" in claim.measured]
    assert {claim.place for claim in near} == {"section 3, entropy", "beside controls"}
    tables = {file.stem for file in (tmp_path / "run" / "tables").glob("*.csv")}
    assert {"neighbour_shift", "neighbour_fidelity"} <= tables
    spec = json.loads((tmp_path / "run" / "spec.json").read_text())
    assert spec["settings"]["reading"] == lens.described
    meanings = found.columns.set_index(["table", "column"])["meaning"]
    assert (meanings[["neighbour_shift", "neighbour_fidelity"]] != "").all()
    page, trouble = open_page(browser, found.report)
    assert page.locator("#reading h2").inner_text() == "Latent lens"
    assert page.locator("#explorer .near").count() == 2
    assert trouble == []
    page.context.close()


def test_what_was_read_is_not_read_again(tiny_pair, problems, lens, tmp_path, monkeypatch):
    monkeypatch.setattr(read_through, "SHARD", 2)
    whole = study(tiny_pair, problems, tmp_path / "whole", reading=lens, **SETTINGS)

    def stop(what, done, total):
        if what == "nearest text states" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(tiny_pair, problems, tmp_path / "broken", reading=lens, **SETTINGS, progress=stop)
    read, real = [], read_through.read_neighbours
    monkeypatch.setattr(
        read_through,
        "read_neighbours",
        lambda p, part, *a, **k: read.append(len(part)) or real(p, part, *a, **k),
    )
    resumed = study(tiny_pair, problems, tmp_path / "broken", reading=lens, **SETTINGS)
    assert read == [1]
    pd.testing.assert_frame_equal(resumed.reading.shift.table, whole.reading.shift.table)


def test_beside_a_tuned_lens_stands_its_fidelity(tiny_pair, problems, tmp_path):
    tuned = TunedLens(Translators.identity(tiny.LAYERS, tiny.HIDDEN))
    found = study(tiny_pair, problems, tmp_path / "run", reading=tuned, **SETTINGS)
    table = found.reading.fidelity
    assert set(table["reading"]) == {"logit lens", "tuned lens"}
    by_name = {name: rows["kl"].to_numpy() for name, rows in table.groupby("reading")}
    assert by_name["tuned lens"] == pytest.approx(by_name["logit lens"], abs=1e-6)
    assert "How far it is from what each model goes on to predict" in found.report.read_text()


def test_a_folder_tells_which_reading_it_holds(lens, tmp_path):
    lens.save(tmp_path / "states")
    assert isinstance(load_reading(tmp_path / "states"), LatentLens)
    TunedLens(Translators.identity(2, 8)).save(tmp_path / "tuned")
    assert isinstance(load_reading(tmp_path / "tuned"), TunedLens)
    (tmp_path / "index" / "layer_1").mkdir(parents=True)
    (tmp_path / "index" / "layer_1" / "embeddings_cache.pt").write_bytes(b"no")
    with pytest.raises(InputError, match=r"layer_1/embeddings_cache\.pt holds more than tensors"):
        load_reading(tmp_path / "index")


def test_what_does_not_fit_is_refused_before_any_work(tiny_pair, problems, lens, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.studies.study.trace", lambda *a, **k: pytest.fail("traced"))
    monkeypatch.setattr("workbench.studies.explore.trace", lambda *a, **k: pytest.fail("traced"))
    narrow = replace(lens, states=unit(lens.states[:, :4]))
    with pytest.raises(InputError, match="states of width 4"):
        study(tiny_pair, problems, tmp_path / "run", reading=narrow)
    with pytest.raises(InputError, match="states of width 4"):
        explore(tiny_pair, problems, reading=narrow)
    near = read_neighbours(tiny_pair, problems[:1], lens, k=2)
    monkeypatch.undo()
    traced = wb.trace(tiny_pair, problems[1:])
    with pytest.raises(InputError, match="prompt 0 is 'tiny/0', expected 'tiny/1'"):
        Explorer(traced, neighbours=near)
