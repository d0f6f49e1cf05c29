"""What is wrong with a YAML file, in words, with line and column."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import yaml

from workbench.errors import nearest

Place = tuple[str | int, ...]
"""Where in the file: keys and indices from its top."""
Marks = Mapping[Place, tuple[int, int]]
"""Line and column of every key, or of a value that has none, from 1."""


def walk(node: yaml.Node, path: Place, marks: dict[Place, tuple[int, int]]) -> Iterator[tuple[Place, str]]:
    """Fill the marks; yield what YAML forgives and we don't."""
    marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            if here in marks:
                yield here, f"`{key.value}` stands here a second time; expected every key once"
            marks[here] = (key.start_mark.line + 1, key.start_mark.column + 1)
            yield from walk(value, here, marks)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from walk(value, (*path, index), marks)


def placed(faults: Iterable[tuple[Place, str]], marks: Marks) -> Iterator[tuple[tuple[int, int], str]]:
    """Every fault at the nearest node that is there; one about a field at that field."""
    for path, message in faults:
        field = message.split("`")[1] if "`" in message else ""
        at = (*path, field) if (*path, field) in marks else path
        while at not in marks:
            at = at[:-1]
        yield marks[at], message


def in_words(
    fault: Any, content: Any, known_at: Callable[[Place], list[str]], example: str
) -> tuple[Place, str]:
    """pydantic's error as a place and a sentence."""
    path, kind = _within(fault["loc"], content), fault["type"]
    name = next((str(part) for part in reversed(path) if isinstance(part, str)), "the sweep")
    if kind == "extra_forbidden":
        keys = known_at(path[:-1])
        return path, f"unknown key {name!r}{nearest(name, keys)}; expected {', '.join(keys)}"
    if kind == "missing":
        missing = str(fault["loc"][-1])
        return path, f"`{missing}` is missing; expected a sweep such as:\n{example}"
    if kind == "too_short":
        return path, f"`{name}` is empty; expected at least one value"
    if kind == "value_error":
        return path, str(fault["ctx"]["error"])
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return path, f"`{name}` is {fault['input']!r}; expected {expected}"


def _within(loc: Iterable[Any], content: Any) -> Place:
    """The part of pydantic's location that is in the file: it also names types, and wraps single values in lists."""
    path: list[str | int] = []
    for part in loc:
        if (isinstance(content, dict) and part in content) or (
            isinstance(content, list) and isinstance(part, int) and part < len(content)
        ):
            content = content[part]
        else:
            continue
        path.append(part)
    return tuple(path)
