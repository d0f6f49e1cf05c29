"""The cards: right by an independent count, worded in several ways, no hand in two splits, cells as they are drawn."""

import re

import numpy as np
import pytest

from workbench import load_problems
from workbench.errors import InputError
from workbench.problems import answers, cards

SPLITS = ("train", "validation", "test")
COUNT = 30 * len(cards.FAMILIES)


def drawn(split: str, count: int = COUNT) -> list[tuple[cards.Question, cards.Hand]]:
    return [(question, hand) for question, _, hand in (cards.draw(split, 0, index) for index in range(count))]


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_those_of_the_words_and_the_cells(split):
    """From the text and the cells' words alone, by rules written apart from the generator."""
    for question, hand in drawn(split):
        cells = [cell.split() for row in hand.words for cell in row if cell]
        asked = [int(digit) for color, digit in cells if re.search(rf"\b{color}\b", question.text)]
        rules = {
            r"minus|[Hh]ow far apart|[Ss]ubtract": max(asked) - min(asked),
            r"[Ll]argest|[Hh]ighest": max(asked),
            r"[Hh]ow many|[Cc]ount|[Nn]umber of": len(asked),
            r"multiply|Multiply|product": int(np.prod(asked)),
            r"[Aa]dd|sum|together": sum(asked),
        }
        answer = next(value for pattern, value in rules.items() if re.search(pattern, question.text))
        chain, found = cards.solution(question, hand)
        assert found == answer, (question.text, cells)
        assert chain.endswith(f"The answer is {answer}.")
        assert answers.verify(chain, str(answer), "numeric").correct
        assert sorted(asked) == sorted(digits_read(chain))
        check_operations(chain)


def digits_read(chain: str) -> list[int]:
    return [int(d) for said in re.findall(r"cards? says? ([^.]+)\.", chain) for d in re.findall(r"\d", said)]


def check_operations(chain: str) -> None:
    for a, sign, b, value in re.findall(r"(\d+) ([+*-]) (\d+) = (-?\d+)\.", chain):
        assert int(value) == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]


def test_wrong_chains_misread_one_card_and_work_right_from_there():
    for index in range(COUNT):
        question, _, hand = cards.draw("train", 0, index)
        right, answer = cards.solution(question, hand)
        wrong = cards.mistaken(question, hand, np.random.default_rng(index))
        assert not answers.verify(wrong, str(answer), "numeric").correct, wrong
        check_operations(wrong)
        read, seen = digits_read(right), digits_read(wrong)
        if question.family == "count":
            assert abs(len(read) - len(seen)) == 1
        else:
            assert len(read) == len(seen)
            assert sum(digit not in read for digit in seen) <= 1


def test_splits_share_no_hand():
    hands = {
        split: {frozenset(cell for row in hand.words for cell in row if cell) for _, hand in drawn(split)}
        for split in SPLITS
    }
    for a, b in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not hands[a] & hands[b]
    _, _, hand = cards.draw("test", 0, 0)
    moved = cards.Hand(np.roll(hand.color, 1, 1), np.roll(hand.digit, 1, 1))
    assert cards.split_of(hand) == cards.split_of(moved) == "test"


def test_a_hand_has_three_to_eight_cards_none_twice():
    sizes = set()
    for _, hand in drawn("train"):
        cells = [cell for row in hand.words for cell in row if cell]
        assert len(cells) == len({*cells})
        sizes.add(len(cells))
        assert np.array_equal(hand.color < 0, hand.digit == 0)
    assert sizes == set(range(3, 9))


def test_a_card_is_where_its_cell_says_and_has_its_color():
    for index in range(12):
        _, picture, hand = cards.draw("train", 0, index)
        assert picture.shape == (112, 112, 3)
        paints = np.array([*cards.COLORS.values()])
        for row in range(4):
            for column in range(4):
                cell = picture[row * 28 : row * 28 + 28, column * 28 : column * 28 + 28].reshape(-1, 3)
                colored = cell[np.ptp(cell.astype(int), axis=1) > 55]
                if not hand.digit[row, column]:
                    assert len(colored) < 8
                    continue
                nearest = np.linalg.norm(np.median(colored, 0) - paints, axis=1).argmin()
                assert nearest == hand.color[row, column]


def test_every_family_is_worded_in_several_ways():
    for place, family in enumerate(cards.FAMILIES):
        texts = {
            re.sub(
                "|".join(cards.COLORS), "_", cards.draw("train", 0, place + i * len(cards.FAMILIES))[0].text
            )
            for i in range(40)
        }
        assert len(texts) >= 3, family


def test_problems_are_pure_numeric_and_tell_their_cells():
    problems = load_problems("cards", split="test", limit=12)
    again = load_problems("cards", split="test", limit=6)
    assert [p.fingerprint for p in problems[:6]] == [p.fingerprint for p in again]
    assert {p.family for p in again} == set(cards.FAMILIES)
    assert all(p.verifier == "numeric" and len(p.images) == 1 and p.metadata["wrong"] for p in problems)
    assert problems[0].metadata["cells"] == cards.draw("test", 0, 0)[2].words
    assert problems[0].question != load_problems("cards", split="test", limit=1, seed=1)[0].question


def test_unknown_splits_are_refused_at_once():
    with pytest.raises(InputError, match=r"`split` is 'dev'; `cards` has train, validation, test"):
        cards.problems("dev")
