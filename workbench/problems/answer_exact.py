"""Whether a text says what the reference says: text itself, yes or no, lists in their order."""

import re

from workbench.problems.answer_text import hedged, plain, tidy, unwrapped
from workbench.problems.answer_words import yes_or_no

_TRUTHS = {"yes": True, "true": True, "是": True, "no": False, "false": False, "否": False}
_REASONED = re.compile(
    r"\s*(?:[,;:—–(]\s*(?=(?:not|because|since|as|which|so|it|the|this|that|these|there|based|given|due|according|a|an|rather|unlike)\b)"
    r"|(?=\b(?:because|since|due to|based on|according to|rather than|instead of)\b)|，)",
    re.IGNORECASE,
)
_SAID = re.compile(
    r"(?:so |thus |therefore,? |hence |i (?:think|believe) (?:that )?)?"
    r"(?:it|this|that|there|they|these|its? [\w ]{1,30}|[\w' ]{1,60}?)"
    r"(?:'s| is| are| was| were| must be| looks| appears to be| reads| says)\s+"
    r"(?:called |named |most likely |probably |clearly )?"
    r"(?:(?:on|in|at|to) (?:the )?|an? |the )?(?P<said>.+)",
    re.DOTALL,
)
_UNSAID = re.compile(
    r"\b(?:not|no|never|none|nothing|neither|either|wrong|incorrect|false|other|another|possible"
    r"|if|whether|which|what|one of|might|may|could)\b|n't\b"
)


def truth(reference: str) -> bool | None:
    """What a reference of yes or no (true or false) says; None of any other text."""
    return _TRUTHS.get(plain(reference))


def says(text: str, reference: str) -> bool:
    """Whether a text is the reference, or a short sentence with nothing else in it ("It is red.", "red, because ...")."""
    wanted = plain(reference)
    if not wanted or plain(text) == wanted:
        return bool(wanted) or text.strip() == reference.strip()
    if _parts(text) == _parts(reference):
        return True
    first = _REASONED.split(text, maxsplit=1)[0]
    if plain(first) == wanted and not hedged(text):
        return True
    match = _SAID.fullmatch(plain(text))
    if match is None or _UNSAID.search(match[0][: match.start("said")]):
        return False
    return plain(match["said"]) == wanted or plain(_REASONED.split(match["said"], maxsplit=1)[0]) == wanted


def answers_truth(text: str) -> bool | None:
    """Whether a text says yes or no, also as "it is true"; None where it says neither."""
    text = unwrapped(tidy(text))
    text = re.sub(
        r"^(?:it|this|that)(?:'s| is)\s+(?=(?:true|false)\b)", "", text.strip(" *_\"'"), flags=re.IGNORECASE
    )
    return None if hedged(text) and len(text.split()) < 4 else yes_or_no(text)


def _parts(text: str) -> list[str]:
    """The members of a list, in order, brackets around it aside; one member is no list."""
    text = plain(text)
    enclosed = re.fullmatch(r"[(\[]([^()\[\]]*)[)\]]", text)
    parts = re.split(r"\s*[,;、]\s*(?:and\s+)?|\s+and\s+", enclosed[1] if enclosed else text)
    parts = [plain(part) for part in parts if part.strip()]
    return parts if len(parts) > 1 else [text]
