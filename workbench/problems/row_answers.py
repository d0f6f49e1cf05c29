"""Options and answer of a row: what letters they get, and how an answer names its option.

Options come from a list, from columns A, B, ..., or from a mapping, whose keys are their labels: letters put them in the
order of the alphabet, numbers in the order of counting. "A. red", "B. blue" lose their letters, for the prompt writes them
again.

An answer names an option by its letter ("B", "(b)", "B."), by its text ("Blue"), by both ("B. blue"), by its label, or, as an
integer that is no option's text, by its place from 0. What names none, or two, is refused: it could never be judged right.
``true`` and ``false`` are the texts yes and no, or the options that say so.
"""

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.errors import InputError
from workbench.problems.answer_choice import LETTERS
from workbench.problems.answer_numbers import quantity
from workbench.problems.answer_text import plain

_LETTERED = re.compile(r"^\(?([A-Z])[.):]\s+")
_TRUTHS = {True: ("yes", "true"), False: ("no", "false")}


def blank(cell: Any) -> bool:
    """Whether a cell holds nothing."""
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or (isinstance(cell, str) and not cell.strip())


def as_list(value: Any, where: str) -> list[Any]:
    """A list as it is, the list that a text spells (JSON or Python literals; nothing runs), or one value."""
    if isinstance(value, list | tuple):
        return list(value)
    spelled = _spelled(value, "[", "]")
    if spelled is None:
        return [value]
    if not isinstance(spelled, list | tuple):
        raise InputError(
            f'{where} starts with {str(value)[:40]!r} but is no list: expected for example ["1.png", "2.png"]'
        )
    return list(spelled)


def _spelled(value: Any, opens: str, closes: str) -> Any:
    """What a text in brackets spells; the text itself where it spells nothing, None for anything else."""
    text = value.strip() if isinstance(value, str) else ""
    if not (text.startswith(opens) and text.endswith(closes)):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def options_of(value: Any, row: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options of a cell, or those of columns A, B, ..., in the order of their letters; and their labels, if they had some.

    Raises:
        InputError: a gap in the columns, labels that give no order, or fewer than two texts.
    """
    if value is None:
        filled = [letter for letter in LETTERS if not blank(row.get(letter))]
        if filled != list(LETTERS[: len(filled)]):
            raise InputError(
                f"{where}: options {', '.join(filled)} have a gap; expected columns A, B, ... in order"
            )
        return _unlettered([str(row[letter]) for letter in filled]), ()
    spelled = _spelled(value, "{", "}")
    mapping = value if isinstance(value, Mapping) else spelled if isinstance(spelled, Mapping) else None
    labels: list[str] = []
    if mapping is None:
        options = as_list(value, f"{where}: `choices`")
    else:
        labels, options = _labelled(mapping, where)
    if len(options) < 2 or any(isinstance(o, list | Mapping) or blank(o) for o in options):
        raise InputError(
            f'{where}: `choices` is {value!r}; expected at least two texts: "choices": ["red", "blue"]'
        )
    return _unlettered([_text(option) for option in options]), tuple(labels)


def _labelled(mapping: Mapping[Any, Any], where: str) -> tuple[list[str], list[Any]]:
    """Labels and options of a mapping, in the order that the labels say."""
    if {"text", "label"} <= set(mapping) and all(
        isinstance(mapping[k], list | tuple) for k in ("text", "label")
    ):
        mapping = dict(
            zip(mapping["label"], mapping["text"], strict=False)
        )  # as the hub's data sets hold them
    options = {
        str(key).strip().strip("().").upper(): option for key, option in mapping.items() if not blank(option)
    }
    keys = list(options)
    if sorted(keys) == list(LETTERS[: len(keys)]):
        keys.sort()
    elif all(key.isdecimal() for key in keys) and sorted(map(int, keys)) in (
        [*range(len(keys))],
        [*range(1, len(keys) + 1)],
    ):
        keys.sort(key=int)
    else:
        raise InputError(
            f"{where}: `choices` has the labels {', '.join(map(str, mapping))}; expected A, B, ... or 1, 2, ... without a gap: "
            '"choices": {"A": "red", "B": "blue"}, or a list'
        )
    return keys, [options[key] for key in keys]


def _unlettered(options: Sequence[str]) -> tuple[str, ...]:
    """Options without the letters that stand before all of them."""
    marks = [_LETTERED.match(option) for option in options]
    if options and all(m and m[1] == letter for m, letter in zip(marks, LETTERS, strict=False)):
        return tuple(option[m.end() :] for option, m in zip(options, marks, strict=True) if m)
    return tuple(options)


def _text(value: Any) -> str:
    """A value as text; ``true`` as yes, ``false`` as no."""
    return _TRUTHS[value][0] if isinstance(value, bool) else str(value)


def answer_of(
    value: Any, choices: tuple[str, ...], where: str, labels: Sequence[str] = (), *, open_ended: bool = False
) -> str | None:
    """The answer as text: the letter of its option where there are options.

    ``open_ended``: an answer that names no option is kept as text, for the row's verifier says how it is compared.

    Raises:
        InputError: no text or number, or an answer that names no option, or more than one.
    """
    if value is None:
        return None
    if not isinstance(value, str | int | float):
        raise InputError(
            f"{where}: `answer` is a {type(value).__name__}; expected text or a number: "
            "columns={'answer': 'label'}, or columns={'answer': ''} for none"
        )
    text = _text(value).strip()
    if not choices:
        return text
    if isinstance(value, bool):
        named = {i for i, option in enumerate(choices) if plain(option) in _TRUTHS[value]}
    elif text.upper() in labels and text.upper() not in LETTERS:
        named = {labels.index(text.upper())}
    else:
        named = _named(value, text, choices, where)
    if len(named) == 1:
        return LETTERS[named.pop()]
    if open_ended:
        return text
    texts = "; ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, choices, strict=False))
    fault = (
        "names none of the options"
        if not named
        else f"names {' and '.join(LETTERS[i] for i in sorted(named))}"
    )
    raise InputError(
        f"{where}: `answer` {value!r} {fault} ({texts}); expected a letter, an option's text, or the verifier that compares it: "
        '"answer": "B"'
    )


def _named(value: Any, text: str, choices: tuple[str, ...], where: str) -> set[int]:
    """Places of the options that an answer names, each in its own way."""
    exact = {i for i, option in enumerate(choices) if option.strip() == text}
    alike = exact or {i for i, option in enumerate(choices) if plain(option) == plain(text)}
    if type(value) is int or (not alike and quantity(text) is not None):
        number = quantity(text)
        alike = alike or {
            i
            for i, option in enumerate(choices)
            if number and (q := quantity(option)) and q.value == number.value
        }
    if type(value) is int:
        if not alike and not 0 <= value < len(choices):
            raise InputError(
                f"{where}: `answer` {value} is no index; expected 0 to {len(choices) - 1}, or a letter"
            )
        return alike | ({value} if 0 <= value < len(choices) else set())
    letter = re.fullmatch(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:]?", text)
    if letter and letter[1].upper() in LETTERS[: len(choices)]:
        return {LETTERS.index(letter[1].upper())} | exact
    both = re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]+\s*(\S.*)", text, re.DOTALL)
    if not alike and both and both[1].upper() in LETTERS[: len(choices)]:
        place = LETTERS.index(both[1].upper())
        words = {i for i, option in enumerate(choices) if plain(option) == plain(both[2])}
        return {place} | words if words else set()
    return alike


def verifier_of(answer: str | None, choices: tuple[str, ...]) -> str:
    """How an answer is compared where its row does not say."""
    if choices and (answer is None or answer in tuple(LETTERS[: len(choices)])):
        return "choice"
    plainly = answer is not None and re.fullmatch(
        r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", answer.strip()
    )
    return "numeric" if plainly and quantity(answer or "") is not None else "exact"
