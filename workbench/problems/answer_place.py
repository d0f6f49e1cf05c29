r"""Where the answer of a response stands.

What is thought (``<think>``, closed, or opened by the prompt and only closed here) is not looked at. Then, in this order:

1. the last ``<answer>`` that is not empty, closed or cut off; boxes inside it come first;
2. the last ``\boxed{}`` that is not empty, braces balanced; boxes that stand side by side are one answer of several
   parts;
3. "the answer is X", "Answer: X", "final answer" before the others, "X is correct", "答案是X", "选X", in a sentence that
   does not deny it or make a condition of it;
4. the whole response, where it is short;
5. its last sentence (its last formula, of mathematics), where that says one thing of the kind asked for.

A place holds text; whether that text is one answer is for `answer_choice`, `answer_numbers` and the others to say.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from workbench.problems.answer_text import sentences

WORDS = 40
"""Of a response that is short."""
LONGEST = 600
"""Characters of a phrase or a sentence that is looked at, so that a long response costs no more than a short one."""
_PHRASES = 12
"""Of the forms that announce an answer, so many are looked at, from the last."""

_THOUGHT = re.compile(
    r"<(/?)(?:think|thinking|thought|reasoning|scratchpad|analysis|reflection)\s*>", re.IGNORECASE
)
_TAG = re.compile(r"<\s*(/?)\s*(?:final[_ ]?)?answer\s*(?:>|$)", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
_TOKEN = re.compile(r"-?\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z])")
_BETWEEN = re.compile(
    r"(?:[\s$,;.&]|\\[()\[\],; ]|\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|和|或|、)*", re.IGNORECASE
)
_OR = re.compile(r"\bor\b|或", re.IGNORECASE)
_DENIED = re.compile(r"(?:\bnot|n't|\bnever|不是)\s*[:$*(\\\[\s]*$", re.IGNORECASE)
_RETRACTED = re.compile(
    r"^[\s$.)\\\]*]*(?:is|was|would be)\s+(?:wrong|incorrect|not\b|false)|^[\s$)\\\]*]*(?:is|was)n't",
    re.IGNORECASE,
)
_TAKEN_BACK = (
    r"correction\b|edit\s*:|hold on\b|or rather\b|no\W+(?:it|that|this|the|there|they|i)\b|(?:oh |oops,? )?(?:i'm )?sorry\b"
    r"|oops\b|scratch that|my mistake|on second thought"
    r"|(?:no,? |actually,? |sorry,? )*i (?:meant|misread|misspoke|miscounted|was wrong|made (?:a|an) (?:mistake|error)"
    r"|take that back)"
    r"|(?:actually,? |wait,? )*(?:that|this|it) (?:is|was)(?: not|n't)? (?:wrong|incorrect|right|correct)"
    r"|(?:actually|wait|hmm)\W+no\b|no,? wait\b"
)
_WITHDRAWN = re.compile(
    rf"(?:^|[.!?;\n])[\s*_)\]$\\]*(?:but |and |hmm\W+|oh\W+|wait\W+)*(?:{_TAKEN_BACK})", re.IGNORECASE
)
"""What takes back an answer that stands before it, at the beginning of a sentence."""
_CONFIRMED = re.compile(r"(?:that|this|it) (?:is|was) (?:right|correct)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A part of a response that may be its answer."""

    text: str
    where: str
    """answer tag; boxed; answer phrase; whole response; last sentence; last formula; or "answer tag, boxed"."""

    @property
    def strict(self) -> bool:
        """Whether the model marked it as the answer, so that nothing else is looked at."""
        return self.where.startswith(("answer tag", "boxed"))


def without_thought(response: str) -> str:
    """The text outside the thinking; where the thinking never ends, only a tag that ends the response."""
    parts, begun, thinking = [], 0, False
    for mark in _THOUGHT.finditer(response):
        if mark[1]:
            parts = [] if not thinking else parts  # the prompt opened it
            begun, thinking = mark.end(), False
        elif not thinking:
            parts.append(response[begun : mark.start()])
            begun, thinking = mark.end(), True
    rest = response[begun:]
    if thinking:
        tags = list(_TAG.finditer(rest))
        final = len(tags) == 2 and not tags[0][1] and tags[1][1] and not rest[tags[1].end() :].strip()
        rest = rest[tags[0].start() :] if final else ""
    return "\n".join([*parts, rest])


def places(text: str) -> Iterator[Place]:
    """The places, best first, of a response without its thinking; after a tag or a box nothing else is a place."""
    if (tagged := _tagged(text)) is not None:
        inner = _boxed(tagged)
        yield Place(tagged, "answer tag") if inner is None else Place(inner, "answer tag, boxed")
        return
    if (boxed := _boxed(text)) is not None:
        yield Place(boxed, "boxed")
        return
    text = _TAG.sub(" ", text)
    if cut := _BOX.search(text):
        text = text[: cut.start()]  # a box that was cut off
    phrases, text = _phrases(text)
    yield from phrases
    whole = text.strip()
    if 0 < len(whole) <= LONGEST and len(whole.split()) <= WORDS:
        yield Place(whole, "whole response")
    near = whole[-2 * LONGEST :]
    if (lines := sentences(near)) and len(lines[-1]) <= LONGEST and not _REFUSES.search(near):
        yield Place(lines[-1], "last sentence")


def _tagged(text: str) -> str | None:
    """Content of the last answer tag that is not empty ("" if all are); several joined by "or" are one."""
    tags = list(_TAG.finditer(text))
    spans = []
    for number, tag in enumerate(tags):
        if not tag[1]:
            end = tags[number + 1].start() if number + 1 < len(tags) else len(text)
            spans.append((tag.start(), end, text[tag.end() : end].strip()))
    if not spans:
        return None
    answers = [span for span in spans if span[2]]
    if not answers:
        return ""
    joined = answers[-1][2]
    for before, after in zip(answers[-2::-1], answers[:0:-1], strict=False):
        between = _TAG.sub("", text[before[1] : after[0]])
        if not _OR.fullmatch(between.strip(" ,;")):
            break
        joined = f"{before[2]} or {joined}"
    after = _TAG.sub("", text[answers[-1][1] :], count=1)
    return "" if _RETRACTED.match(after) or withdrawn(after) else joined


def withdrawn(after: str) -> bool:
    """Whether the text after an answer takes it back ("Correction: ...", "Sorry, I meant ...", "No wait, ...")."""
    return any(not _CONFIRMED.search(match[0]) for match in _WITHDRAWN.finditer(after[:LONGEST]))


def _boxed(text: str) -> str | None:
    """Content of the last box that is not empty, with those beside it; None without one, "" where it is denied."""
    boxes = [box for box in _boxes(text) if re.sub(r"\\text\s*\{\s*\}|[\s~$]", "", box[2])]
    boxes = [
        b for b in boxes if not any(b is not o and b[0] < o[0] and o[1] <= b[1] for o in boxes)
    ]  # innermost
    if not boxes:
        return None
    start, end, joined = boxes[-1]
    if _DENIED.search(text[:start]) or _RETRACTED.match(text[end:]) or withdrawn(text[end:]):
        return ""
    for before in boxes[-2::-1]:
        between = text[before[1] : start]
        if (
            not _BETWEEN.fullmatch(between)
            or _DENIED.search(text[: before[0]])
            or ("." in between and "\n" in between)
        ):
            break
        if before[2] != joined:
            joined = f"{before[2]} or {joined}" if _OR.search(between) else f"{before[2]}, {joined}"
        start = before[0]
    return joined


def _boxes(text: str) -> Iterator[tuple[int, int, str]]:
    matches = list(deque(_BOX.finditer(text), maxlen=_PHRASES))
    if not matches:
        return
    first, opened, closed = matches[0].start(), [], {}
    for brace in re.finditer(r"[{}]", text[first:]):
        if brace[0] == "{":
            opened.append(brace.start() + first)
        elif opened:
            closed[opened.pop()] = brace.start() + first
    for match in matches:
        if text[match.end() : match.end() + 1] != "{":
            token = _TOKEN.match(text, match.end())
            if token:
                yield match.start(), token.end(), token[0]
        elif (end := closed.get(match.end())) is not None:
            yield match.start(), end + 1, text[match.end() + 1 : end].strip()


# --- the forms in which an answer is announced ---------------------------------------------------------------

_MARK = r"[\s*_`\"'#]*"
_ENGLISH = re.compile(
    r"(?P<final>\bfinal\s+)?\b(?:(?:correct|right|best|proper|final|overall|most (?:likely|plausible|appropriate))\s+)*"
    r"(?:answer|ans|(?<=correct )(?:option|choice|result|solution|value)|(?<=right )(?:option|choice)"
    r"|(?<=best )(?:option|choice)|(?<=final )(?:result|value|solution|choice))"
    rf"(?:\s+(?:to|for|of)\s+(?:the|this|that|your|my)\b[^.:\n]{{0,80}}?)?{_MARK}"
    rf"(?:\s(?:is|was|would be|should be|must be|will be|has to be|equals|are)\b(?!\s+(?:as follows|below|obvious))"
    rf"{_MARK}:?|:|=|->|→|(?:\.)?\s*\n){_MARK}",
    re.IGNORECASE,
)
_CHINESE = re.compile(
    r"(?P<final>最终)?(?:正确|最后的?|参考)?(?:答案|选项|答)(?:应该|应|就|便)?(?:是|为|选|:|=)+[\s*_:]*"
)
_CHOSEN = re.compile(
    r"\bI(?:'d| would| will|'ll)?\s+(?:choose|chose|pick|select|go with|answer|say)\s+"
    r"|(?<!不)(?:故选|应选|选择|我选|所以选|因此选|选)[\s:*]*",
    re.IGNORECASE,
)
_REVERSED = re.compile(
    r"(?P<x>[^.\n;:!?。；：]{1,80}?)\s+(?:is|must be|has to be)\s+(?:therefore |thus |indeed |clearly )?"
    r"(?:the |my |our )?(?:correct|right|best|final|answer\b)(?:\s+(?:answer|option|choice|one))?\b",
    re.IGNORECASE,
)
_NOT_SAID = re.compile(
    r"\b(?:incorrect|wrong|possible|potential|another|alternative|other|previous|initial|first|common|false|opposite|unlikely"
    r"|plausible|not|never|if|whether|assume|assuming|suppose|say|why"
    r"|unless|when|example|format|what|which|student|user|reject\w*"
    r"|might|may|could|some|many|people|you|one would|key|let's)\b|n't\b|如果|错误|假设|不",
    re.IGNORECASE,
)
_REFUSES = re.compile(
    r"\bI(?:'m| am)?\s+(?:cannot|can't|can not|could not|couldn't|unable to|not able to)\s+"
    r"(?:answer|see|determine|tell|view|provide|help|assist|decide|say)|\bas an AI\b|\bsorry\b",
    re.IGNORECASE,
)
_SO = re.compile(r"[,;]\s*(?:and )?(?:so|therefore|thus|hence)\b", re.IGNORECASE)
"""What concludes from a denial, and is none itself: "not B, so the answer is C"."""
_DENIES = re.compile(
    r"(?:not|n't|neither|never|unlikely|definitely not|anything but|不)(?![A-Za-z])", re.IGNORECASE
)
_CLAUSE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)[.!?](?=[\"')\]*_]*(?:\s|$))|[。！？；]|\n|<")


def _phrases(text: str) -> tuple[list[Place], str]:
    """What stands after "the answer is", the last such form first, "final answer" before them; then "X is correct".

    Also the text without the sentences in which such a form is denied, or made a condition.
    """
    clauses, denied = [], []
    for pattern in (_ENGLISH, _CHINESE, _CHOSEN):
        for match in deque(pattern.finditer(text), maxlen=_PHRASES):
            begun = max(
                text.rfind(mark, max(match.start() - LONGEST, 0), match.start())
                for mark in ("\n", ". ", "! ", "? ", "。", "; ")
            )
            clause = _clause(text[match.end() : match.end() + 2 * LONGEST])
            before = text[max(begun, match.start() - 48, 0) : match.start()]
            before = _SO.split(before)[-1]
            if _NOT_SAID.search(before) or _DENIES.match(clause):
                end = text.find(clause, match.end()) + len(clause) if clause else match.end()
                denied.append((begun + 1, end))
            elif withdrawn(text[text.find(clause, match.end()) + len(clause) :]):
                denied.append((begun + 1, text.find(clause, match.end()) + len(clause)))
            elif clause and len(clause) <= LONGEST:
                clauses.append((bool(match.groupdict().get("final")), match.start(), clause))
    places = [
        Place(clause, "answer phrase")
        for *_, clause in sorted(clauses, key=lambda item: item[:2], reverse=True)
    ]
    near = text[-20 * LONGEST :]
    subjects = {m["x"].strip() for m in _REVERSED.finditer(near) if not _NOT_SAID.search(m["x"])}
    if len(subjects) == 1:
        places.append(Place(subjects.pop(), "answer phrase"))
    for start, end in sorted(denied, reverse=True):
        text = text[:start] + text[end:]
    return places, text


def _clause(text: str) -> str:
    """What stands before the end of the sentence, or on the next line that is not empty."""
    text = text.lstrip()
    formula = re.match(r"\$\$?.+?\$\$?|\\\(.+?\\\)|\\\[.+?\\\]", text, re.DOTALL)
    end = _CLAUSE_END.search(text, formula.end() if formula else 0)
    return (text[: end.start()] if end else text).strip(" \t*_`")
