"""Whether a text says what the reference says: text itself, yes or no, lists in their order."""

import re

from workbench.problems.answer_place import LONGEST
from workbench.problems.answer_text import hedged, plain, tidy, unwrapped
from workbench.problems.answer_words import yes_or_no

_TRUTHS = {"yes": True, "true": True, "是": True, "no": False, "false": False, "否": False}
_REASONED = re.compile(
    r"\s*(?:[,;:—–(]\s*(?=(?:not|because|since|as|which|so|it|the|this|that|these|there|based|given|due|according|a|an|rather|unlike)\b)"
    r"|(?=\b(?:because|since|due to|based on|according to|rather than|instead of)\b)|，)",
    re.IGNORECASE,
)
_VERB = re.compile(
    r"(?:'s|(?<=\w) (?:is|are|was|were|must be|looks|appears to be|reads|says))\s+"
    r"(?:called |named |most likely |probably |clearly )?"
    r"(?:(?:on|in|at|to) (?:the )?|an? |the )?"
)
_IT_IS = re.compile(
    r"^(?:it|this|that|the (?:statement|claim|sentence|answer))(?:'s| is)\s+(?=(?:true|false)\b)",
    re.IGNORECASE,
)
_UNSAID = re.compile(
    r"\b(?:not|no|never|none|nothing|neither|either|wrong|incorrect|false|other|another|possible"
    r"|nobody|few|doubt|unlikely|opposite|who|hardly|would|guess|if|whether|which|what|one of|might|may|could)\b|n't\b"
)


def truth(reference: str) -> bool | None:
    """What a reference of yes or no (true or false) says; None of any other text."""
    return _TRUTHS.get(plain(reference))


def says(text: str, reference: str) -> bool:
    """Whether a text is the reference, or a short sentence with nothing else in it ("It is red.", "red, because ...")."""
    if len(text) > 4 * len(reference) + LONGEST:
        return False
    target = plain(reference)
    if not target or plain(text) == target:
        return bool(target) or text.strip() == reference.strip()
    if _parts(text) == _parts(reference):
        return True
    first = _REASONED.split(text, maxsplit=1)[0]
    if plain(first) == target and not hedged(text):
        return True
    return any(_said(verb, target) for verb in _VERB.finditer(plain(text)))


def _said(verb: re.Match[str], target: str) -> bool:
    """Whether the wanted text, and nothing else, stands after a verb, with nothing before it that denies it."""
    before, after = verb.string[: verb.start()], verb.string[verb.end() :]
    if _UNSAID.search(before) or hedged(before) or len(before.split()) > 10:
        return False
    return plain(after) == target or plain(_REASONED.split(after, maxsplit=1)[0]) == target


def answers_truth(text: str) -> bool | None:
    """Whether a text says yes or no, also as "it is true"; None where it says neither."""
    text = unwrapped(tidy(text[:LONGEST]))
    if text.rstrip().endswith("?"):
        return None
    text = re.sub(r"^(?:i(?:'d| would) say|well,?)\s+", "", text.strip(" *_\"'"), flags=re.IGNORECASE)
    text = _IT_IS.sub("", text.strip(" *_\"'"))
    return None if hedged(text) and len(text.split()) < 4 else yes_or_no(text)


def _parts(text: str) -> list[str]:
    """The members of a list, in order, brackets around it aside; one member is no list."""
    text = plain(text)
    enclosed = re.fullmatch(r"[(\[]([^()\[\]]*)[)\]]", text)
    parts = re.split(r"\s*[,;、]\s*(?:and\s+)?|\s+and\s+", enclosed[1] if enclosed else text)
    parts = [plain(part) for part in parts if part.strip()]
    return parts if len(parts) > 1 else [text]
