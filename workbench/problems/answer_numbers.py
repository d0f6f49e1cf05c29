r"""Numbers as people and models write them, with their units, read exactly.

A quantity is a sign, perhaps money or "about", a value and perhaps a unit. Values: ``1,000`` and ``1 000``, ``.5``, ``1.5e3``,
``1.5 \times 10^3``, ``2^{10}``, ``3/4``, ``\frac{3}{4}``, ``2 1/2``, ``½``, ``five``, ``40%``, ``5 million``. ``3,4`` is
two numbers, ``10-15`` a range and ``1:30`` a time: none is one number, no more than ``5x``, ``5 or 6``, "at least 5".

How two agree (`Quantity.agrees`): units that both have must measure the same and are converted; a unit that only one has
is left aside. A percentage is its hundredth: ``40%``, ``0.4`` and ``2/5`` are one value. An answer of ``40%`` also fits a
reference of ``40`` (2 or more, without a unit), an answer of ``40`` does not fit ``40%``. Two whole numbers must be the same;
others may differ by the tolerance, relative to the reference.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from workbench.problems.answer_text import negated, tidy, unwrapped
from workbench.problems.answer_units import MONEY, ratio, unit_of
from workbench.problems.answer_words import NUMBER_WORD, SCALES, number_in_words

_LONGEST = 400
_EXPONENT = 400

_PLAIN = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?![,\d])(?:\.\d+)?|[1-9]\d{0,2}(?: \d{3})+(?![ ]?\d)(?:\.\d+)?"
_PLAIN += r"|\d+(?:\.\d+|\.(?![\w.]))?|\.\d+)"
_POWER = r"\^\s*[({]?\s*[-+]?\d+\s*[)}]?"
VALUE = (
    rf"(?:(?P<mixed>\d+(?: \d{{3}})*\s+(?:and\s+)?\d+\s*/\s*\d+)|(?P<below>{_PLAIN}\s*/\s*-?{_PLAIN})"
    rf"|(?P<scientific>{_PLAIN}\s*[×xX*·]\s*10\s*{_POWER}|{_PLAIN}[eE][-+]?\d+(?!\w))|(?P<power>{_PLAIN}\s*{_POWER})|(?P<plain>{_PLAIN}))"
)
_QUANTITY = re.compile(
    rf"(?P<before>[{MONEY}]|US\$|Rs\.?\s|USD\s|EUR\s|GBP\s|RMB\s)?\s*(?P<sign>[-+\u2013]|minus\s|negative\s)?\s*(?P<money>[{MONEY}])?\s*{VALUE}(?P<tail>.*)",
    re.DOTALL | re.IGNORECASE,
)
_ABOUT = re.compile(
    r"^(?:(?:approximately|approx\.?|about|around|roughly|probably|(?:most )?likely|≈|∼|=|exactly|only|just"
    r"|a total of|equal to|equals|大约|约)\s*)+",
    re.IGNORECASE,
)
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?[\d.,]+)\s*\}|(\d))\s*(?:\{\s*(-?[\d.,]+)\s*\}|(\d))")
_HALVES = {
    "½": "1/2",
    "⅓": "1/3",
    "⅔": "2/3",
    "¼": "1/4",
    "¾": "3/4",
    "⅕": "1/5",
    "⅖": "2/5",
    "⅗": "3/5",
    "⅘": "4/5",
    "⅙": "1/6",
}
_HALVES |= {"⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
PERCENT = re.compile(r"\s*(?:%|percent(?:age)?(?: points?)?\b|per ?cent\b|pct\b)", re.IGNORECASE)
SCALE = re.compile(rf"\s*(?:(?P<word>{'|'.join(SCALES)})s?(?![a-z])|(?P<k>k)(?![A-Za-z]))", re.IGNORECASE)
_AFTER = re.compile(
    r"[,;:(—–]|\.\s|\b(?:because|since|as|which|where|so|when|in total|altogether|here|for|than)\b",
    re.IGNORECASE,
)
_REASON = re.compile(r"\b(?:because|since|as|given|which)\b", re.IGNORECASE)
_NO_UNIT = re.compile(
    r"\b(?:or|and|to|plus|minus|times|pi|over|under|more|less|fewer|squared?|cubed?|root|factorial|half|halves"
    r"|thirds?|quarters?|out|of the|not|tenths|hundredths|thousandths|\w+ionths|score|pm|am|o'clock|at|least|most|minimum|maximum"
    r"|is|are|was|were|be|wrong|incorrect|choose|mod|short|below|above|after|before"
    r"|if|unless|maybe|possibly|between|through|th|st|nd|rd|[a-z])\b|[\\=+*<>^×√π!_{}\[\]|?]|\d|倍|以上|以下|以内|多",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Quantity:
    """A value with what was written around it."""

    value: Fraction
    """40 of ``40%``."""
    unit: str = ""
    percent: bool = False
    whole: bool = False
    """Written without a decimal point, and a whole number."""

    def agrees(self, reference: "Quantity", tolerance: float = 0.0) -> bool:
        """Whether this answers the reference, by value, unit and kind."""
        value, target = self.value, reference.value
        if self.unit and reference.unit:
            factor = ratio(self.unit, reference.unit)
            if factor is None:
                return False
            value *= factor
        exact = self.whole and reference.whole and self.percent == reference.percent
        if self.percent and not reference.percent and not reference.unit and target >= 2 and value == target:
            return True
        value, target = (v / 100 if q.percent else v for v, q in ((value, self), (target, reference)))
        return value == target or (not exact and abs(value - target) <= Fraction(tolerance) * abs(target))


def written(text: str) -> str:
    r"""The text with LaTeX's fractions, products, powers and degrees as plain signs: ``1/2``, ``×``, ``^2``, ``°``."""
    text = unwrapped(tidy(text))
    text = _FRACTION.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]}", text)
    text = re.sub(r"\\(?:times|cdot)(?![A-Za-z])", "×", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|º|\\textdegree", "°", text)
    text = re.sub(
        r"(?:°|\bdegrees?\b|\bdeg\b)\s*(?:c(?:elsius|entigrade)?)\b", "°C", text, flags=re.IGNORECASE
    )
    text = re.sub(r"(?:°|\bdegrees?\b|\bdeg\b)\s*(?:f(?:ahrenheit)?)\b", "°F", text, flags=re.IGNORECASE)
    text = re.sub(r"\\(?:approx|simeq|sim)(?![A-Za-z])", "≈", text)
    text = re.sub("[" + "".join(_HALVES) + "]", lambda m: f" {_HALVES[m[0]]}", text)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: f"^{m[0].translate(_RAISED)}", text)
    text = re.sub(r"百分之\s*(\S+)", r"\1%", text)
    return re.sub(r"[ \t]+", " ", re.sub(r"\s+\^", "^", text)).strip()


def quantity(text: str) -> Quantity | None:
    """The quantity that a text is; None for anything else, such as two, a range, a bound, a sentence."""
    if len(text) > _LONGEST:
        return None
    text = _ABOUT.sub("", written(text)).strip().rstrip("。.;,")
    if not text:
        return None
    text = text[1:-1].strip() if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" else text
    aside = re.fullmatch(r"([^()]+)\(([^()]+)\)", text)
    if aside and (one := quantity(aside[1])):
        two = quantity(aside[2])
        return None if re.search(r"\b(?:or|maybe|no)\b", aside[2]) or (two and not one.agrees(two)) else one
    if re.fullmatch(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}", text):
        text = text[1:-1].strip()
    match = _QUANTITY.fullmatch(text)
    return _in_words(text) if match is None else _read(match, match["tail"])


def _read(match: re.Match[str], tail: str) -> Quantity | None:
    value = value_of(match)
    if value is None:
        return None
    money = (match["before"] or match["money"] or "").strip() if "before" in match.re.groupindex else ""
    sign = match["sign"] if "sign" in match.re.groupindex else None
    if sign and sign != "+":
        value = -value
    plain = match["plain"] or ""
    unit = unit_after(tail)
    if unit is None:
        return None
    words, percent, scale = unit
    value *= scale
    return Quantity(value, money or words, percent, value.denominator == 1 and "." not in plain.rstrip("."))


def value_of(match: re.Match[str]) -> Fraction | None:
    """The value of a match of `VALUE`; None where it has none (1/0) or its exponent is out of range."""

    def of(text: str) -> Fraction:
        return Fraction(re.sub(r"[, ]", "", text).rstrip(".") or "0")

    def power(text: str) -> int | None:
        exponent = re.sub(r"[^\d+-]", "", text)
        return (
            int(exponent)
            if exponent.lstrip("+-").isdigit() and len(exponent) <= 4 and abs(int(exponent)) <= _EXPONENT
            else None
        )

    try:
        if match["mixed"]:
            whole, above, below = re.fullmatch(
                r"([\d ]+?)\s+(?:and\s+)?(\d+)\s*/\s*(\d+)", match["mixed"]
            ).groups()  # type: ignore[union-attr]
            return of(whole) + Fraction(int(above), int(below)) if int(above) < int(below) else None
        if match["below"]:
            above, below = match["below"].split("/")
            return of(above) / of(below)
        if match["scientific"] or match["power"]:
            base, _, raised = re.sub(r"[eE]", "^", match["scientific"] or match["power"]).partition("^")
            exponent = power(raised)
            if exponent is None:
                return None
            if not match["scientific"]:
                return of(base) ** exponent
            return of(re.split(r"[×xX*·]", base)[0].strip()) * Fraction(10) ** exponent
        return of(match["plain"])
    except (ValueError, ZeroDivisionError, AttributeError):
        return None


def unit_after(tail: str) -> tuple[str, bool, int] | None:
    """(unit, whether a percentage, factor) of what follows a number; None where that makes it another thing."""
    scale = 1
    if (scaled := SCALE.match(tail)) and (scaled["word"] or tail[0] in "kK"):
        scale = SCALES[scaled["word"].lower()] if scaled["word"] else 1000
        tail = tail[scaled.end() :]
    if percent := PERCENT.match(tail):
        tail = tail[percent.end() :]
    head = _AFTER.split(tail, maxsplit=1)[0]
    if _competes(head, tail):
        return None
    if tail.lstrip().startswith("!"):
        return None  # a factorial
    unit = head.strip().rstrip(".!").replace("of ", " ", 1).strip()
    if percent:
        return None if re.search(r"\d|\bor\b", unit) else ("", True, scale)
    if not unit:
        return "", False, scale
    if unit_of(unit) is not None and not (len(unit) == 1 and unit in "CAFtkK" and head[:1] != " "):
        return unit, False, scale
    if head[:1] not in (" ", "\n") and not re.match(r"[\u4e00-\u9fff]", head):
        return None
    if not re.search(r"[A-Za-z\u4e00-\u9fff]", unit):
        return None
    first = re.match(r"[\w°$€£/^]+", unit)
    bare = (
        unit[first.end() :]
        if first and unit_of(first[0]) is not None
        else re.sub(r"(?<=[A-Za-z])\^?[23](?!\d)", "", unit)
    )
    if _NO_UNIT.search(bare) or NUMBER_WORD.search(bare) or len(unit.split()) > 8 or negated(unit):
        return None
    return (first[0] if first and bare is not unit and unit_of(first[0]) is not None else unit), False, scale


def _competes(head: str, tail: str) -> bool:
    """Whether another number, or another word for it, stands after the first clause: "5, 6", "5, I think, or 6"."""
    after = re.sub(r"^[,;(—–:]\s*not\s+\S+", "", tail[len(head) :])
    claim = _REASON.split(after, maxsplit=1)[0]
    if re.match(r"[;—(]", claim) and not re.match(r"\W*(?:or|maybe|perhaps|possibly|[-+$]?\.?\d)", claim):
        return False
    return bool(re.search(r"\d|\b(?:or|maybe|perhaps|possibly)\b", claim) or NUMBER_WORD.search(claim))


def _in_words(text: str) -> Quantity | None:
    """The quantity of "five apples", "minus two", "a half", 五个."""
    if text.endswith("%") and (value := number_in_words(text[:-1])) is not None:
        return Quantity(value, "", True, value.denominator == 1)
    words = re.sub(r"([,;])", r" \1", text).split()
    for count in range(min(len(words), 8), 0, -1):
        value = number_in_words(" ".join(words[:count]))
        if value is not None:
            unit = unit_after(" " + " ".join(words[count:]))
            if unit is None or (words[count:] and words[0].lower() in ("a", "an")):
                return None
            return Quantity(value * unit[2], unit[0], unit[1], (value * unit[2]).denominator == 1)
    if han := re.fullmatch(
        r"([零〇一二两三四五六七八九十百千万亿]+)([^\d\s零〇一二两三四五六七八九十百千万亿]{1,4})", text
    ):
        value = number_in_words(han[1])
        return None if value is None else Quantity(value, han[2], False, True)
    return None
