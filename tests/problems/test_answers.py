"""Extraction in its stated order; verification by kind; time limits off the main thread."""

import threading
import time

import pytest

from workbench.errors import InputError
from workbench.problems import answers
from workbench.problems.answers import extract, number, verify


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<answer> 3</answer> <answer>4 </answer>", ("4", "answer tag")),
        (r"so \boxed{\frac{1}{2}} it is", (r"\frac{1}{2}", "boxed")),
        (r"\boxed{7} <answer>\boxed{8}</answer>", ("8", "answer tag, boxed")),
        (r"\boxed{7} then \boxed{8", ("7", "boxed")),
        ("it is 5", (None, "no answer")),
        ("<answer></answer>", ("", "answer tag")),
        ("", (None, "no answer")),
    ],
)
def test_the_answer_is_looked_for_in_order(response, expected):
    assert extract(response) == expected


def test_last_letters_and_last_numbers_come_last():
    assert extract("A man said (B), not E.", "choice", ("x", "y", "z")) == ("B", "last letter")
    assert extract("It's 3, or 1,200.5 in all", "numeric") == ("1,200.5", "last number")
    assert extract("<answer>2</answer> 9", "numeric") == ("2", "answer tag")
    assert extract("nothing here", "choice", ("x", "y")) == (None, "no answer")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,000", 1000),
        ("-2.5e3", -2500),
        ("3/4", 0.75),
        ("40%", 0.4),
        ("$12", 12),
        ("\u22123", -3),
        ("12 cm", None),
        ("1/0", None),
        ("", None),
        ("nan", None),
        ("1_000", None),
        ("__import__('os')", None),
        ("1e999999999999", None),
    ],
)
def test_numbers_are_read_as_people_write_them(text, value):
    assert number(text) == value


@pytest.mark.parametrize(
    ("response", "answer", "verifier", "choices", "correct"),
    [
        ("<answer> Red </answer>", "red", "exact", (), True),
        ("<answer>light  blue</answer>", "Light blue", "exact", (), True),
        ("red", "red", "exact", (), False),
        ("<answer>B</answer>", "B", "choice", ("red", "blue"), True),
        ("<answer>(b)</answer>", "B", "choice", ("red", "blue"), True),
        ("<answer>B. blue</answer>", "B", "choice", ("red", "blue"), True),
        ("<answer>blue</answer>", "B", "choice", ("red", "blue"), True),
        ("<answer>A</answer>", "B", "choice", ("red", "blue"), False),
        ("<answer>C</answer>", "B", "choice", ("red", "blue"), False),
        ("The answer is B.", "B", "choice", ("red", "blue"), True),
        ("<answer>3.0004</answer>", "3", "numeric", (), True),
        ("<answer>3.1</answer>", "3", "numeric", (), False),
        ("so 3/4", "0.75", "numeric", (), True),
        ("<answer>many</answer>", "3", "numeric", (), False),
        (r"<answer>\frac{2}{4}</answer>", r"\frac{1}{2}", "math", (), True),
        (r"\boxed{x^2+2x+1}", "(x+1)^2", "math", (), True),
        (r"\boxed{x^2}", "x^3", "math", (), False),
    ],
)
def test_verification(response, answer, verifier, choices, correct):
    outcome = verify(response, answer, verifier, choices=choices)
    assert outcome.correct is correct
    assert outcome.how


def test_an_outcome_says_how_it_was_decided():
    assert verify("<answer>3</answer>", "3", "numeric").how == "answer tag, numeric within 0.001"
    assert verify("hm", "3").how == "no answer"
    assert verify(r"\boxed{2/4}", r"\frac{1}{2}", "math").how == "boxed, math-verify"


def test_mathematics_off_the_main_thread_and_after_a_timeout():
    found = []
    thread = threading.Thread(target=lambda: found.append(verify(r"\boxed{0.5}", r"\frac{1}{2}", "math")))
    thread.start()
    thread.join()
    assert found[0].correct
    started = time.perf_counter()
    hard = verify(r"\boxed{x+1}", r"x + 1 + 10^{-30}", "math", seconds=0.0)
    assert (hard.correct, hard.how) == (False, "boxed, math-verify timed out")
    assert time.perf_counter() - started < 20
    assert answers._WORKER.process is None
    assert verify(r"\boxed{0.5}", r"\frac{1}{2}", "math", seconds=30).correct


def test_bad_input():
    with pytest.raises(
        InputError, match="`verifier` is 'regex'; expected one of exact, choice, numeric, math"
    ):
        verify("<answer>3</answer>", "3", "regex")
    with pytest.raises(
        InputError, match="`answer` is 'three', which is no number; use the verifier 'exact' or 'math'"
    ):
        verify("<answer>3</answer>", "three", "numeric")
