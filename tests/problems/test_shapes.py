import hashlib
import re
from itertools import islice

import numpy as np
import pytest

from workbench.errors import InputError
from workbench.problems import shapes
from workbench.problems.problem import load_problems


def boards(n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield shapes.sample_board(rng), rng


def test_a_problem_is_a_function_of_split_seed_and_index():
    first, again = [*shapes.problems("test", 10, seed=3)], [*shapes.problems("test", 10, seed=3)]
    assert [p["question"] for p in first] == [p["question"] for p in again]
    assert all(a["image"].tobytes() == b["image"].tobytes() for a, b in zip(first, again, strict=True))
    assert [p["id"] for p in first[:5]] == [p["id"] for p in shapes.problems("test", 5, seed=3)]


def test_splits_and_seeds_share_no_picture():
    pictures = [
        p["image"].tobytes() for s in shapes.SPLITS for seed in (0, 1) for p in shapes.problems(s, 10, seed)
    ]
    assert len(set(pictures)) == len(pictures)


def test_families_take_turns():
    count = 2 * len(shapes.FAMILIES)
    assert [p["family"] for p in shapes.problems("test", count)] == list(shapes.FAMILIES) * 2


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


def test_a_tally_counts_every_color_or_shape():
    for board, rng in boards(40):
        question = shapes.ask(board, "tally", rng)
        assert question is not None
        region = next((r for r in shapes.REGIONS if r and r in question.text), "")
        names, held = [*shapes.COLORS], board.color[shapes.REGIONS[region]]
        if "each shape" in question.text:
            names, held = [*shapes.SHAPES], board.shape[shapes.REGIONS[region]]
        counts, first = ([int((part == i).sum()) for i in range(len(names))] for part in (held, held[0]))
        assert question.answer == " ".join(map(str, counts))
        assert question.guess == " ".join(map(str, first))
        assert question.careful.split()[1:] == [
            word for pair in zip(names, map(str, counts), strict=True) for word in pair
        ]


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


@pytest.mark.parametrize("family", ["count", "sum", "difference"])
def test_the_careful_chain_reads_rows_and_adds_up_and_the_hasty_one_sees_the_first_row(family):
    for board, rng in boards(60, seed=1):
        question = shapes.ask(board, family, rng)
        assert question is not None
        reading, working = question.careful.split(" so ")
        head, *rows = re.split(r" (?=[abcd] )", reading)
        asked, seen, running = head.split(), [], []
        for row in rows:
            letter, *said = row.split()
            names, held = [*shapes.COLORS], board.color[shapes.ROWS.index(letter)]
            if asked[0] in shapes.SHAPES:
                names, held = [*shapes.SHAPES], board.shape[shapes.ROWS.index(letter)]
            assert [w for w in said if not w.isdigit()] == ["none" if i < 0 else names[i] for i in held]
            for word, after in zip(said, [*said[1:], ""], strict=True):
                if not word.isdigit():
                    seen.append(word)
                    assert after == str(seen.count(word)) if word in asked else not after.isdigit()
            running.append([seen.count(name) for name in asked])
        combine = {"count": sum, "sum": sum, "difference": lambda n: max(n) - min(n)}[family]
        assert len(asked) == (1 if family == "count" else 2)
        assert sorted(int(n) for n in re.findall(r"\d+", working)) == sorted(running[-1])
        assert question.answer == str(combine(running[-1]))
        assert question.guess == str(combine(running[0]))
        assert sorted(int(n) for n in re.findall(r"\d+", question.hasty)) == sorted(running[0])


@pytest.mark.parametrize("family", ["compare", "lookup"])
def test_the_hasty_answer_is_the_first_shape_it_meets(family):
    for board, rng in boards(40, seed=2):
        question = shapes.ask(board, family, rng)
        if question is None:
            continue
        rows = next(
            (rows for region, rows in shapes.REGIONS.items() if region and region in question.text), None
        )
        place = re.search(r"row ([a-d])", question.text)
        if place:
            row = shapes.ROWS.index(place[1])
            rows = slice(row, row + 1)
        color, shape = (values[rows or slice(None)].ravel() for values in (board.color, board.shape))
        first = int(np.argmax(color >= 0))
        assert question.guess in (list(shapes.COLORS)[color[first]], shapes.SHAPES[shape[first]])
        assert question.hasty == f"about {question.guess}"


def test_a_response_holds_a_chain_and_what_it_leads_to():
    for problem in shapes.problems("train", 20):
        assert problem["chain"].endswith(f"<answer> {problem['answer']}</answer>")
    question = shapes.Question("count", "?", "3", "red 3", "about 1", "1")
    assert question.response() == "<think> red 3</think><answer> 3</answer>"
    assert question.response("hasty") == "<think> about 1</think><answer> 1</answer>"


def test_problems_are_those_that_the_bundled_pair_was_measured_on():
    digest = hashlib.sha256()
    for split in shapes.SPLITS:
        for problem in (*shapes.problems(split, 30, 0), *shapes.problems(split, 12, 5)):
            pinned = tuple(problem[k] for k in ("id", "question", "answer", "family", "tone", "chain"))
            digest.update(repr(pinned).encode() + problem["image"].tobytes())
    assert digest.hexdigest() == "bcee81398f45d61b232d774b92e5678cd3b79ee4b548d6a1f955aeb6cbdc7944"


@pytest.mark.parametrize("family", shapes.FAMILIES)
def test_the_wrong_response_errs_once_and_leads_to_its_own_answer(family):
    for board, rng in boards(60, seed=4):
        question = shapes.ask(board, family, rng)
        if question is None:
            continue
        wrong = shapes.mistaken(question, np.random.default_rng(7))
        assert wrong == shapes.mistaken(question, np.random.default_rng(7))
        assert wrong.answer != question.answer
        right, words = question.careful.split(), wrong.careful.split()
        if family == "lookup":
            assert [i for i, pair in enumerate(zip(right, words, strict=True)) if len({*pair}) > 1] == [
                len(right) - 1
            ]
            assert wrong.answer == words[-1] != "none"
        elif family in ("compare", "tally"):
            changed = [(int(a), int(b)) for a, b in zip(right, words, strict=True) if a != b]
            counts = dict(zip(words[1::2], map(int, words[2::2]), strict=True))
            if family == "tally":
                assert [abs(a - b) for a, b in changed] == [1]
                assert wrong.answer == " ".join(map(str, counts.values()))
            else:
                assert len(changed) == 2
                assert [n for n, count in counts.items() if count == max(counts.values())] == [wrong.answer]
        else:
            asked = right[: 1 if family == "count" else 2]
            cells = [[w for w in said if not w.isdigit()] for said in (right, words)]
            before, after = (said[len(asked) : said.index("so")] for said in cells)
            assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
            counts = [after.count(name) for name in asked]
            combine = {"count": sum, "sum": sum, "difference": lambda n: max(n) - min(n)}[family]
            assert wrong.answer == str(combine(counts))
            assert sorted(map(int, re.findall(r"\d+", wrong.careful.split(" so ")[1]))) == sorted(counts)


def test_every_problem_carries_a_wrong_response():
    for problem in shapes.problems("test", 24):
        assert problem["wrong"].startswith("<think> ")
        assert not problem["wrong"].endswith(f"<answer> {problem['answer']}</answer>")


def test_every_family_is_asked_in_every_tone():
    asked = {(p["family"], p["tone"]) for p in shapes.problems("test", 180)}
    assert asked == {(family, tone) for family in shapes.FAMILIES for tone in shapes.TONES}
    wordings = [text for texts in shapes.WORDINGS.values() for text in texts]
    assert len(set(wordings)) == len(wordings)


def test_a_row_is_read_aloud_cell_by_cell():
    for board, rng in boards(10):
        question = shapes.read_aloud(board, rng)
        row = shapes.ROWS.index(question.text[-2])
        said = re.split(r" ?\d ", question.answer)[1:]
        held = zip(board.color[row], board.shape[row], strict=True)
        assert said == [f"{list(shapes.COLORS)[c]} {shapes.SHAPES[s]}" if c >= 0 else "none" for c, s in held]


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


def test_loading_draws_one_at_a_time_and_says_how_far_it_is(monkeypatch):
    drawn, told = [], []
    real = shapes._record
    monkeypatch.setattr(shapes, "_record", lambda *a: drawn.append(a) or real(*a))
    load_problems("shapes", limit=3, progress=lambda done, total: told.append((done, total, len(drawn))))
    assert told == [(1, 3, 1), (2, 3, 2), (3, 3, 3)]
