"""Problem-set presets: the paper's sets and mathematics in text by name, found on this machine, and how rows become problems.

Nothing is downloaded. ``problems.yaml`` says what each preset's fields mean; rows are adapted to the columns that
``rows`` knows, which does the rest.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from workbench.errors import InputError, nearest
from workbench.problems.answer_numbers import quantity
from workbench.problems.answers import VERIFIERS
from workbench.problems.from_rows import FIELDS, Columns, Reading, Rows, to_records
from workbench.problems.images import FRAME_LIMIT
from workbench.problems.loading import Notes
from workbench.problems.row_answers import LETTERS, answer_of, as_list, blank, options_of
from workbench.problems.sources import KINDS, read_rows

PACKAGED = Path(__file__).with_name("problems.yaml")


@dataclass(frozen=True)
class Place:
    """A file that holds a set, and what its columns are."""

    file: str
    hub: str | None = None
    """Data set of the Hugging Face hub; None: a file of VLMEvalKit's."""
    columns: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    remove: Mapping[str, str] = field(default_factory=dict)
    part: Mapping[str, str] = field(default_factory=dict)
    """By field, a pattern: of a text the group of its last match is kept."""
    video: str | None = None

    def __str__(self) -> str:
        return (
            f"{self.file} of {self.hub} in the Hugging Face cache"
            if self.hub
            else str(kit_folder() / self.file)
        )

    def column(self, name: str, row: Mapping[str, Any], *, missing: str | None = None) -> str:
        """The column of a row that holds a field; where there is none, ``missing``, or KeyError if that is None."""
        named = (self.columns[name],) if name in self.columns else FIELDS[name]
        if present := [c for c in named if c in row]:
            return present[0]
        if missing is None:
            raise KeyError(named[0])
        return missing

    def check(self, row: Mapping[str, Any]) -> None:
        """KeyError for a column that a row lacks and `ProblemPreset.adapt` does not make."""
        optional = ("choices", "video") if self.video else ("choices",)
        needed = [column for name, column in self.columns.items() if column and name not in optional]
        for column in (*self.where, *needed):
            if column not in row:
                raise KeyError(column)
        self.column("question", row)

    def find(self) -> list[Path]:
        """The files, in order; empty if they are not on this machine."""
        if self.hub is None:
            return sorted(kit_folder().glob(self.file))
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            copy = snapshot_download(self.hub, repo_type="dataset", local_files_only=True)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
            return []
        return sorted(Path(copy).glob(self.file))


@dataclass(frozen=True)
class ProblemPreset:
    """A problem set; `problems/problems.yaml` in the package says more on each field."""

    name: str
    title: str
    answer: str
    """In words."""
    places: tuple[Place, ...]
    template: str
    sources: str
    letters: int = 0
    verifier: str | Mapping[str, Mapping[str, str]] | None = None

    def adapt(self, row: Mapping[str, Any], place: Place) -> dict[str, Any] | None:
        """A row with the columns that `rows` knows, or None for one that the set leaves out.

        Raises:
            InputError: a text without the part that is to be kept.
            KeyError: a column that is not there.
        """
        if any(str(row.get(column)) != value for column, value in place.where.items()):
            return None
        adapted = dict(row)
        for name, text in place.remove.items():
            column = place.column(name, row)
            cell = row[column]
            adapted[column] = (
                [str(part).replace(text, "", 1).strip() for part in cell]
                if isinstance(cell, list)
                else str(cell).replace(text, "", 1).strip()
            )
        for name, pattern in place.part.items():
            column = place.column(name, row)
            if not (parts := re.findall(pattern, str(adapted[column]))):
                raise InputError(
                    f"`{column}` ends with {str(adapted[column])[-60:]!r}; expected {pattern!r} in it"
                )
            adapted[column] = parts[-1].strip()
        if place.video is not None:
            adapted["video"] = re.sub(r"\{([^}]+)\}", lambda match: str(row[match[1]]), place.video)
        options, labels = _options(adapted, place)
        verifier = self._verifier(adapted)
        field = place.columns.get("answer", "answer")
        if (label := str(adapted.get(field, "")).strip().upper()) in labels:
            adapted[field] = LETTERS[labels.index(label)]
        if not options and self.letters and verifier == "choice":
            options = list(LETTERS[: self.letters])
        named = (
            adapted.get(field)
            if blank(adapted.get(field))
            else answer_of(adapted[field], tuple(options), "", open_ended=True)
        )
        if verifier == "choice" and not blank(named) and named not in tuple(LETTERS[: len(options)]):
            verifier = None  # several letters, or an option that is not there: the answer's look decides
        if verifier == "numeric" and not blank(named) and quantity(str(named)) is None:
            verifier = None
        if self.verifier == "math" and options:
            verifier = None
        for letter in LETTERS:
            adapted.pop(letter, None)
        column = place.columns.get("choices", "choices")
        adapted.pop("options", None)
        adapted[column] = options or None
        adapted["verifier"] = verifier
        listed = "{options}" in self.template
        adapted["template"] = self.template if options or not listed else "{question}"
        return adapted

    def _verifier(self, row: Mapping[str, Any]) -> str | None:
        if self.verifier is None or isinstance(self.verifier, str):
            return self.verifier
        ((column, verifiers),) = self.verifier.items()
        return verifiers.get(str(row.get(column)))


def _options(row: Mapping[str, Any], place: Place) -> tuple[list[str], tuple[str, ...]]:
    """Options of a column (list, mapping, or the text of one) or of columns A, B, ..., and their labels."""
    cell = row[column] if (column := place.column("choices", row, missing="")) else None
    if blank(cell) or (isinstance(cell, Mapping) and all(map(blank, cell.values()))):
        cell = None
    if isinstance(cell, list | tuple) or (isinstance(cell, str) and cell.strip().startswith("[")):
        cell = [str(option).strip() for option in as_list(cell, "`choices`") if not blank(option)] or None
    texts, labels = options_of(cell, row, "`choices`")
    return [option.strip() for option in texts], labels


def kit_folder() -> Path:
    """Where VLMEvalKit keeps its data."""
    return Path(os.environ.get("LMUData") or Path.home() / "LMUData")  # noqa: SIM112  (its name)


def read_problem_presets(file: Path | None = None) -> dict[str, ProblemPreset]:
    """Every preset by name.

    Raises:
        InputError: a preset with an unknown, missing or ill-formed field.
    """
    file = file or PACKAGED
    presets = {}
    for name, table in yaml.safe_load(file.read_text(encoding="utf-8")).items():
        here = f"problem set {name!r} in {file.name}"
        try:
            places = tuple(Place(**place) for place in table.get("places", ()))
            preset = ProblemPreset(**{**table, "name": name, "places": places})
        except TypeError as error:
            names = ", ".join(f.name for f in (*fields(ProblemPreset), *fields(Place)))
            raise InputError(f"{here}: {error}; the fields are {names}") from error
        rules = preset.verifier
        verifiers = (
            [rules] if isinstance(rules, str) else [v for t in (rules or {}).values() for v in t.values()]
        )
        fields_named = {f for place in places for f in (*place.columns, *place.remove, *place.part)}
        if not places or not set(verifiers) <= set(VERIFIERS) or not fields_named <= set(FIELDS):
            raise InputError(
                f"{here}: expected at least one place, fields among {', '.join(FIELDS)}, verifiers among "
                f"{', '.join(VERIFIERS)}"
            )
        presets[name] = preset
    return presets


def preset_rows(
    source: str, columns: Columns, frames: int = FRAME_LIMIT, notes: Notes | None = None
) -> Rows | None:
    """Records of ``NAME`` or ``NAME:FILE``; None where NAME is no preset.

    Raises:
        InputError: the set is not on this machine, or anything wrong with a row.
    """
    presets = read_problem_presets()
    name, _, own = source.partition(":")
    if name not in presets:
        return None
    preset = presets[name]
    if columns:
        raise InputError(
            f"`columns` applies to files and data sets, not to {name!r}, which knows its columns"
        )
    place, files = _located(preset, own)
    reading = Reading(place.columns, name, files[0].parent, frames, notes or Notes(), preset=True)
    return to_records(_adapted(preset, place, files, reading.notes), reading)


def _located(preset: ProblemPreset, own: str) -> tuple[Place, list[Path]]:
    if own:
        file = Path(own).expanduser()
        if not file.is_file():
            raise InputError(
                f"`source` '{preset.name}:{own}': no such file; expected {preset.title} as one of "
                f"{', '.join(p.file for p in preset.places)}: load_problems('{preset.name}:{preset.places[0].file}')"
            )
        if file.suffix.lower() not in KINDS:
            raise InputError(
                f"`source` '{preset.name}:{own}' is a file of unknown kind; expected {', '.join(KINDS)}: "
                f"load_problems('{preset.name}:{preset.places[0].file}')"
            )
        fitting = [p for p in preset.places if fnmatch(file.name, Path(p.file).name)]
        alike = [p for p in preset.places if Path(p.file).suffix == file.suffix]
        return (*fitting, *alike, *preset.places)[0], [file]
    for place in preset.places:
        if files := place.find():
            return place, files
    hubs = sorted({place.hub for place in preset.places if place.hub})
    get = [f"`hf download {hub} --repo-type dataset`" for hub in hubs]
    get += [f"VLMEvalKit, which fetches {p.file}" for p in preset.places[:1] if p.hub is None]
    raise InputError(
        f"`source` {preset.name!r} ({preset.title}) is not on this machine; looked for "
        f"{'; '.join(map(str, preset.places))}. Get it with {' or '.join(get)}, or name a file of your own: "
        f"load_problems('{preset.name}:FILE')"
    )


def _adapted(
    preset: ProblemPreset, place: Place, files: list[Path], notes: Notes
) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in files:
        for number, (where, row) in enumerate(read_rows(file, place.columns)):
            try:
                adapted = preset.adapt(row, place)
                if number == 0:
                    place.check(row)
            except KeyError as error:
                names = ", ".join(map(str, row))
                missing = error.args[0]
                raise InputError(
                    f"{where}: no column {missing!r}{nearest(str(missing), row)}, which {preset.name!r} needs; found {names}"
                ) from error
            except InputError as error:
                raise InputError(f"{where}: {error}: load_problems('FILE') reads a file as it is") from error
            if adapted is None:
                notes.add(f"rows that are not {' and '.join(f'{c} {v!r}' for c, v in place.where.items())}")
            else:
                yield where, adapted
