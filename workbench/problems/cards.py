"""The `cards` problems: pictures of coloured number cards, with questions, numeric answers and short chains of thought.

A picture has 4 x 4 cells of 28 x 28 pixels, one cell for each visual token of the pair `smolvl`. Three to eight cells hold a
card, of one of five colours and with one digit from 1 to 9 on it, none twice; the others are empty. Six question families:

* ``sum``         What do the blue cards add up to?
* ``count``       How many blue cards are there?
* ``largest``     What is the largest number on a blue card?
* ``difference``  What is the largest blue card minus the smallest?
* ``product``     What do you get if you multiply the two blue cards?
* ``both``        What do the blue and the red cards add up to?

A chain first reads the cards asked about, the smallest number first, and then works out one operation at a time: "The blue
cards say 3, 5 and 8. 3 + 5 = 8. 8 + 8 = 16. The answer is 16." Beside it every problem has a wrong one, which misreads one card
and is careful with all the rest.

The splits share no hand: the cards of a picture, wherever they lie, say by their digest to which split it belongs. A problem
is a pure function of (split, seed, index).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from workbench.problems.shapes import BOARD, CELL, SPLITS, check_range
from workbench.problems.sums import Rng, Step, operate, pattern_split

COLORS = {
    "red": (200, 50, 50),
    "green": (50, 145, 65),
    "blue": (55, 85, 205),
    "yellow": (205, 165, 20),
    "purple": (140, 60, 165),
}
DIGITS = range(1, 10)
WORDINGS = {
    "sum": (
        "What do the {0} cards add up to?",
        "Add up the {0} cards.",
        "What is the sum of the {0} cards?",
        "How much do the {0} cards make together?",
    ),
    "count": (
        "How many {0} cards are there?",
        "Count the {0} cards.",
        "What is the number of {0} cards?",
    ),
    "largest": (
        "What is the largest number on a {0} card?",
        "Which {0} card is the largest?",
        "Find the highest {0} card.",
    ),
    "difference": (
        "What is the largest {0} card minus the smallest?",
        "How far apart are the largest and the smallest {0} card?",
        "Subtract the smallest {0} card from the largest.",
    ),
    "product": (
        "What do you get if you multiply the two {0} cards?",
        "Multiply the {0} cards.",
        "What is the product of the two {0} cards?",
    ),
    "both": (
        "What do the {0} and the {1} cards add up to?",
        "Add up all {0} and {1} cards.",
        "How much do the {0} and {1} cards make together?",
    ),
}
FAMILIES = tuple(WORDINGS)
SIZES = {
    "sum": (2, 4),
    "count": (1, 5),
    "largest": (2, 5),
    "difference": (2, 5),
    "product": (2, 2),
    "both": (3, 4),
}
"""Fewest and most cards that a question of the family is about."""

# Rows of 5 pixels, the leftmost the highest bit.
_FONT = {
    1: (4, 12, 4, 4, 4, 4, 14),
    2: (14, 17, 1, 2, 4, 8, 31),
    3: (31, 2, 4, 2, 1, 17, 14),
    4: (2, 6, 10, 18, 31, 2, 2),
    5: (31, 16, 30, 1, 1, 17, 14),
    6: (6, 8, 16, 30, 17, 17, 14),
    7: (31, 1, 2, 4, 8, 8, 8),
    8: (14, 17, 17, 14, 17, 17, 14),
    9: (14, 17, 17, 15, 1, 2, 12),
}
GLYPHS = {d: np.array([[row >> (4 - x) & 1 for x in range(5)] for row in rows]) for d, rows in _FONT.items()}
"""(7, 5) digits in zeros and ones."""


@dataclass(frozen=True)
class Hand:
    """What lies where: ``color`` and ``digit``, both (rows, columns) int, -1 and 0 in an empty cell."""

    color: np.ndarray
    digit: np.ndarray

    def of(self, color: str) -> list[int]:
        """The digits on the cards of a colour, the smallest first."""
        return sorted(self.digit[self.color == list(COLORS).index(color)].tolist())

    @property
    def words(self) -> list[list[str]]:
        """Row by row what a cell shows, "blue 3"; "" in an empty one."""
        names = list(COLORS)
        return [
            [f"{names[c]} {d}" if d else "" for c, d in zip(colors, digits, strict=True)]
            for colors, digits in zip(self.color.tolist(), self.digit.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Question:
    """A question in words, and the colours that it is about."""

    family: str
    text: str
    colors: tuple[str, ...]


def sample_hand(rng: Rng) -> Hand:
    """Three to eight cards of two to four colours, in cells drawn by lot."""
    colors = rng.choice(len(COLORS), size=int(rng.integers(2, 5)), replace=False)
    deck = [(color, digit) for color in colors for digit in DIGITS]
    count = int(rng.integers(3, 9))
    cards = rng.choice(len(deck), size=count, replace=False)
    color, digit = np.full(BOARD * BOARD, -1), np.zeros(BOARD * BOARD, int)
    for cell, card in zip(rng.choice(BOARD * BOARD, size=count, replace=False), cards, strict=True):
        color[cell], digit[cell] = deck[card]
    return Hand(color.reshape(BOARD, BOARD), digit.reshape(BOARD, BOARD))


def render(hand: Hand, rng: Rng) -> np.ndarray:
    """(112, 112, 3) uint8 picture: cards and digits vary in size, place and shade over light paper with some noise."""
    side = BOARD * CELL
    picture = np.empty((side, side, 3), np.float32)
    picture[:] = rng.uniform(205, 250) + rng.uniform(-8, 8, 3)
    paints = np.array(list(COLORS.values()))
    for row, column in np.argwhere(hand.digit > 0):
        width, height = (int(rng.integers(21, 26)) for _ in range(2))
        top, left = (
            CELL * at + int(rng.integers(1, CELL - size)) for at, size in ((row, height), (column, width))
        )
        card = picture[top : top + height, left : left + width]
        card[:] = paints[hand.color[row, column]] + rng.normal(0, 12, 3)
        glyph = np.kron(GLYPHS[int(hand.digit[row, column])], np.ones((2, 2), int)) > 0
        y, x = ((size - inside) // 2 for size, inside in zip(card.shape, glyph.shape, strict=False))
        card[y : y + glyph.shape[0], x : x + glyph.shape[1]][glyph] = rng.uniform(225, 255)
    picture += rng.uniform(1, 8) * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def ask(hand: Hand, family: str, rng: Rng) -> Question | None:
    """A random question of the family, or None where the hand allows none."""
    least, most = SIZES[family]
    count = 2 if family == "both" else 1
    colors = tuple(list(COLORS)[i] for i in rng.choice(len(COLORS), size=count, replace=False))
    sizes = [len(hand.of(color)) for color in colors]
    if min(sizes) < 1 or not least <= sum(sizes) <= most:
        return None
    wordings = WORDINGS[family]
    return Question(family, wordings[int(rng.integers(len(wordings)))].format(*colors), colors)


def work_out(family: str, read: Mapping[str, Sequence[int]]) -> tuple[str, int]:
    """The chain from the cards that were read, digits by colour, and the answer that it comes to."""
    digits = [digit for one in read.values() for digit in one]
    sentences = [f"The {color} {_say(one)}." for color, one in read.items()]
    value = len(digits) if family == "count" else digits[-1]
    steps = {
        "difference": [Step(digits[-1], "-", digits[0])],
        "product": [Step(digits[0], "*", digits[-1])],
    }.get(family, [Step(digits[0] if i == 1 else None, "+", digit) for i, digit in enumerate(digits) if i])
    for step in [] if family in ("count", "largest") else steps:
        a, b = step.work(value)
        value = operate(a, step.sign, b)
        sentences.append(f"{a} {step.sign} {b} = {value}.")
    return " ".join([*sentences, f"The answer is {value}."]), value


def _say(digits: Sequence[int]) -> str:
    if len(digits) == 1:
        return f"card says {digits[0]}"
    return f"cards say {', '.join(map(str, digits[:-1]))} and {digits[-1]}"


def draw(split: str, seed: int, index: int) -> tuple[Question, np.ndarray, Hand]:
    """Question and picture number ``index`` of a split, and the cards that it shows; families take turns."""
    rng = np.random.default_rng([SPLITS[split], seed, index])
    while True:
        hand = sample_hand(rng)
        question = ask(hand, FAMILIES[index % len(FAMILIES)], rng)
        if question is not None and split_of(hand) == split:
            return question, render(hand, rng), hand


def split_of(hand: Hand) -> str:
    """The split that a hand belongs to, wherever its cards lie."""
    cards = zip(hand.color.flat, hand.digit.flat, strict=True)
    return pattern_split([10 * int(color) + int(digit) for color, digit in cards if digit])


def solution(question: Question, hand: Hand) -> tuple[str, int]:
    """The chain that reads the cards as they are, and the answer."""
    return work_out(question.family, {color: hand.of(color) for color in question.colors})


def mistaken(question: Question, hand: Hand, rng: Rng) -> str:
    """A chain with a wrong answer: it misreads one card as another digit, or counts one card too many or too few."""
    read = {color: hand.of(color) for color in question.colors}
    _, answer = work_out(question.family, read)
    while True:
        color = question.colors[int(rng.integers(len(question.colors)))]
        digits, others = read[color], [digit for digit in DIGITS if digit not in read[color]]
        kept = [*digits]
        if question.family != "count" or (len(digits) > 1 and rng.random() < 0.5):
            kept.pop(int(rng.integers(len(digits))))
        if len(kept) == len(digits) or question.family != "count":
            kept.append(others[int(rng.integers(len(others)))])
        chain, wrong = work_out(question.family, read | {color: sorted(kept)})
        if wrong != answer:
            return chain


def problems(split: str = "test", limit: int | None = None, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The first `limit` (default 300) problems of a split, as plain records, each made when it is asked for.

    Raises:
        InputError: unknown split, or a limit below 1.
    """
    return (_record(split, seed, index) for index in range(check_range("cards", split, limit)))


def _record(split: str, seed: int, index: int) -> dict[str, Any]:
    question, picture, hand = draw(split, seed, index)
    chain, answer = solution(question, hand)
    return {
        "id": f"cards/{split}/{seed}/{index}",
        "question": question.text,
        "answer": str(answer),
        "verifier": "numeric",
        "image": Image.fromarray(picture),
        "family": question.family,
        "chain": chain,
        "wrong": mistaken(question, hand, np.random.default_rng([SPLITS[split], seed, index, 1])),
        "cells": hand.words,
    }
