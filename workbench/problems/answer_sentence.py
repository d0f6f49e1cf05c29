"""The number that a sentence states, and the numbers that it holds."""

import re

from workbench.problems.answer_numbers import (
    PERCENT,
    SCALE,
    VALUE,
    Quantity,
    quantity,
    unit_after,
    value_of,
    written,
)
from workbench.problems.answer_text import hedged, negated, sentences
from workbench.problems.answer_units import MONEY, unit_of
from workbench.problems.answer_words import NUMBER_WORD, number_in_words

_SCAN = re.compile(
    rf"(?<![A-Za-z0-9_.^\\:#])(?:[{MONEY}]\s*)?(?:(?<![A-Za-z0-9_)%°])[-\u2013]\s?(?=[\d.{MONEY}]))?[{MONEY}]?\s*{VALUE}(?![:]\d)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"\b(?:step|figure|fig\.?|question|option|case|part|equation|eq\.?|line|table|page|problem|no\.|example|item|choice|row|column)\s*$",
    re.I,
)
_BOUND = re.compile(
    r"\b(?:at least|at most|more than|less than|fewer than|greater than|smaller than|up to|over|under|above|below|no more than"
    r"|no less than|between|from|anywhere|or more|or less|or so|or fewer|almost|not)\b"
    r"|至少|至多|最多|不到|超过|大于|小于|以上|以下|[<>≤≥±]|\\(?:le|ge|lt|gt|leq|geq|pm)\b",
    re.IGNORECASE,
)


def quantities(text: str) -> list[Quantity]:
    """Every number of a text, in order: labels ("step 3") left out, number words counted, a range as its two ends."""
    text = written(text)
    found: list[tuple[int, Quantity]] = []
    matches = [m for m in _SCAN.finditer(text) if not _LABEL.search(text[: m.start()])]
    for match, after in zip(matches, [*matches[1:], None], strict=False):
        value = value_of(match)
        if value is None:
            return []
        tail = text[match.end() : after.start() if after else len(text)]
        if re.match(r"\.?\d|\s*[°%]?\s*[-+*/×^]\s*(?:[A-Za-z](?![A-Za-z])|\\)", tail):
            return []  # 42.0.1, 90° - x
        if tail.startswith("!") and len(text.split()) < 3:
            return []  # a factorial, or an exclamation
        if (
            re.match(r"[\s]*[-+]?[A-Za-z\\]", tail)
            and tail[:1] not in " \t"
            and unit_of(re.split(r"[\s.,;)]", tail)[0]) is None
            and not SCALE.match(tail)
        ):
            return []  # 5x, 3rd, 2\pi
        unit = unit_after(re.split(r"[.。!?](?:\s|$)|[,;)]", tail, maxsplit=1)[0], match["plain"] or "")
        head = match[0].lstrip()
        money = next((sign for sign in MONEY if sign in head[:3]), "")
        sign = -1 if head[:1] in "-\u2013" or head[1:2] == "-" else 1
        words, percent, scale = unit or ("", bool(PERCENT.match(tail)), 1)
        value *= sign * scale
        point = "." in (match["plain"] or "").rstrip(".")
        found.append(
            (match.start(), Quantity(value, money or words, percent, value.denominator == 1 and not point))
        )
    for match in re.finditer(
        rf"{NUMBER_WORD.pattern}(?:[\s-]+(?:and\s+)?(?:a\s+)?{NUMBER_WORD.pattern})*", text, re.IGNORECASE
    ):
        if match[0].lower() == "one" and not re.search(
            r"(?:\b(?:is|are|only|exactly|answer)|[:=]|^)\s*$", text[: match.start()], re.I
        ):
            continue
        if re.search(r"\d\s*$", text[: match.start()]):
            continue  # 5 million
        value = number_in_words(match[0])
        if value is None:
            return []
        found.append((match.start(), Quantity(value, "", False, value.denominator == 1)))
    return [quantity for _, quantity in sorted(found, key=lambda item: item[0])]


_COPULA = re.compile(
    r"\b(?:is|are|was|were|be|equals?|makes?|gives?|get|gets|leaves?|have|has|costs?|weighs?|measures?|totals?|needs?|reads?|shows?|contains?)\b|是|为|有|得",
    re.IGNORECASE,
)
_SO = re.compile(r"\b(?:so|thus|therefore|hence|in total|altogether)\b|所以|因此|总共|一共|共", re.IGNORECASE)


def stated(text: str) -> Quantity | None:
    """The one number that a sentence states: the text's own, that after the last "=", the only one, that after "so" or "is"."""
    if (whole := quantity(text)) is not None:
        return whole
    text = written(text)
    aside = re.fullmatch(r"(.+?)\s*\(([^()]*)\)\W*", text)
    text = (
        aside[1]
        if aside and not re.search(r"\bor\b|\bnot\b", aside[2]) and re.search(r"\d", aside[1])
        else text
    )
    if re.search(r"[=≈]", text):
        sides = re.split(r"[=≈]", text)
        return (
            None
            if len(sides) > 2 and re.search(r",|;|\b(?:and|or)\b", text)
            else quantity(_first_clause(sides[-1]))
        )
    if (
        hedged(text)
        or _BOUND.search(text)
        or negated(text)
        or text.endswith("?")
        or re.search(r"\bor\b|\bif\b|或", text, re.IGNORECASE)
    ):
        return None
    if _one(found := quantities(text)):
        return found[0]
    for mark in (_SO, _COPULA):
        if len(parts := mark.split(text)) > 1:
            if mark is _SO and re.search(r"\b(?:in total|altogether)\W*$", text):
                parts = [*parts[:-1], _COPULA.split(parts[-2])[-1]]
            if _one(found := quantities(parts[-1])) and len(found) == 1:
                return found[0]
    return None


def _first_clause(text: str) -> str:
    first = sentences(text)[:1]
    return first[0] if first else ""


def _one(found: list[Quantity]) -> bool:
    return bool(found) and len({(q.value, q.percent) for q in found}) == 1
