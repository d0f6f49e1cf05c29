"""The number that a sentence states, and the numbers that it holds.

A sentence states a number where a verb, a colon or "so" stands right before it ("there are 5 circles", "total: 5"), or
where it begins with it ("5 people are there"), and where no other number competes: "20 and 22 make 42" is settled by the
verb, "5 eggs in 2 boxes" by nothing. Bounds, ranges, conditions, questions and denials state none.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

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
from workbench.problems.answer_place import LONGEST
from workbench.problems.answer_text import hedged, negated, sentences
from workbench.problems.answer_units import MONEY, unit_of
from workbench.problems.answer_words import NUMBER_WORD, number_in_words

_SCAN = re.compile(
    rf"(?<![A-Za-z0-9_.^\\:#])(?:[{MONEY}]\s*)?(?:(?<![A-Za-z0-9_)%°])[-\u2013]\s?(?=[\d.{MONEY}]))?[{MONEY}]?\s*{VALUE}(?![:]\d)",
    re.IGNORECASE,
)
_WORDS = re.compile(
    rf"{NUMBER_WORD.pattern}(?:[\s-]+(?:and\s+)?(?:a\s+)?{NUMBER_WORD.pattern})*", re.IGNORECASE
)
_LABEL = re.compile(
    r"\b(?:step|figure|fig\.?|question|option|case|part|equation|eq\.?|line|table|page|problem|no\.|example|item|choice|row|column"
    r"|room|first|last|next|chapter|section|level|type|number)\s*$",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"\b(?:at least|at most|more than|less than|fewer than|greater than|smaller than|up to|over|under|above|below|no more than"
    r"|no less than|between|from|anywhere|or more|or less|or so|or fewer|almost|nearly|hardly|barely|about to|not|minimum|maximum"
    r"|or|if|wrong|incorrect|instead)\b|或|至少|至多|最多|不到|超过|大于|小于|以上|以下|[<>≤≥±≠?]|!=|\\(?:le|ge|lt|gt|leq|geq|pm|neq?)\b",
    re.IGNORECASE,
)
_POINTS = re.compile(
    r"(?:\b(?:is|are|was|were|be|equals?|makes?|gives?|get|gets|got|leaves?|have|has|costs?|weighs?|measures?|totals?|needs?|reads?"
    r"|shows?|contains?|counts?|counted|sees?|saw|finds?|found|so|thus|therefore|hence|say|think|answer|result|holds?"
    r"|(?:total|sum|count) of"
    r")|'s|[:=→]|->|是|为|有|得|共|到)[\s,:$*(]*(?:(?:exactly|about|only|just|approximately|around|roughly|likely"
    r"|probably|equal to"
    r"|a total of|the number|value|still|now|there are|there is|all|in fact|clearly|约|大约|≈)[\s$*]*)*$",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r"(?:\s+[A-Za-z-]+){1,3}\s+(?:are|were|is|can be|appear|stand|sit|remain)\b(?!\s+(?:wrong|incorrect|not))"
)
_SPOILED = re.compile(
    r"\.?\d|,\d|\s*[°%]?\s*[-+*/×^]\s*(?:[A-Za-z](?![A-Za-z])|\\)|\s*[+*/^×'!]"
    r"|\s*(?:squared|cubed|times|\w+ths|thirds?|halves|half|quarters?|pm|am|[ap]\.m|o'clock|plus|minus|over|out of|th\b"
    r"|more|less|fewer|score|and a|and an|choose|mod)\b",
    re.IGNORECASE,
)


_REASON = re.compile(r",?\s*\b(?:because|since)\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Seen:
    """A number in a text: where it begins and ends."""

    start: int
    end: int
    quantity: Quantity
    spoiled: bool = False
    """Whether it is part of something else (``5x``, ``42.0.1``, "5 squared")."""


def quantities(text: str) -> list[Quantity]:
    """Every number of a text, in order: labels ("step 3") left out, number words counted, a range as its two ends.

    The list is empty where one of the numbers is part of something else.
    """
    numbers = _seen(written(text))
    return [] if any(number.spoiled for number in numbers) else [number.quantity for number in numbers]


def _seen(text: str) -> list[_Seen]:
    """The numbers of a text as `written`, in order."""
    numbers = []
    matches = [m for m in _SCAN.finditer(text) if not _LABEL.search(text[: m.start()])]
    for match, after in zip(matches, [*matches[1:], None], strict=False):
        value, tail = value_of(match), text[match.end() : after.start() if after else len(text)]
        exclaimed = tail.startswith("!") and len(text.split()) >= 3
        spoiled = value is None or bool(_SPOILED.match(tail) and not exclaimed) or _attached(tail)
        words, percent, scale = unit_after(re.split(r"[.。!?](?:\s|$)|[,;)]", tail, maxsplit=1)[0]) or (
            "",
            bool(PERCENT.match(tail)),
            1,
        )
        head = match[0].lstrip()
        money = next((sign for sign in MONEY if sign in head[:3]), "")
        value = (value or Fraction()) * scale * (-1 if head[:1] in "-\u2013" or head[1:2] == "-" else 1)
        point = "." in (match["plain"] or "").rstrip(".")
        number = Quantity(value, money or words, percent, value.denominator == 1 and not point)
        numbers.append(_Seen(match.start() + len(match[0]) - len(head), match.end(), number, spoiled))
    for match in _WORDS.finditer(text):
        before, value = text[: match.start()], number_in_words(match[0])
        alone = re.search(r"(?:\b(?:is|are|only|exactly|answer)|[:=]|^)\s*$", before, re.IGNORECASE)
        if (match[0].lower() == "one" and not alone) or re.search(r"\d\s*$", before):
            continue  # "the red one"; 5 million
        spoiled = value is None or bool(_SPOILED.match(text[match.end() :]))
        value = value or Fraction()
        number = Quantity(value, "", False, value.denominator == 1)
        numbers.append(_Seen(match.start(), match.end(), number, spoiled))
    return sorted(numbers, key=lambda item: item.start)


def _attached(tail: str) -> bool:
    """Whether letters that are no unit hang on a number: 5x, 3rd, 2\\pi."""
    is_unit = unit_of(re.split(r"[\s.,;)]", tail)[0]) is not None
    return bool(re.match(r"[-+]?[A-Za-z\\]", tail)) and not is_unit and not SCALE.match(tail)


def bounded(text: str) -> bool:
    """Whether a sentence gives a bound, a range, a choice, a condition or a denial rather than a value."""
    return hedged(text) or negated(text) or bool(_BOUND.search(text))


def stated(text: str) -> Quantity | None:
    """The one number that a sentence states, by a verb or by where the number stands in it. None for anything else."""
    if len(text) > LONGEST:
        return None
    if (whole := quantity(text)) is not None:
        return whole
    text = re.sub(r"^\s*(?:[*•]\s+|\(?[a-z]\)\s*)(?=\S)", "", written(text))
    if (whole := quantity(text)) is not None:
        return whole
    text = _REASON.split(text, maxsplit=1)[0].strip() or text
    if re.search(r"!=|≠|\\neq?\b", text):
        return None
    aside = re.fullmatch(r"(.+?)\s*\(([^()]*)\)\W*", text)
    if aside and re.search(r"\d", aside[1]) and not re.search(r"\bor\b|\bmaybe\b", aside[2]):
        text = aside[1]
    if re.search(r"[=≈→]|->", text):
        sides = re.split(r"[=≈→]|->", text)
        several = len(sides) > 2 and re.search(r",|;|\b(?:and|or)\b", text)
        if not several and (last := quantity((sentences(sides[-1]) or [""])[0])) is not None:
            return last
        if several or not re.search(r"\b(?:since|so|therefore|thus|hence)\b", text, re.IGNORECASE):
            return None
    text = re.sub(r",\s*not\s+\S+", "", text)
    if bounded(text):
        return None
    numbers = _seen(text)
    pointed = [item for item in numbers if not item.spoiled and _POINTS.search(text[: item.start])]
    if len({(item.quantity.value, item.quantity.percent) for item in numbers}) == 1:
        begins = _SUBJECT.match(text[numbers[0].end :]) and not text[: numbers[0].start].strip(" *")
        total = re.search(r"\b(?:in total|altogether)\W*$", text)
        return numbers[0].quantity if pointed or ((begins or total) and not numbers[0].spoiled) else None
    settled = [item for item in pointed if not any(other.start > item.end for other in numbers)]
    return settled[0].quantity if len(settled) == 1 else None
