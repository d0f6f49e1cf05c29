"""Problems: a question with its image(s) or video, the answer, and how an answer is verified."""

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from workbench.errors import InputError, nearest
from workbench.problems.answer_numbers import quantity
from workbench.problems.answers import Verifier
from workbench.problems.from_rows import FIELDS, LETTERS, SEVERAL
from workbench.problems.images import FRAME_LIMIT, as_rgb
from workbench.problems.loading import Notes, Problems
from workbench.problems.presets import preset_rows, read_problem_presets
from workbench.problems.sources import (
    FOLDER_QUESTION,
    GENERATED,
    NAMES,
    read_dataset,
    read_easy_vqa,
    read_generated,
    read_hub,
    read_path,
)
from workbench.views import markup
from workbench.views.pictures import data_uri

__all__ = ["FOLDER_QUESTION", "Problem", "Verifier", "load_problems"]

Item = TypeVar("Item")

OPTIONS_TEMPLATE = "{question}\nOptions:\n{options}\nPlease select the correct answer from the options above."
"""How VLMEvalKit asks a question with options."""

ANNOTATIONS = ("occupied",)
"""Metadata that the pictures imply and no model is given; not part of a problem's fingerprint."""


@dataclass(frozen=True, eq=False, repr=False)
class Problem:
    """One question about zero or more images, or about a video.

    Images and frames are held upright and in RGB; others are converted. ``video`` holds the sampled frames
    of at most one video. ``answer`` is None where it is not known; under the verifier ``choice`` it is the
    letter of the right option. Raises InputError for anything inconsistent.
    """

    id: str
    question: str
    answer: str | None = None
    images: tuple[Image.Image, ...] = ()
    video: tuple[Image.Image, ...] = ()
    choices: tuple[str, ...] = ()
    family: str = ""
    verifier: str = Verifier.EXACT
    metadata: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None
    """None leaves it to the pair's preset, if it has one; "" is none."""
    template: str | None = None
    """Wording around ``{question}`` and ``{options}`` (lettered lines); None is VLMEvalKit's."""

    def __post_init__(self) -> None:
        self._check_texts()
        for name, noun in (("images", "image"), ("video", "frame")):
            pictures = getattr(self, name)
            if not isinstance(pictures, Sequence) or not all(isinstance(p, Image.Image) for p in pictures):
                raise InputError(
                    f"`{name}` of problem {self.id!r} is a {type(pictures).__name__}; expected a tuple "
                    f"of PIL images: Problem(id='mine/1', question='What is this?', {name}=(picture,))"
                )
            upright = tuple(as_rgb(p, f"{noun} {i} of problem {self.id!r}") for i, p in enumerate(pictures))
            object.__setattr__(self, name, upright)
        verifiers = tuple(v.value for v in Verifier)
        if self.verifier not in verifiers:
            raise InputError(
                f"`verifier` of problem {self.id!r} is {self.verifier!r}; expected one of {', '.join(verifiers)}"
                f"{nearest(str(self.verifier), verifiers)}: Problem(..., verifier='exact')"
            )
        letters = tuple(LETTERS[: len(self.choices)])
        if self.verifier == "choice" and (not letters or self.answer not in (None, *letters)):
            raise InputError(
                f"`answer` of problem {self.id!r} is {self.answer!r} with {len(letters)} choices; "
                "the verifier 'choice' expects a letter: "
                "Problem(..., choices=('red', 'blue'), answer='A', verifier='choice')"
            )
        if self.verifier == "numeric" and self.answer is not None and quantity(self.answer) is None:
            raise InputError(
                f"`answer` of problem {self.id!r} is {self.answer!r}, which the verifier 'numeric' can't read as one number; "
                "expected for example Problem(..., answer='3.5', verifier='numeric'), or the verifier 'exact' or 'math'"
            )
        object.__setattr__(self, "verifier", Verifier(self.verifier))
        object.__setattr__(self, "metadata", dict(self.metadata))

    def _check_texts(self) -> None:
        options = self.choices
        if isinstance(options, str) or not isinstance(options, Sequence) or len(options) > len(LETTERS):
            raise InputError(
                f"`choices` of problem {self.id!r} is {options!r}; expected a tuple of at most 26 texts: "
                "choices=('a circle', 'a square')"
            )
        object.__setattr__(self, "choices", tuple(options))
        texts = [("id", self.id), ("question", self.question), ("family", self.family)]
        texts += [("choices", option) for option in options]
        texts += [
            (name, value)
            for name in ("answer", "system", "template")
            if (value := getattr(self, name)) is not None
        ]
        for name, text in texts:
            if not isinstance(text, str) or (name in ("id", "question") and not text.strip()):
                raise InputError(
                    f"`{name}` of problem {self.id!r} is {text!r}; expected text: "
                    "Problem(id='mine/1', question='How many circles are there?', answer='3')"
                )
            try:
                text.encode()
            except (
                UnicodeEncodeError
            ) as error:  # half a surrogate pair would fail only when a report is written
                raise InputError(
                    f"`{name}` of problem {self.id!r} cannot be written as UTF-8 ({error}); "
                    "clean it with text.encode('utf-8', 'replace').decode()"
                ) from error

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that stand for all of it but ``ANNOTATIONS``, every pixel included."""
        digest = hashlib.sha256()
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if name == "metadata":
                value = {key: entry for key, entry in value.items() if key not in ANNOTATIONS}
            pictures = value if name in ("images", "video") else ()
            digest.update(repr((name, [p.size for p in pictures] if pictures else value)).encode())
            for picture in pictures:
                digest.update(picture.tobytes())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        question = self.question if len(self.question) <= 60 else f"{self.question[:57]}..."
        pictures = "".join(f", {n}={len(getattr(self, n))}" for n in ("images", "video") if getattr(self, n))
        return f"Problem({self.id!r}, {question!r}, answer={self.answer!r}{pictures})"

    def _repr_html_(self) -> str:
        sources = [data_uri(picture, side=224) for picture in (*self.images, *self.video)]
        pictures = "".join(f'<img src="{source}" style="margin:2px" alt="">' for source in sources)
        lines = [
            f"<small>{markup.escape(' · '.join(filter(None, (self.id, self.family))))}</small>",
            pictures,
        ]
        if self.system is not None:
            lines.append(f"<i>{markup.escape(self.system)}</i>")
        lines.append(markup.escape(self.question))
        lines += [f"{letter}. {markup.escape(c)}" for letter, c in zip(LETTERS, self.choices, strict=False)]
        if self.answer is not None:
            lines.append(f"answer: <b>{markup.escape(self.answer)}</b>")
        return f"<div>{'<br>'.join(filter(None, lines))}</div>"


def wording(problem: Problem) -> str:
    """The problem's template, or what stands for none."""
    if problem.template is not None:
        return problem.template
    return OPTIONS_TEMPLATE if problem.choices else "{question}"


def question_text(problem: Problem) -> str:
    """The question and its options in the words of the problem's template."""
    options = "\n".join(
        f"{letter}. {option}" for letter, option in zip(LETTERS, problem.choices, strict=False)
    )
    filled = {"{question}": problem.question, "{options}": options}
    return re.sub(r"\{question\}|\{options\}", lambda match: filled[match[0]], wording(problem))


def load_problems(
    source: Any,
    *,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    question: str | None = None,
    frames: int = FRAME_LIMIT,
    progress: Callable[[int, int], None] | None = None,
) -> Problems:
    """Problems from a named set, a file, a folder of images, or a Hugging Face data set.

    Args:
        source: ``"shapes"``, ``"shapes-video"``, ``"shapes-agent"``, ``"sums"``, ``"cards"`` (generated), ``"easy-vqa"``; one of
            the paper's sets or one of text, as ``"mathvista"`` or ``"math-500"`` (``problems/problems.yaml`` in the package),
            found in VLMEvalKit's or the hub's cache, or ``"mathvista:FILE"``; the path of a ``.tsv`` file (VLMEvalKit's
            format), a ``.jsonl``, ``.json`` or ``.parquet`` file, or a folder of images or movies; ``"hf:owner/name"`` (also
            ``"hf:owner/name:configuration@revision"``; streamed); or a
            data set object of the library `datasets`.
        split: of generated sets (train, validation, test), of ``easy-vqa`` (train, test) or of a data set; files
            and folders have none.
        limit: how many problems; None means all there are, of generated sets 300. Files, folders and data sets
            give the first ones, and no more is read than needed; generated sets have that many; ``easy-vqa``
            draws a sample.
        seed: of generated sets and of the sample from ``easy-vqa``.
        columns: where a row's fields are, such as ``{"question": "query", "image": "picture"}``; the fields
            are the keys of `workbench.problems.from_rows.FIELDS`. An empty name leaves a field out; ``{"id": ""}`` numbers
            the rows. ``image`` and ``choices`` may be lists of columns: ``{"image": ["image_1", "image_2"]}``.
        question: asked of every image and movie of a folder (by default `FOLDER_QUESTION`).
        frames: of every video at most, evenly spaced; a list of images is taken whole. How large a model sees them
            is the pair's setting: `load_pair(..., frame_pixels=...)`.
        progress: called with (problems read, how many are wanted) after each; without a limit both are the same.

    A row's image is a path relative to the file, base64, or a list of these; in a TSV also the index of
    another row. Its video is a movie file (`sample_frames`; its sampling rate goes to ``metadata["fps"]``), a
    folder of frames, an animated image, or a list of images. Choices come from one column or from columns A, B, ...; a ``hint``
    goes before the question, marks like ``<image>`` are taken out (`row_pictures`). How an answer names its option, `row_answers`
    says. It is verified by ``choice`` if there are choices, by ``numeric`` if it is a number, else by ``exact``, unless the
    row's ``verifier`` says otherwise. Text and numbers in other columns go to ``metadata``.

    Returns:
        A list of problems with distinct ids, in the order of their source. Its ``told`` is the closing line of loading: how many
        rows, pictures, verifiers of each kind, and what was left out and why.

    Raises:
        InputError: anything wrong with the arguments, the files or a row; rows are named by file and line.

    Example:
        >>> problems = wb.load_problems("shapes", split="test", limit=2)
        >>> len(problems), problems[0].answer, problems[0].verifier.value
        (2, '1', 'exact')
        >>> wb.load_problems("shapes", split="training")
        Traceback (most recent call last):
        ...
        workbench.errors.InputError: ...
    """
    mapping, notes = {} if columns is None else columns, Notes()
    _check_arguments(source, limit, seed, mapping, question, frames)
    rows = _rows(source, split, limit, seed, mapping, question, frames, notes)
    problems: dict[str, Problem] = {}
    for where, record in itertools.islice(rows, limit):
        try:
            problem = Problem(**record)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        if problem.id in problems:
            raise InputError(
                f"{where}: the id {problem.id!r} occurs twice; ids must be unique: name another column with "
                "columns={'id': 'key'}, or number the rows with columns={'id': ''}"
            )
        problems[problem.id] = problem
        if progress:
            progress(len(problems), limit or len(problems))
    if not problems:
        raise InputError(
            f"`source` {_shown(source)} is an empty problem set; expected at least one problem: "
            "load_problems('shapes')"
        )
    return Problems(problems.values(), None if _is_generated(source) else notes)


def load_unseen(
    source: Any, tested: Sequence[Problem], *, seed: int = 0, **sizes: int
) -> list[list[Problem]]:
    """Problems of other splits than the tested ones, to fit or to choose something on.

    Args:
        source: as `load_problems` takes it.
        tested: what the result will be tested on.
        seed: as `load_problems` takes it.
        **sizes: how many of each split: ``train=64, validation=16``.

    Raises:
        InputError: a source whose splits hold tested problems, as one without splits does.
    """
    parts = [list(load_problems(source, split=name, limit=limit, seed=seed)) for name, limit in sizes.items()]
    if shared := {problem.id for part in parts for problem in part} & {problem.id for problem in tested}:
        raise InputError(
            f"`--problems` has no splits: {min(shared)!r} is tested and would be fitted on, too; name a set with splits, as "
            "`--problems shapes`"
        )
    return parts


def _is_generated(source: Any) -> bool:
    return isinstance(source, str) and source in GENERATED


def _rows(
    source: Any,
    split: str,
    limit: int | None,
    seed: int,
    mapping: Mapping[str, Any],
    question: str | None,
    frames: int,
    notes: Notes,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each row of a source: where it stands, for messages, and the fields of its `Problem`."""
    if _is_generated(source):
        return read_generated(source, split, limit, seed)
    if source == "easy-vqa":
        return read_easy_vqa(split, limit, seed)
    if isinstance(source, str) and source.startswith("hf:"):
        return read_hub(source, split, mapping, frames, notes)
    if isinstance(source, str | os.PathLike):
        rows = isinstance(source, str) and preset_rows(source, mapping, frames, notes)
        names = (*NAMES, *read_problem_presets())
        return rows or read_path(Path(source).expanduser(), mapping, question, names, frames, notes)
    return read_dataset(source, split, mapping, frames=frames, notes=notes)


def listed(
    items: Iterable[Item], call: str, *kinds: type, name: str = "problems", distinct: bool = False
) -> list[Item]:
    """An argument as a list, checked: at least one item, all of the ``kinds`` (Problem if none is named).

    Args:
        items: the argument's value.
        call: one that would work, for the messages.
        kinds: what an item may be.
        name: of the argument.
        distinct: whether an id may occur only once.

    Raises:
        InputError: anything else.
    """
    kinds = kinds or (Problem,)
    expected = " or ".join(kind.__name__ for kind in kinds)
    if isinstance(items, (str, Mapping, *kinds)) or not isinstance(items, Iterable):
        raise InputError(f"`{name}` is a {type(items).__name__}; expected a list of {expected}: {call}")
    entries = list(items)
    if not entries:
        raise InputError(f"`{name}` is empty; give at least one: {call}")
    ids = set()
    for item in entries:
        if not isinstance(item, kinds):
            raise InputError(f"`{name}` holds a {type(item).__name__}; expected {expected}: {call}")
        own = getattr(item, "problem_id", None) or getattr(item, "id", None)
        if distinct and own in ids:
            raise InputError(f"`{name}` holds {own!r} twice; give each once: {call}")
        ids.add(own)
    return entries


def _check_arguments(
    source: Any, limit: Any, seed: Any, columns: Mapping[str, Any], question: str | None, frames: Any
) -> None:
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
        raise InputError(
            f"`frames` is {frames!r}; expected an integer of at least 1: load_problems('clips', frames=16)"
        )
    for name, value, least in (("limit", 1 if limit is None else limit, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(
                f"`{name}` is {value!r}; expected an integer of at least {least}: "
                "load_problems('shapes', limit=64, seed=0)"
            )
    if not isinstance(columns, Mapping) or not all(_names_columns(*item) for item in columns.items()):
        raise InputError(
            f"`columns` is {columns!r}; expected field to column: columns={{'question': 'query'}}"
        )
    for name in columns:
        if name not in FIELDS:
            raise InputError(
                f"`columns` maps {name!r}, which is no field of a problem{nearest(name, FIELDS)}; "
                f"the fields are {', '.join(FIELDS)}: columns={{'question': 'query'}}"
            )
    is_path = isinstance(source, str | os.PathLike)
    if not is_path and type(source).__module__.partition(".")[0] != "datasets":
        raise InputError(
            f"`source` is of type {type(source).__name__}; expected a name, a path or a data set of the "
            "library `datasets`: load_problems('shapes')"
        )
    named = is_path and source in NAMES
    folder = is_path and not named and Path(source).expanduser().is_dir()
    if question is not None and not folder:
        raise InputError(
            f"`question` applies to a folder of images, not to {_shown(source)}: "
            "load_problems('pictures', question='What is this?')"
        )
    if columns and (folder or named):
        raise InputError(
            f"`columns` applies to files and data sets, not to {_shown(source)}: "
            "load_problems('problems.tsv', columns={'question': 'query'})"
        )


def _names_columns(field: Any, named: Any) -> bool:
    """Whether a column is named, or of a field that several may hold, several."""
    listed = field in SEVERAL and isinstance(named, list | tuple) and bool(named)
    return all(isinstance(name, str) and name for name in named) if listed else isinstance(named, str)


def _shown(source: Any) -> str:
    is_path = isinstance(source, str | os.PathLike)
    return repr(os.fspath(source)) if is_path else f"of type {type(source).__name__}"
