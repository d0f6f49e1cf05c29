r"""The expression that a place of a response holds: a formula in a sentence, the number that it states, or all of it."""

import re

from workbench.problems.answer_numbers import quantity
from workbench.problems.answer_place import Place
from workbench.problems.answer_sentence import bounded, stated
from workbench.problems.answer_text import hedged, sentences

_FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<![\\\w])\$([^$\n]+)\$", re.DOTALL)
_BESIDE = re.compile(r"\s*(?:,|;|and|or|,\s*(?:and|or)|和|或|、)\s*", re.IGNORECASE)
_SO = re.compile(
    r"^\s*(?:(?:so|thus|hence|therefore|then|it is|it's|we (?:get|have|find)|equals)\b[,:]?\s*)+",
    re.IGNORECASE,
)
_REASON = re.compile(r",\s*(?:not|rather than|because|since|as)\b|\bbecause\b", re.IGNORECASE)
_GIVEN = re.compile(r"\s*(?:since|because|given|as|let|with|for|from|when|where|if|using)\b", re.IGNORECASE)
_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?!(?:sqrt|sin|cos|tan|log|ln|exp|pi)(?![a-z]))[A-Za-z]{3,}|[\u4e00-\u9fff]"
)


def mathematics(place: Place) -> tuple[str, str] | None:
    """The expression and where it was found; None where a place holds none, or several."""
    if place.strict:
        return (place.text, place.where) if place.text.strip() else None
    text = re.sub(r"(?<=[A-Za-z])\s*\$\s*\^\{?(\d)\}?\s*\$", r"^\1", place.text)
    text = _REASON.split(text, maxsplit=1)[0]
    if place.where == "whole response" and len(sentences(text)) > 1 and not _FORMULA.fullmatch(text.strip()):
        return None
    if formulas := list(_FORMULA.finditer(text)):
        return _last_formula(text, formulas, place)
    text = _SO.sub("", text).strip().rstrip(".")
    if quantity(text) is not None or not _PROSE.search(re.sub(r"\\[a-z]+\s*\{[^{}]*\}", " ", text)):
        return (text, place.where) if text else None
    if (number := stated(text)) is not None:
        sign = "%" if number.percent else f" {number.unit}" if number.unit else ""
        return f"{number.value}{sign}", place.where
    words = re.split(r",|;|\b(?:because|since|as)\b", text, maxsplit=1)[0].strip()
    short = place.where != "last sentence" and len(words.split()) <= 6
    return (words, place.where) if short and not hedged(text) else None


def _last_formula(text: str, formulas: list[re.Match[str]], place: Place) -> tuple[str, str] | None:
    parts = [formulas[-1]]
    for before in formulas[-2::-1]:
        if _GIVEN.match(text) or not _BESIDE.fullmatch(text[before.end() : parts[0].start()]):
            break
        parts.insert(0, before)
    outside = _FORMULA.sub(" ", f"{text[: parts[0].start()]} {text[parts[-1].end() :]}")
    if bounded(outside):
        return None
    after = re.sub(r"^\s*(?:square |cubic )?[A-Za-z]+\^[23]", "", text[parts[-1].end() :])
    if re.search(r"\d", after):
        return None
    joined = ", ".join(next(filter(None, m.groups())).strip() for m in parts)
    unit = re.match(r"\s*(%|percent\b|degrees?\b)", after)
    where = place.where if place.where == "answer phrase" else "last formula"
    return joined + (unit[1] if unit and len(parts) == 1 else ""), where
