r"""What is written, freed of how it is set: full-width letters, LaTeX wrappers, markdown, quotation marks, full stops.

`tidy` is for everything that is read (characters only), `unwrapped` takes LaTeX and markdown away that only set text,
`plain` is the form in which two texts are compared: ``**“Red”.**``, ``\text{red}`` and ``Ｒｅｄ`` are all ``red``.
"""

import re

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_SAME = {
    **dict.fromkeys(
        map(ord, "\u00a0\u2002\u2003\u2004\u2005\u2007\u2008\u2009\u200a\u202f\u205f\u3000"), " "
    ),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f"), None),
    **dict.fromkeys(map(ord, "\u2212\ufe63\u2010\u2011"), "-"),
    **dict.fromkeys(map(ord, "\u2018\u2019\u02bc\u0060"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d\u300e\u300f"), '"'),
    ord("\u3010"): "[",
    ord("\u3011"): "]",
}
_CHARACTERS = _WIDE | _SAME
_WRAPPERS = r"text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|bf|rm|mbox|hbox|operatorname|emph"
_WRAPPED = re.compile(rf"\\(?:{_WRAPPERS}|underline|boldsymbol)\s*\{{([^{{}}]*)\}}")
_SWITCH = re.compile(
    r"\\(?:displaystyle|textstyle|bf|rm|it|large|Large|huge|big|Big|bigg|Bigg)(?![A-Za-z])\s*"
)
_LATEX_SPACE = re.compile(r"(?<!\\)\\(?:[,;:> ]|quad(?![A-Za-z])|qquad(?![A-Za-z]))|~")
_MARKDOWN = re.compile(
    r"\*\*|__|(?<![\w*])\*(?=\S)|(?<=[^\s*])\*(?![\w*])|^\s*#+\s+|^\s*>\s+(?![-−$\d.])", re.MULTILINE
)
_EDGES = " \t\r\n\"'.,;:!。，；：！、"
_ARTICLE = re.compile(r"^(?:(?:on|in|at|to) the|an?|the)\s+")


def tidy(text: str) -> str:
    """The text with ASCII letters, digits, spaces, quotation marks and minus signs where it had others like them."""
    return text.translate(_CHARACTERS)


def unwrapped(text: str) -> str:
    r"""Without what only sets text: ``**``, ``\text{}``, ``\left``, thin spaces, the marks around formulas.

    A dollar sign before a number that has no partner stays: it is money.
    """
    while True:
        inner = _WRAPPED.sub(lambda match: f" {match[1]} " if match[1].strip() else " ", text)
        if inner == text:
            break
        text = inner
    text = _LATEX_SPACE.sub(" ", re.sub(r"(?<!\\)\\!\s*", "", _SWITCH.sub("", text))).replace("{,}", ",")
    text = re.sub(r"\\m?(?:left|right)(?=[\s()\[\]|.\\{}])\.?", "", text)
    text = re.sub(r"(?<!\\)\\[()\[\]]|\$\$", " ", text)
    if len(re.findall(r"(?<!\\)\$", text)) % 2 == 0:
        text = re.sub(r"(?<!\\)\$", "", text)
    text = text.replace("\\$", "$").replace("\\%", "%").replace("\\#", "#").replace("\\&", "&")
    return _MARKDOWN.sub("", text).strip()


def plain(text: str) -> str:
    """The form in which two texts are compared: small letters, no article before, no quotation marks or stops around."""
    text = unwrapped(tidy(text)).casefold()
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text).replace("{", "").replace("}", "")
    text = re.sub(r"\s*([,;/&])\s*", r"\1 ", " ".join(text.split())).strip(_EDGES)
    if re.fullmatch(r"\([^()]*\)|\[[^\[\]]*\]", text) and "," not in text:
        text = text[1:-1].strip(_EDGES)
    return " ".join(_ARTICLE.sub("", text, count=1).split())


_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]*]*\s+(?=\S)|(?<=[。！？；])|\n+")
_SHORTENED = re.compile(
    r"(?:\b(?:e\.g|i\.e|vs|approx|Fig|No|Eq|Dr|Mr|Mrs|Ms|St|cf|resp|etc)\.|(?<![A-Za-z])\d+\.)$"
)


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text, without empty ones; formulas and numbered items stay whole."""
    parts: list[str] = []
    for part in _SENTENCE_END.split(text):
        if part is None or not part.strip(" *#>-_"):
            continue
        if parts and _SHORTENED.search(parts[-1]) and len(parts[-1].split()) <= 3:
            parts[-1] = f"{parts[-1]} {part.strip()}"
        else:
            parts.append(part.strip())
    return parts


_HEDGE = re.compile(
    r"\b(?:maybe|perhaps|possibly|might|may|could|either|neither|unsure|uncertain|unclear|ambiguous|undecided|depends|unless"
    r"|otherwise|cannot|can ?not|can't|couldn't|unable|impossible|not (?:sure|certain|clear|possible|enough|determin\w+)"
    r"|don't know|do not know|hard to (?:say|tell)|no idea|sorry|guess between|insufficient"
    r"|i (?:\w+ )?doubt|doubtful|(?:false|not true|untrue) that|or rather|i mean)\b"
    r"|无法|不能|不确定|不知道|可能|也许|或许|不清楚|要么",
    re.IGNORECASE,
)
_REASON = re.compile(r"\b(?:because|since|as|due to|given that|for)\b|因为|由于", re.IGNORECASE)


def hedged(text: str) -> bool:
    """Whether a claim is taken back by its own words (may be, cannot tell, either); reasons that follow it don't count."""
    return bool(_HEDGE.search(_REASON.split(text, maxsplit=1)[0] or text))


_NEGATION = re.compile(
    r"\b(?:not|never|no longer|isn't|aren't|wasn't|doesn't|nor|without|except)\b|n't\b|不是|并非|没有", re.I
)


def negated(text: str) -> bool:
    """Whether a text says what is not."""
    return bool(_NEGATION.search(text))
