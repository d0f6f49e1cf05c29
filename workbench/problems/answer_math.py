r"""Whether a mathematical answer equals the reference.

In this order: the same text; words (``\text{east}``) as text; numbers exactly (`answer_numbers`; a decimal of 9 digits or more may stand
for the number that it is rounded from); the parts of a structure, each by these rules; single expressions by `math_worker`.

Structures: ``(a, b)``, ``[a, b)`` are ordered and their brackets must be the same; ``{a, b}`` and ``a, b`` (also with and, or) are not
ordered; ``\cup`` joins intervals in any order; ``2 \le x < 5`` is ``[2, 5)``; matrices cell by cell; ``a \pm b`` is two values. A name before
"=" or ``\in`` that only one side has is left aside (``x = 5``, ``f(x) = 2x``), and so is a unit. A time or a ratio (``1:30``), a number in
another base (``101_2``) and words are compared as text alone.
"""

import re
from collections.abc import Callable, Sequence

from workbench.problems.answer_numbers import quantity
from workbench.problems.answer_text import plain, tidy, unwrapped
from workbench.problems.answer_units import ratio, unit_of

Ask = Callable[[str, str], bool | None]
"""Whether two expressions are equal; None where one can't be read."""

_LONGEST = 400
_SURE = 9
"""Digits of a decimal that may stand for the number it is rounded from."""
_NAME = re.compile(
    r"(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?)?'*(?:\([A-Za-z](?:,[A-Za-z])*\))?|\|?[A-Z]{2,4}\|?|\\angle[A-Z]+|\([a-z](?:,[a-z])*\)"
    r"|\\overline\{[A-Z]{2}\}|(?:\\text\{[A-Za-z ]+\})+(?:_\{?\w+\}?)?|[A-Z]\([^()=]+\)|[A-Za-z]{4,}"
)
_FUNCTIONS = r"sqrt|frac|sin|cos|tan|cot|sec|csc|log|ln|exp|pi|lim|max|min|arcsin|arccos|arctan|gcd|lcm|mod|binom|det|sinh|cosh|tanh"
_WORD = re.compile(rf"(?<![\\A-Za-z])(?!(?:{_FUNCTIONS})(?![A-Za-z]))[A-Za-z]{{3,}}|[\u4e00-\u9fff]")
_UNIT = re.compile(
    r"(?:\\(?:text|mathrm|mbox|textnormal|textbf|rm)\s*\{\s*([^{}]{2,}|[mgsLl])\s*\}\.?(\^\{?[23]\}?)?|\^\{?\\circ\}?|°)$"
)
_CLOSES = {"(": ")", "[": "]", "{": "}", "⦃": "⦄", "⟨": "⟩"}
_CHAIN = re.compile(r"(.+?)(\\leq?|\\lt|≤|<=|<)([A-Za-z](?:_\d)?|\\[a-z]+)(\\leq?|\\lt|≤|<=|<)(.+)")
_BOUND = re.compile(r"([A-Za-z](?:_\d)?|\\[a-z]+?)(\\leq?|\\geq?|\\lt|\\gt|≤|≥|<=|>=|<|>)([^<>≤≥=]+)")
_MATRIX = re.compile(r"\\begin\{([pb]?matrix|array)\}(?:\{[^{}]*\})?(.*?)\\end\{\1\}", re.DOTALL)


def equal(reference: str, answer: str, ask: Ask) -> tuple[bool, str]:
    """Whether the answer equals the reference, and the rule that decided; the module's text tells which there are."""
    wanted, found = _shaped(reference), _shaped(answer)
    if not found:
        return False, "empty"
    if _bare(wanted) == _bare(found):
        return True, "same text"
    if max(len(wanted), len(found)) > _LONGEST:
        return False, "too long"
    if _is_text(wanted):
        return plain(reference) == plain(answer) and len(plain(reference)) > 1, "text"
    if (decided := _numbers(reference, answer)) is not None:
        return decided, "numbers"
    if any(re.search(r"\d\s*:\s*\d", side) for side in (wanted, found)):
        return False, "time or ratio"
    return _compare(wanted, found, ask)


def is_words(reference: str) -> bool:
    """Whether a reference is a word, rather than an expression."""
    return _is_text(_shaped(reference))


def value_text(text: str) -> str | None:
    """The expression of a text, to be evaluated: what stands after "=", without its unit; None where words stand in it."""
    side = re.split(r"=|\\approx", _shaped(text))[-1]
    side = _without_unit(side.strip())[0]
    unread = (
        len(side) > _LONGEST
        or _WORD.search(re.sub(r"\\[A-Za-z]+", " ", side))
        or re.search(r"\d\s+\d|,|;|\\pm|<|>", side)
    )
    return None if unread else side


def _shaped(text: str) -> str:
    """LaTeX without its settings and white space, braces of sets as single signs."""
    text = tidy(text).strip().strip("$").strip()
    text = re.sub(
        r"\\[()\[\]]|\$|\\displaystyle|\\[,;:!> ]|\\q?quad(?![A-Za-z])|~|\*\*(?=\s*$)|^\s*\*\*", " ", text
    )
    text = re.sub(r"\\m?(?:left|right|big[lr]?|Big[lr]?)(?![a-z])\s*\.?", "", text)
    text = text.replace("\\{", "⦃").replace("\\}", "⦄").replace("\\lbrace", "⦃").replace("\\rbrace", "⦄")
    text = (
        text.replace("\\langle", "⟨")
        .replace("\\rangle", "⟩")
        .replace("\\varnothing", "\\emptyset")
        .replace("{,}", ",")
    )
    text = (
        text.replace("π", "\\pi ")
        .replace("∞", "\\infty ")
        .replace("∪", "\\cup ")
        .replace("∈", "\\in ")
        .replace("±", "\\pm ")
    )
    text = (
        text.replace("×", "\\times ")
        .replace("·", "\\cdot ")
        .replace("÷", "/")
        .replace("**", "^")
        .replace("≈", "\\approx ")
    )
    text = re.sub(
        r"\\(?:mathrm|text|operatorname|mathbf|mathit|textbf)\s*\{\s*\(?([A-Za-z])\)?\s*\}", r"\1 ", text
    )
    text = re.sub(r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}", text)
    text = re.sub(rf"(?<![\\A-Za-z])({_FUNCTIONS})(?=\s*[({{\d\s]|$)", r"\\\1", text)
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)|√\s*\(([^()]*)\)", lambda m: f"\\sqrt{{{m[1] or m[2]}}}", text)
    text = re.sub(r"\\([dtc])frac", r"\\frac", text)
    return " ".join(text.split()).rstrip(".,;。 ")


def _bare(text: str) -> str:
    """For the same text: no white space, no wrappers, no brackets around a single letter."""
    text = re.sub(r"\s+", "", unwrapped(text)).rstrip(".,;")
    text = re.sub(r"\{(\w)\}", r"\1", text)
    return text[1:-1] if re.fullmatch(r"\([A-Za-z]\)", text) else text


def _is_text(wanted: str) -> bool:
    words = unwrapped(wanted).replace("⦃", "").replace("⦄", "")
    return bool(re.fullmatch(r"[^\d\\=<>^_+*/(){}\[\]|]+", words)) and bool(
        _WORD.search(words) or re.fullmatch(r"[A-Z]", words)
    )


def _numbers(reference: str, answer: str) -> bool | None:
    """Whether two plain numbers are the same; None where one is none."""
    if "!" in reference or "!" in answer:
        return None
    wanted, found = quantity(reference), quantity(answer)
    if wanted is None or found is None:
        return None
    if found.agrees(wanted):
        return True
    if (
        wanted.percent
        and not found.percent
        and not found.unit
        and found.value >= 2
        and found.value == wanted.value
    ):
        return True  # MATH asks "what percent", and its graders take the sign away
    if wanted.unit and found.unit and ratio(found.unit, wanted.unit) != 1:
        return False
    scales = [100 if q.percent else 1 for q in (wanted, found)]
    return wanted.percent is found.percent and _rounded(
        reference, answer, abs(wanted.value / scales[0] - found.value / scales[1])
    )


def _rounded(reference: str, answer: str, difference: object) -> bool:
    """Whether one of two texts is a decimal long enough to stand for the other, which is none."""
    decimals = [re.search(r"(\d*)\.(\d+)", tidy(text)) for text in (reference, answer)]
    kept = [m for m in decimals if m]
    if len(kept) != 1 or re.search(r"[eE^×]", tidy(reference + answer)):
        return False
    digits = (kept[0][1] + kept[0][2]).lstrip("0")
    return len(digits) >= _SURE and float(difference) <= 10.0 ** -len(kept[0][2])  # type: ignore[arg-type]


def _compare(wanted: str, found: str, ask: Ask) -> tuple[bool, str]:
    wanted, found = _named(wanted, found)
    if "\\pm" in wanted + found and wanted != found:
        wanted, found = _both_signs(wanted), _both_signs(found)
    sides = [_structure(_interval(side)) for side in (wanted, found)]
    (kind, parts), (other, others) = sides
    if kind == other == "one":
        return _single(parts[0], others[0], ask)
    if {kind, other} <= {"{}", "one", "list"}:
        return _unordered(parts, others, ask), "set"
    if kind != other or len(parts) != len(others):
        return False, "another structure"
    if kind in ("union",):
        return _unordered(parts, others, ask), "union"
    return all(_element(a, b, ask) for a, b in zip(parts, others, strict=True)), "in order"


def _element(wanted: str, found: str, ask: Ask) -> bool:
    return equal(
        wanted.replace("⦃", "\\{").replace("⦄", "\\}"), found.replace("⦃", "\\{").replace("⦄", "\\}"), ask
    )[0]


def _unordered(wanted: Sequence[str], found: Sequence[str], ask: Ask) -> bool:
    """Whether two collections hold the same, each once."""
    if len(wanted) != len(found):
        return False
    left = list(found)
    for part in wanted:
        match = next((other for other in left if _element(part, other, ask)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _named(wanted: str, found: str) -> tuple[str, str]:
    """Both sides without a name before "=" or "in" that only one has, or that both have; approximations cut off."""
    cut = []
    for side in (wanted, found):
        exact, *about = side.split("\\approx")
        side = (
            (exact if exact.strip() and not _NAME.fullmatch(exact.replace(" ", "")) else about[0])
            if about
            else side
        )
        cut.append(side.strip())
    split = [_name_of(side) for side in cut]
    (name, rest), (other, others) = split
    if name and other:
        return (rest, others) if name == other else (cut[0], cut[1])
    return rest if name else cut[0], others if other else cut[1]


def _name_of(side: str) -> tuple[str, str]:
    """The name that a side gives to its value, and the value: of ``x = 3 + 2 = 5``, x and 5; "" where it gives none."""
    if part := re.match(r"(.+?)\s*\\in(?![a-z])\s*(.+)", side):
        name = part[1].replace(" ", "")
        return (name, part[2]) if _NAME.fullmatch(name) else ("", side)
    pieces = _split(side, ",;")
    ends = [re.split(r"(?<![<>!\\])=", piece) for piece in pieces]
    if len(pieces) > 1:
        names = {end[0].replace(" ", "") for end in ends if len(end) == 2}
        bare = [end for end in ends if len(end) == 1]
        if len(names) == 1 and (not bare or len(ends[0]) == 2) and _NAME.fullmatch(next(iter(names))):
            return next(iter(names)), ", ".join(end[-1].strip() for end in ends)
        return "", side
    first, *more = (part.strip() for part in ends[0])
    if not more:
        return "", side
    name = first.replace(" ", "")
    if _NAME.fullmatch(name) and all(
        not re.search(r"[A-Za-z](?![A-Za-z{])", re.sub(r"\\[a-z]+", "", p)) for p in more[:-1]
    ):
        return name, more[-1]
    return (
        ("", more[-1])
        if not re.search(r"[A-Za-z]", re.sub(r"\\(?:times|cdot|frac|sqrt|div)", "", first))
        else ("", side)
    )


def _both_signs(side: str) -> str:
    """``a \\pm b`` as two values."""
    kind, parts = _structure(side)
    spread = [
        p.replace("\\pm", sign).replace("\\mp", sign)
        for p in parts
        for sign in (("+", "-") if "\\pm" in p else ("",))
    ]
    spread = [re.sub(r"^\s*\+\s*", "", part) for part in spread]
    return "⦃" + ",".join(spread) + "⦄" if kind in ("one", "list", "{}") else side


def _interval(side: str) -> str:
    """An inequality of one variable as an interval."""
    tight = side.replace(" ", "")
    if match := _CHAIN.fullmatch(tight):
        ends = [match[2], match[4]]
        left, right = (
            ("[" if "e" in ends[0] or ends[0] in "≤<=" and ends[0] != "<" else "("),
            ("]" if "e" in ends[1] or ends[1] in ("≤", "<=") else ")"),
        )
        return f"{left}{match[1]},{match[5]}{right}"
    if (match := _BOUND.fullmatch(tight)) and "," not in match[3]:
        closed = match[2] in ("\\le", "\\leq", "\\ge", "\\geq", "≤", "≥", "<=", ">=")
        if match[2] in ("\\le", "\\leq", "\\lt", "≤", "<=", "<"):
            return f"(-\\infty,{match[3]}{']' if closed else ')'}"
        return f"{'[' if closed else '('}{match[3]},\\infty)"
    return side


def _structure(side: str) -> tuple[str, list[str]]:
    """What a side is (one, list, {}, union, matrix and its shape, or its brackets), and its parts."""
    side = side.strip()
    while side.startswith("{") and _closing(side) == len(side) - 1:
        inner = side[1:-1].strip()
        if len(_split(inner, ",;")) > 1:
            return "{}", _split(inner, ",;")
        side = inner
    if match := _MATRIX.fullmatch(side.strip("()[] ") if "\\begin" in side else side):
        rows = [
            [cell.strip() for cell in row.split("&")]
            for row in re.split(r"\\\\", match[2].strip().rstrip("\\"))
            if row.strip()
        ]
        return f"matrix {[len(row) for row in rows]}", [cell for row in rows for cell in row]
    if len(parts := re.split(r"\s*\\cup\s*", side)) > 1:
        return "union", parts
    if side[:1] in _CLOSES and _matching(side) == len(side) - 1:
        parts = _split(side[1:-1], ",;")
        if side[0] == "⦃":
            return "{}", [part for part in parts if part]
        if len(parts) > 1:
            return side[0] + side[-1], parts
    parts = [
        p
        for piece in _split(side, ",;、")
        for p in re.split(r"\\text\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|和|或", piece)
    ]
    parts = [part.strip() for part in parts if part.strip()]
    return ("list", parts) if len(parts) > 1 else ("one", [side])


def _matching(side: str) -> int:
    """Where the first bracket closes; intervals may close with another kind."""
    depth = 0
    for at, sign in enumerate(side):
        depth += (sign in "([{⦃⟨") - (sign in ")]}⦄⟩")
        if depth == 0:
            return at
    return -1


def _closing(side: str) -> int:
    return _matching(side) if side[:1] == "{" else -1


def _split(text: str, marks: str) -> list[str]:
    """The parts of a text between marks that stand in no bracket."""
    parts, depth, begun = [], 0, 0
    for at, sign in enumerate(text):
        depth += (sign in "([{⦃⟨") - (sign in ")]}⦄⟩")
        if sign in marks and depth == 0:
            parts.append(text[begun:at].strip())
            begun = at + 1
    return [*parts, text[begun:].strip()]


def _single(wanted: str, found: str, ask: Ask) -> tuple[bool, str]:
    if _bare(wanted) == _bare(found):
        return True, "same text"
    if (decided := _numbers(wanted, found)) is not None:
        return decided, "numbers"
    (wanted, unit), (found, other) = _without_unit(wanted), _without_unit(found)
    if unit and other and ratio(unit, other) != 1:
        return False, "another unit"
    if (decided := _numbers(wanted, found)) is not None:
        return decided, "numbers"
    for side in (wanted, found):
        if _WORD.search(re.sub(r"\\[A-Za-z]+", " ", side)) or re.search(r"\d\s*_|\d\s+\d|^\s*$", side):
            return False, "no expression"
    relation = [bool(re.search(r"[=<>≤≥]|\\(?:le|ge|lt|gt|ne)q?(?![a-z])", side)) for side in (wanted, found)]
    if relation[0] is not relation[1]:
        return False, "one is an equation"
    result = ask(wanted, found)
    return bool(result), "expressions" if result is not None else "no expression"


def _without_unit(side: str) -> tuple[str, str]:
    """An expression without the unit after it, and the unit."""
    side = side.strip()
    if (match := _UNIT.search(side)) and side[: match.start()].strip():
        return side[: match.start()].strip(), (
            (match[1] or "°").strip() + (match[2] or "").replace("{", "").replace("}", "")
        )
    words = re.search(r"(?<=[\d)}iI])\s+((?:square |cubic )?[A-Za-z]{2,}(?:\^\{?[23]\}?)?)$", side)
    if words and unit_of(words[1]) is not None:
        return side[: words.start()], words[1]
    return side, ""
