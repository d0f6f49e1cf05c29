r"""Which option a text names: by its letter, by its words, or by a letter before its words.

A letter counts where it stands alone ("B", "(b)", "B.", "Option B", "B because ...") or, in capitals, once in a short text
("I think it's D"); "A" and "I" as words do not. Letters that are turned down on the way ("not A", "A is wrong") are
left out. An option's words count where the text is these words, or holds them and no other option's ("light blue"
is not "blue"); numbers and yes or no are compared as such. Two letters, two options, a letter beside another
option's words, or a hedge, name none.
"""

import re
from collections.abc import Sequence

from workbench.problems.answer_exact import answers_truth
from workbench.problems.answer_numbers import quantity
from workbench.problems.answer_place import LONGEST
from workbench.problems.answer_sentence import quantities
from workbench.problems.answer_text import hedged, negated, plain, sentences, tidy, unwrapped
from workbench.problems.answer_words import yes_or_no

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WORDS = 14
"""Of a text in which an option's words may stand among others."""

_HERE = r"(?<![A-Za-z0-9'_^\\])\(?([A-Z])\)?(?![A-Za-z0-9'_^]|-[A-Za-z])"
_TOKEN = re.compile(_HERE)
_ALONE = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+)?(?:answer|option|choice|letter)\s*(?:is\s+)?[:#]?\s*)?"
    r"[\[({<]?\s*([A-Za-z])\s*[\])}>]?\s*[.,:;!)]*",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:(?:option|choice|answer|选项|选)\s*:?\s*)?(?:[(\[]\s*([A-Za-z])\s*[)\]][.:,]?"
    r"|([A-Z])\s*[).:,;—–]|([A-Z])\s+-|([A-Z])(?=\s*\n)|([A-Z])(?=\s+(?:because|since|as|due|is|was|would|seems|must)\b)"
    r"|([A-Z])(?=\s*[因是为。，,(]))(?P<rest>.*)",
    re.DOTALL,
)
_LEAD_WORD = re.compile(
    r"(?:option|choice|letter|选项|选)\s*:?\s*[(\[]?([A-Za-z])[)\]]?(?![A-Za-z0-9'])(?P<rest>.*)", re.I | re.S
)
_TURNED_DOWN = re.compile(
    r"\b(?:not|isn't|rather than|instead of|unlike|except|over|nor|neither)\s+(?:the\s+)?"
    r"(?:option\s+|choice\s+|answer\s+)?\(?[A-Z]\)?(?![A-Za-z0-9'])"
    r"|(?:option\s+|choice\s+)?\(?(?<![A-Za-z0-9])[A-Z]\)?(?:\s*(?:,|and|or)\s*\(?[A-Z]\)?(?![A-Za-z]))*"
    r"\s+(?:is|are|was|were|can be|could be|would be)\s+"
    r"(?:wrong|incorrect|not\b|false|ruled out|eliminated|clearly wrong|excluded|a (?:common )?distractor|n't)"
    r"|(?:option\s+)?\(?(?<![A-Za-z0-9])[A-Z]\)?\s+(?:isn't|aren't|doesn't|cannot|can't|错|不对)",
)
_SEVERAL = re.compile(
    r"^\s*(?:,|;|/|&|\+|-?>|→|⇒|and\b|or\b|和|或|、|,\s*(?:and|or)\b)\s*(?:maybe\s+|perhaps\s+|possibly\s+|also\s+|even\s+|option\s+)*\(?([A-Z])\)?(?![A-Za-z0-9'])"
)
_ALSO = re.compile(
    r"\b(?:or|alternatively|also|as well|maybe|perhaps|possibly|might|may|could|unless|otherwise|if|now"
    r"|equally|both|wait|actually|however)\b|也|或",
    re.IGNORECASE,
)
_ARTICLE = re.compile(
    r"(?<![A-Za-z0-9'(])A(?=\s+[a-z])(?!\s+(?:is|are|was|or|and|because|since|as|would|seems|must|may|might)\b)"
)
_PRONOUN = re.compile(r"(?<![A-Za-z0-9'(])I(?=\s+[a-z]|')(?!\s+(?:is|or|because|since)\b)")
_MODIFIED = re.compile(
    r"\b(?:dark|light|pale|deep|bright|not|no|non|never|without|except|almost|nearly|half|neither|than|unlike|least)(?:\s+|-)(?:an?\s+|the\s+)?$"
)
_IS_RIGHT = re.compile(
    r"(?<![A-Za-z0-9'])\(?([A-Z])\)?\s*(?:is|must be|fits|matches)\s+(?:(?:the|my|clearly|indeed)\s+)*"
    r"(?i:best|right|correct|answer|one|most \w+)\b"
    r"|(?<![A-Za-z0-9'])([A-Z])\s+(?:fits|matches)\b"
    r"|(?<![A-Za-z0-9'])([A-Z])(?:选项)?(?:是)?(?:正确|对)"
)
_FILLER = (
    r"(?i:\b(?:probably|likely|most|definitely|clearly|surely|obviously"
    r"|final|finally|guess|i|my|option|choice|letter|answer|correct|right|best|so|please"
    r"|thus|hence|therefore|the|is|it|would|be|go|with|pick|choose|select)\b)"
)
_ANNOUNCED = re.compile(
    r"^(?:so\s+|thus,?\s+|therefore,?\s+|hence,?\s+)?(?:the\s+|my\s+)?(?:(?:final|correct|right|best)\s+)*(?:answer|option|choice)"
    r"\s*(?:is|would be|must be|should be|:)\s*:?\s*(?=\S)",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"\b(?:if|whether|wrong|incorrect|false|possible|plausible|another"
    r"|other answer|suppose|assum\w+|everything but|unlikely|reject\w*"
    r"|hardly|never|or (?:none|neither|both|another|something|not|no)|any \w+ but|as an ai"
    r"|rule[sd]? out|key"
    r"|other than|all but|anything"
    r"|neither)\b|不|而不是|\?\W*$",
    re.IGNORECASE,
)
_OR_NOT = re.compile(r"\bor\s+(?:none|neither|both|another|something|not|no)\b", re.IGNORECASE)
_ASIDE = re.compile(r"[,(]\s*(?:not|rather than)\s+[\w ]+\)?")
_NOT_IT = re.compile(
    r"\s*(?:is|was|would be|seems|looks)\s+(?:also\s+|only\s+)?(?:an?\s+|one\s+)?(?:\w+ly\s+)?"
    r"(?:wrong|incorrect|not|false|n't|possible"
    r"|possibility|plausible|tempting|unlikely|common|distractor|another|option|excluded|eliminated|ruled|rejected|out\b)|\s*was\b"
    r"|\s*(?:选项)?(?:是)?(?:错|不)",
    re.IGNORECASE,
)
_SAYS = re.compile(
    r"(?:\b(?i:is|be|choose|chose|pick|select|say|vote for|answer|with|therefore|thus|hence|so|think|believe|indicates?)"
    r"|(?<!\d)[:=→]|'s|'d|所以|因此|选|是)\W*(?:(?i:the|that|option|choice|letter|answer|it|is|must|be|correct)\W+)*\(?(?<![A-Za-z0-9])([A-Z])\)?(?![A-Za-z0-9'])"
)


def option(text: str, choices: Sequence[str], *, loose: bool = False) -> tuple[str | None, str]:
    """The letter of the option that a text names and the rule by which; (None, why) where it names none.

    ``loose``: the text is the last sentence of a response, not its answer, so that a verb must point at the letter.
    """
    allowed = LETTERS[: len(choices)] or LETTERS
    text = unwrapped(tidy(text[:LONGEST])).strip().strip("\"'").strip()
    if not text:
        return None, "empty"
    same = [letter for letter, choice in zip(LETTERS, choices, strict=False) if plain(choice) == plain(text)]
    alone = _ALONE.fullmatch(text)
    if alone and alone[1].upper() in allowed:
        if same and same != [alone[1].upper()]:
            return None, "letter or text of another option"
        return alone[1].upper(), "letter"
    if same:
        return (same[0], "option's text") if len(same) == 1 else (None, "text of several options")
    text = text if loose else _ANNOUNCED.sub("", text)
    if not loose and (lead := _leading(text, allowed)):
        result = _with_rest(*lead, choices, allowed)
        if result[1] != "turned down":
            return result
    remainder = _TURNED_DOWN.sub(" ", text)
    if (
        hedged(remainder)
        or _DOUBT.search(remainder)
        or (_letters(text, allowed) and negated(_ASIDE.sub(" ", remainder)))
    ):
        return None, "a hedge"
    text = _without_reasons(text).strip() or text
    letters, pointed = _letters(text, allowed), _pointed_at(text, allowed)
    if loose:
        return (
            (pointed.pop(), "last letter")
            if len(letters) == 1 and letters == pointed
            else (None, "no option")
        )
    named = _named(text, choices)
    if len(letters) > 1 or len(named) > 1 or (letters and named and letters != named):
        return None, "several options"
    if letters and letters == (named if len(text.split()) <= 5 else pointed) | pointed:
        return letters.pop(), "letter in text"
    return (named.pop(), "option's text in text") if named and not letters else (None, "no option")


def _leading(text: str, allowed: str) -> tuple[str, str] | None:
    """A letter at the start that is no word, and what follows it."""
    match = _LEAD.match(text) or _LEAD_WORD.match(text)
    letter = match and next(filter(None, match.groups()[: (match.re.groups - 1)]), "").upper()
    return (letter, match["rest"]) if match and letter and letter in allowed else None


def _with_rest(letter: str, rest: str, choices: Sequence[str], allowed: str) -> tuple[str | None, str]:
    """What a leading letter is worth beside the text that follows it."""
    beside = "" if rest.lstrip(" ").startswith("\n") else f", {rest.lstrip()}"
    near = _SEVERAL.match(rest) or _SEVERAL.match(beside)
    if near and near[1] in allowed and near[1] != letter and not _is_word(rest.lstrip(" ,;&/+"), near[1]):
        return None, "several options"
    for sentence in sentences(rest):
        others = _letters(_without_reasons(sentence), allowed) - {letter}
        if others and _ALSO.search(_without_reasons(sentence)):
            return None, "several options"
    if _lists_another(rest, letter, choices):
        return None, "a list of options"
    if _NOT_IT.match(rest):
        return None, "turned down"
    if _OR_NOT.search(rest):
        return None, "a hedge"
    if re.match(r"\W*(?:or|maybe|perhaps|possibly|\?)", rest) and _ALSO.match(rest.lstrip(" ,;(")):
        return None, "a hedge"
    head = (sentences(rest) or [""])[0]
    head = head.split(";")[0]
    own_words = len(head.split()) <= 5 and not negated(head) and not _letters(head, allowed) - {letter}
    named = _named(head, choices) if own_words else set()
    own = choices[LETTERS.index(letter)] if choices else ""
    if (
        named
        and letter not in named
        and plain(head) != plain(own)
        and not re.match(r"\s*(?:because|since|as)\b", head)
    ):
        return None, "letter and text of another option"
    return letter, "letter"


def _lists_another(rest: str, letter: str, choices: Sequence[str]) -> bool:
    """Whether a further letter stands there with its own option and nothing said of it, as in a list of options."""
    rest = re.split(r"\b(?:not|because|since|rather|instead|unlike|than)\b", rest, maxsplit=1)[0]
    pairs = [(other, choice) for other, choice in zip(LETTERS, choices, strict=False) if other != letter]
    return any(
        re.search(
            rf"(?<![A-Za-z0-9(])\(?{other}[).:]\s*{re.escape(choice)}\s*(?:$|[.,;\n]|\(?[A-Z][).:])",
            rest,
            re.I,
        )
        for other, choice in pairs
    )


def _is_word(rest: str, letter: str) -> bool:
    return letter in "AI" and bool(re.match(rf"(?:and |or )?{letter}(?:\s+[a-z]|')", rest))


def _without_reasons(text: str) -> str:
    return re.split(r"\b(?:because|since|given that)\b", text, maxsplit=1)[0]


def _letters(text: str, allowed: str) -> set[str]:
    """Capital letters that stand alone and are not words, but for those turned down."""
    remainder = _PRONOUN.sub(" ", _ARTICLE.sub(" ", _TURNED_DOWN.sub(" ", text)))
    return {letter for letter in _TOKEN.findall(remainder) if letter in allowed}


def _pointed_at(text: str, allowed: str) -> set[str]:
    """Letters that a verb points at ("it is B", "so I'd pick B", "B is right"), or that only such words surround."""
    remainder = _PRONOUN.sub(" ", _ARTICLE.sub(" ", _TURNED_DOWN.sub(" ", text)))
    bare = re.fullmatch(rf"(?:{_FILLER}|[\s.,:;!\"'])*{_HERE}(?:{_FILLER}|[\s.,:;!\"'])*", remainder)
    right = {match[1] or match[2] or match[3] for match in _IS_RIGHT.finditer(remainder)}
    return ({*_SAYS.findall(remainder), *right} | ({bare[1]} if bare else set())) & set(allowed)


def _named(text: str, choices: Sequence[str]) -> set[str]:
    """Letters of the options whose words (or number, or yes and no) a short text holds."""
    text = re.sub(r"\s*-\s*", " ", plain(text)) if not re.search(r"\d", text) else plain(text)
    if not text or len(text.split()) > _WORDS:
        return set()
    spans: list[tuple[int, int, str]] = []
    letters: set[str] = set()
    for letter, choice in zip(LETTERS, choices, strict=False):
        own = plain(choice)
        if (verdict := yes_or_no(own, whole=True)) is not None:
            letters |= {letter} if answers_truth(text) is verdict else set()
        elif number := quantity(own):
            numbers = quantities(text)
            values = {q.value for q in numbers}
            if len(values) > 1:
                return set(LETTERS[: len(choices)])
            letters |= {letter} if numbers and numbers[0].agrees(number) else set()
        elif own and len(own) > 1:
            words = re.sub(r"\s*-\s*", " ", own)
            spans += [
                (m.start(), m.end(), letter) for m in re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", text)
            ]
    for start, end, letter in spans:
        inside = any(s <= start and end <= e and (s, e) != (start, end) for s, e, _ in spans)
        if not inside and not _MODIFIED.search(text[:start]):
            letters.add(letter)
    return (
        letters
        if not negated(re.sub(r"\bnot [\w ]+?,|, not [\w ]+$", " ", text)) or _whole(text, choices)
        else set()
    )


def _whole(text: str, choices: Sequence[str]) -> bool:
    """Whether an option itself denies something ("not enough information")."""
    return any(negated(choice) and plain(choice) in text for choice in choices)
