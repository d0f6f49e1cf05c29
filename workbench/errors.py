"""The one exception that means "your input, not our code"."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class InputError(ValueError):
    """Bad input, found before expensive work.

    The message says what was wrong, what was expected, and a call that would work. The command line prints
    it without a traceback and exits with 2.
    """


def install(extra: str) -> str:
    """The command that installs an extra of the workbench, which is on no package index: from a clone."""
    return f'`pip install -e ".[{extra}]"` in the folder of pyproject.toml'


def nearest(name: str, known: Iterable[Any]) -> str:
    """`` (did you mean 'x'?)`` for the known name most like ``name``, or nothing."""
    spelled = {str(k).lower(): str(k) for k in known}
    match = get_close_matches(str(name).lower(), list(spelled), n=1)
    return f" (did you mean {spelled[match[0]]!r}?)" if match else ""
