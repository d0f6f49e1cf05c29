"""Judgements made anew: responses that were kept, judged by today's rules, beside what was decided when they were drawn.

Nothing is decoded. A row of the new table is a row of the old one with today's ``answer``, ``correct`` and ``how``, the earlier
ones as ``answer_before``, ``correct_before`` and ``how_before``, and ``changed``: whether ``correct`` is another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from workbench.errors import InputError, nearest
from workbench.problems.answers import verify
from workbench.problems.problem import Problem

NEEDED = ("problem", "text", "answer", "correct", "how")
"""Columns of a table of responses."""


@dataclass(frozen=True, eq=False)
class Rejudged:
    """What `rejudge` returns."""

    table: pd.DataFrame
    """One row a response, in the order of the old table."""

    @property
    def changed(self) -> pd.DataFrame:
        """The rows whose judgement is another now."""
        return self.table.loc[self.table["changed"].astype(bool)]

    @property
    def rules(self) -> pd.DataFrame:
        """Changed judgements by the rule that decides now: how, newly right, newly wrong."""
        changed = self.changed
        counts = changed.groupby("how")["correct"].agg(newly_right="sum", all="size").reset_index()
        counts["newly_wrong"] = counts.pop("all") - counts["newly_right"]
        return counts.sort_values(["newly_right", "newly_wrong"], ascending=False, ignore_index=True)

    @property
    def told(self) -> str:
        """One line: how many responses, and how many are judged otherwise."""
        count, right = len(self.changed), int(self.changed["correct"].to_numpy(bool).sum())
        return f"{len(self.table)} responses; {count} judged otherwise: {right} newly right, {count - right} newly wrong"


def rejudge(responses: pd.DataFrame, problems: Sequence[Problem]) -> Rejudged:
    """Judge responses anew.

    Args:
        responses: a table of responses, as ``tables/responses.parquet`` of a run.
        problems: with answers; all that the responses belong to.

    Raises:
        InputError: a column that is missing, a response to a problem that is not given, or a problem without an answer.

    Example:
        >>> old = {"problem": "p", "text": "It is red.", "answer": "", "correct": False, "how": "no answer"}
        >>> rejudge(pd.DataFrame([old]), [Problem("p", "Which?", "red")]).told
        '1 responses; 1 judged otherwise: 1 newly right, 0 newly wrong'
    """
    for column in NEEDED:
        if column not in responses:
            raise InputError(
                f"`responses` has no column {column!r}{nearest(column, responses)}; expected {', '.join(NEEDED)}: the "
                "tables/responses.parquet of a study, an ablation or a sweep"
            )
    by_id = {problem.id: problem for problem in problems}
    ids = list(dict.fromkeys(responses["problem"]))
    missing = [name for name in ids if name not in by_id or by_id[name].answer is None]
    if missing:
        why = "is not among `problems`" if missing[0] not in by_id else "has no answer"
        raise InputError(
            f"`responses` has {len(missing)} of {len(ids)} problems that can't be judged: {missing[0]!r} {why}"
            f"{nearest(missing[0], by_id)}; give the problems that were asked: rejudge(responses, load_problems('set.tsv'))"
        )
    judged: dict[tuple[str, str], tuple[str, bool, str]] = {}
    for name, text in zip(responses["problem"], responses["text"], strict=True):
        if (name, text) not in judged:
            problem = by_id[name]
            outcome = verify(text, problem.answer or "", problem.verifier, choices=problem.choices)
            judged[name, text] = (outcome.answer or "", outcome.correct, outcome.how)
    table = responses.copy()
    new = [judged[key] for key in zip(responses["problem"], responses["text"], strict=True)]
    for place, column in enumerate(("answer", "correct", "how")):
        table[f"{column}_before"] = responses[column]
        table[column] = [row[place] for row in new]
    table["changed"] = table["correct"].astype(bool) != responses["correct"].astype(bool)
    return Rejudged(table)
