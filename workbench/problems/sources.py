"""Where problems come from: each source yields (where, record), a record holding one `Problem`'s arguments.

Files are read row by row, for they may be gigabytes; a data set of the Hugging Face hub is streamed.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile

from workbench.errors import InputError, nearest
from workbench.problems import cards, shapes, shapes_agent, shapes_video, sums
from workbench.problems.from_rows import Columns, Reading, Rows, to_records
from workbench.problems.images import FRAME_LIMIT, SUFFIXES, image_files, open_image
from workbench.problems.loading import Notes
from workbench.problems.row_pictures import is_file, read_images
from workbench.problems.video import MOVIES, read_clip

GENERATED = {
    "shapes": shapes,
    "shapes-video": shapes_video,
    "shapes-agent": shapes_agent,
    "sums": sums,
    "cards": cards,
}
NAMES = (*GENERATED, "easy-vqa")
SPLITS = {**dict.fromkeys(GENERATED, tuple(shapes.SPLITS)), "easy-vqa": ("train", "test")}
"""Of the sets that have splits of their own."""
FOLDER_QUESTION = "Describe this image."
MOVIE_QUESTION = "Describe this video."
KINDS = (".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""Endings of files that hold rows."""
_REFERENCE = (
    64  # VLMEvalKit: an `image` cell no longer than this is the index of the row that holds the image
)
_CELL = 2**31 - 1  # characters in a cell: csv's own limit of 131072 is smaller than most images


def read_generated(name: str, split: str, limit: int | None, seed: int) -> Rows:
    """The generated problems of `workbench.problems.shapes`, `shapes_video`, `shapes_agent` or `sums`.

    Metadata: ``tone``; ``chain``, the reference response, and ``wrong``; of boards and videos ``occupied``,
    whether each cell holds a shape, (rows, columns) or (moments, rows, columns); of agents ``call``, their first response,
    and ``box``, where the answer lies.
    """
    for record in GENERATED[name].problems(split, limit, seed):
        if "image" in record:
            record["images"] = (record.pop("image"),)
        named = ("chain", "wrong", "tone", "occupied", "box", "call", "cells")
        metadata = {key: record.pop(key) for key in named if key in record}
        yield record["id"], {**record, "metadata": metadata}


def read_easy_vqa(split: str, limit: int | None, seed: int) -> Rows:
    """The package easy-vqa (about ten questions share an image); families are shape, color and yes-no."""
    try:
        import easy_vqa
    except ImportError as error:
        raise InputError(
            "`source` 'easy-vqa' needs a package that is missing: pip install easy-vqa"
        ) from error
    if split not in SPLITS["easy-vqa"]:
        raise InputError(
            f"`split` is {split!r}; 'easy-vqa' has train and test{nearest(split, SPLITS['easy-vqa'])}: "
            "load_problems('easy-vqa', split='test')"
        )
    questions, answers, images = getattr(easy_vqa, f"get_{split}_questions")()
    paths = getattr(easy_vqa, f"get_{split}_image_paths")()
    rows = np.arange(len(questions))
    if limit is not None and limit < len(questions):
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    families = {"yes": "yes-no", "no": "yes-no"} | dict.fromkeys(("circle", "rectangle", "triangle"), "shape")
    opened: dict[int, Image.Image] = {}
    for i in rows.tolist():
        where, image = f"easy-vqa/{split}/{i}", images[i]
        if image not in opened:
            opened[image] = open_image(Path(paths[image]), f"{where}: image {image}")
        record = {"id": where, "question": questions[i], "answer": answers[i], "images": (opened[image],)}
        yield where, {**record, "family": families.get(answers[i], "color"), "metadata": {"image": image}}


def read_path(
    path: Path,
    columns: Columns,
    question: str | None,
    known: Sequence[str] = NAMES,
    frames: int = FRAME_LIMIT,
    notes: Notes | None = None,
) -> Rows:
    """A folder of images and movies in natural order, each with ``question``, or the rows of a file."""
    kind = path.suffix.lower()
    if path.is_dir():
        for file in image_files(path, SUFFIXES | MOVIES):
            where = f"{path.name}/{file.name}"
            if file.suffix.lower() in MOVIES:
                clip = read_clip(file, where, frames)
                content = {"video": clip.frames, "metadata": clip.metadata, "question": MOVIE_QUESTION}
            else:
                content = {"images": (open_image(file, where),), "question": FOLDER_QUESTION}
            yield where, {"id": where, **content, **({"question": question} if question else {})}
    elif path.exists() and kind in KINDS:
        reading = Reading(columns, path.stem, path.parent, frames, notes or Notes())
        yield from to_records(read_rows(path, columns), reading)
    elif path.exists() and kind in SUFFIXES | MOVIES:
        what = "video" if kind in MOVIES else "image"
        raise InputError(
            f"`source` {path.name!r} is one {what}; expected a folder of them: load_problems({str(path.parent)!r}), or rows of a "
            f'.jsonl file that name it, {{"question": "What is this?", "{what}": "{path.name}"}}'
        )
    elif path.exists():
        raise InputError(
            f"`source` {path.name!r} is a file of unknown kind; expected {', '.join(KINDS)} or a folder of images or movies: "
            "load_problems('problems.jsonl')"
        )
    elif kind or len(path.parts) > 1:
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(
            f"`source` {str(path)!r}: no such file or folder{nearest(path.name, siblings)}; expected a .tsv "
            "or .jsonl file or a folder of images: load_problems('problems.jsonl')"
        )
    else:
        raise InputError(
            f"`source` {str(path)!r} is neither a known problem set ({', '.join(known)}) nor a file or folder"
            f"{nearest(path.name, known)}: load_problems('shapes')"
        )


def read_hub(
    source: str, split: str, columns: Columns, frames: int = FRAME_LIMIT, notes: Notes | None = None
) -> Rows:
    """``hf:owner/name[:configuration][@revision]`` from the Hugging Face hub or its local cache, streamed."""
    parts = re.fullmatch(r"hf:([\w.-]+(?:/[\w.-]+)?)(?::([^@]+))?(?:@(.+))?", source)
    if parts is None:
        raise InputError(
            f"`source` {source!r} names no data set: load_problems('hf:owner/name', split='test')"
        )
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"`source` {source!r} needs a package that is missing: pip install datasets"
        ) from error
    name, configuration, revision = parts.groups()
    try:
        dataset = datasets.load_dataset(name, configuration, revision=revision, split=split, streaming=True)
    except Exception as error:  # missing, gated, offline, unknown split: the library's own words say which
        raise InputError(
            f"`source` {source!r} could not be opened ({type(error).__name__}: {error}); expected a data set "
            f"with a split {split!r}: load_problems('hf:owner/name:configuration', split='train')"
        ) from error
    yield from read_dataset(dataset, split, columns, name, frames, notes)


def read_dataset(
    dataset: Any,
    split: str,
    columns: Columns,
    name: str = "data set",
    frames: int = FRAME_LIMIT,
    notes: Notes | None = None,
) -> Rows:
    """A data set object of the library `datasets`, or the named split of a dictionary of them."""
    if isinstance(dataset, Mapping):
        if split not in dataset:
            raise InputError(
                f"`split` is {split!r}; the {name} has {', '.join(map(str, dataset))}"
                f"{nearest(split, dataset)}: load_problems(data, split={next(iter(dataset), 'test')!r})"
            )
        dataset = dataset[split]
    reading = Reading(columns, name, Path(), frames, notes or Notes())
    yield from to_records(_rows(dataset, name), reading)


def _rows(dataset: Any, name: str) -> Rows:
    iterator, number = iter(dataset), 0
    features = getattr(dataset, "features", None) or {}
    labels = {
        column: feature.names
        for column, feature in features.items()
        if type(feature).__name__ == "ClassLabel"
    }
    while True:
        where = f"{name}, row {number}"
        try:
            row = next(iterator, None)
        except Exception as error:  # network, codec, image: whatever it takes to read a row
            raise InputError(
                f"{where} could not be read ({type(error).__name__}: {error}); leave it out, for example "
                "with dataset.select([0, 1])"
            ) from error
        if row is None:
            return
        for column, names in labels.items():  # the number of a class says nothing without its name
            if isinstance(row.get(column), int):
                row[column] = names[row[column]] if 0 <= row[column] < len(names) else None
        yield where, row
        number += 1


def read_rows(path: Path, columns: Columns) -> Rows:
    """Rows of a file of one of `KINDS`.

    Raises:
        InputError: it can't be read, or a row is malformed.
    """
    kind = path.suffix.lower()
    if kind == ".tsv":
        return _tsv_with_images(path, columns)
    return {".json": _json, ".parquet": _parquet}.get(kind, _jsonl)(path)


def _json(path: Path) -> Rows:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, getattr(error, "lineno", 1), error) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            f'{path.name} holds no list of objects; expected [{{"question": "How many?", "image": "1.png", "answer": "3"}}]'
        )
    yield from ((f"{path.name}, row {number}", row) for number, row in enumerate(rows))


def _parquet(path: Path) -> Rows:
    number = 0
    try:
        for batch in ParquetFile(path).iter_batches(batch_size=16):
            for row in batch.to_pylist():
                yield f"{path.name}, row {number}", row
                number += 1
    except (OSError, ArrowException) as error:
        raise InputError(
            f"{path.name}, near row {number}: could not be read ({error}); fetch it again"
        ) from error


def _tsv(path: Path) -> Rows:
    csv.field_size_limit(_CELL)
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", strict=True)
            width = len(reader.fieldnames or ())
            line = reader.line_num + 1
            for row in reader:
                where = f"{path.name}, line {line}"
                if None in row:  # where DictReader puts cells beyond the header's
                    raise InputError(
                        f"{where}: {width + len(row[None])} cells, the header has {width}; quote cells "
                        "that hold tabs or quotes: pandas.DataFrame.to_csv(path, sep='\\t', index=False)"
                    )
                for number, (name, cell) in enumerate(row.items()):
                    if cell and "\n" in cell and _swallowed(cell, number, width):
                        raise _unclosed(where, f"column {name!r} of it runs on to line {reader.line_num}")
                yield where, row
                line = reader.line_num + 1
    except csv.Error as error:
        raise _unclosed(f"{path.name}, line {line}", str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, line, error) from error


def _tsv_with_images(path: Path, columns: Columns) -> Rows:
    """Rows of a TSV with the images decoded, also of rows whose image is another row's, given by its index.

    Images of rows already read are shared. For one further down the file is searched, without keeping it.
    """
    named = columns.get("image", "image")
    column = named if isinstance(named, str) else ""  # of several columns none refers to another row
    pictures: dict[str | None, tuple[Image.Image, ...]] = {}
    for where, row in _tsv(path):
        cell, here = row.get(column) or "", f"{where}: `{column}`"
        if 0 < len(cell) <= _REFERENCE and not cell.startswith("[") and not is_file(path.parent / cell):
            if cell not in pictures:
                target = next((r.get(column) or "" for _, r in _tsv(path) if r.get("index") == cell), "")
                if len(target) <= _REFERENCE:
                    raise InputError(
                        f"{here} is {cell!r}, which is neither base64, nor a file next to {path.name}, nor "
                        "the index of a row with an image: base64.b64encode(picture.read_bytes()).decode()"
                    )
                pictures[cell] = read_images(target, f"{here} of the row with index {cell!r}", path.parent)
            row[column] = pictures[cell]
        elif cell:
            row[column] = read_images(cell, here, path.parent)
        if cell:
            pictures[row.get("index")] = row[column]
        yield where, row


def _jsonl(path: Path) -> Rows:
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path.name}, line {number}"
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    is_syntax = isinstance(error, json.JSONDecodeError)
                    reason = f"{error.msg}, column {error.colno}" if is_syntax else error
                    raise InputError(
                        f"{where}: malformed JSON ({reason}); expected one object a line: "
                        '{"question": "How many?", "image": "1.png", "answer": "3"}'
                    ) from error
                if not isinstance(row, dict):
                    raise InputError(
                        f"{where}: found a {type(row).__name__}; expected one object a line: "
                        '{"question": "How many?", "image": "1.png", "answer": "3"}'
                    )
                yield where, row
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, number + 1, error) from error


def _swallowed(cell: str, number: int, width: int) -> bool:
    """Whether a cell of several lines is the rest of its row and the rows after it, for want of a quotation mark."""
    first, *others, _ = cell.split("\n")
    return (
        width > 2
        and first.count("\t") == width - 1 - number > 0
        and all(o.count("\t") == width - 1 for o in others)
    )


def _unclosed(where: str, what: str) -> InputError:
    return InputError(
        f"{where}: a cell begins with a quotation mark that is not closed before the rows after it ({what}); expected cells "
        "that begin with one to be quoted, and marks in them doubled: pandas.DataFrame.to_csv(path, sep='\\t', index=False)"
    )


def _unreadable(path: Path, line: int, error: Exception) -> InputError:
    return InputError(
        f"{path.name}, near line {line}: could not be read ({type(error).__name__}: {error}); expected "
        "UTF-8: Path('problems.jsonl').write_text(text, encoding='utf-8')"
    )
