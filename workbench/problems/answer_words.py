"""Words that stand for numbers ("twenty-one", "two and a half", 十二), and for yes and no."""

import re
import unicodedata
from fractions import Fraction

_ONES = "zero one two three four five six seven eight nine"
_ONES += " ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_ONES.split())}
_SMALL |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "百": 100,
    "千": 1000,
    "万": 10**4,
    "亿": 10**8,
}
"""What a number is multiplied with by the word after it."""
_PARTS = {
    "half": 2,
    "halve": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
}
_PARTS |= {"ninth": 9, "tenth": 10, "hundredth": 100}
NUMBER_WORD = re.compile(
    rf"\b(?:{'|'.join([*_SMALL, *list(SCALES)[:6], 'half', 'thirds?', 'quarters?', 'halves'])})\b",
    re.IGNORECASE,
)
_HAN = {"两": 2, "〇": 0}
_HAN_NUMBER = re.compile(r"[零〇一二两三四五六七八九十百千万亿]+")


def number_in_words(text: str) -> Fraction | None:
    """The value of a text that is one number in words, English or Chinese; None for anything else."""
    text = text.strip().lower().rstrip(".")
    sign = -1 if re.match(r"(?:minus|negative)\s+", text) else 1
    text = re.sub(r"^(?:minus|negative)\s+", "", text)
    if _HAN_NUMBER.fullmatch(text):
        return sign * _han(text)
    words = re.findall(r"[a-z]+|[^\sa-z-]", text)
    if (part := _fraction(words)) is not None:
        return sign * part
    whole = _whole([word for word in words if word != "and"]) if words and words[0] != "and" else None
    return None if whole is None else sign * Fraction(whole)


def _fraction(words: list[str]) -> Fraction | None:
    """Of "a half", "three quarters", "two and a half", "zero point five"."""
    if "point" in words:
        at = words.index("point")
        whole, digits = _whole(words[:at]), [_SMALL.get(word, 10) for word in words[at + 1 :]]
        if whole is None or not digits or max(digits) > 9:
            return None
        return Fraction(f"{whole}.{''.join(map(str, digits))}")
    if not words or (below := _PARTS.get(words[-1]) or _PARTS.get(words[-1].removesuffix("s"))) is None:
        return None
    before = words[:-1]
    whole: int | None = 0
    if "and" in before:
        at = len(before) - 1 - before[::-1].index("and")
        whole, before = _whole([word for word in before[:at] if word != "and"]), before[at + 1 :]
    if not before and below != 2:
        return None  # "third" is a place in a row
    above = 1 if before in ([], ["a"], ["an"]) else _whole(before)
    return None if above is None or whole is None else whole + Fraction(above, below)


def _whole(words: list[str]) -> int | None:
    """Of "two hundred five": parts below a hundred, each followed by its scales."""
    total, part, last = 0, 0, ""
    for word in ["one" if word == "a" and len(words) > 1 else word for word in words]:
        if word in _SMALL:
            value = _SMALL[word]
            fits = not last or last == "scale" or (last == "tens" and 0 < value < 10)
            if not fits:
                return None
            part, last = part + value, "tens" if value >= 20 else "ones"
        elif word in SCALES and last:
            if SCALES[word] == 100:
                part *= 100
            else:
                total, part = total + part * SCALES[word], 0
            last = "scale"
        else:
            return None
    return total + part if last else None


def _han(text: str) -> Fraction:
    """Of 二十一, 一百零五, 三千."""
    total, part, digit = 0, 0, 0
    for sign in text:
        value = int(_HAN.get(sign, unicodedata.numeric(sign, 0)))
        if value >= 10_000:
            total, part, digit = (total + part + digit) * value, 0, 0
        elif value >= 10:
            part, digit = part + (digit or 1) * value, 0
        else:
            digit = 10 * digit + value
    return Fraction(total + part + digit)


_YES = r"yes|yeah|yep|true|correct|是的|是|对|正确|有"
_NO = r"no|nope|false|incorrect|不是|不对|否|没有|错误|错|不"
_SAID = re.compile(
    rf"(?:(?P<yes>{_YES})|(?P<no>{_NO}))(?:\s*$|\s*[,.;:!，。；！—–\n]|\s+-\s"
    r"|\s+(?=(?:the|i|it|there|that|this|he|she|they|we)\b))(?P<rest>.*)",
    re.I | re.S,
)
_OPPOSITE = {
    True: re.compile(r"\b(?:no|false)\b(?=\s*[,.;:!]|\s*$)", re.I),
    False: re.compile(r"\b(?:yes|true)\b", re.I),
}


def yes_or_no(text: str, *, whole: bool = False) -> bool | None:
    """Whether a text says yes (or true) or no (or false) with its first word; None where it says neither, or both.

    ``whole``: the text must be this word.
    """
    match = _SAID.match(text.strip().strip("*\"'_ "))
    if match is None or (whole and match["rest"].strip()):
        return None
    yes = bool(match["yes"])
    turned = _OPPOSITE[yes].search(match["rest"]) or re.match(
        r"[\s.,;:!]*(?:or|wait|actually|maybe|but)\b", match["rest"], re.I
    )
    return None if turned else yes
