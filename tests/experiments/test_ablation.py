"""Ablations: every condition answered and verified, drift, resuming, what is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny

from workbench.errors import InputError
from workbench.experiments import ablation as experiments
from workbench.experiments.ablation import Ablation, ablate, jittered
from workbench.interventions import default_matrix
from workbench.replay.patching import Patch
from workbench.replay.replay import Replay
from workbench.views import outcome_figures

SETTINGS = {"samples": 3, "max_new_tokens": 3, "resamples": 20}
TOKENS = Replay(layers=2, threshold="quantile", alpha=500.0, iterations=2)


@pytest.fixture(scope="module")
def problems():
    return [tiny.problem(seed=i) for i in range(3)]


@pytest.fixture(scope="module")
def matrix(tiny_pair, problems) -> Ablation:
    conditions = default_matrix(tiny_pair.depth, threshold="quantile", alpha=500.0, layers=2)
    conditions = {n: replace(c, iterations=2) if isinstance(c, Replay) else c for n, c in conditions.items()}
    return ablate(tiny_pair, problems, conditions, **SETTINGS)


def test_every_problem_is_answered_under_every_condition(matrix, problems):
    table = matrix.responses
    names = {"base", "rlvr", *default_matrix(28)}
    assert set(table["intervention"]) == names
    assert len(table) == len(names) * len(problems) * (1 + SETTINGS["samples"])
    assert set(table.columns) >= {
        "problem", "intervention", "sample", "answer", "correct", "tokens", "seconds", "seed", "how", "stopped"
    }  # fmt: skip
    assert (table["tokens"] <= 3).all()
    assert {"greedy", "Pass@1", "Pass@2"} == set(matrix.summary["measure"])


def test_plain_conditions_are_the_models_themselves(tiny_pair, problems, matrix):
    from workbench.decoding.decode import decode

    for name in ("base", "rlvr"):
        rows = matrix.responses[matrix.responses["intervention"] == name]
        for problem in problems:
            own = decode(tiny_pair, tiny_pair.encode(problem), model=name, max_new_tokens=3)[0].text
            assert rows[(rows["problem"] == problem.id) & (rows["sample"] == -1)]["text"].item() == own


def test_drift_before_is_that_of_the_plain_pair_and_patching_all_removes_it(tiny_pair, problems, matrix):
    drift = matrix.drift.set_index(["intervention", "scope", "stratum"])
    plain = drift.loc[("rlvr", "without last layer", "low")]
    assert plain["kl"] == plain["before"] > 0
    assert plain["change"] == 0
    low = drift.loc[("patch, low", "without last layer", "low")]
    assert low["before"] == pytest.approx(plain["kl"])
    assert low["change"] < 0
    whole = ablate(tiny_pair, problems, {"all": Patch(select="all", layers=3)}, **SETTINGS).drift
    after = whole[(whole["intervention"] == "all") & (whole["scope"] == "without last layer")]
    assert after["kl"].max() < 0.8 * plain["kl"]


def test_of_models_without_pictures_drift_is_at_text(pair_of, tiny_pair):
    problems = [tiny.problem("qwen2", seed=i) for i in range(2)]
    found = ablate(pair_of("qwen2"), problems, [Patch(layers=2)], **SETTINGS)
    assert {*found.drift["kind"]} == {"text"}
    assert (found.drift["before"] > 0).all()
    blind = ablate(tiny_pair, problems, [Patch(layers=2)], **SETTINGS)
    assert blind.drift.empty
    assert len(found.responses) == 3 * 2 * 4


@pytest.mark.parametrize("shard", [32, 1])
def test_problems_of_which_nothing_is_selected_are_answered_as_they_are(
    tiny_pair, problems, monkeypatch, shard
):
    monkeypatch.setattr(experiments, "SHARD", shard)
    some = Replay(layers=2, tau=0.95, alpha=500.0, iterations=2)  # of the last problem alone
    with pytest.warns(UserWarning, match="selects no visual position of 2 of 3 prompts") as told:
        rows = ablate(tiny_pair, problems, {"some": some}, **SETTINGS, batch_size=1).responses
    assert len([one for one in told if "selects no" in str(one.message)]) == 1
    found = {name: part.reset_index(drop=True) for name, part in rows.groupby("intervention")}
    empty = found["some"]["stopped"] == "nothing selected"
    assert set(found["some"].loc[empty, "problem"]) == {"p0", "p1"}
    assert found["some"].loc[empty, "text"].equals(found["rlvr"].loc[empty, "text"])
    with pytest.raises(
        InputError, match=r"`replay` selects no visual position of 3 of 3 prompts .*raise tau"
    ):
        ablate(tiny_pair, problems, [replace(some, tau=0.1)], **SETTINGS)
    none, every = replace(some, tau=0.1), replace(some, select="all")
    with pytest.warns(UserWarning, match="selects no visual position of 3 of 3 prompts"):
        found = ablate(tiny_pair, problems, {"none": none, "every": every}, **SETTINGS).responses
    assert (found.loc[found["intervention"] == "none", "stopped"] == "nothing selected").all()
    with pytest.warns(UserWarning, match="'p0' the first"), pytest.raises(InputError, match="3 of 3 prompts"):
        ablate(tiny_pair, problems, {"none": none, "less": replace(none, tau=0.05)}, **SETTINGS)


def test_a_kept_run_goes_on_where_it_stopped(tiny_pair, problems, tmp_path, monkeypatch):
    first = ablate(tiny_pair, problems, [TOKENS], **SETTINGS, keep=tmp_path)
    calls = []
    whole = experiments.measure
    monkeypatch.setattr(
        experiments, "measure", lambda *args, **how: calls.append(args) or whole(*args, **how)
    )
    again = ablate(tiny_pair, problems, [TOKENS], **SETTINGS, keep=tmp_path)
    assert not calls
    pd.testing.assert_frame_equal(first.summary, again.summary)
    ablate(tiny_pair, problems, [replace(TOKENS, alpha=1.0)], **SETTINGS, keep=tmp_path)
    assert len(calls) == 1
    other = [replace(p, video=(tiny.image(),)) for p in problems]  # the same questions, another picture
    ablate(tiny_pair, other, [], **SETTINGS, keep=tmp_path)
    assert len(calls) == 3
    assert not list(tmp_path.glob("*.partial"))


def test_jitter_is_seeded_small_and_changes_every_picture(tiny_pair):
    problem = tiny.problem(images=2)
    once, again, other = jittered(problem, 0), jittered(problem, 0), jittered(problem, 1)
    for before, a, b, c in zip(problem.images, once.images, again.images, other.images, strict=True):
        assert np.array_equal(a, b)
        assert not np.array_equal(a, c)
        assert a.size == before.size
        assert 0 < np.abs(np.asarray(a, float) - np.asarray(before, float)).mean() < 60


def test_results_show_and_draw_themselves(matrix):
    assert "13 conditions, 3 problems" in repr(matrix)
    assert "self-smoothing" in matrix._repr_html_()
    assert len(matrix.plot().data) == 2
    assert {t.name for t in outcome_figures.pass_at_k_curves(matrix.summary).data if t.name} >= {
        "base",
        "rlvr",
    }
    assert len(outcome_figures.drift_bars(matrix.drift).data) == 4
    with pytest.raises(InputError, match="`table` lacks kl, kl_low, kl_high"):
        outcome_figures.drift_bars(matrix.drift.drop(columns=["kl", "kl_low", "kl_high"]))


def test_conditions_name_themselves():
    named = experiments._named(
        [Replay(), Replay(select="high"), Patch(), Replay(tau=0.2), "rlvr", Replay(direction="reverse")]
    )
    assert list(named) == [
        "base",
        "rlvr",
        "tokens, low",
        "tokens, high",
        "patch, low",
        "tokens, low (3)",
        "reverse, low",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": []}, r"`problems` is empty; give at least one: ablate\(pair"),
        (
            {"problems": [tiny.problem(answer=None)]},
            "`problems`: 'p0' has no answer to verify responses with",
        ),
        (
            {"pass_at": (1, 8)},
            r"`samples` is 3 with `pass_at` \(1, 8\); Pass@K needs at least K samples: .*samples=8",
        ),
        ({"interventions": ["both"]}, "`interventions` has 'both'"),
        ({"interventions": [Replay(layers=9)]}, "`layers` is 9, but the models have 3 layers"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(tiny_pair, problems, changes, message, monkeypatch):
    monkeypatch.setattr(experiments, "measure", lambda *_: pytest.fail("ran"))
    with pytest.raises(InputError, match=message):
        ablate(tiny_pair, **{"problems": problems, "interventions": [TOKENS], **SETTINGS, **changes})
