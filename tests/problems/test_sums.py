"""The sums: right by an independent count, worded in several ways, no number pattern in two splits, made when asked for."""

import re

import numpy as np
import pytest

from workbench import load_problems
from workbench.errors import InputError
from workbench.problems import answers, sums

SPLITS = ("train", "validation", "test")
COUNT = 45 * len(sums.FAMILIES)


def drawn(split: str, count: int = COUNT) -> list[sums.Question]:
    return [sums.draw(split, 0, index) for index in range(count)]


@pytest.mark.parametrize("split", SPLITS)
def test_chains_lead_by_true_operations_to_the_answer(split):
    for question in drawn(split):
        chain, answer = question.chain()
        for a, sign, b, value in re.findall(r"(\d+) ([+*-]) (\d+) = (-?\d+)\.", chain):
            assert int(value) == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        assert chain.endswith(f"The answer is {answer}.")
        assert 1 <= answer <= 999
        assert answers.verify(chain, str(answer), "numeric").correct
        assert not answers.verify(chain, str(answer + 1), "numeric").correct


def test_answers_are_those_of_the_words():
    """Read from the text alone, by patterns written apart from the generator."""
    seen = set()
    for question in drawn("test", 30 * len(sums.FAMILIES)):
        n = [int(number) for number in re.findall(r"\d+", question.text)]
        assert question.values[-1] == by_words(question.family, question.text, n), question.text
        seen.add(question.family)
    assert seen == set(sums.FAMILIES)


def by_words(family: str, text: str, n: list[int]) -> int:
    """What a text with one of these phrases asks for, or what the family does."""
    rules = {
        r"What is \d+ \+ \d+ \*|Work out \d+ plus|^Add \d+ to": lambda: n[0] + n[1] * n[2],
        r"What is \d+ \* \d+ -|Work out \d+ times": lambda: n[0] * n[1] - n[2],
        r"^Take": lambda: n[1] * n[2] - n[0],
        r"more and then gives": lambda: n[0] + n[1] - n[2],
        r"brings \d+ back": lambda: n[0] - n[1] + n[2],
        r"do they have together": lambda: n[0] + n[0] + n[1],
        r"fills \d+ boxes": lambda: n[0] * n[1] + n[2],
        r"finds \d+ more, loses": lambda: n[0] + n[1] - n[2] + n[3],
        r"makes \d+ bags": lambda: n[0] * n[1] + n[2] + n[3],
        r"in a jar": lambda: n[0] + n[1] - n[2] + n[3],
        r"has \d+ boxes": lambda: n[0] * n[1] - n[2] + n[3],
        r"How much change": lambda: n[2] - n[0] * n[1],
        r"What do \d+ of the first": lambda: n[0] * n[2] + n[1],
        r"saves": lambda: n[0] * n[1] - n[2],
        r"A film takes": lambda: n[0] * 60 + n[1],
        r"rests for": lambda: n[0] * 60 - n[1],
        r"runs": lambda: n[0] * n[1] + n[2],
    }
    families = {"sum": sum, "difference": lambda n: abs(n[0] - n[1]), "product": np.prod, "largest": max}
    if family in families:
        return families[family](n)
    return next(rule() for pattern, rule in rules.items() if re.search(pattern, text))


def test_splits_share_no_number_pattern():
    patterns = {split: {tuple(sorted(q.numbers)) for q in drawn(split, 1800)} for split in SPLITS}
    for a, b in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not patterns[a] & patterns[b]
    assert all(sums.pattern_split(pattern) == split for split in SPLITS for pattern in patterns[split])
    assert sums.pattern_split([7, 12]) == sums.pattern_split([12, 7])


def test_the_numbers_named_are_those_of_the_text():
    for question in drawn("train"):
        told = {int(number) for number in re.findall(r"\d+", question.text)}
        assert {*question.numbers} - {60} <= told
        assert told <= {*question.numbers}


def test_every_family_is_worded_in_several_ways():
    for place, family in enumerate(sums.FAMILIES):
        texts = [
            re.sub(r"[A-Z]?[a-z]*\d+|\d+", "#", sums.draw("train", 0, place + i * len(sums.FAMILIES)).text)
            for i in range(40)
        ]
        names = re.compile("|".join((*sums.NAMES, *sums.THINGS, *sums.GOODS)))
        assert len({names.sub("_", text) for text in texts}) >= 3, family


def test_wrong_chains_are_wrong_by_one_operation():
    for index in range(COUNT):
        question = sums.draw("train", 0, index)
        wrong = sums.mistaken(question, np.random.default_rng(index))
        assert not answers.verify(wrong, str(question.values[-1]), "numeric").correct, wrong
        slips = [
            int(value) != {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
            for a, sign, b, value in re.findall(r"(\d+) ([+*-]) (-?\d+) = (-?\d+)\.", wrong)
        ]
        assert question.family == "largest" or sum(slips) == 1


def test_problems_are_pure_and_numeric():
    problems = load_problems("sums", split="test", limit=18)
    again = load_problems("sums", split="test", limit=9)
    assert [p.fingerprint for p in problems[:9]] == [p.fingerprint for p in again]
    assert {p.family for p in again} == set(sums.FAMILIES)
    assert all(p.verifier == "numeric" and not p.images and p.metadata["chain"] for p in problems)
    assert problems[0].question != load_problems("sums", split="test", limit=1, seed=1)[0].question


def test_a_large_set_is_made_when_it_is_asked_for_and_a_huge_one_refused():
    with pytest.raises(InputError, match="`limit` is 1,000,000,000; `sums` gives at most 100,000"):
        load_problems("sums", limit=10**9)
    records = sums.problems("train", sums.MOST)
    assert next(records)["id"] == "sums/train/0/0"
    assert next(records)["id"] == "sums/train/0/1"


def test_unknown_splits_are_refused_at_once():
    with pytest.raises(InputError, match=r"`split` is 'dev'; `sums` has train, validation, test"):
        sums.problems("dev")
