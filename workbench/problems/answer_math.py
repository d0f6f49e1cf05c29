r"""Whether a mathematical answer equals the reference.

In this order: the same text; words (``\text{east}``) as text; numbers exactly (`answer_numbers`; a decimal of 9 digits or
more may stand for the number that it is rounded from); the parts of a structure (`answer_structure`), each by these
rules; single expressions by `math_worker`.

``(a, b)`` and ``[a, b)`` are ordered and their brackets must be the same; ``{a, b}`` and ``a, b`` (also with and, or) are not
ordered; ``\cup`` joins intervals in any order; ``2 \le x < 5`` is ``[2, 5)``; matrices cell by cell; ``a \pm b`` is two values. A
name before "=" or ``\in`` that only one side has is left aside (``x = 5``, ``f(x) = 2x``), and so is a unit. A time or a ratio
(``1:30``), a number in another base (``101_2``) and words are compared as text alone.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from workbench.problems.answer_numbers import quantity
from workbench.problems.answer_structure import (
    NAME,
    WORD,
    both_signs,
    interval,
    is_relation,
    name_of,
    shaped,
    structure,
    without_unit,
)
from workbench.problems.answer_text import plain, tidy, unwrapped
from workbench.problems.answer_units import ratio
from workbench.problems.math_worker import SURE

Ask = Callable[[str, str], bool | None]
"""Whether two expressions are equal; None where one can't be read."""

_LONGEST = 400
_TOWER = re.compile(r"(?:\^\s*\{?\s*\d+\s*){3,}")


def equal(reference: str, answer: str, ask: Ask) -> tuple[bool, str]:
    """Whether the answer equals the reference, and the rule that decided."""
    if len(answer) > 10 * _LONGEST and answer.strip() != reference.strip():
        return False, "too long"
    left, right = shaped(reference), shaped(answer)
    if not right:
        return False, "empty"
    if _bare(left) == _bare(right):
        return True, "same text"
    if max(len(left), len(right)) > _LONGEST:
        return False, "too long"
    if is_words(reference):
        return len(plain(reference)) > 1 and plain(reference) == plain(answer), "text"
    if (decided := _numbers(reference, answer)) is not None:
        return decided, "numbers"
    if any(re.search(r"\d\s*:\s*\d", side) for side in (left, right)):
        return False, "time or ratio"
    return _compare(left, right, ask)


def is_words(reference: str) -> bool:
    """Whether a reference is a word or a capital letter, rather than an expression."""
    words = unwrapped(shaped(reference)).replace("⦃", "").replace("⦄", "")
    expression = re.search(r"[\d\\=<>^_+*/(){}\[\]|]", words)
    return not expression and bool(WORD.search(words) or re.fullmatch(r"[A-Z]", words))


def value_text(text: str) -> str | None:
    """The expression of a text, to be evaluated: what stands after "=", without its unit; None where words stand in it."""
    side = re.split(r"=|\\approx", shaped(text))[-1]
    side = without_unit(side.strip())[0]
    unread = re.search(r"\d\s+\d|,|;|\\pm|<|>", side) or WORD.search(re.sub(r"\\[A-Za-z]+", " ", side))
    return None if unread or len(side) > _LONGEST else side


def _bare(text: str) -> str:
    """For the same text: no white space, no wrappers, no brackets around a single letter."""
    text = re.sub(r"\s+", "", unwrapped(text)).rstrip(".,;")
    text = re.sub(r"\{(\w)\}", r"\1", text)
    return text[1:-1] if re.fullmatch(r"\([A-Za-z]\)", text) else text


def _numbers(reference: str, answer: str) -> bool | None:
    """Whether two plain numbers are the same; None where one is none."""
    if "!" in (reference + answer).replace("\\!", ""):
        return None
    left, right = quantity(reference), quantity(answer)
    if left is None or right is None:
        return None
    if right.agrees(left):
        return True
    if left.percent is not right.percent:  # MATH asks "what percent", and its graders take the sign away
        return left.percent and not right.unit and right.value >= 2 and right.value == left.value
    if left.unit and right.unit and ratio(right.unit, left.unit) != 1:
        return False
    return _rounded(reference, answer, abs(left.value - right.value) / (100 if left.percent else 1))


def _rounded(reference: str, answer: str, difference: Fraction) -> bool:
    """Whether one of two texts is a decimal long enough to stand for the other, which is none."""
    decimals = [m for m in (re.search(r"(\d*)\.(\d+)", tidy(text)) for text in (reference, answer)) if m]
    if len(decimals) != 1 or re.search(r"[eE^×]", tidy(reference + answer)):
        return False
    whole, after = decimals[0].groups()
    return len((whole + after).lstrip("0")) >= SURE and difference <= Fraction(1, 10 ** len(after))


def _compare(left: str, right: str, ask: Ask) -> tuple[bool, str]:
    left, right = _named(left, right)
    if "\\pm" in left + right and _bare(left) != _bare(right):
        left, right = both_signs(left), both_signs(right)
    (kind, parts), (other, others) = (structure(interval(side)) for side in (left, right))
    if kind == other == "one":
        return _single(parts[0], others[0], ask)
    if {kind, other} <= {"{}", "one", "list"}:
        return _unordered(parts, others, ask), "set"
    if kind != other or len(parts) != len(others):
        return False, "another structure"
    if kind == "union":
        return _unordered(parts, others, ask), "union"
    return all(_element(a, b, ask) for a, b in zip(parts, others, strict=True)), "in order"


def _element(left: str, right: str, ask: Ask) -> bool:
    left, right = (side.replace("⦃", "\\{").replace("⦄", "\\}") for side in (left, right))
    return equal(left, right, ask)[0]


def _unordered(parts: Sequence[str], others: Sequence[str], ask: Ask) -> bool:
    """Whether two collections hold the same, each once."""
    if len(parts) != len(others):
        return False
    rest = list(others)
    for part in parts:
        match = next((other for other in rest if _element(part, other, ask)), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _named(left: str, right: str) -> tuple[str, str]:
    """Both sides without a name before "=" or "in" that only one has, or that both have; approximations cut off."""
    cut = []
    for side in (left, right):
        exact, *about = side.split("\\approx")
        named = NAME.fullmatch(exact.replace(" ", "")) or not exact.strip()
        cut.append((about[0] if about and named else exact).strip())
    (name, rest), (other, others) = (name_of(side) for side in cut)
    equation = re.fullmatch(r"([^\d=<>,;]{1,30})=([^=<>,;]+)", others)
    if equation and not is_relation(cut[0]) and equation[1].count("{") == equation[1].count("}"):
        others = equation[2].strip()  # a + b = 5, where a number was asked for
    if name and other:
        return (rest, others) if name == other else (cut[0], cut[1])
    if "\\in" not in cut[0] + cut[1] and ((name and is_relation(others)) or (other and is_relation(rest))):
        return cut[0], cut[1]  # an equation on the other side: its name belongs to it
    return rest, others


def _single(left: str, right: str, ask: Ask) -> tuple[bool, str]:
    (left, unit), (right, other) = without_unit(left), without_unit(right)
    if unit and other and ratio(unit, other) != 1:
        return False, "another unit"
    if _bare(left) == _bare(right):
        return True, "same text"
    if (decided := _numbers(left, right)) is not None:
        return decided, "numbers"
    for side in (left, right):
        side = re.sub(r"\\[A-Za-z]+", "|", re.sub(r"\\log\s*_\s*(?:\d|\{\d+\})", r"\\log", side))
        if WORD.search(side) or re.search(r"\d\s*_(?!\{?0)|^\s*$", side):
            return False, "no expression"
        if "\\int" not in (left, right)[0] + right and re.search(r"\d\s+\d", side):
            return False, "no expression"
    if is_relation(left) is not is_relation(right):
        return False, "one is an equation"
    if _TOWER.search(left) or _TOWER.search(right):
        return False, "a tower of powers"
    if _cased(left, right):
        return False, "another case"
    result = ask(left, right)
    return bool(result), "expressions" if result is not None else "no expression"


def _cased(left: str, right: str) -> bool:
    """Whether capital and small letters of the same name tell the sides apart; the parser takes X for x."""
    letters = [set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", side))) for side in (left, right)]
    folded = [{letter.lower() for letter in side} for side in letters]
    mixed = any(len(a) != len(b) for a, b in zip(letters, folded, strict=True))
    return mixed or (folded[0] == folded[1] and letters[0] != letters[1])
