r"""Answers: taken out of a response, and compared with the reference. Nothing of a response is ever executed.

Where the answer is looked for, in this order:

1. the last ``<answer>...</answer>``;
2. the last ``\boxed{...}`` (braces balanced; also looked for inside 1);
3. for choices, the last option letter that stands alone; for numbers and mathematics, the last number.

How it is compared depends on the problem's verifier: ``exact`` text (letter case and white space aside), the
letter of a ``choice`` (or the option's own text), a ``numeric`` value within a relative tolerance, or ``math``,
which asks math-verify whether two LaTeX expressions are equal. math-verify's own time limit needs signals, hence the
main thread; here it runs in a process of its own that is ended when its time is up.
"""

import atexit
import math
import multiprocessing
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from workbench.errors import InputError

VERIFIERS = ("exact", "choice", "numeric", "math")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?%?")
_ALONE = re.compile(r"(?<![A-Za-z0-9])\(?([A-Z])(?![A-Za-z0-9'])")


@dataclass(frozen=True)
class Outcome:
    """Whether a response is right, what was taken for its answer, and how both were decided."""

    correct: bool
    answer: str | None
    """None: no answer was found."""
    how: str
    """Such as "answer tag, numeric within 0.001"."""


def extract(response: str, verifier: str = "exact", choices: Sequence[str] = ()) -> tuple[str | None, str]:
    """The answer in a response, and where it was found; (None, "no answer") where there is none."""
    text, where = response, ""
    if tagged := _TAGGED.findall(response):
        text, where = tagged[-1].strip(), "answer tag"
    if (boxed := _boxed(text)) is not None:
        return boxed.strip(), f"{where}, boxed" if where else "boxed"
    if where:
        return text, where
    if verifier == "choice":
        allowed = LETTERS[: len(choices)] or LETTERS
        letters = [letter for letter in _ALONE.findall(response) if letter in allowed]
        if letters:
            return letters[-1], "last letter"
    if verifier in ("numeric", "math") and (numbers := _NUMBER.findall(response)):
        return numbers[-1], "last number"
    return None, "no answer"


def verify(
    response: str,
    answer: str,
    verifier: str = "exact",
    *,
    choices: Sequence[str] = (),
    tolerance: float = 1e-3,
    seconds: float = 5.0,
) -> Outcome:
    r"""Compare a response with the reference answer.

    The answer is looked for in the last ``<answer>...</answer>``, then in the last ``\boxed{...}``; then, for choices, the last
    option letter that stands alone, for numbers and mathematics the last number.

    Args:
        response: what a model said.
        answer: the reference; for ``choice`` the letter of the right option.
        verifier: one of ``VERIFIERS``.
        choices: the options' texts.
        tolerance: of ``numeric``, relative to the reference.
        seconds: that ``math`` may take.

    Raises:
        InputError: an unknown verifier, a numeric reference that is no number, or math-verify missing.
    """
    if verifier not in VERIFIERS:
        raise InputError(
            f"`verifier` is {verifier!r}; expected one of {', '.join(VERIFIERS)}: verify(response, answer, 'exact')"
        )
    found, where = extract(response, verifier, choices)
    if found is None:
        return Outcome(False, None, where)
    if verifier == "choice":
        letter = _letter(found, choices)
        return Outcome(letter == answer.strip().upper(), letter or found, f"{where}, choice")
    if verifier == "numeric":
        wanted, value = number(answer), number(found)
        if wanted is None:
            raise InputError(
                f"`answer` is {answer!r}, which is no number; use the verifier 'exact' or 'math'"
            )
        right = value is not None and abs(value - wanted) <= tolerance * max(abs(wanted), 1e-9)
        return Outcome(right, found, f"{where}, numeric within {tolerance:g}")
    if _plain(found) == _plain(answer):
        return Outcome(True, found, f"{where}, exact")
    if verifier == "math":
        right = _equal_math(answer, found, seconds)
        return Outcome(bool(right), found, f"{where}, math-verify" + (" timed out" if right is None else ""))
    return Outcome(False, found, f"{where}, exact")


def number(text: str) -> float | None:
    """The value of a text that is one number: 1,000, -2.5e3, 3/4, 40% (0.4), $12; None for anything else."""
    cleaned = text.strip().strip("$").replace(",", "").replace("\u2212", "-").strip()
    if not _NUMBER.fullmatch(cleaned):
        return None
    above, _, below = cleaned.rstrip("%").partition("/")
    try:
        value = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        return None
    return (value / 100 if cleaned.endswith("%") else value) if math.isfinite(value) else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{...}`` whose braces balance."""
    start = text.rfind("\\boxed{")
    while start >= 0:
        depth = 0
        for end in range(start + len("\\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return text[start + len("\\boxed{") : end]
        start = text.rfind("\\boxed{", 0, start)
    return None


def _letter(found: str, choices: Sequence[str]) -> str | None:
    """The option that an answer names: by its text, by a letter alone, or by a letter before its text."""
    for letter, choice in zip(LETTERS, choices, strict=False):
        if _plain(found) == _plain(choice):
            return letter
    allowed = LETTERS[: len(choices)] or LETTERS
    named = re.match(r"\(?([A-Za-z])\)?(?:[.:)\s]|$)", found.strip())
    if named and named[1].upper() in allowed:
        return named[1].upper()
    alone = [letter for letter in _ALONE.findall(found) if letter in allowed]
    return alone[-1] if alone else None


# --- math-verify, in a process of its own -----------------------------------------------------------------


def _equal_math(wanted: str, found: str, seconds: float) -> bool | None:
    """Whether two expressions are equal; None if that could not be decided in time."""
    return _WORKER.ask(wanted, found, seconds)


class _Worker:
    """A process that imports math-verify once and answers one question at a time; replaced when it hangs."""

    def __init__(self) -> None:
        self.process: Any = None
        self.pipe: Any = None
        self.lock = threading.Lock()

    def ask(self, wanted: str, found: str, seconds: float) -> bool | None:
        with self.lock:
            try:
                self._start()
                self.pipe.send((wanted, found))
                if self.pipe.poll(seconds):
                    return self.pipe.recv()
            except (EOFError, OSError):
                pass  # it died over this question: no more to be had from it than from a timeout
            self.stop()
            return None

    def _start(self) -> None:
        if self.process is not None and self.process.is_alive():
            return
        from importlib.util import find_spec

        if find_spec("math_verify") is None:
            raise InputError("`verifier` 'math' needs a package that is missing: pip install math-verify")
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        if not self.pipe.poll(60):  # its first word says that the imports are done
            raise OSError("math-verify did not start")
        self.pipe.recv()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def _serve(pipe: Any) -> None:
    import math_verify

    library: Any = math_verify  # its annotations exclude the None that turns its own time limits off
    pipe.send(True)
    while True:
        try:
            wanted, found = pipe.recv()
        except EOFError:
            return
        sides = [library.parse(f"${text}$", parsing_timeout=None) for text in (wanted, found)]
        pipe.send(bool(library.verify(*sides, timeout_seconds=None)))


_WORKER = _Worker()
atexit.register(_WORKER.stop)


class Verifier(StrEnum):
    """How a model's answer is compared with the problem's."""

    EXACT = "exact"
    CHOICE = "choice"
    NUMERIC = "numeric"
    MATH = "math"
