"""Answers: taken out of a response, and compared with the reference."""

import re

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def extract(response: str) -> str | None:
    """The text of the last ``<answer>...</answer>``, or None where there is none."""
    found = _TAGGED.findall(response)
    return found[-1].strip() if found else None


def is_correct(response: str, answer: str) -> bool:
    """Whether the extracted answer equals the reference, letter case and outer white space aside."""
    found = extract(response)
    return found is not None and found.casefold() == answer.strip().casefold()
