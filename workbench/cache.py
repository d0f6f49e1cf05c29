"""What several computations on one pair have in common: made once, kept up to a limit of bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from torch import Tensor

Made = TypeVar("Made")


class Reuse:
    """Values by key; what was not used for longest goes first when there is more than `limit` bytes of tensors."""

    def __init__(self, limit: int = 0) -> None:
        """``limit``: of bytes, wherever they lie; 0 keeps nothing."""
        self.limit, self.held, self.found, self.made = limit, 0, 0, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def of(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """The value of a key: found, or made and kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            self.found += 1
            return self._kept[key][0]
        value = make()
        self.made += 1
        size = bytes_of(value)
        if size <= self.limit and self.limit:
            self._kept[key] = value, size
            self.held += size
            while self.held > self.limit:
                self.held -= self._kept.popitem(last=False)[1][1]
        return value


def bytes_of(value: Any) -> int:
    """Bytes of all tensors in a value: in its fields, its items, or itself."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(bytes_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(bytes_of, value))
    if is_dataclass(value) and not isinstance(value, type):
        return sum(bytes_of(getattr(value, f.name)) for f in fields(value))
    return 0
