"""Rotary tables that remember earlier calls, put back before and after each of ours.

`dynamic` rope stretches its table by the longest sequence of the model's life, and keeps it stretched; `longrope` writes
its table anew in every forward, by the longest row. So a short prompt depends on what came before it, or beside it.

1. Before a call the table is that of a fresh model; after it, what it was before the call.
2. Rows of different lengths may not share a forward in which the longest leaves the length that the table was made for.

And one thread at a time: tracing swaps a model's forward meanwhile, so a second thread (a live bench, a cell of the notebook
around it) waits until a call is over.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import RLock
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from workbench.errors import InputError

REMEMBERING = ("dynamic", "longrope")
_MADE_ANEW = ("inv_freq", "max_seq_len_cached", "long_inv_freq", "attention_scaling")
_one_at_a_time = RLock()
_of: WeakKeyDictionary[nn.Module, list[nn.Module]] = WeakKeyDictionary()

P = ParamSpec("P")
R = TypeVar("R")


class _HasModel(Protocol):
    @property
    def model(self) -> Any: ...


M = TypeVar("M", bound=_HasModel)


def from_rest(call: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """A function whose first argument has a ``model``, run with rotary tables as in a fresh model."""

    @wraps(call)
    def wrapped(anatomy: M, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with rope_at_rest(anatomy.model):
            return call(anatomy, *args, **kwargs)

    return wrapped


@contextmanager
def rope_at_rest(model: nn.Module) -> Iterator[None]:
    """Meanwhile rotary tables begin as in a fresh model, and other threads wait; afterwards they are as before."""
    with _one_at_a_time:
        saved = [(module, _state(module)) for module in _remembering(model)]
        for module, _ in saved:
            _reset(module)
        try:
            yield
        finally:
            for module, (attributes, buffers) in saved:
                for name in [name for name in module.__dict__ if name.endswith(_MADE_ANEW)]:
                    del module.__dict__[name]
                module.__dict__.update(attributes)
                module._buffers.update(buffers)


def check_together(model: nn.Module, attention_mask: Tensor, new_tokens: int = 0) -> None:
    """Refuse rows that would change each other's rotary tables.

    Args:
        model: the model.
        attention_mask: of a left-padded batch, (batch, positions).
        new_tokens: how many may follow.

    Raises:
        InputError: rows of different lengths, and a table that depends on the longest of them.
    """
    limits = [_limit(module) for module in _remembering(model)]
    lengths = attention_mask.sum(1).tolist()
    if limits and len({*lengths}) > 1 and max(lengths) + new_tokens > min(limits):
        raise InputError(
            f"`batch_size`: the rope of this {model.config.model_type} stretches beyond {min(limits)} positions, and prompts of "  # pyright: ignore[reportAttributeAccessIssue]
            f"{min(lengths)} to {max(lengths)} positions in one forward would change each other's answers; give them one by "
            "one: batch_size=1"
        )


def stretches(model: nn.Module) -> bool:
    """Whether a rotary table of the model depends on the longest row that it reads."""
    return bool(_remembering(model))


def _remembering(model: nn.Module) -> list[nn.Module]:
    if model not in _of:
        _of[model] = [
            module
            for module in model.modules()
            if any(kind in REMEMBERING for kind in _kinds(module).values())
        ]
    return _of[model]


def _kinds(module: nn.Module) -> dict[str, str]:
    """Prefix of a table's names -> its kind of rope."""
    kinds = getattr(module, "rope_type", None)
    if isinstance(kinds, dict):
        return {f"{layers}_": kind for layers, kind in kinds.items()}
    return {"": kinds} if isinstance(kinds, str) else {}


def _state(module: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    attributes = {name: value for name, value in module.__dict__.items() if name.endswith(_MADE_ANEW)}
    tables = {k: v.clone() for k, v in module._buffers.items() if v is not None and k.endswith("inv_freq")}
    return attributes, tables


def _reset(module: nn.Module) -> None:
    for prefix, kind in _kinds(module).items():
        if kind in REMEMBERING:
            begun = getattr(module, f"{prefix}original_inv_freq")
            module._buffers[f"{prefix}inv_freq"] = begun.to(
                getattr(module, f"{prefix}inv_freq").device
            ).clone()
            module.__dict__.pop(f"{prefix}max_seq_len_cached" if prefix else "", None)
    module.max_seq_len_cached = module.original_max_seq_len  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]


def _limit(module: nn.Module) -> int:
    limits = [int(module.original_max_seq_len)]  # pyright: ignore[reportArgumentType]
    rope: Any = getattr(module.config, "rope_parameters", None) or {}
    for part in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        limits.append(int(part.get("original_max_position_embeddings") or limits[0]))
    return min(limits)
