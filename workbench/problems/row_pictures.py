"""Pictures of a row: in what forms a cell holds them, in which columns they are lost, and where a question names them.

A column that holds pictures and is read as none is refused by name: a question without its picture is another question.
Where the image columns are named, the others are left out knowingly.

A question may mark the places of its pictures with ``<image>``. Pictures come first in every prompt of the workbench, and some
models take that text for a picture, so it goes: at the edge of a line without a trace, within one as "image 1", "image 2".
There must be as many marks as pictures.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from workbench.errors import InputError
from workbench.problems.images import SUFFIXES, as_rgb, decode_base64, open_image
from workbench.problems.row_answers import as_list, blank
from workbench.problems.video import MOVIES

_NAMED = re.compile(
    r"(?:\w+_)?(?:image|img|picture|photo|pic|screenshot)s?(?:_?\d+|_(?:file|files|filename|name|path|paths|url|urls|bytes|base64|b64|data))?",
    re.IGNORECASE,
)
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
_ENCODED = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "data:image/")
_MARK = re.compile(r"<image>|<img>|<image_placeholder>|<video>|<\|image\|>|\[IMG\]")


def is_file(path: Path) -> bool:
    """Whether it is a file; False too for text longer than any file's name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_images(value: Any, where: str, folder: Path) -> tuple[Image.Image, ...]:
    """Images of a cell: one or a list of PIL images, bytes, paths relative to ``folder``, or base64."""
    items = as_list(value, where)
    names = [where] if len(items) == 1 else [f"{where}, image {i}," for i in range(len(items))]
    return tuple(_image(item, name, folder) for item, name in zip(items, names, strict=True))


def _image(item: Any, where: str, folder: Path) -> Image.Image:
    if isinstance(item, Image.Image):
        return as_rgb(item, where)
    if isinstance(item, Mapping):  # an undecoded image of the library `datasets`
        item = item.get("bytes") or item.get("path")
    if isinstance(item, bytes):
        return open_image(item, where)
    if not isinstance(item, str) or blank(item):
        kind = f"a {type(item).__name__}" if item and not isinstance(item, str) else "empty"
        raise InputError(
            f"{where} is {kind}; expected a path relative to the file, or base64: 'images/1.png'"
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


def lost_pictures(left: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Columns that no field reads and that hold pictures or movies: name to "image" or "video"."""
    kinds = {name: _holds(name, cell, folder) for name, cell in left.items()}
    return {name: kind for name, kind in kinds.items() if kind}


def _holds(name: str, cell: Any, folder: Path) -> str:
    if isinstance(cell, list | tuple):
        return next((kind for item in cell if not blank(item) and (kind := _holds(name, item, folder))), "")
    if isinstance(cell, Image.Image):
        return "image"
    if isinstance(cell, Mapping):
        if not cell or not set(cell) <= {"bytes", "path"}:
            return ""
        return _holds(name, cell.get("bytes") or cell.get("path"), folder)
    if isinstance(cell, bytes):
        return "image" if cell.startswith(_MAGIC) else ""
    if not isinstance(cell, str):
        return ""
    short = len(cell) < 1024 and "\n" not in cell
    suffix = Path(cell).suffix.lower() if short else ""
    if suffix in SUFFIXES and (_NAMED.fullmatch(name) or is_file(folder / cell)):
        return "image"
    if suffix in MOVIES and is_file(folder / cell):
        return "video"
    encoded = cell.startswith(_ENCODED) and len(cell) > 60
    listed = cell.startswith("[") and any(ending in cell.lower() for ending in SUFFIXES)
    return "image" if encoded or (_NAMED.fullmatch(name) and (listed or cell.startswith("http"))) else ""


def refuse_lost(lost: Mapping[str, str], read: Sequence[str], where: str) -> None:
    """Raise an `InputError` that names the columns whose pictures nobody reads, and the mapping that would.

    ``read``: the image columns that are read.
    """
    kind = next(iter(lost.values()))
    same = (
        [*read, *(name for name, content in lost.items() if content == kind)]
        if kind == "image"
        else list(lost)[:1]
    )
    mapping = {kind: same[0] if len(same) == 1 else same}
    columns = " and ".join(map(repr, lost))
    says = "column {} holds" if len(lost) == 1 else "columns {} hold"
    only = {"image": read[0] if len(read) == 1 else list(read) or ""}
    raise InputError(
        f"{where}: {says.format(columns)} {kind}s that no field reads, so that the question would go out without them: "
        f"columns={mapping} reads them, columns={only} leaves them out"
    )


def place_marks(
    question: str, choices: Sequence[str], pictures: int, videos: int, where: str
) -> tuple[str, tuple[str, ...], int]:
    """Question and options without the marks of pictures, and how many marks there were.

    Raises:
        InputError: marks, but another number of them than of pictures.
    """
    texts = [question, *choices]
    marks = sum(len(_MARK.findall(text)) for text in texts)
    if not marks:
        return question, tuple(choices), 0
    if marks != pictures + videos:
        named = _MARK.search("\n".join(texts))
        raise InputError(
            f"{where}: `question` has {marks} of the mark {named[0] if named else '<image>'} and the row has {pictures + videos} "
            "pictures; expected as many, or no mark: "
            "columns={'image': 'picture'} names the column of the pictures"
        )
    numbers = iter(range(1, marks + 1))

    def word(match: re.Match[str]) -> str:
        number, video = next(numbers), "video" in match[0]
        line = match.string
        begins = not line[: match.start()].rsplit("\n", 1)[-1].strip() or bool(
            _MARK.sub("", line[: match.start()]).strip() == ""
        )
        ends = not _MARK.sub("", line[match.end() :].split("\n", 1)[0]).strip()
        if (begins or ends) and line is texts[0]:
            return ""
        return "the video" if video else "the image" if pictures == 1 else f"image {number}"

    placed = [_MARK.sub(word, text) for text in texts]
    return placed[0].strip(), tuple(placed[1:]), marks
