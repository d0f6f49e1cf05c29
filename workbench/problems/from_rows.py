"""A row of somebody's table becomes a record: the keyword arguments of one `Problem`.

Rows differ in column names, in how they hold images (path, base64, bytes, lists of these) and choices; a
record does not. ``where`` names file and line, for messages. Everything a row says is taken for plain text.
"""

import ast
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from workbench.errors import InputError, nearest
from workbench.problems.images import FRAME_LIMIT, SUFFIXES, as_rgb, decode_base64, open_frames, open_image
from workbench.problems.video import MOVIES, read_clip

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# Fields of a row, and the column names looked for, in this order, where `columns` names none.
FIELDS: dict[str, tuple[str, ...]] = {
    "id": ("index", "id"),
    "question": ("question",),
    "answer": ("answer",),
    "image": ("image", "images"),
    "image_path": ("image_path",),
    "video": ("video",),
    "choices": ("choices", "options"),
    "family": ("family", "category", "l2-category"),
    "hint": ("hint",),
    "system": ("system",),
    "verifier": ("verifier",),
    "template": ("template",),
}

Columns = Mapping[str, str]
Rows = Iterator[tuple[str, dict[str, Any]]]  # (where, row) or (where, record)


def to_records(rows: Rows, columns: Columns, prefix: str, folder: Path, frames: int = FRAME_LIMIT) -> Rows:
    """Records of rows; ids start with ``prefix``, image paths are relative to ``folder``; ``frames`` of a video at most.

    Raises:
        InputError: a column that is not there, or anything wrong with a row.
    """
    for number, (where, row) in enumerate(rows):
        if number == 0:
            _check_columns(row, columns, where)
        yield where, _record(where, row, number, columns, prefix, folder, frames)


def read_images(value: Any, where: str, folder: Path) -> tuple[Image.Image, ...]:
    """Images of a cell: one or a list of PIL images, bytes, paths relative to ``folder``, or base64."""
    items = as_list(value, where)
    names = [where] if len(items) == 1 else [f"{where}, image {i}," for i in range(len(items))]
    return tuple(_image(item, name, folder) for item, name in zip(items, names, strict=True))


def is_file(path: Path) -> bool:
    """Whether it is a file; False too for text longer than any file's name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _check_columns(row: Mapping[str, Any], columns: Columns, where: str) -> None:
    """The columns named must be there in the first row, and one of its columns must hold the question."""
    found = ", ".join(map(str, row))
    for field, name in columns.items():
        if name and name not in row:
            raise InputError(
                f"`columns` maps {field!r} to {name!r}, which is no column of {where}{nearest(name, row)}; "
                f"found {found}: columns={{{field!r}: {next(iter(row), 'name')!r}}}"
            )
    if not any(name in row for name in _names("question", columns)):
        raise InputError(
            f"{where}: no column 'question'{nearest('question', row)}; found {found}: "
            "name the column with columns={'question': 'query'}"
        )


def _names(field: str, columns: Columns) -> tuple[str, ...]:
    return tuple(filter(None, (columns[field],))) if field in columns else FIELDS[field]


def _record(
    where: str,
    row: Mapping[str, Any],
    number: int,
    columns: Columns,
    prefix: str,
    folder: Path,
    frames: int,
) -> dict[str, Any]:
    value = {
        field: next((row[name] for name in _names(field, columns) if not _blank(row.get(name))), None)
        for field in FIELDS
    }
    question = value["question"]
    if not isinstance(question, str):
        found = "none" if question is None else f"a {type(question).__name__}"
        raise InputError(
            f"{where}: expected a `question` as text, found {found}: "
            '{"question": "How many circles are there?", "image": "1.png", "answer": "3"}'
        )
    if value["hint"] is not None:  # as in VLMEvalKit's own prompts
        question = f"Hint: {value['hint']}\nQuestion: {question}"
    if value["image"] is not None:
        images = read_images(value["image"], f"{where}: `image`", folder)
    else:
        paths = [str(path) for path in as_list(value["image_path"] or [], f"{where}: `image_path`")]
        images = tuple(open_image(folder / path, f"{where}: `image_path` {path!r}") for path in paths)
    choices = _choices(value["choices"], row, where)
    answer = _answer(value["answer"], choices, where)
    taken = {
        *columns.values(),
        *LETTERS[: len(choices)],
        *(name for names in FIELDS.values() for name in names),
    }
    left = {name: cell for name, cell in row.items() if name and name not in taken and not _blank(cell)}
    video, told = read_video(value["video"], f"{where}: `video`", folder, frames)
    return {
        "id": f"{prefix}/{number if value['id'] is None else value['id']}",
        "question": question,
        "answer": answer,
        "images": images,
        "video": video,
        "choices": choices,
        "family": str(value["family"] or ""),
        "verifier": value["verifier"] or _verifier(answer, choices),
        "system": value["system"],
        "template": value["template"],
        "metadata": told | {name: cell for name, cell in left.items() if isinstance(cell, str | int | float)},
    }


def _blank(cell: Any) -> bool:
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or (isinstance(cell, str) and not cell.strip())


def as_list(value: Any, where: str) -> list[Any]:
    """A list as it is, the list that a text spells (JSON or Python literals; nothing runs), or one value."""
    if isinstance(value, list | tuple):
        return list(value)
    text = value.strip() if isinstance(value, str) else ""
    if not (text.startswith("[") and text.endswith("]")):
        return [value]
    for parse in (json.loads, ast.literal_eval):
        try:
            return list(parse(text))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    raise InputError(
        f'{where} starts with {text[:40]!r} but is no list: expected for example ["1.png", "2.png"]'
    )


def _image(item: Any, where: str, folder: Path) -> Image.Image:
    if isinstance(item, Image.Image):
        return as_rgb(item, where)
    if isinstance(item, Mapping):  # an undecoded image of the library `datasets`
        item = item.get("bytes") or item.get("path")
    if isinstance(item, bytes):
        return open_image(item, where)
    if not isinstance(item, str) or _blank(item):
        found = f"a {type(item).__name__}" if item and not isinstance(item, str) else "empty"
        raise InputError(
            f"{where} is {found}; expected a path relative to the file, or base64: 'images/1.png'"
        )
    if item.startswith(("http://", "https://")):
        raise InputError(
            f"{where} is the address {item[:80]!r}; nothing is downloaded: save it, name the file"
        )
    path = folder / item
    looks_like_a_path = len(item) < 1024 and path.suffix.lower() in SUFFIXES
    if not item.startswith("data:") and (looks_like_a_path or is_file(path)):
        return open_image(path, where)
    return open_image(decode_base64(item, where), where)


def read_video(
    value: Any, where: str, folder: Path, frames: int = FRAME_LIMIT
) -> tuple[tuple[Image.Image, ...], dict[str, float]]:
    """The frames that a cell holds, and what a movie file tells about them.

    Raises:
        InputError: a file or a value that holds none.
    """
    if value is None:
        return (), {}
    items = as_list(value, where)
    item = items[0] if len(items) == 1 else None
    if isinstance(item, Mapping):  # an undecoded video of the library `datasets`
        item = item.get("bytes") or item.get("path")
    if isinstance(item, bytes) and not isinstance(items[0], bytes):
        clip = read_clip(item, where, frames)
        return clip.frames, clip.metadata
    if isinstance(item, str) and not item.startswith(("data:", "http://", "https://")):
        path = folder / item
        if path.suffix.lower() in MOVIES and not path.is_dir():
            clip = read_clip(path, f"{where} {item!r}", frames)
            return clip.frames, clip.metadata
        return open_frames(path, where, frames), {}
    return read_images(items, where, folder), {}


def _choices(value: Any, row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The options of a column, or those of columns A, B, ... up to the first empty one."""
    if value is None:
        filled = [letter for letter in LETTERS if not _blank(row.get(letter))]
        if filled != list(LETTERS[: len(filled)]):
            raise InputError(
                f"{where}: options {', '.join(filled)} have a gap; expected columns A, B, ... in order"
            )
        return tuple(str(row[letter]) for letter in filled)
    options = as_list(list(value.values()) if isinstance(value, Mapping) else value, f"{where}: `choices`")
    if len(options) < 2 or any(isinstance(o, list | Mapping) or _blank(o) for o in options):
        raise InputError(
            f'{where}: `choices` is {value!r}; expected at least two texts: "choices": ["red", "blue"]'
        )
    return tuple(map(str, options))


def _answer(value: Any, choices: tuple[str, ...], where: str) -> str | None:
    """The answer as text: the letter, if it is the letter, text or index (an integer from 0) of a choice."""
    if value is None:
        return None
    if not isinstance(value, str | int | float):
        raise InputError(
            f"{where}: `answer` is a {type(value).__name__}; expected text or a number: "
            "columns={'answer': 'label'}, or columns={'answer': ''} for none"
        )
    if choices and type(value) is int:
        if not 0 <= value < len(choices):
            raise InputError(
                f"{where}: `answer` {value} is no index; expected 0 to {len(choices) - 1}, or a letter"
            )
        return LETTERS[value]
    text = str(value).strip()
    if choices and text.upper() in tuple(LETTERS[: len(choices)]):
        return text.upper()
    return LETTERS[choices.index(text)] if text in choices else text


def _verifier(answer: str | None, choices: tuple[str, ...]) -> str:
    if choices and (answer is None or answer in tuple(LETTERS[: len(choices)])):
        return "choice"
    try:
        return "numeric" if answer is not None and math.isfinite(float(answer)) else "exact"
    except ValueError:
        return "exact"
