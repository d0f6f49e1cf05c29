r"""The parts of a mathematical answer: its name, its unit, the members of its list, interval, matrix or union.

Texts here are as `shaped` returns them: the braces of sets are ⦃ and ⦄, white space is single.
"""

import re

from workbench.problems.answer_numbers import unit_after
from workbench.problems.answer_text import tidy
from workbench.problems.answer_units import unit_of

NAME = re.compile(
    r"(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?)?'*(?:\([A-Za-z](?:,[A-Za-z])*\))?|\|?[A-Z]{2,4}\|?|\\angle[A-Z]+|\([a-z](?:,[a-z])*\)"
    r"|\\overline\{[A-Z]{2}\}|(?:\\text\{[A-Za-z ]+\})+(?:_\{?\w+\}?)?|[A-Z]\([^()=]+\)|[A-Za-z]{4,}"
)
_FUNCTIONS = r"sqrt|frac|binom|sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|arcsin|arccos|arctan"
_FUNCTIONS += r"|log|ln|exp|pi|lim|max|min|gcd|lcm|mod|det"
WORD = re.compile(rf"(?<![\\A-Za-z])(?!(?:{_FUNCTIONS})(?![A-Za-z]))[A-Za-z]{{3,}}|[\u4e00-\u9fff]")
_UNIT = re.compile(
    r"(?:\\(?:text|mathrm|mbox|textnormal|textbf|rm)\s*\{\s*([^{}]{2,}|[mgsLl])\s*\}\.?(\^\{?[23]\}?)?|\^\{?\\circ\}?|°)$"
)
_CLOSES = {"(": ")", "[": "]", "{": "}", "⦃": "⦄", "⟨": "⟩"}
_CHAIN = re.compile(r"(.+?)(\\leq?|\\lt|≤|<=|<)([A-Za-z](?:_\d)?|\\[a-z]+)(\\leq?|\\lt|≤|<=|<)(.+)")
_BOUND = re.compile(r"([A-Za-z](?:_\d)?|\\[a-z]+?)(\\leq?|\\geq?|\\lt|\\gt|≤|≥|<=|>=|<|>)([^<>≤≥=]+)")
_TURNED_BOUND = re.compile(r"([^<>≤≥=]+?)(\\leq?|\\geq?|\\lt|\\gt|≤|≥|<=|>=|<|>)([A-Za-z](?:_\d)?)")
_TURNED = {"\\le": "\\ge", "\\leq": "\\geq", "\\lt": "\\gt", "≤": "≥", "<=": ">=", "<": ">"}
_TURNED |= {after: before for before, after in _TURNED.items()}
_MATRIX = re.compile(r"\\begin\{([pb]?matrix|array)\}(?:\{[^{}]*\})?(.*?)\\end\{\1\}", re.DOTALL)
_SIGNS = (
    ("\\{", "⦃"),
    ("\\}", "⦄"),
    ("\\lbrace", "⦃"),
    ("\\rbrace", "⦄"),
    ("\\langle", "⟨"),
    ("\\rangle", "⟩"),
    ("\\varnothing", "\\emptyset"),
    ("{,}", ","),
    ("π", "\\pi "),
    ("∞", "\\infty "),
    ("∪", "\\cup "),
    ("∈", "\\in "),
    ("±", "\\pm "),
    ("×", "\\times "),
    ("·", "\\cdot "),
    ("÷", "/"),
    ("**", "^"),
    ("≈", "\\approx "),
)
"""What is written in other ways, and the one that is read; replaced one after another."""


def shaped(text: str) -> str:
    """LaTeX without its settings and white space, braces of sets as single signs."""
    text = re.sub(r"(?<!\\)\\!\s*", "", tidy(text)).strip().strip("$").strip()
    text = re.sub(
        r"(?<!\\)\\[()\[\],;:> ]|\$|\\displaystyle|\\q?quad(?![A-Za-z])|~|\*\*(?=\s*$)|^\s*\*\*", " ", text
    )
    text = re.sub(r"\\m?(?:left|right|big[lr]?|Big[lr]?)(?![a-z])\s*\.?", "", text)
    for sign, spelling in _SIGNS:
        text = text.replace(sign, spelling)
    text = re.sub(
        r"\\(?:mathrm|text|operatorname|mathbf|mathit|textbf)\s*\{\s*\(?([A-Za-z])\)?\s*\}", r"\1 ", text
    )
    text = re.sub(r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}", text)
    text = re.sub(rf"(?<![\\A-Za-z])({_FUNCTIONS})(?=\s*[({{\d\s]|$)", r"\\\1", text)
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)|√\s*\(([^()]*)\)", lambda m: f"\\sqrt{{{m[1] or m[2]}}}", text)
    text = re.sub(r"\\([dtc])frac", r"\\frac", text)
    return " ".join(text.split()).rstrip(".,;。 ")


def name_of(side: str) -> tuple[str, str]:
    """The name that a side gives to its value, and the value: of ``x = 3 + 2 = 5``, x and 5; "" where it gives none."""
    if part := re.match(r"(.+?)\s*\\in(?![a-z])\s*(.+)", side):
        name = part[1].replace(" ", "")
        return (name, part[2]) if NAME.fullmatch(name) else ("", side)
    pieces = _split(side, ",;")
    ends = [[piece] if re.search(r"[<>!\\]=", piece) else _split(piece, "=") for piece in pieces]
    if len(pieces) > 1:
        names = {end[0].replace(" ", "") for end in ends if len(end) == 2}
        bare = [end for end in ends if len(end) == 1]
        if len(names) == 1 and (not bare or len(ends[0]) == 2) and NAME.fullmatch(next(iter(names))):
            return next(iter(names)), ", ".join(end[-1].strip() for end in ends)
        return "", side
    first, *more = (part.strip() for part in ends[0])
    if not more:
        return "", side
    name = first.replace(" ", "")
    if NAME.fullmatch(name) and all(
        not re.search(r"[A-Za-z](?![A-Za-z{])", re.sub(r"\\[a-z]+", "", p)) for p in more[:-1]
    ):
        return name, more[-1]
    return (
        ("", more[-1])
        if not re.search(r"[A-Za-z]", re.sub(r"\\(?:times|cdot|frac|sqrt|div)", "", first))
        else ("", side)
    )


def both_signs(side: str) -> str:
    """``a \\pm b`` as two values."""
    kind, parts = structure(side)
    spread = [
        p.replace("\\pm", sign).replace("\\mp", sign)
        for p in parts
        for sign in (("+", "-") if "\\pm" in p else ("",))
    ]
    spread = [re.sub(r"^\s*\+\s*", "", part) for part in spread]
    return "⦃" + ",".join(spread) + "⦄" if kind in ("one", "list", "{}") else side


def interval(side: str) -> str:
    """An inequality of one variable as an interval."""
    tight = side.replace(" ", "")
    if match := _CHAIN.fullmatch(tight):
        ends = [match[2], match[4]]
        left, right = (
            ("[" if "e" in ends[0] or (ends[0] in "≤<=" and ends[0] != "<") else "("),
            ("]" if "e" in ends[1] or ends[1] in ("≤", "<=") else ")"),
        )
        return f"{left}{match[1]},{match[5]}{right}"
    turned = _TURNED_BOUND.fullmatch(tight)
    if turned and not re.fullmatch(r"[A-Za-z](?:_\d)?", turned[1]):
        tight = f"{turned[3]}{_TURNED[turned[2]]}{turned[1]}"
    if (match := _BOUND.fullmatch(tight)) and "," not in match[3]:
        closed = match[2] in ("\\le", "\\leq", "\\ge", "\\geq", "≤", "≥", "<=", ">=")
        if match[2] in ("\\le", "\\leq", "\\lt", "≤", "<=", "<"):
            return f"(-\\infty,{match[3]}{']' if closed else ')'}"
        return f"{'[' if closed else '('}{match[3]},\\infty)"
    return side


def structure(side: str) -> tuple[str, list[str]]:
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


def is_relation(side: str) -> bool:
    """Whether "=", or another relation, stands outside of all braces."""
    outside = re.sub(r"\{[^{}]*\}", "", re.sub(r"\{[^{}]*\}", "", side))
    return bool(re.search(r"[=<>≤≥]|\\(?:le|ge|lt|gt|ne)q?(?![a-z])", outside))


def without_unit(side: str) -> tuple[str, str]:
    """An expression without the unit after it, and the unit."""
    side = side.strip()
    match = _UNIT.search(side)
    if match and side[: match.start()].strip() and unit_after(f" {match[1] or ''}") is not None:
        return side[: match.start()].strip(), (
            (match[1] or "°").strip() + (match[2] or "").replace("{", "").replace("}", "")
        )
    words = re.search(r"(?<=[\d)}iI])\s+((?:square |cubic )?[A-Za-z]{2,}(?:\^\{?[23]\}?)?)$", side)
    if words and unit_of(words[1]) is not None:
        return side[: words.start()], words[1]
    return side, ""
