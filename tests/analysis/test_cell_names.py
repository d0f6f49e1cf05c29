"""Cells named by readings: right and chance by hand, on the bundled pair and on words that are made up."""

from dataclasses import replace

import numpy as np
import pytest

import workbench as wb
from workbench.analysis.cell_names import cell_names, naming_claims
from workbench.errors import InputError
from workbench.problems.shapes_contents import contents
from workbench.tracing.latent_lens import LatentLens

FAST = {"resamples": 50}


@pytest.fixture(scope="module")
def pair():
    return wb.load_pair("shapes")


@pytest.fixture(scope="module")
def problems():
    return wb.load_problems("shapes", limit=8)


@pytest.fixture(scope="module")
def traced(pair, problems):
    return wb.trace(pair, problems, top_k=3, null_draws=1)


@pytest.fixture(scope="module")
def boards(problems):
    return {problem.id: contents(problem.id) for problem in problems}


def test_contents_are_what_the_board_and_the_reference_say(problems, boards):
    for problem in problems:
        board = boards[problem.id]
        assert [[bool(cell) for cell in row] for row in board] == problem.metadata["occupied"]
    # "red green a red 1 none teal red 2 b ...": the chain of the second reads the colors row by row.
    chain = problems[1].metadata["chain"]
    row = [word for word in chain.split(" a ")[1].split(" b ")[0].split() if not word.isdigit()]
    assert len(row) == 4
    for word, cell in zip(row, boards[problems[1].id][0], strict=True):
        assert word in cell if cell else word == "none"
    with pytest.raises(InputError, match="expected that of a shapes or cards problem"):
        contents("sums/test/0/0")


def by_hand(traced, boards, layer, model, words):
    """Right and chance of one layer, cell by cell, in plain Python."""
    cells = []
    for place in range(len(traced.prompt)):
        row, column = traced.grid[place, 1:].tolist()
        if row < 0 or not (shown := boards[traced.prompts[traced.prompt[place]].problem_id][row][column]):
            continue
        ids = getattr(traced, f"top_ids_{model}")[layer, place, :words].tolist()
        cells.append((shown, {traced.vocabulary[i].strip().lower() for i in ids}))
    right = np.mean([bool(shown & said) for shown, said in cells])
    chance = np.mean([bool(other & said) for _, said in cells for other, _ in cells])
    return right, chance, len(cells)


def test_right_and_chance_are_those_of_counting_by_hand(traced, boards):
    table = cell_names({"logit lens": traced}, boards, k=3, **FAST).set_index(["model", "layer", "words"])
    for model in ("base", "rlvr"):
        for layer, words in ((0, 1), (5, 3), (7, 1)):
            right, chance, cells = by_hand(traced, boards, layer, model, words)
            row = table.loc[(model, layer, words)]
            assert row["cells"] == cells
            np.testing.assert_allclose([row["right"], row["chance"]], [right, chance], atol=1e-6)
            np.testing.assert_allclose(row["beyond"], right - chance, atol=1e-6)
    change = table.loc["change"]["beyond"] - (table.loc["rlvr"]["beyond"] - table.loc["base"]["beyond"])
    assert change.abs().max() < 1e-6


def with_words(traced, boards, say):
    """The trace with made-up first words: ``say(shown)`` at each cell."""
    vocabulary = {
        **traced.vocabulary,
        **{900 + i: word for i, word in enumerate(["red", "green", "blue", "yellow", "teal"])},
    }
    numbers = {word: i for i, word in vocabulary.items() if i >= 900}
    ids = traced.top_ids_base.clone()
    for place in range(len(traced.prompt)):
        row, column = traced.grid[place, 1:].tolist()
        shown = boards[traced.prompts[traced.prompt[place]].problem_id][row][column] if row >= 0 else ()
        if shown:
            ids[:, place, 0] = numbers[say(shown)]
    return replace(traced, top_ids_base=ids, vocabulary=vocabulary)


def test_the_truth_is_right_and_one_word_everywhere_is_chance(traced, boards):
    def color(shown):
        return next(word for word in shown if word in ("red", "green", "blue", "yellow", "teal"))

    true = cell_names({"x": with_words(traced, boards, color)}, boards, k=1, **FAST)
    assert (true.query("model == 'base'")["right"] == 1).all()
    assert (true.query("model == 'base'")["beyond_low"] > 0).all()
    constant = cell_names({"x": with_words(traced, boards, lambda _: "red")}, boards, k=1, **FAST).query(
        "model == 'base'"
    )
    np.testing.assert_allclose(constant["right"], constant["chance"], atol=1e-6)
    assert constant["right"].iloc[0] > 0


def test_claims_of_naming_are_the_tables_means_over_layers(traced, boards):
    def color(shown):
        return next(word for word in shown if word in ("red", "green", "blue", "yellow", "teal"))

    read = {"logit lens": traced, "all right": with_words(traced, boards, color)}
    claims = {claim.measured.split(", cells")[0]: claim for claim in naming_claims(read, boards, **FAST)}
    table = cell_names(read, boards, k=1, **FAST)
    below = table.loc[table["layer"] < table["layer"].max()]
    means = 100 * below.groupby(["reading", "model"])["beyond"].mean()
    expected = {
        "all right − logit lens, base": means["all right", "base"] - means["logit lens", "base"],
        "logit lens, rlvr − base": means["logit lens", "change"],
        "all right, rlvr − base": means["all right", "change"],
    }
    assert {name: claim.interval.estimate for name, claim in claims.items()} == pytest.approx(
        expected, abs=1e-4
    )
    assert (
        claims["all right − logit lens, base"].interval.low
        > 0
        > claims["all right, rlvr − base"].interval.high
    )
    with pytest.raises(InputError, match="`plain` is 'none', which is not among"):
        naming_claims(read, boards, plain="none")


def test_two_readings_that_name_nothing_differ_by_what_few_cells_allow_in_points(traced, boards):
    mute = replace(traced, vocabulary=dict.fromkeys(traced.vocabulary, "?"))
    (claim, *_) = naming_claims({"logit lens": mute, "other": mute}, boards, **FAST)
    assert claim.interval.estimate == 0
    # None of 8 problems where it could have happened: an interval of percents, not of thousandths.
    assert 10 < claim.interval.high < 60
    assert claim.interval.low == -claim.interval.high


def test_neighbours_are_judged_alike(pair, problems, traced, boards):
    lens = LatentLens.build(
        pair, [problem.metadata["chain"] for problem in wb.load_problems("shapes", split="train", limit=8)]
    )
    found = wb.read_neighbours(pair, problems, lens, k=3, null_draws=1)
    table = cell_names({"logit lens": traced, "latent lens": found}, boards, k=3, **FAST)
    assert set(table["reading"]) == {"logit lens", "latent lens"}


def test_bad_input_is_refused(traced, boards):
    with pytest.raises(InputError, match="`read` is empty"):
        cell_names({}, boards)
    with pytest.raises(InputError, match="`k` is 4, but 3 words"):
        cell_names({"x": traced}, boards, k=4)
    with pytest.raises(InputError, match="is a board of None"):
        cell_names({"x": traced}, {})
    with pytest.raises(InputError, match=r"is a board of \(2, 4\)"):
        cell_names({"x": traced}, {name: board[:2] for name, board in boards.items()}, k=1)
    empty = {name: [[frozenset()] * 4] * 4 for name in boards}
    with pytest.raises(InputError, match="show nothing at any cell"):
        cell_names({"x": traced}, empty, k=1)
