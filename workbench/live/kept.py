"""A bench as JSON and as Python: what was asked, what was tried, and what was answered."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from workbench.conditions import Condition
from workbench.decoding.responses import Response
from workbench.errors import InputError
from workbench.live.actions import code_of, from_json, to_json
from workbench.live.mask import Mask
from workbench.live.trial import Token, Trial
from workbench.models.chat import Message
from workbench.models.pairs import ModelPair
from workbench.problems.images import decode_base64, open_image
from workbench.problems.problem import Problem
from workbench.problems.sources import GENERATED
from workbench.runs import write_json
from workbench.views.pictures import data_uri

if TYPE_CHECKING:
    from workbench.live.session import Bench

FORMAT = 1
_TEXTS = ("id", "question", "answer", "family", "verifier", "system", "template")
_OPEN = "wb.bench(pair, reopen='bench.json')"


def as_json(bench: "Bench") -> dict[str, Any]:
    """All of a bench but its models and its lens, which is computed anew.

    Raises:
        InputError: it was opened with an encoded prompt, or a condition of your own was tried.
    """
    if bench.problem is None:
        raise InputError(
            "`problem`: an encoded prompt can't be written as JSON; open the bench with a problem: wb.bench(pair, problem)"
        )
    return {
        "workbench_bench": FORMAT,
        "pair": bench.pair.name,
        "problem": _problem(bench.problem),
        "turns": [_turn(turn) for turn in bench.turns],
        "selection": bench.mask.spans,
        "shown": bench.trial.number,
        "trials": [_trial(trial) for trial in bench.trials],
    }


def save_json(bench: "Bench", path: Path) -> Path:
    """Write it to a file."""
    try:
        write_json(path, as_json(bench))
    except OSError as error:
        raise InputError(
            f"`path` {str(path)!r} cannot be written ({error}): bench.save('bench.json')"
        ) from error
    return path


def read_json(path: Path | str) -> dict[str, Any]:
    """What `save_json` wrote.

    Raises:
        InputError: no such file, or another one.
    """
    try:
        entry = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"`reopen` {str(path)!r} can't be read ({error}): {_OPEN}") from error
    return checked(entry, f"`reopen` {str(path)!r}")


def checked(entry: Any, what: str) -> dict[str, Any]:
    """JSON that is of a bench.

    Raises:
        InputError: it is not.
    """
    if not isinstance(entry, dict) or entry.get("workbench_bench") != FORMAT:
        raise InputError(f"{what} is no bench of format {FORMAT}: {_OPEN}")
    return entry


def problem_in(entry: Mapping[str, Any]) -> Problem:
    """The problem of a bench that was kept.

    Raises:
        InputError: it is none.
    """
    try:
        kept = dict(entry["problem"])
        pictures: dict[str, Any] = {
            name: tuple(
                open_image(decode_base64(uri, f"`{name}`"), f"picture {i} of the bench")
                for i, uri in enumerate(kept.get(name, ()))
            )
            for name in ("images", "video")
        }
        texts = {name: kept[name] for name in _TEXTS if name in kept}
        return Problem(**texts, **pictures, choices=tuple(kept.get("choices", ())))
    except (KeyError, TypeError) as error:
        raise InputError(f"`reopen`: the file's problem can't be read ({error!r}): {_OPEN}") from error


def turns_in(entry: Mapping[str, Any]) -> tuple[Message, ...]:
    """What followed the problem of a bench that was kept.

    Raises:
        InputError: something else.
    """
    try:
        return tuple(
            Message(_role(turn["role"]), tuple(_part(part) for part in turn["parts"]))
            for turn in entry.get("turns", ())
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"`reopen`: the file's turns can't be read ({error!r}): {_OPEN}") from error


def _role(role: Any) -> Any:
    if role not in ("assistant", "user"):
        raise TypeError(f"role {role!r}")
    return role


def _part(part: Mapping[str, str]) -> str | Image.Image:
    if "text" in part:
        return str(part["text"])
    return open_image(decode_base64(part["image"], "`turns`"), "a picture of the bench's turns")


def _turn(turn: Message) -> dict[str, Any]:
    parts = [{"text": one} if isinstance(one, str) else {"image": data_uri(one)} for one in turn.parts]
    return {"role": turn.role, "parts": parts}


def trials_in(entry: Mapping[str, Any], pair: ModelPair) -> list[Trial]:
    """What was tried, with the answers that were given then.

    Raises:
        InputError: something else.
    """
    try:
        return [_restored(one, pair) for one in entry["trials"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"`reopen`: the file's trials can't be read ({error!r}): {_OPEN}") from error


def code(bench: "Bench") -> str:
    """Python that does the trial that is shown again, from nothing; of a selection alone, that selects it."""
    trial = bench.trial
    return _code(bench, trial.condition, trial.begun, trial.sampling)


def code_with(bench: "Bench", condition: Condition) -> str:
    """Python that does it at the bench's problem."""
    return _code(bench, condition)


def _code(
    bench: "Bench",
    condition: Condition | None,
    begun: Sequence[int] = (),
    sampling: Mapping[str, Any] | None = None,
) -> str:
    lines = ["import workbench as wb", ""]
    lines += [_pair_code(bench.pair), _problem_code(bench.problem)]
    encoded = "problem, turns" if bench.turns else "problem"
    if bench.turns:
        lines += ["turns = ...  # those that the bench was opened with"]
    if condition is None:
        opened = "problem, turns=turns" if bench.turns else "problem"
        lines += [f"bench = wb.bench(pair, {opened})", f"bench.selection = wb.{bench.mask!r}"]
    else:
        lines += [f"condition = {code_of(condition)}"]
        prompt = f"pair.encode({encoded})" if bench.turns else "problem"
        if begun:
            lines += [f"prompt = pair.encode({encoded}, response={list(begun)})"]
            lines += [f"(made,) = wb.prepare(condition, pair, [pair.encode({encoded})])"]
            prompt = "prompt"
        given = "made" if begun else "condition"
        how = "".join(f", {name}={value!r}" for name, value in (sampling or {}).items())
        model = f"model={condition.answered_by!r}, "
        lines += [f"for answer in wb.decode(pair, {prompt}, {model}intervention={given}{how}):"]
        lines += ["    print(answer.text)"]
    return "\n".join(lines) + "\n"


def _pair_code(pair: ModelPair) -> str:
    if pair.preset is not None:
        saved = pair.provenance.get("checkpoint")
        return (
            f"pair = wb.load_pair({pair.preset.name!r}{'' if saved is None else f', checkpoint={saved!r}'})"
        )
    return f"pair = ...  # {pair.name}: load_pair(base=..., rlvr=...) as it was loaded for the bench"


def _problem_code(problem: Problem | None) -> str:
    named = re.fullmatch(r"([\w-]+)/(\w+)/(\d+)/(\d+)", "" if problem is None else problem.id)
    if named and named[1] in GENERATED:
        name, split, seed, index = named[1], named[2], int(named[3]), int(named[4])
        return (
            f"problem = wb.load_problems({name!r}, split={split!r}, limit={index + 1}, seed={seed})[{index}]"
        )
    if problem is None or problem.images or problem.video:
        return "problem = ...  # the one that the bench was opened with"
    own = {name: getattr(problem, name) for name in (*_TEXTS, "choices") if getattr(problem, name)}
    own["verifier"] = str(problem.verifier)
    return f"problem = wb.Problem({', '.join(f'{name}={value!r}' for name, value in own.items())})"


def _problem(problem: Problem) -> dict[str, Any]:
    kept: dict[str, Any] = {name: getattr(problem, name) for name in _TEXTS}
    kept |= {"verifier": str(problem.verifier), "choices": list(problem.choices)}
    for name in ("images", "video"):
        kept[name] = [data_uri(picture) for picture in getattr(problem, name)]
    return kept


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "action": None if trial.condition is None else to_json(trial.condition),
        "title": trial.title,
        "cells": trial.mask.spans,
        "begun": list(trial.begun),
        "sampling": dict(trial.sampling),
        "effect": dict(trial.effect),
        "answers": _responses(trial.answers),
        "samples": _responses(trial.samples),
        "strips": {who: [list(token) for token in strip] for who, strip in trial.strips.items()},
        "norms": list(trial.norms),
        "number": trial.number,
    }


def _responses(answers: Mapping[str, Sequence[Response]]) -> dict[str, Any]:
    return {who: [asdict(one) for one in responses] for who, responses in answers.items()}


def _restored_responses(entry: Mapping[str, Any]) -> dict[str, tuple[Response, ...]]:
    answers = {}
    for who, responses in entry.items():
        read = [Response(**{**one, "ids": tuple(one["ids"])}) for one in responses]
        answers[who] = tuple(
            replace(one, replaced=tuple(one.replaced), values=tuple(one.values)) for one in read
        )
    return answers


def _restored(entry: Mapping[str, Any], pair: ModelPair) -> Trial:
    action, answers = entry["action"], _restored_responses(entry["answers"])
    strips = {
        who: tuple(
            Token(i, text, far, *(tuple((a, b, c) for a, b, c in top) for top in tops))
            for i, text, far, *tops in strip
        )
        for who, strip in entry["strips"].items()
    }
    return Trial(
        int(entry["number"]),
        None if action is None else from_json(action),
        Mask.from_spans(entry["cells"]),
        answers,
        tuple(entry["begun"]),
        dict(entry["sampling"]),
        dict(entry["effect"]),
        strips,
        _restored_responses(entry.get("samples", {})),
        tuple(map(float, entry.get("norms", ()))),
    )
