"""What the page of a bench shows, as JSON: the prompt's lens once, and after every change what changed, packed small."""

from typing import TYPE_CHECKING, Any

from workbench.live.actions import has_adapter
from workbench.live.trial import Trial, changed_tokens
from workbench.views.explorer_data import ModelAnswer, pack, pack_after
from workbench.views.tables import visible

if TYPE_CHECKING:
    from workbench.live.session import Bench

ACTION_BYTES = 800_000
"""Of the lens after an action, at most; with all else an action sends less than 1 MB."""
_TEXT = 240
"""Letters of an answer in the list of trials."""


def prompt_data(bench: "Bench") -> dict[str, Any]:
    """The prompt and both models' lens: what the static explorer has."""
    answers = {}
    for who, responses in bench.trials[0].answers.items():
        text, right = responses[0].text, bench.trials[0].effect["right"][who]
        answers[who] = ModelAnswer(_short(text, 40), text, right)
    problem = bench.prompt.problem_id
    packed = pack([bench.lens], bench.top_k, [bench.followed], {problem: answers})
    if bench.problem is not None:
        packed["problems"][0] |= {"question": bench.problem.question, "answer": bench.problem.answer}
    return packed


def shown_state(bench: "Bench") -> dict[str, Any]:
    """Selection, answers token by token, list of trials, and what can be done."""
    trial, job = bench.trial, bench.job
    condition = trial.condition
    return {
        "pair": bench.pair.name,
        "problem": bench.prompt.problem_id,
        "depth": bench.ground.shape[0],
        "heads": _heads(bench),
        "adapter": has_adapter(bench.pair.name),
        "pictures": bool(bench.prompt.grids),
        "mask": bench.mask.spans,
        "count": bench.mask.count,
        "busy": None if job is None or job.done else job.name,
        "error": bench.error,
        "undo": bench.can_undo,
        "redo": bench.can_redo,
        "shown": trial.number,
        "title": trial.title,
        "answeredBy": "rlvr" if condition is None else condition.answered_by,
        "begun": len(trial.begun),
        "answers": {who: _answer(trial, who) for who in trial.answers},
        "trials": [_line(one) for one in bench.trials],
        "code": bench.code(),
    }


def shown_effect(bench: "Bench") -> dict[str, Any]:
    """The lens of the shown trial after its action, where it is kept and small enough, and the norms of what it learnt."""
    number, norms = bench.trial.number, bench.trial.norms
    lens = bench.lenses.get(number)
    packed = (lens and pack_after(lens, ACTION_BYTES)) or {}
    return {"trial": number, **({"norms": [round(one, 4) for one in norms]} if norms else {}), **packed}


def _answer(trial: Trial, who: str) -> dict[str, Any]:
    responses = trial.answers[who]
    counts: dict[str, int] = {}
    for one in responses:
        counts[one.text] = counts.get(one.text, 0) + 1
    changed = changed_tokens(trial) if who == "action" else []
    return {
        "text": responses[0].text,
        "right": trial.effect["right"][who],
        "finished": responses[0].finished,
        "samples": [[text, count] for text, count in sorted(counts.items(), key=lambda item: -item[1])],
        "changed": changed,
        "tokens": [
            [
                one.id,
                visible(one.text),
                one.divergence,
                *([[i, visible(t), p] for i, t, p in top] for top in one[3:]),
            ]
            for one in trial.strips.get(who, ())
        ],
    }


def _line(trial: Trial) -> dict[str, Any]:
    effect = trial.effect
    return {
        "number": trial.number,
        "title": trial.title,
        "cells": trial.mask.count if trial.condition is not None else 0,
        "changed": effect["changed"],
        "right": effect["right"].get("action", effect["right"]["rlvr"]),
        "lens": effect.get("lens_max"),
        "layer": effect.get("layer"),
        "position": effect.get("position"),
        "text": _short(trial.text if trial.text is not None else trial.answers["rlvr"][0].text, _TEXT),
    }


def _heads(bench: "Bench") -> int:
    config = bench.pair.rlvr.model.config.get_text_config(decoder=True)
    return int(getattr(config, "num_attention_heads", 0) or 0)


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"
