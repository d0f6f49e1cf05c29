"""The `sums` problems: generated arithmetic and short word problems, with numeric answers and short chains of thought.

Text alone, no picture. Nine question families:

* ``sum``         What is 47 plus 36?
* ``difference``  How much more is 83 than 27?
* ``product``     Multiply 7 by 8.
* ``mixed``       What is 12 + 6 * 7?
* ``largest``     Which of 45, 54 and 38 is the largest?
* ``story``       two steps: Tom has 12 marbles, gets 7 and then gives away 4. How many marbles does Tom have now?
* ``long story``  three steps
* ``money``       what things cost, and the change
* ``time``        minutes, from hours or from one clock time to another

Answers are whole numbers from 1 to 999. A chain works them out one operation at a time: "12 + 7 = 19. 19 - 4 = 15. The
answer is 15." Beside it every problem has a wrong one, in which one operation goes wrong and all that follows is right.

The splits share no pattern of numbers: the numbers of a question, in order of size, say by their digest to which split it
belongs, whatever its family and words. A problem is a pure function of (split, seed, index).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import InputError
from workbench.problems.shapes import SPLITS, check_range

Rng = np.random.Generator
SHARES = {"train": range(14), "validation": range(14, 17), "test": range(17, 20)}
"""The digests, of twenty, of the number patterns that belong to each split."""

LARGEST_ANSWER = 999
MOST = 100_000
"""Problems of one split and seed."""

NAMES = ("Tom", "Anna", "Ben", "Maria", "Sam", "Lucy", "Omar", "Nina", "Leo", "Ruth", "Ivan", "Mei")
THINGS = ("marbles", "apples", "books", "stickers", "cards", "shells", "coins", "pencils", "stamps", "beads")
GOODS = ("pencil", "notebook", "sandwich", "ticket", "candle", "mug", "ball", "scarf")


@dataclass(frozen=True)
class Step:
    """One operation of a chain: ``a`` and ``b`` are numbers, or None for what the step before gave."""

    a: int | None
    sign: str
    b: int | None

    def work(self, before: int) -> tuple[int, int]:
        """Both numbers, the second where it is None being ``before``."""
        return before if self.a is None else self.a, before if self.b is None else self.b


@dataclass(frozen=True)
class Question:
    """A question in words, the operations that answer it, and the numbers that it names."""

    family: str
    text: str
    steps: tuple[Step, ...]
    numbers: tuple[int, ...]

    def chain(self, slip: tuple[int, int] | None = None) -> tuple[str, int]:
        """Sentences that work the answer out, and the answer; ``slip``: (number of a step, what its result is off by)."""
        sentences, value = [], 0
        for place, step in enumerate(self.steps):
            a, b = step.work(value)
            value = operate(a, step.sign, b) + (slip[1] if slip and slip[0] == place else 0)
            sentences.append(
                f"{value} is the largest." if step.sign == "max" else f"{a} {step.sign} {b} = {value}."
            )
        if self.family == "largest":  # no operation to write down: a comparison of all
            sentences = sentences[-1:]
        return " ".join([*sentences, f"The answer is {value}."]), value

    @property
    def values(self) -> list[int]:
        """What each operation gives."""
        results: list[int] = []
        for step in self.steps:
            a, b = step.work(results[-1] if results else 0)
            results.append(operate(a, step.sign, b))
        return results


def operate(a: int, sign: str, b: int) -> int:
    """What ``+``, ``-``, ``*`` or ``max`` makes of two numbers."""
    return {"+": a + b, "-": a - b, "*": a * b, "max": max(a, b)}[sign]


def pattern_split(numbers: Sequence[int]) -> str:
    """The split that the numbers of a question, in whatever order, belong to."""
    digest = hashlib.sha256(" ".join(map(str, sorted(numbers))).encode()).digest()
    share = int.from_bytes(digest[:4]) % 20
    return next(split for split, shares in SHARES.items() if share in shares)


def _number(rng: Rng, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``, both among them."""
    return int(rng.integers(low, high + 1))


def _pick(rng: Rng, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _sum(rng: Rng) -> Question:
    a, b = _number(rng, 5, 99), _number(rng, 5, 99)
    wordings = (
        f"What is {a} plus {b}?",
        f"Add {a} and {b}.",
        f"What do {a} and {b} make together?",
        f"Find the sum of {a} and {b}.",
    )
    return Question("sum", _pick(rng, wordings), (Step(a, "+", b),), (a, b))


def _difference(rng: Rng) -> Question:
    b = _number(rng, 5, 60)
    a = b + _number(rng, 3, 60)
    wordings = (
        f"What is {a} minus {b}?",
        f"How much more is {a} than {b}?",
        f"Subtract {b} from {a}.",
        f"What is the difference between {a} and {b}?",
    )
    return Question("difference", _pick(rng, wordings), (Step(a, "-", b),), (a, b))


def _product(rng: Rng) -> Question:
    a, b = _number(rng, 2, 12), _number(rng, 3, 25)
    wordings = (
        f"What is {a} times {b}?",
        f"Multiply {a} by {b}.",
        f"How many are {a} rows of {b}?",
        f"Find the product of {b} and {a}.",
    )
    return Question("product", _pick(rng, wordings), (Step(a, "*", b),), (a, b))


def _mixed(rng: Rng) -> Question:
    a, b, c = _number(rng, 2, 40), _number(rng, 2, 9), _number(rng, 2, 9)
    if rng.random() < 0.5:
        wordings = (
            f"What is {a} + {b} * {c}?",
            f"Work out {a} plus {b} times {c}.",
            f"Add {a} to {b} times {c}.",
        )
        return Question("mixed", _pick(rng, wordings), (Step(b, "*", c), Step(a, "+", None)), (a, b, c))
    wordings = (
        f"What is {b} * {c} - {a}?",
        f"Work out {b} times {c} minus {a}.",
        f"Take {a} from {b} times {c}.",
    )
    return Question("mixed", _pick(rng, wordings), (Step(b, "*", c), Step(None, "-", a)), (a, b, c))


def _largest(rng: Rng) -> Question:
    middle = _number(rng, 30, 150)
    a, b, c, d = (max(1, middle + _number(rng, -30, 30)) for _ in range(4))
    name = _pick(rng, NAMES)
    wordings = (
        f"Which of {a}, {b}, {c} and {d} is the largest?",
        f"What is the greatest number among {a}, {b}, {c} and {d}?",
        f"{name} counts {a}, {b}, {c} and {d} steps on four days. How many steps is the most?",
    )
    steps = (Step(a, "max", b), Step(None, "max", c), Step(None, "max", d))
    return Question("largest", _pick(rng, wordings), steps, (a, b, c, d))


def _story(rng: Rng) -> Question:
    who, other = (NAMES[i] for i in rng.choice(len(NAMES), 2, replace=False))
    thing = _pick(rng, THINGS)
    a, b, c = _number(rng, 8, 40), _number(rng, 3, 20), _number(rng, 2, 15)
    kind = int(rng.integers(4))
    if kind == 0:
        text = f"{who} has {a} {thing}, gets {b} more and then gives {c} to {other}. How many {thing} does {who} have now?"
        steps = (Step(a, "+", b), Step(None, "-", c))
    elif kind == 1:
        text = (
            f"{who} starts with {a} {thing}. {other} takes {b} of them and brings {c} back. "
            f"How many {thing} does {who} have in the end?"
        )
        steps = (Step(a, "-", b), Step(None, "+", c))
    elif kind == 2:
        text = (
            f"{who} has {a} {thing}. {other} has {b} more than {who}. How many {thing} do they have together?"
        )
        steps, c = (Step(a, "+", b), Step(None, "+", a)), b
    else:
        b = _number(rng, 2, 6)
        text = f"{who} fills {b} boxes with {c} {thing} each and has {a} left over. How many {thing} are there in all?"
        steps = (Step(b, "*", c), Step(None, "+", a))
    return Question("story", text, steps, (a, b) if kind == 2 else (a, b, c))


def _long_story(rng: Rng) -> Question:
    who, other = (NAMES[i] for i in rng.choice(len(NAMES), 2, replace=False))
    thing = _pick(rng, THINGS)
    a, b, c, d = _number(rng, 10, 40), _number(rng, 3, 20), _number(rng, 2, 15), _number(rng, 2, 6)
    kind = int(rng.integers(4))
    if kind == 0:
        text = (
            f"{who} has {a} {thing}. {who} finds {b} more, loses {c} and then buys {d}. "
            f"How many {thing} does {who} have now?"
        )
        steps = (Step(a, "+", b), Step(None, "-", c), Step(None, "+", d))
    elif kind == 1:
        text = (
            f"{who} makes {d} bags of {c} {thing} and keeps {b} loose ones. {other} brings {a}. "
            f"How many {thing} are there now?"
        )
        steps = (Step(d, "*", c), Step(None, "+", b), Step(None, "+", a))
    elif kind == 2:
        text = (
            f"There are {a} {thing} in a jar and {b} on a table. {other} takes {c} away and {who} puts {d} back. "
            f"How many {thing} are left?"
        )
        steps = (Step(a, "+", b), Step(None, "-", c), Step(None, "+", d))
    else:
        text = (
            f"{who} has {d} boxes of {c} {thing}. {who} sells {b} of the {thing} and then gets {a} from {other}. "
            f"How many {thing} does {who} have?"
        )
        steps = (Step(d, "*", c), Step(None, "-", b), Step(None, "+", a))
    return Question("long story", text, steps, (a, b, c, d))


def _money(rng: Rng) -> Question:
    who, (one, two) = _pick(rng, NAMES), (GOODS[i] for i in rng.choice(len(GOODS), 2, replace=False))
    price, count, more = _number(rng, 2, 15), _number(rng, 2, 6), _number(rng, 2, 30)
    bill = _number(rng, 2, 10) * 10
    kind = int(rng.integers(3))
    if kind == 0:
        text = f"One {one} costs {price} dollars. {who} buys {count} and pays with {bill} dollars. How much change is there?"
        return Question("money", text, (Step(count, "*", price), Step(bill, "-", None)), (price, count, bill))
    if kind == 1:
        text = (
            f"A {one} costs {price} dollars and a {two} costs {more} dollars. "
            f"What do {count} of the first and one of the second cost?"
        )
        return Question("money", text, (Step(count, "*", price), Step(None, "+", more)), (price, count, more))
    text = f"{who} saves {price} cents a day for {count} days and then spends {more} cents. How many cents are left?"
    return Question("money", text, (Step(count, "*", price), Step(None, "-", more)), (price, count, more))


def _time(rng: Rng) -> Question:
    who = _pick(rng, NAMES)
    hours, a, b = _number(rng, 2, 6), _number(rng, 5, 30), _number(rng, 5, 30)
    kind = int(rng.integers(3))
    if kind == 0:
        text = f"A film takes {hours} hours and {a} minutes. How many minutes is that?"
        return Question("time", text, (Step(hours, "*", 60), Step(None, "+", a)), (hours, a))
    if kind == 1:
        text = f"{who} walks for {hours} hours and rests for {a} minutes of them. How many minutes does {who} really walk?"
        return Question("time", text, (Step(hours, "*", 60), Step(None, "-", a)), (hours, a))
    text = f"{who} runs {a} minutes on each of {hours} days and swims {b} minutes once. How many minutes is that in all?"
    return Question("time", text, (Step(hours, "*", a), Step(None, "+", b)), (hours, a, b))


FAMILIES: dict[str, Callable[[Rng], Question]] = {
    "sum": _sum,
    "difference": _difference,
    "product": _product,
    "mixed": _mixed,
    "largest": _largest,
    "story": _story,
    "long story": _long_story,
    "money": _money,
    "time": _time,
}


def draw(split: str, seed: int, index: int) -> Question:
    """Question number ``index`` of a split; families take turns."""
    rng = np.random.default_rng([SPLITS[split], seed, index])
    make = [*FAMILIES.values()][index % len(FAMILIES)]
    while True:
        question = make(rng)
        fits = all(1 <= value <= LARGEST_ANSWER for value in question.values)
        if (
            fits
            and len({*question.numbers}) == len(question.numbers)
            and pattern_split(question.numbers) == split
        ):
            return question


def mistaken(question: Question, rng: Rng) -> str:
    """A chain in which one operation is out by 1 to 10, and all that follows is worked out from that."""
    place = int(rng.integers(len(question.steps)))
    if question.family == "largest":
        others = sorted({*question.numbers} - {question.values[-1]})
        place, off = len(question.steps) - 1, others[int(rng.integers(len(others)))] - question.values[-1]
    else:
        off = _number(rng, 1, 10)
    return question.chain((place, off))[0]


def problems(split: str = "test", limit: int | None = None, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The first `limit` (default 300) problems of a split, as plain records, each made when it is asked for.

    Raises:
        InputError: unknown split, a limit below 1, or one above ``MOST``.
    """
    count = check_range("sums", split, limit)
    if count > MOST:
        raise InputError(
            f"`limit` is {count:,}; `sums` gives at most {MOST:,} at a time, for beyond that its numbers recur: "
            "load_problems('sums', limit=1000), with another `seed` for others"
        )
    return (_record(split, seed, index) for index in range(count))


def _record(split: str, seed: int, index: int) -> dict[str, Any]:
    question = draw(split, seed, index)
    chain, answer = question.chain()
    return {
        "id": f"sums/{split}/{seed}/{index}",
        "question": question.text,
        "answer": str(answer),
        "verifier": "numeric",
        "family": question.family,
        "chain": chain,
        "wrong": mistaken(question, np.random.default_rng([SPLITS[split], seed, index, 1])),
    }
