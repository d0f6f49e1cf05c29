"""Tables of responses made by hand."""

import pandas as pd


def responses(**right: list[list[int]]) -> pd.DataFrame:
    """Per intervention and problem: the greedy response's mark, then the samples'."""
    rows = [
        {"intervention": name, "problem": f"p{i}", "sample": j - 1, "correct": bool(mark)}
        for name, problems in right.items()
        for i, marks in enumerate(problems)
        for j, mark in enumerate(marks)
    ]
    return pd.DataFrame(rows)
