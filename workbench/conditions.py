"""Conditions: what a model is compared under, as values; none of the libraries that run them is needed here.

A condition is a plain model, ``"base"`` or ``"rlvr"``, or an intervention: a `Replay`, a `Patch`, an ``Adapter``, a mixture of
both models (`mixtures`), or any frozen value that says what a `Condition` says and for which ``replay.prepared.prepare`` is
registered.
"""

import inspect
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from workbench.errors import InputError

Model = Literal["base", "rlvr"]
PLAIN: tuple[str, ...] = get_args(Model)


@runtime_checkable
class Condition(Protocol):
    """What a model is compared under, as a value.

    It may also have ``check_depth(depth)``, which refuses models that it does not fit, and ``needs_pictures``: whether it is
    nothing to a prompt without visual tokens (False where it does not say).
    """

    @property
    def title(self) -> str:
        """What it is called in tables and figures where nobody named it."""
        ...

    @property
    def described(self) -> Any:
        """All that changes its results, as JSON's types."""
        ...

    @property
    def answered_by(self) -> Model:
        """Which of the two models answers."""
        ...

    @property
    def drawn_by_engine(self) -> bool:
        """Whether an engine can draw the responses: it takes a plain model, or tokens at layer 0, and no more."""
        ...


Named = Condition | Literal["base", "rlvr"]
"""A condition, or a plain model's name, which stands for that model as it is."""


@dataclass(frozen=True)
class Plain:
    """What a plain model's name stands for."""

    answered_by: Model

    @property
    def title(self) -> str:
        """The model's name."""
        return self.answered_by

    @property
    def described(self) -> Any:
        """The model's name."""
        return self.answered_by

    @property
    def drawn_by_engine(self) -> bool:
        """Always."""
        return True


def condition_of(value: Any) -> Condition:
    """A condition as it is, and what a plain model's name stands for.

    Raises:
        InputError: the value is neither.
    """
    if isinstance(value, str) and value in PLAIN:
        return Plain("base" if value == "base" else "rlvr")
    if isinstance(value, Condition) and not isinstance(value, type):
        return value
    raise InputError(
        f"`interventions` has {value!r}; expected 'base', 'rlvr', a Replay, a Patch, an Adapter, a CrossSample, an "
        "Extrapolate, or a value of your own with title, described, answered_by and drawn_by_engine: "
        "ablate(pair, problems, [Replay(), Patch()])"
    )


def check_made(value: Any) -> None:
    """Refuse the class of a condition where a value of it is meant.

    Raises:
        InputError: it is one.
    """
    if isinstance(value, type):
        fields = {"CrossSample": "'base', 'divergence', threshold=0.1", "Extrapolate": "0.5"}
        raise InputError(
            f"`intervention` is the class {value.__name__}; expected a value of it: "
            f"decode(pair, prompt, intervention={value.__name__}({fields.get(value.__name__, '')}))"
        )


def signature_of(value: Named) -> Any:
    """What tells a condition from all others, as JSON's types: a plain model's name, or a kind and what it is described by.

    Of a kind of your own the text of its module counts too: what it does stands there and nowhere else.
    """
    described, kind = condition_of(value).described, type(value)
    if isinstance(value, str):
        return described
    if kind.__module__.partition(".")[0] == __package__:
        return [kind.__name__, described]
    try:
        text = Path(inspect.getfile(kind)).read_bytes()
    except (OSError, TypeError):  # typed into a notebook: as far as it can be known
        text = f"{kind.__module__}.{kind.__qualname__}".encode()
    return [kind.__name__, described, sha256(text).hexdigest()]


def check_depth(value: Named, depth: int) -> None:
    """Refuse a condition that does not fit models of `depth` layers.

    Raises:
        InputError: it says so.
    """
    check = getattr(value, "check_depth", None)
    if check is not None:
        check(depth)


def needs_pictures(value: Any) -> bool:
    """Whether a condition does nothing to a prompt without pictures."""
    return getattr(value, "needs_pictures", False)
