"""A row of somebody's table becomes a record: the keyword arguments of one `Problem`.

Rows differ in column names, in how they hold images (path, base64, bytes, lists of these; `row_pictures`) and options
(`row_answers`); a record does not. ``where`` names file and line, for messages. Everything a row says is taken for plain
text. Nothing that changes the question is lost in silence: what no field reads is refused, or noted.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from workbench.errors import InputError, nearest
from workbench.problems.images import FRAME_LIMIT, open_frames, open_image
from workbench.problems.loading import Notes
from workbench.problems.row_answers import LETTERS, answer_of, as_list, blank, options_of, verifier_of
from workbench.problems.row_pictures import is_file, lost_pictures, place_marks, read_images, refuse_lost
from workbench.problems.video import MOVIES, read_clip

__all__ = ["FIELDS", "LETTERS", "Columns", "Rows", "as_list", "is_file", "read_images", "to_records"]

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

Columns = Mapping[str, Any]
"""Field to column; of ``image`` and ``choices`` also a list of columns, one after the other."""
SEVERAL = ("image", "choices")
Rows = Iterator[tuple[str, dict[str, Any]]]  # (where, row) or (where, record)
_OPTION = re.compile(r"(?:option|choice|opt|answer)s?[ _-]?(?:[A-Ja-j]|\d{1,2})")


@dataclass(frozen=True)
class Reading:
    """How the rows of one source are read."""

    columns: Columns
    prefix: str
    """Of ids."""
    folder: Path
    """That image paths are relative to."""
    frames: int = FRAME_LIMIT
    """Of a video, at most."""
    notes: Notes = dataclasses.field(default_factory=Notes)
    preset: bool = False
    """Whether the columns are known: others that hold pictures are left out, answers that name no option are text."""

    def names(self, field: str) -> tuple[str, ...]:
        """The columns in which a field is looked for."""
        if field not in self.columns:
            return FIELDS[field]
        named = self.columns[field]
        return tuple(filter(None, (named,) if isinstance(named, str) else named))

    def value(self, field: str, row: Mapping[str, Any]) -> Any:
        """The first cell of a field that is not empty; None without one. Of several columns the cells, as a list."""
        cells = [row[name] for name in self.names(field) if not blank(row.get(name))]
        if field in SEVERAL and not isinstance(self.columns.get(field, ""), str):
            return [item for cell in cells for item in _flat(cell)] or None
        return cells[0] if cells else None


def to_records(rows: Rows, reading: Reading) -> Rows:
    """Records of rows.

    Raises:
        InputError: a column that is not there, or anything wrong with a row.
    """
    for number, (where, row) in enumerate(rows):
        if number == 0:
            _check_columns(row, reading, where)
        yield where, _record(where, row, number, reading)


def _flat(cell: Any) -> list[Any]:
    """The items of a cell of one of several columns; pictures that a TSV's reader has opened are a tuple."""
    return list(cell) if isinstance(cell, list | tuple) else [cell]


def _check_columns(row: Mapping[str, Any], reading: Reading, where: str) -> None:
    """The columns named must be there in the first row, and one of its columns must hold the question."""
    names = ", ".join(map(str, row))
    for field in reading.columns:
        for name in reading.names(field):
            if name not in row:
                raise InputError(
                    f"`columns` maps {field!r} to {name!r}, which is no column of {where}{nearest(name, row)}; "
                    f"found {names}: columns={{{field!r}: {next(iter(row), 'name')!r}}}"
                )
    if not any(name in row for name in reading.names("question")):
        raise InputError(
            f"{where}: no column 'question'{nearest('question', row)}; found {names}: "
            "name the column with columns={'question': 'query'}"
        )


def _record(where: str, row: Mapping[str, Any], number: int, reading: Reading) -> dict[str, Any]:
    value = {field: reading.value(field, row) for field in FIELDS}
    question = value["question"]
    if not isinstance(question, str):
        kind = "none" if question is None else f"a {type(question).__name__}"
        raise InputError(
            f"{where}: expected a `question` as text, found {kind}: "
            '{"question": "How many circles are there?", "image": "1.png", "answer": "3"}'
        )
    if value["hint"] is not None:  # as in VLMEvalKit's own prompts
        question = f"Hint: {value['hint']}\nQuestion: {question}"
    choices, labels = options_of(value["choices"], row, where)
    rest = _left(row, len(choices), reading)
    _check_left(rest, row, choices, where, reading)
    images = _images(value, where, reading.folder)
    video, clip_facts = read_video(value["video"], f"{where}: `video`", reading.folder, reading.frames)
    question, choices, marks = place_marks(question, choices, len(images), bool(video), where)
    if marks:
        reading.notes.add("questions whose marks of pictures were taken out")
    verifier = value["verifier"]
    answer = answer_of(
        value["answer"], choices, where, labels, open_ended=reading.preset or verifier not in (None, "choice")
    )
    extras = {name: cell for name, cell in rest.items() if isinstance(cell, str | int | float)}
    return {
        "id": f"{reading.prefix}/{number if value['id'] is None else value['id']}",
        "question": question,
        "answer": answer,
        "images": images,
        "video": video,
        "choices": choices,
        "family": str(value["family"] or ""),
        "verifier": verifier or verifier_of(answer, choices),
        "system": value["system"],
        "template": value["template"],
        "metadata": clip_facts | extras,
    }


def _images(value: Mapping[str, Any], where: str, folder: Path) -> tuple[Image.Image, ...]:
    if value["image"] is not None:
        return read_images(value["image"], f"{where}: `image`", folder)
    paths = [str(path) for path in as_list(value["image_path"] or [], f"{where}: `image_path`")]
    return tuple(open_image(folder / path, f"{where}: `image_path` {path!r}") for path in paths)


def _left(row: Mapping[str, Any], options: int, reading: Reading) -> dict[str, Any]:
    """The cells that no field reads."""
    names = {name for field in FIELDS for name in (*reading.names(field), *FIELDS[field])} | set(
        LETTERS[:options]
    )
    if "image" not in reading.columns:  # `images` beside `image` is not read, and must not be forgotten
        source = next((name for name in FIELDS["image"] if not blank(row.get(name))), None)
        names -= {name for name in FIELDS["image"] if name != source}
    return {name: cell for name, cell in row.items() if name and name not in names and not blank(cell)}


def _check_left(
    left: Mapping[str, Any], row: Mapping[str, Any], choices: tuple[str, ...], where: str, reading: Reading
) -> None:
    """Refuse pictures and options that no field reads, unless they are left out knowingly; note what is left out.

    Raises:
        InputError: names the columns, and the mapping that would read them.
    """
    lost = lost_pictures(left, reading.folder)
    if lost and not (reading.preset or {"image", "video"} & set(reading.columns)):
        refuse_lost(
            lost,
            [name for name in reading.names("image") if name not in left and not blank(row.get(name))],
            where,
        )
    options = [name for name in left if _OPTION.fullmatch(name)]
    if not choices and len(options) > 1 and not (reading.preset or "choices" in reading.columns):
        raise InputError(
            f"{where}: columns {', '.join(map(repr, options))} look like options that no field reads; the question would go out "
            f"without them: columns={{'choices': {options}}}, or columns={{'choices': ''}} to leave them out"
        )
    for name, cell in left.items():
        if name in lost:
            reading.notes.add(f"cells of column {name!r}, which hold {lost[name]}s")
        elif not isinstance(cell, str | int | float):
            reading.notes.add(f"cells of column {name!r}, which are no text or number")


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
