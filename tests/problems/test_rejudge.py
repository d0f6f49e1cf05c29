"""Judgements made anew: what changes, by which rule, and what can't be judged."""

import pandas as pd
import pytest

from workbench.errors import InputError
from workbench.problems.problem import Problem
from workbench.problems.rejudge import rejudge

PROBLEMS = [
    Problem("a", "Which?", "B", choices=("red", "blue"), verifier="choice"),
    Problem("b", "How many?", "3000", verifier="numeric"),
]


def responses(*rows: tuple[str, str, bool]) -> pd.DataFrame:
    named = [dict(zip(("problem", "text", "correct"), row, strict=True)) for row in rows]
    return pd.DataFrame([{**row, "answer": "x", "how": "last letter, choice", "sample": 0} for row in named])


def test_changed_judgements_are_named_with_the_rule_that_changed_them():
    old = responses(
        ("a", "The answer is B. Note that A is red.", False),
        ("a", "<answer>A or B</answer>", True),
        ("a", "<answer>B</answer>", True),
        ("b", "<answer>3,001</answer>", True),
        ("b", "<answer>3,000 m</answer>", False),
        ("b", "<answer>3,000 m</answer>", False),
    )
    found = rejudge(old, PROBLEMS)
    assert found.table["correct"].tolist() == [True, False, True, False, True, True]
    assert found.table["correct_before"].tolist() == old["correct"].tolist()
    assert found.table["changed"].tolist() == [True, True, False, True, True, True]
    assert found.told == "6 responses; 5 judged otherwise: 3 newly right, 2 newly wrong"
    assert found.rules.to_dict("records") == [
        {"how": "answer tag, numeric within 0.001", "newly_right": 2, "newly_wrong": 1},
        {"how": "answer phrase, letter", "newly_right": 1, "newly_wrong": 0},
        {"how": "answer tag, several options", "newly_right": 0, "newly_wrong": 1},
    ]
    assert old["how"].unique().tolist() == ["last letter, choice"]  # the old table is as it was


def test_a_table_that_can_not_be_judged_is_refused():
    with pytest.raises(InputError, match="no column 'text'"):
        rejudge(responses(("a", "B", True)).drop(columns="text"), PROBLEMS)
    with pytest.raises(
        InputError, match=r"1 of 2 problems that can't be judged: 'c' is not among `problems`"
    ):
        rejudge(responses(("a", "B", True), ("c", "B", True)), PROBLEMS)
    with pytest.raises(InputError, match="'d' has no answer"):
        rejudge(responses(("d", "B", True)), [Problem("d", "Which?")])
