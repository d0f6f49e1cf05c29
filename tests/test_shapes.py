import re
from itertools import islice

import numpy as np
import pytest

from workbench import shapes
from workbench.errors import InputError


def boards(n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield shapes.sample_board(rng), rng


def test_a_problem_is_a_function_of_split_seed_and_index():
    first, again = shapes.problems("test", 10, seed=3), shapes.problems("test", 10, seed=3)
    assert [p["question"] for p in first] == [p["question"] for p in again]
    assert all(a["image"].tobytes() == b["image"].tobytes() for a, b in zip(first, again, strict=True))
    assert [p["id"] for p in first[:5]] == [p["id"] for p in shapes.problems("test", 5, seed=3)]


def test_splits_and_seeds_share_no_picture():
    pictures = [
        p["image"].tobytes() for s in shapes.SPLITS for seed in (0, 1) for p in shapes.problems(s, 10, seed)
    ]
    assert len(set(pictures)) == len(pictures)


def test_families_take_turns():
    assert [p["family"] for p in shapes.problems("test", 10)] == list(shapes.FAMILIES) * 2


@pytest.mark.parametrize("family", ["count", "sum", "difference"])
def test_counting_answers_agree_with_a_count_made_from_the_question(family):
    for board, rng in boards(60):
        question = shapes.ask(board, family, rng)
        assert question is not None
        region = next((r for r in shapes.REGIONS if r and r in question.text), "")
        window = shapes.REGIONS[region]
        words = re.findall(
            rf"(?:({'|'.join(shapes.COLORS)}) )?(shapes|{'|'.join(shapes.PLURALS.values())})", question.text
        )
        counts = []
        for color, noun in words:
            cells = [
                (list(shapes.COLORS)[c], shapes.PLURALS[shapes.SHAPES[s]])
                for c, s in zip(board.color[window].flat, board.shape[window].flat, strict=True)
                if c >= 0
            ]
            counts.append(sum(color in ("", c) and noun in ("shapes", s) for c, s in cells))
        expected = {"count": counts[0], "sum": sum(counts), "difference": abs(counts[0] - counts[-1])}[family]
        assert question.answer == str(expected)


def test_the_most_common_is_strictly_most_common():
    for board, rng in boards(40):
        question = shapes.ask(board, "compare", rng)
        if question is None:
            continue
        tally = {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", question.careful)}
        best = max(tally.values())
        assert tally[question.answer] == best
        assert sum(n == best for n in tally.values()) == 1


def test_lookup_reads_the_cell_it_names():
    for board, rng in boards(40):
        question = shapes.ask(board, "lookup", rng)
        assert question is not None
        place = re.search(r"row ([a-f]) column (\d)", question.text)
        assert place
        row, column = shapes.ROWS.index(place[1]), int(place[2]) - 1
        held = list(shapes.COLORS)[board.color[row, column]], shapes.SHAPES[board.shape[row, column]]
        assert question.answer in held


def test_an_empty_board_allows_no_lookup():
    nothing = np.full((shapes.BOARD, shapes.BOARD), -1)
    assert shapes.ask(shapes.Board(nothing, nothing), "lookup", np.random.default_rng(0)) is None


def test_both_chains_end_in_the_answer():
    for problem in shapes.problems("train", 20):
        assert problem["chain"].endswith(f"<answer> {problem['answer']}</answer>")
    question = shapes.Question("count", "?", "3", "by number red shapes 3", "about 3")
    assert question.response("hasty") == "<think> about 3</think><answer> 3</answer>"


def test_no_constant_answer_pays():
    for family in ("count", "sum", "difference"):
        answers = [p["answer"] for p in shapes.problems("test", 500) if p["family"] == family]
        assert max(answers.count(a) for a in set(answers)) / len(answers) < 0.35


def test_shapes_are_drawn_where_the_board_says():
    for board, rng in islice(boards(5, seed=2), 5):
        picture = shapes.render(board, rng).astype(float)
        assert picture.shape == (shapes.SIDE, shapes.SIDE, 3)
        cells = picture.reshape(shapes.BOARD, shapes.CELL, shapes.BOARD, shapes.CELL, 3).std((1, 3)).mean(-1)
        filled = board.color >= 0
        assert cells[filled].min() > cells[~filled].max(initial=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dev", 3), r"`split` is 'dev'; `shapes` has train, validation, test: load_problems"),
        (("test", 0), r"`limit` is 0; expected at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        shapes.problems(*arguments)
