"""Extraction in its stated order; verification by kind; time limits off the main thread."""

import csv
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.problems import answers
from workbench.problems.answers import extract, number, verify


def cases(file):
    """Rows of a table of responses, with what each must be judged."""
    with (Path(__file__).parent / "data" / file).open(encoding="utf-8", newline="") as table:
        return [
            pytest.param(row, id=f"{file[:4]}{number}")
            for number, row in enumerate(csv.DictReader(table), start=2)
        ]


@pytest.mark.quick
@pytest.mark.parametrize("row", [*cases("answers.csv"), *cases("more_answers.csv")])
def test_a_response_is_judged_as_people_judge_it(row):
    outcome = verify(
        row["response"],
        row["reference"],
        row["verifier"],
        choices=tuple(filter(None, row["choices"].split("|"))),
    )
    assert outcome.correct is (row["correct"] == "1"), outcome


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<answer> 3</answer> <answer>4 </answer>", ("4", "answer tag")),
        (r"so \boxed{\frac{1}{2}} it is", (r"\frac{1}{2}", "boxed")),
        (r"\boxed{7} <answer>\boxed{8}</answer>", ("8", "answer tag, boxed")),
        (r"\boxed{7} then \boxed{8", ("7", "boxed")),
        ("it is 5", ("it is 5", "whole response")),
        ("<think>or <answer>6</answer></think> 5", ("5", "whole response")),
        (
            "<think>5 <answer>6</answer>",
            ("6", "answer tag"),
        ),  # the thinking never ends, the tag ends the response
        ("<think>the tag <answer>6</answer> is for later, so", (None, "no answer")),
        ("<answer>4</answer> <answer></answer>", ("4", "answer tag")),
        ("<answer></answer>", ("", "answer tag")),
        ("", (None, "no answer")),
    ],
)
def test_the_answer_is_looked_for_in_order(response, expected):
    assert extract(response) == expected


def test_last_letters_and_last_numbers_come_last():
    man = "A man chose (B), not E."
    assert extract(man, "choice", ("x", "y", "z")) == (man, "whole response")
    assert extract(f"{man}\n" * 9, "choice", ("x", "y", "z")) == ("B", "last letter")
    assert extract("It's 3, or 1,200.5 in all", "numeric") == (None, "no answer")
    assert extract("There are two. It's 1,200.5 in all", "numeric") == (
        "It's 1,200.5 in all",
        "last sentence",
    )
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
        ("red", "red", "exact", (), True),
        ("red or blue", "red", "exact", (), False),
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
    assert (
        verify("<answer>B or C</answer>", "C", "choice", choices="wxyz").how == "answer tag, several options"
    )
    assert verify(r"\boxed{2/4}", r"\frac{1}{2}", "math").how == "boxed, numbers"
    assert verify(r"\boxed{x+x}", "2x", "math").how == "boxed, expressions"


def test_mathematics_off_the_main_thread_and_after_a_timeout():
    found = []
    thread = threading.Thread(target=lambda: found.append(verify(r"\boxed{2x}", "x+x", "math")))
    thread.start()
    thread.join()
    assert found[0].correct
    started = time.perf_counter()
    hard = verify(r"\boxed{x+1}", r"x + 1 + 10^{-30}", "math", seconds=0.0)
    assert (hard.correct, hard.how) == (False, "boxed, out of time")
    assert time.perf_counter() - started < 120  # it is ended, and not waited for
    assert answers.WORKER.process is None
    assert verify(r"\boxed{2x}", "x+x", "math", seconds=30).correct


def test_bad_input():
    with pytest.raises(
        InputError, match="`verifier` is 'regex'; expected one of exact, choice, numeric, math"
    ):
        verify("<answer>3</answer>", "3", "regex")
    with pytest.raises(
        InputError, match="`answer` is 'a few', which is no number; use the verifier 'exact' or 'math'"
    ):
        verify("<answer>3</answer>", "a few", "numeric")


_PIECES = [
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
    "\\boxed{",
    "}",
    "{",
    "$",
    "The answer is ",
    "A",
    "B or ",
    "5",
    "1,0",
    "/0",
]
_PIECES += [
    "\\frac",
    " ",
    "\n",
    "not ",
    "(",
    ")",
    "=",
    "^",
    "½",
    "答案是",
    "red",
    ".",
    "%",
    "\\text{",
    "五",
    "-",
    "e9",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(_PIECES), st.text(max_size=3)), max_size=12).map("".join))
def test_any_response_is_judged_without_an_error(response):
    for verifier, reference in (
        ("choice", "A"),
        ("numeric", "5"),
        ("exact", "red"),
        ("exact", "yes"),
        ("exact", "1/2"),
    ):
        outcome = verify(response, reference, verifier, choices=("red", "5"))
        assert outcome.answer is not None or not outcome.correct
