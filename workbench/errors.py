"""The one exception that means "your input, not our code"."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import wraps
from typing import Any, TypeVar


class InputError(ValueError):
    """Bad input, found before expensive work.

    The message says what was wrong, what was expected, and a call that would work. The command line prints
    it without a traceback and exits with 2.
    """


def install(extra: str) -> str:
    """The command that installs an extra of the workbench, which is on no package index: from a clone."""
    return f'`pip install -e ".[{extra}]"` in the folder of pyproject.toml'


_Kind = TypeVar("_Kind")


def knows_its_fields(kind: type[_Kind]) -> type[_Kind]:
    """Class decorator of a dataclass: a field that it does not have is refused by name, with the nearest that it has.

    Raises:
        InputError: (when one is built) an unknown field.
    """
    build = kind.__init__
    names = tuple(kind.__dataclass_fields__)  # pyright: ignore[reportAttributeAccessIssue]

    @wraps(build)
    def checked(self: Any, *args: Any, **fields: Any) -> None:
        for name in fields:
            if name not in names:
                raise InputError(
                    f"`{name}` is no field of {kind.__name__}{nearest(name, names)}; it has {', '.join(names)}: "
                    f"{kind.__name__}({names[0]}=...)"
                )
        build(self, *args, **fields)

    kind.__init__ = checked
    return kind


def nearest(name: str, known: Iterable[Any]) -> str:
    """`` (did you mean 'x'?)`` for the known name most like ``name``, or nothing."""
    spelled = {str(k).lower(): str(k) for k in known}
    match = get_close_matches(str(name).lower(), list(spelled), n=1)
    return f" (did you mean {spelled[match[0]]!r}?)" if match else ""
