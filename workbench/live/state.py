"""What the page of a bench shows, as JSON: the prompt's lens once, and after every change what changed, packed small."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.live.actions import has_adapter
from workbench.live.trial import Token, Trial, changed_tokens
from workbench.views.explorer_data import ModelAnswer, pack, pack_after
from workbench.views.tables import visible

if TYPE_CHECKING:
    from workbench.live.session import Bench

ACTION_BYTES = 650_000
"""Of the lens after an action, at most; with all else an action sends less than 1 MB."""
ANSWER_BYTES = 120_000
"""Of answers token by token, where both models' alternatives can be fewer."""
STRIP = 2000
"""Tokens of an answer that are shown one by one."""
LISTED = 60
"""Trials in the list of a live page: the latest; a page of its own has all of them."""
CODE_LETTERS = 20_000
"""Of code that is shown at once; more of it only when it is copied."""
_SAMPLE = 400
_TEXT = 160
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
    """List of trials, what is shown of them, and what can be done: little, since all of it travels after every change."""
    trial, job = bench.trial, bench.job
    condition = trial.condition
    return {
        "pair": bench.pair.name,
        "problem": bench.prompt.problem_id,
        "depth": bench.ground.shape[0],
        "heads": _heads(bench),
        "adapter": has_adapter(bench.pair.name),
        "pictures": bool(bench.prompt.grids),
        "busy": None if job is None or job.done else ": ".join(filter(None, (job.name, bench.stage))),
        "error": bench.error,
        "undo": bench.can_undo,
        "redo": bench.can_redo,
        "shown": trial.number,
        "title": trial.title,
        "answeredBy": "rlvr" if condition is None else condition.answered_by,
        "begun": len(trial.begun),
        "trials": [_line(one) for one in bench.trials[-LISTED:]],
        "code": _brief(bench.code()),
    }


def shown_selection(bench: "Bench") -> dict[str, Any]:
    """The selected cells."""
    return {"mask": bench.mask.spans, "count": bench.mask.count}


def shown_answers(bench: "Bench") -> dict[str, Any]:
    """The answers of the shown trial token by token, with as many alternatives as go into `ANSWER_BYTES`."""
    trial = bench.trial
    most = max((len(one.base) for strip in trial.strips.values() for one in strip), default=0)
    for alternatives in range(most, 0, -1):
        packed = _packed_answers(trial, alternatives)
        if len(json.dumps(packed)) <= ANSWER_BYTES:
            return packed
    return _packed_answers(trial, 0)


def whole_state(bench: "Bench") -> dict[str, Any]:
    """All that a page without a kernel shows, but for both lenses."""
    return {
        **shown_state(bench),
        **shown_selection(bench),
        "answers": shown_answers(bench),
        "trials": [_line(one) for one in bench.trials],
        "code": bench.code(),
    }


def shown_effect(bench: "Bench") -> dict[str, Any]:
    """The lens of the shown trial after its action, where it is kept and small enough, and the norms of what it learnt."""
    number, norms = bench.trial.number, bench.trial.norms
    lens = bench.lenses.get(number)
    packed = (lens and pack_after(lens, ACTION_BYTES)) or {}
    return {"trial": number, **({"norms": [round(one, 4) for one in norms]} if norms else {}), **packed}


def _packed_answers(trial: Trial, alternatives: int) -> dict[str, Any]:
    """Per answer its tokens: word, divergence in nats, alternatives of the base and of RLVR as word, probability, and so on.

    A word is an index into ``ids`` and ``words``.
    """
    words: dict[int, tuple[int, str]] = {}

    def word(ident: int, text: str) -> int:
        return words.setdefault(ident, (len(words), visible(text)))[0]

    def token(one: Token) -> list[Any]:
        tops = [
            [part for i, t, p in top[:alternatives] for part in (word(i, t), _digits(p))]
            for top in (one.base, one.rlvr)
        ]
        return [word(one.id, one.text), _digits(one.divergence), *tops]

    strips = {who: [token(one) for one in trial.strips.get(who, ())[:STRIP]] for who in trial.answers}
    answers = {who: {**_answer(trial, who), "tokens": strips[who]} for who in trial.answers}
    return {"trial": trial.number, "ids": [*words], "words": [text for _, text in words.values()], **answers}


def _answer(trial: Trial, who: str) -> dict[str, Any]:
    response, drawn = trial.answers[who][0], trial.samples.get(who, ())
    return {
        "text": response.text,
        "right": trial.effect["right"][who],
        "finished": response.finished,
        "more": max(0, len(response.ids) - STRIP),
        "samples": _counted([one.text for one in drawn]),
        "rightSamples": trial.effect.get("samples_right", {}).get(who),
        "changed": [at for at in changed_tokens(trial) if at < STRIP] if who == "action" else [],
    }


def _counted(texts: Sequence[str]) -> list[list[Any]]:
    """Each text once, with how many times it was drawn, the most frequent first."""
    counts = {text: texts.count(text) for text in texts}
    return [[_short(text, _SAMPLE), count] for text, count in sorted(counts.items(), key=lambda one: -one[1])]


def _digits(value: float | None) -> float | None:
    """Four significant digits."""
    return None if value is None else float(f"{value:.4g}")


def _brief(code: str) -> str | None:
    """None for what is too long to travel after every change."""
    return code if len(code) <= CODE_LETTERS else None


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
