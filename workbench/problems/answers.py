r"""Answers: taken out of a response, and compared with the reference. Nothing of a response is ever executed.

The grammar. An answer is judged right only where the response gives one answer and stands by it; several, a hedge
("A or B", "may be 5", "cannot be determined") and what can't be read are wrong.

1. *Where* it stands (`answer_place`): outside the thinking, the last answer tag, else the last box, else "the answer is
   ...", else the whole of a short response, else its last sentence.
2. *What kind* it is: the verifier says. ``choice``: an option; ``numeric``: a number; ``math``: an expression; ``exact``: a
   number, yes or no, or a text, as the reference is.
3. *How* it is compared: options by letter or words (`answer_choice`); numbers with their units, percentages and fractions
   by value, within a relative tolerance for ``numeric`` (two whole numbers: exactly) and exactly for ``exact``
   (`answer_numbers`); mathematics by its structure and by sympy, exactly or to 100 digits (`answer_math`); texts without
   case, articles before them, quotation marks and stops around them, "it is" before them; lists in their order.

`Outcome.how` names the place and the rule: "answer tag, letter", "last sentence, numeric within 0.001", "boxed,
expressions". Sympy runs in a process of its own (`math_client`), which is ended when its time is up.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from workbench.errors import InputError
from workbench.problems import answer_math
from workbench.problems.answer_choice import LETTERS, option
from workbench.problems.answer_exact import answers_truth, says, truth
from workbench.problems.answer_mathematics import mathematics
from workbench.problems.answer_numbers import Quantity, quantity
from workbench.problems.answer_place import Place, places, without_thought
from workbench.problems.answer_sentence import stated
from workbench.problems.answer_text import sentences, tidy
from workbench.problems.math_client import WORKER

__all__ = ["LETTERS", "VERIFIERS", "Outcome", "Verifier", "extract", "number", "verify"]


class Verifier(StrEnum):
    """How a model's answer is compared with the problem's."""

    EXACT = "exact"
    CHOICE = "choice"
    NUMERIC = "numeric"
    MATH = "math"


VERIFIERS = tuple(verifier.value for verifier in Verifier)
_EXPRESSION = re.compile(r"\\sqrt|√|\\pi(?![a-z])|π")
_STOPS = (
    "several options",
    "a hedge",
    "turned down",
    "letter and text of another option",
    "text of several options",
)
"""Why a phrase that announces an answer gives none: nothing after it is looked at."""


@dataclass(frozen=True)
class Outcome:
    """Whether a response is right, what was taken for its answer, and how both were decided."""

    correct: bool
    answer: str | None
    """None: no answer was found."""
    how: str
    """Place and rule, such as "answer tag, numeric within 0.001"."""


@dataclass(frozen=True)
class _Judged:
    """One place, judged: whether it is right, what was read there (None: nothing of the kind), and the rule."""

    correct: bool
    read: str | None
    rule: str
    last: bool = False
    """Whether nothing else is to be looked at."""


_Judge = Callable[[Place], _Judged]


def extract(response: str, verifier: str = "exact", choices: Sequence[str] = ()) -> tuple[str | None, str]:
    """The answer in a response, and where it was found; (None, "no answer") where there is none."""
    for place in places(without_thought(tidy(response))):
        if place.strict:
            return place.text, place.where
        if verifier == "choice":
            letter, rule = option(place.text, choices, loose=place.where == "last sentence")
            if letter is not None:
                return (letter, rule) if rule == "last letter" else (place.text, place.where)
        elif verifier == "numeric":
            if _number_of(place) is not None:
                return place.text, place.where
        elif verifier == "math":
            if (formula := mathematics(place)) is not None:
                return formula
        elif place.where != "last sentence":
            return place.text, place.where
    return None, "no answer"


def verify(
    response: str,
    answer: str,
    verifier: str = "exact",
    *,
    choices: Sequence[str] = (),
    tolerance: float = 1e-3,
    seconds: float = 5.0,
) -> Outcome:
    r"""Compare a response with the reference answer.

    The answer is looked for outside the thinking: in the last ``<answer>...</answer>``, then in the last ``\boxed{...}``, then
    after "the answer is", then in the whole of a short response, then in its last sentence (files ``answer_*.py``).

    Args:
        response: what a model said.
        answer: the reference; for ``choice`` the letter of the right option.
        verifier: one of ``VERIFIERS``.
        choices: the options' texts.
        tolerance: of ``numeric``, relative to the reference.
        seconds: that one comparison of ``math`` may take.

    Raises:
        InputError: an unknown verifier, a numeric reference that is no number, or a process for ``math`` that can't start.
    """
    if verifier not in VERIFIERS:
        raise InputError(
            f"`verifier` is {verifier!r}; expected one of {', '.join(VERIFIERS)}: verify(response, answer, 'exact')"
        )
    judge = _judge(answer, verifier, choices, tolerance, seconds)
    for place in places(without_thought(tidy(response))):
        judged = judge(place)
        if judged.read is not None or judged.last or place.strict:
            answer_text = place.text if place.strict and judged.read is None else judged.read
            return Outcome(judged.correct, answer_text, f"{place.where}, {judged.rule}")
    return Outcome(False, None, "no answer")


def number(text: str) -> float | None:
    """The value of a text that is one number: 1,000, -2.5e3, 3/4, 40% (0.4), $12; None for anything else, a unit too."""
    value = quantity(text)
    if value is None or (value.unit and not re.fullmatch(r"[$€£₹¥]", value.unit)):
        return None
    try:
        return float(value.value / 100 if value.percent else value.value)
    except OverflowError:
        return None


def _judge(answer: str, verifier: str, choices: Sequence[str], tolerance: float, seconds: float) -> _Judge:
    """How a place is judged, by verifier and reference."""
    if verifier == Verifier.CHOICE:
        letter = answer.strip().upper()
        letter = letter if letter in tuple(LETTERS) else option(answer, choices)[0]
        return lambda place: _chosen(place, letter, choices)
    if verifier == Verifier.MATH:
        return lambda place: _worked_out(place, answer, seconds)
    reference = quantity(answer)
    if verifier == Verifier.NUMERIC:
        if reference is None:
            raise InputError(
                f"`answer` is {answer!r}, which is no number; use the verifier 'exact' or 'math'"
            )
        return lambda place: _counted(place, reference, tolerance, seconds, f"numeric within {tolerance:g}")
    if reference is not None:
        return lambda place: _counted(place, reference, 0.0, seconds, "exact number", answer)
    if (true := truth(answer)) is not None:
        return lambda place: _affirmed(place, true)
    return lambda place: _worded(place, answer)


def _chosen(place: Place, target: str | None, choices: Sequence[str]) -> _Judged:
    letter, rule = option(place.text, choices, loose=place.where == "last sentence")
    stop = rule == "a list of options" or (place.where == "answer phrase" and rule in _STOPS)
    return _Judged(letter is not None and letter == target, letter, rule, stop)


def _number_of(place: Place) -> Quantity | None:
    """The number that a place states; of a whole response only where that is one sentence."""
    if place.where == "whole response" and len(sentences(place.text)) > 1:
        return quantity(place.text)
    return stated(place.text)


def _counted(
    place: Place, reference: Quantity, tolerance: float, seconds: float, rule: str, text: str | None = None
) -> _Judged:
    if text is not None and place.where != "last sentence" and says(place.text, text):
        return _Judged(True, place.text, "exact")
    rooted = _EXPRESSION.search(place.text)
    value = None if rooted else _number_of(place)
    announced = place.strict or place.where == "answer phrase"
    if rooted and (announced or place.where == "whole response"):
        value = _evaluated(place.text, seconds)
    if value is None:
        return _Judged(False, None, "no single number", announced and bool(re.search(r"\d", place.text)))
    return _Judged(value.agrees(reference, tolerance), place.text, rule)


def _evaluated(text: str, seconds: float) -> Quantity | None:
    """The value of an expression with roots or pi."""
    latex = answer_math.value_text(text)
    try:
        value = WORKER.ask("value", latex, seconds=seconds) if latex else None
    except TimeoutError:
        return None
    return None if value is None else Quantity(Fraction(value))


def _affirmed(place: Place, target: bool) -> _Judged:
    truth_value = None if place.where == "last sentence" else answers_truth(place.text)
    return _Judged(truth_value is target, None if truth_value is None else place.text, "yes or no")


def _worded(place: Place, answer: str) -> _Judged:
    if place.where == "last sentence":
        return _Judged(False, None, "exact")
    return _Judged(says(place.text, answer), place.text, "exact")


def _worked_out(place: Place, answer: str, seconds: float) -> _Judged:
    expression, late = mathematics(place), []

    def ask(left: str, right: str) -> bool | None:
        try:
            return None if late else WORKER.ask("equal", left, right, seconds=seconds)
        except TimeoutError:
            late.append(True)
            return None

    if expression is None:
        return _Judged(False, None, "no single expression", place.strict)
    correct, rule = answer_math.equal(answer, expression[0], ask)
    if not correct and not place.strict and place.where != "last sentence" and answer_math.is_words(answer):
        correct, rule = says(place.text, answer), "text"
    return _Judged(correct, expression[0], "out of time" if late and not correct else rule)
