"""What RLVR and interventions changed in the answers, in the words and the one picture of a page's first screen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.errors import InputError
from workbench.views.explorer_data import ModelAnswer
from workbench.views.pictures import picture_uri

if TYPE_CHECKING:
    from workbench.tracing.lens_trace import LensTrace

ON_BASE = "on the base model"
"""Beside the name of an intervention that answers with the base model."""


@dataclass(frozen=True)
class ChangedAnswer:
    """One problem that the two models answer differently."""

    problem: str
    question: str
    expected: str
    base: str
    rlvr: str
    base_correct: bool
    rlvr_correct: bool
    picture: str | None
    """A data URI, or None for a problem without a picture."""


def changed_answer(trace: "LensTrace", responses: pd.DataFrame) -> ChangedAnswer | None:
    """The first traced problem whose greedy answer RLVR put right, else spoilt, else changed; None if there is none.

    ``responses`` is the table of an ablation; its rows of ``base`` and ``rlvr`` with sample -1 are read.
    """
    base, rlvr = (_greedy(responses, name).to_dict("index") for name in ("base", "rlvr"))
    candidates = []
    for index, info in enumerate(trace.prompts):
        before, after = base.get(info.problem_id), rlvr.get(info.problem_id)
        if before is None or after is None:
            continue
        if str(before["answer"]) != str(after["answer"]):
            gain = int(bool(after["correct"])) - int(bool(before["correct"]))
            candidates.append(((1, -1, 0).index(gain), index, info, before, after))
    if not candidates:
        return None
    _, _, info, before, after = min(candidates, key=lambda one: one[:2])
    pictures = [*info.images, *(frame for frames in info.frames for frame in frames)]
    return ChangedAnswer(
        info.problem_id,
        info.question,
        info.answer or "–",
        str(before["answer"]),
        str(after["answer"]),
        bool(before["correct"]),
        bool(after["correct"]),
        picture_uri(pictures[0]) if pictures else None,
    )


def greedy_changes(responses: pd.DataFrame, reverse: frozenset[str]) -> dict[str, str]:
    """Per condition how many greedy texts differ from the plain model's, such as "5 of 64".

    The plain model is RLVR, and for the conditions in ``reverse`` base, on which they act.
    """
    counts = {}
    for name in dict.fromkeys(responses["intervention"]):
        plain = _greedy(responses, "base" if name in reverse else "rlvr")["text"]
        texts = _greedy(responses, str(name))["text"]
        counts[str(name)] = (
            f"{sum(plain.get(problem) != text for problem, text in texts.items())} of {len(texts)}"
        )
    return counts


def greedy_answers(responses: pd.DataFrame) -> dict[str, dict[str, ModelAnswer]]:
    """What both plain models answer to each problem, as the explorer shows it."""
    answers: dict[str, dict[str, ModelAnswer]] = {}
    for model in ("base", "rlvr"):
        for problem, row in _greedy(responses, model).iterrows():
            answer = ModelAnswer(str(row["answer"]) or "none", str(row["text"]), bool(row["correct"]))
            answers.setdefault(str(problem), {})[model] = answer
    return answers


def conditions_in(spec: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The interventions in a study's or an ablation's specification, by name, as `selection.described` has them."""
    spec = spec or {}
    return (spec.get("settings") or spec).get("interventions") or {}


def reverse_conditions(spec: Mapping[str, Any] | None) -> frozenset[str]:
    """Names of the interventions in a study's specification that act on the base model."""
    return frozenset(
        name
        for name, c in conditions_in(spec).items()
        if isinstance(c, Mapping) and c.get("direction") == "reverse"
    )


def _greedy(responses: pd.DataFrame, name: str) -> pd.DataFrame:
    missing = [c for c in ("problem", "intervention", "sample", "text") if c not in responses]
    if missing:
        raise InputError(f"`responses` lacks the columns {missing}; pass `ablate(...).responses`")
    rows = responses.loc[(responses["intervention"] == name) & (responses["sample"] == -1)]
    return rows.set_index("problem")
