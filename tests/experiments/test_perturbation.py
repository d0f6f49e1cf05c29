"""The perturbation study: drift and nats as computed by hand, any batch, kept shards, both kinds of responses, refusals."""

import numpy as np
import pytest
import tiny
import torch

import workbench as wb
from workbench.errors import InputError
from workbench.experiments import perturbation
from workbench.experiments.ablation import ablate
from workbench.experiments.drift import low_cells
from workbench.experiments.perturbation import Perturbation, perturb
from workbench.models.prompts import TokenKind
from workbench.replay.disturbances import DEFAULT_DISTURBANCES, KINDS, Disturbance, EmbeddingNoise, disturb
from workbench.tracing.residuals import read_residuals
from workbench.views import perturbation_figures
from workbench.views.tables import NothingToDraw

HOW = [Disturbance("embeddings", 0.5), Disturbance("pixels", 0.3)]
SETTINGS = {"draws": 2, "resamples": 20}
SAID = {"chain": "<answer> 3</answer>", "wrong": "<answer> 14</answer>"}


def numbers(table):
    return table[["drift_low", "drift_high", "nats_correct", "nats_incorrect"]].to_numpy(float)


@pytest.fixture(scope="module")
def problems():
    return [tiny.problem(seed=i, images=1 + (i == 2), metadata=SAID) for i in range(4)]


@pytest.fixture(scope="module")
def found(tiny_pair, problems) -> Perturbation:
    return perturb(tiny_pair, problems, HOW, **SETTINGS)


def test_every_problem_has_every_draw_in_both_scopes(found, problems):
    table = found.table
    assert list(table.columns) == list(perturbation.COLUMNS)
    assert len(table) == 2 * len(problems) * (1 + 2 * len(HOW))
    clean = table[table["draw"] == 0]
    assert set(clean["kind"]) == {"none"}
    assert (clean["strength"] == 0).all()
    assert len(clean) == 2 * len(problems)
    assert np.isfinite(numbers(table)).all()
    assert set(table["tokens_correct"]) == {len(SAID["chain"])}
    assert set(table["tokens_incorrect"]) == {len(SAID["wrong"])}
    assert (table.groupby(["problem", "kind", "draw"])["nats_correct"].nunique() == 1).all()
    assert table.groupby("problem")["drift_low"].nunique().min() == 2 * (1 + 2 * len(HOW))


def test_the_undisturbed_drift_is_that_of_ablations(tiny_pair, problems, found):
    drift = ablate(tiny_pair, problems, {}, samples=1, max_new_tokens=1, resamples=2).drift
    clean = found.table[found.table["draw"] == 0].groupby("scope")[["drift_low", "drift_high"]].mean()
    for row in drift.itertuples():
        assert clean.loc[row.scope, f"drift_{row.stratum}"] == pytest.approx(row.kl, rel=1e-5)


@pytest.mark.parametrize("reference", ["clean", "disturbed"])
@pytest.mark.parametrize("how", HOW)
def test_drift_is_the_textbooks(tiny_pair, problems, how, reference):
    table = perturb(tiny_pair, problems[2:3], [how], **SETTINGS, reference=reference).table
    problem, draw, seed = problems[2], 2, 0
    clean = tiny_pair.encode(problem)
    visual = clean.kinds == TokenKind.VISUAL
    shown, write = clean, {}
    if how.kind == "embeddings":
        noise = EmbeddingNoise.of(clean, how.strength, how.seed(seed, problem.id, draw))
        write = {0: lambda hidden: noise.apply(0, hidden[0])[None]}
    else:
        shown = tiny_pair.encode(disturb(problem, clean, how, seed, draw))

    def log_p(anatomy, prompt, write):
        read = read_residuals(anatomy, prompt.model_inputs, write=write)
        with torch.no_grad():
            return torch.stack([anatomy.logits(h[0, visual]) for h in read.values()]).double().log_softmax(-1)

    calm = log_p(tiny_pair.base, clean, {})
    low = low_cells(tiny_pair, clean, -(calm.exp() * calm).sum(-1))
    base = calm if reference == "clean" else log_p(tiny_pair.base, shown, write)
    kl = (base.exp() * (base - log_p(tiny_pair.rlvr, shown, write))).sum(-1)
    row = table[(table["draw"] == draw) & (table["scope"] == "without last layer")].iloc[0]
    assert row["drift_low"] == pytest.approx(kl[:-1][low[:-1]].mean().item(), rel=1e-4)
    assert row["drift_high"] == pytest.approx(kl[:-1][~low[:-1]].mean().item(), rel=1e-4)
    last = table[(table["draw"] == draw) & (table["scope"] == "last layer")].iloc[0]
    assert last["drift_low"] == pytest.approx(kl[-1][low[-1]].mean().item(), rel=1e-4)


def test_batches_and_neighbours_change_nothing(tiny_pair, problems, found):
    alone = perturb(tiny_pair, problems, HOW, **SETTINGS, batch_size=1).table
    order = ["problem", "kind", "strength", "draw", "scope"]
    sides = [t.sort_values(order, ignore_index=True) for t in (found.table, alone)]
    assert sides[0][order].equals(sides[1][order])
    assert np.allclose(*map(numbers, sides), rtol=1e-4, atol=2e-5)
    fewer = perturb(tiny_pair, problems[1:3], HOW[1:], **SETTINGS).table
    same = found.table[found.table["problem"].isin(["p1", "p2"]) & (found.table["kind"] != "embeddings")]
    sides = [t.sort_values(order, ignore_index=True) for t in (same, fewer)]
    assert np.allclose(*map(numbers, sides), rtol=1e-4, atol=2e-5)


def test_strength_zero_is_the_undisturbed_input_and_seeds_matter(tiny_pair, problems, found):
    nothing = [Disturbance(kind, 0.0) for kind in ("pixels", "embeddings", "patches")]
    table = perturb(tiny_pair, problems[:2], nothing, draws=1, resamples=2).table
    for _, part in table.groupby(["problem", "scope"]):
        assert np.allclose(numbers(part), numbers(part[part["draw"] == 0]), atol=1e-6)
    other = perturb(tiny_pair, problems[:1], HOW, **SETTINGS, seed=1).table
    mine = found.table[found.table["problem"] == "p0"]
    moved = np.abs(numbers(other) - numbers(mine)).max(1)
    assert (moved[other["draw"] > 0] > 1e-4).all()
    assert moved[other["draw"] == 0].max() < 2e-5


def test_a_kept_study_goes_on_where_it_stopped(tiny_pair, problems, tmp_path, monkeypatch):
    monkeypatch.setattr(perturbation, "SHARD", 2)
    seen = []
    first = perturb(
        tiny_pair, problems, HOW[:1], **SETTINGS, keep=tmp_path, progress=lambda *at: seen.append(at)
    )
    assert seen == [(2, 4), (4, 4)]
    calls, whole = [], perturbation._run
    monkeypatch.setattr(perturbation, "_run", lambda *args: calls.append(args) or whole(*args))
    again = perturb(tiny_pair, problems, HOW[:1], **SETTINGS, keep=tmp_path)
    assert not calls
    assert again.table.equals(first.table)
    perturb(tiny_pair, problems[:2], HOW[:1], draws=1, resamples=2, keep=tmp_path)
    assert len(calls) == 1
    assert not list(tmp_path.glob("*.partial"))


@pytest.fixture(scope="module")
def bundled():
    return wb.load_pair("shapes", device="cpu"), wb.load_problems("shapes", limit=6)


def test_the_bundled_pair_finds_right_responses_likelier(bundled):
    pair, problems = bundled
    result = wb.perturb(pair, problems[:3], [Disturbance("embeddings", 3.0)], draws=1, resamples=20)
    table = result.table[result.table["scope"] == "last layer"]
    clean = table[table["draw"] == 0]
    assert (clean["nats_correct"] < 0.5).all()
    assert (clean["nats_incorrect"] > clean["nats_correct"]).all()
    noisy = table[table["draw"] == 1]
    assert noisy["nats_correct"].mean() > clean["nats_correct"].mean() + 0.2


def test_sampled_responses_are_the_first_right_and_the_first_wrong_one(bundled):
    pair, problems = bundled
    settings = {"responses": "sampled", "samples": 6, "max_new_tokens": 64, "seed": 1, "batch_size": 8}
    prompts = [pair.encode(problem) for problem in problems]
    chosen = perturbation._responses(pair, problems, prompts, settings)
    kept = [i for i, texts in enumerate(chosen) if texts]
    assert 0 < len(kept) < len(problems)
    sampled = wb.decode_many(pair, prompts, samples=6, temperature=1.0, seed=1, max_new_tokens=64)
    for i in kept:
        right = [
            perturbation.verify(r.text, problems[i].answer, problems[i].verifier).correct for r in sampled[i]
        ]
        texts = [r.text for r in sampled[i]]
        assert chosen[i] == (texts[right.index(True)], texts[right.index(False)])
    result = perturb(
        pair,
        problems,
        [Disturbance("patches", 0.5)],
        draws=1,
        responses="sampled",
        samples=6,
        max_new_tokens=64,
        seed=1,
        resamples=5,
    )
    assert result.left_out == len(problems) - len(kept)
    assert set(result.table["problem"]) == {problems[i].id for i in kept}
    assert f"{result.left_out} left out" in repr(result)


def test_samples_that_are_all_wrong_are_refused(tiny_pair, problems):
    with pytest.raises(
        InputError, match=r"found a right and a wrong response among 2 samples for none of the 4"
    ):
        perturb(tiny_pair, problems, HOW, responses="sampled", samples=2, max_new_tokens=2)


def test_one_problem_has_slopes_but_no_intervals(tiny_pair, problems):
    alone = perturb(tiny_pair, problems[:1], HOW[:1], **SETTINGS)
    assert alone.slopes[["slope_low", "slope_high"]].isna().all(axis=None)
    assert "has too few problems (one problem, so no interval)" in alone.verdict
    assert {v.holds for v in alone.verdicts} == {None}


def test_it_shows_and_draws_itself(found):
    assert "Perturbation(4 problems, 20 inputs)\nPerturbation claim" in repr(found)
    assert "<details>" in found._repr_html_()
    assert found.claims().count("\n") == len(found.verdicts) - 1
    assert set(found.tables()) == {"perturbation", "perturbation_slopes", "perturbation_per_problem"}
    copy = found.to_dataframe()
    copy["kind"] = "x"
    assert "x" not in set(found.table["kind"])
    figure = found.plot()
    points = [t for t in figure.data if t.mode == "markers"]
    assert len(points) == 4
    assert all(1 < len(t.x) <= 20 and list(t.x) == sorted(t.x) for t in points)  # medians of parts, by drift
    low = found.table.loc[found.table["scope"] == "without last layer"].dropna(subset=["drift_low"])
    drift = low["drift_low"] - low.groupby("problem")["drift_low"].transform("mean")
    assert points[0].x[0] == pytest.approx(np.median(np.array_split(np.sort(drift), len(points[0].x))[0]))
    lines = [t for t in figure.data if t.mode == "lines" and t.name]
    chosen = found.slopes[
        (found.slopes["kind"] == "all")
        & (found.slopes["scope"] == "without last layer")
        & (found.slopes["method"] == "within")
        & (found.slopes["fit"] == "alone")
    ].set_index(["stratum", "outcome"])["slope"]
    assert lines[0].y[1] / lines[0].x[1] == pytest.approx(chosen["low", "correct"])
    assert "4 problems, 20 inputs" in figure.layout.title.subtitle.text
    forest = found.plot_slopes()
    shown = [t for t in forest.data if t.mode == "markers"]
    assert len(shown) == 3 * 4
    assert shown[0].x[-1] == pytest.approx(chosen["low", "correct"])
    assert list(forest.layout.yaxis.ticktext) == ["pixels", "embeddings", "all kinds"]
    with pytest.raises(NothingToDraw, match="no draws of kind 'colour'"):
        found.plot(kind="colour")
    with pytest.raises(NothingToDraw, match="none by method 'guess'"):
        perturbation_figures.slope_forest(found.slopes, method="guess")


def test_names_and_defaults():
    from workbench.experiments.ablation import perturb as again

    assert again is wb.perturb is perturb
    assert wb.Disturbance is Disturbance
    assert wb.Perturbation is Perturbation
    assert {how.kind for how in DEFAULT_DISTURBANCES} == set(KINDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": []}, r"`problems` is empty; give at least one: perturb\(pair"),
        ({"problems": [tiny.problem(images=0, metadata=SAID)]}, "`problems`: 'p0' has no image to disturb"),
        (
            {"problems": [tiny.problem()]},
            r"'p0' has no reference response \(metadata 'chain'\); .*responses='sampled'",
        ),
        (
            {"problems": [tiny.problem(metadata={"chain": "3"})]},
            r"'p0' has no reference response \(metadata 'wrong'\)",
        ),
        (
            {"problems": [tiny.problem(answer=None)], "responses": "sampled"},
            "'p0' has no answer to verify samples with",
        ),
        ({"draws": 0}, r"`draws` is 0; expected at least 1: perturb\(pair, problems, draws=3\)"),
        ({"disturbances": []}, r"`disturbances` is \[\]; expected at least one Disturbance"),
        ({"disturbances": ["pixels"]}, r"`disturbances` is \['pixels'\]; expected at least one Disturbance"),
        ({"disturbances": [HOW[0], HOW[0]]}, "`disturbances` holds one twice"),
        ({"reference": "noisy"}, "`reference` is 'noisy'; expected 'clean' or 'disturbed'"),
        ({"responses": "both"}, "`responses` is 'both'; expected 'reference' or 'sampled'"),
        ({"samples": 0}, "`samples` is 0; expected at least 1"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(tiny_pair, problems, changes, message, monkeypatch):
    monkeypatch.setattr(perturbation, "_run", lambda *_: pytest.fail("ran"))
    with pytest.raises(InputError, match=message):
        perturb(tiny_pair, **{"problems": problems, "disturbances": HOW, **SETTINGS, **changes})
