"""Answers that are corrected, denied, hedged, several, in a list, or written in ways that hide another answer.

The verdicts of `answers.csv` were written down before the judge was asked; doubtful ones were left out or, once, turned
round, and seven right answers that it refuses are not in the table (LOG.md).
"""

import csv
from pathlib import Path

import pytest

from workbench.problems.answers import verify

with Path(__file__).with_name("answers.csv").open(encoding="utf-8", newline="") as table:
    ROWS = list(csv.DictReader(table))


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['kind']} {n}" for n, row in enumerate(ROWS, start=2)])
def test_an_answer_is_judged_as_a_person_judges_it(row):
    """Protects from an answer that counts though the model took it back, denied it or gave others beside it."""
    choices = tuple(filter(None, row["choices"].split("|")))
    outcome = verify(row["response"], row["reference"], row["verifier"], choices=choices)
    assert outcome.correct is (row["correct"] == "1"), outcome


def test_both_verdicts_are_there():
    """Protects from a judge that refuses everything."""
    right = sum(row["correct"] == "1" for row in ROWS)
    assert right > 90
    assert len(ROWS) - right > 200
