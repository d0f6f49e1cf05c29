"""The YAML file of a sweep: pairs x problem sets x interventions x seeds, checked before anything heavy is imported.

1. The file is parsed twice: into values, and into nodes that know line and column.
2. pydantic checks keys and types; `Replay` and `Patch` check the values of every combination that is not excluded.
3. Whatever is wrong is said with file, line and column, all of it at once.

A list under a field of an intervention is a grid; a field that is not named has the pair's preset, else its default. A value
that is itself a list (``layers`` of a patch, ``levels``) stands in a list of its own: ``layers: [7, [4, 5, 6]]``.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from workbench.conditions import PLAIN, Condition, Patch, Replay
from workbench.errors import InputError
from workbench.pair_presets import PairPreset, pair_preset
from workbench.rows import nearest
from workbench.sweeps.faults import Place, in_words, placed, walk
from workbench.sweeps.grids import FIELDS, Checked, Grid, MatrixGrid, PatchGrid, ReplayGrid

EXAMPLE = """\
pairs: [shapes]
problems: [{source: shapes, limit: 64}]
interventions:
  tokens: {replay: {tau: [0.2, 0.4], alpha: [10, 20, 40], select: [low, high, random]}}
"""
SCHEMA = Path(__file__).parent.parent / "data" / "sweep.schema.json"
"""The JSON schema, for editors."""
MOST = 100_000
"""Interventions that one sweep may have for one pair."""


class PairSource(Checked):
    """Two models, by name or by where they are."""

    name: str | None = None
    """NAME of `workbench pairs list`, or FILE.yaml:NAME."""
    base: str | None = None
    """Hub id or folder, instead of a name."""
    rlvr: str | None = None
    """Hub id or folder, instead of a name."""
    checkpoint: int | str | None = None
    """Of a bundled pair: what plays the RLVR model instead."""
    dtype: Literal["float64", "float32", "bfloat16", "float16"] | None = None
    """None: the preset's, else as stored."""

    @model_validator(mode="after")
    def _one_way(self) -> "PairSource":
        given = [getattr(self, role) is not None for role in ("name", "base", "rlvr")]
        if given not in ([True, False, False], [False, True, True]):
            raise InputError("give a `name`, or `base` and `rlvr`: {base: runs/my-base, rlvr: runs/my-rlvr}")
        saved = {} if self.preset is None else self.preset.changes  # says what is wrong with the name
        if self.checkpoint is not None and self.checkpoint not in saved:
            known = f"{self.name} has {[*saved]}" if saved else "only a bundled pair has any"
            raise InputError(
                f"`checkpoint` is {self.checkpoint!r}; {known}: {{name: shapes, checkpoint: sft}}"
            )
        return self

    @property
    def title(self) -> str:
        """What tables call the pair."""
        named = self.name if self.name is not None else f"{self.base} -> {self.rlvr}"
        return named if self.checkpoint is None else f"{named} @ {self.checkpoint}"

    @cached_property
    def preset(self) -> PairPreset | None:
        """What it was named by."""
        return None if self.name is None else pair_preset(self.name)


class ProblemSet(Checked):
    """A problem set and which of its problems."""

    source: Annotated[str, Field(min_length=1)]
    """As in `load_problems`: shapes, a set of the paper, a file, a folder."""
    split: str = "test"
    limit: Annotated[int, Field(ge=1)] | None = None
    """How many problems; null: all."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of generated sets."""


def _named(value: Any, key: str) -> Any:
    return {key: value} if isinstance(value, str) else value


class Sweep(Checked):
    """Pairs x problem sets x interventions x seeds."""

    pairs: Annotated[
        list[Annotated[PairSource, BeforeValidator(lambda value: _named(value, "name"))]], Field(min_length=1)
    ]
    """Names, or {base, rlvr}."""
    problems: Annotated[
        list[Annotated[ProblemSet, BeforeValidator(lambda value: _named(value, "source"))]],
        Field(min_length=1),
    ]
    """Names, files, or {source, split, limit, seed}."""
    interventions: dict[str, Grid] = Field({})
    """Grids by a name of yours."""
    plain: list[Literal["base", "rlvr"]] = Field([*PLAIN])
    """The plain models that answer too."""
    samples: Annotated[int, Field(ge=1)] = 16
    """Sampled responses of a cell, beside the greedy one."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Of the samples."""
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    """Where a response is cut off; null: the pair's preset, else 1024."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field([0])
    """Of samples, random selections and jitter."""
    exclude: list[dict[str, Any]] = Field([])
    """Cells to leave out: those that agree with every key (pair, problems, intervention, seed, or a field)."""
    device: Literal["cpu", "cuda"] | None = None
    """null: the GPU where there is one. Part of a cell, because results differ by rounding."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Of one worker on the CPU. Part of a cell, for the same reason."""

    slurm: dict[str, Any] = Field({})
    """Parameters of submitit's executor, for the engine `slurm`: slurm_partition, timeout_min, ..., and cluster."""

    def conditions(
        self, pair: PairSource, depth: int = 28, told: Callable[[Place, str], None] | None = None
    ) -> dict[str, Condition]:
        """Every intervention for a pair of `depth` layers, by name, the plain models first.

        Args:
            pair: one of `pairs`; its preset has the values of fields that are not named.
            depth: decoder layers of the models.
            told: called with (where, what) for a combination that is refused, instead of raising.

        Raises:
            InputError: a combination that `Replay` or `Patch` refuses, or deeper than the models.
        """
        made: dict[str, Condition] = {name: name for name in self.plain}
        for entry, grid in self.interventions.items():
            for title, chosen in grid.combinations(entry):
                if self._left_out({"pair": pair.title, "intervention": entry, **chosen}):
                    continue  # it need not make sense
                known = {} if pair.preset is None else pair.preset.matrix(chosen)
                try:
                    for name, condition in grid.build(title, chosen, known, depth).items():
                        made[name] = condition
                        _check_depth(condition, depth)
                except InputError as error:
                    if told is None:
                        raise
                    told(("interventions", entry, grid.kind), str(error))
        return made

    def excluded(self, pair: str, problems: str, name: str, condition: Condition, seed: int) -> bool:
        """Whether a cell is left out."""
        named = {"pair": pair, "problems": problems, "intervention": name, "seed": seed}
        settings = (
            {}
            if isinstance(condition, str)
            else {f.name: getattr(condition, f.name) for f in fields(condition)}
        )
        return self._left_out({**settings, **named})

    def _left_out(self, told: Mapping[str, Any]) -> bool:
        return any(
            all(key in told and _agrees(key, told[key], value) for key, value in rule.items())
            for rule in self.exclude
        )


def read_sweep(file: str | Path) -> Sweep:
    """Read and check a sweep's YAML file.

    Raises:
        InputError: everything that is wrong with it, each with file, line and column.
    """
    file = Path(file)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} can't be read ({error}); write a sweep there, such as:\n{EXAMPLE}"
        ) from error
    return parse_sweep(text, str(file))


def parse_sweep(text: str, name: str = "sweep.yaml") -> Sweep:
    """What `read_sweep` makes of a file's text; `name` is the file's, for messages."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise InputError(
            f"{name}{at}: this is no YAML ({getattr(error, 'problem', error)}); expected:\n{EXAMPLE}"
        ) from error
    except (RecursionError, ValueError, TypeError) as error:
        raise InputError(
            f"{name}: this is no YAML that can be read ({error}); expected:\n{EXAMPLE}"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{name}:1:1: this holds a {type(content).__name__}; expected a sweep:\n{EXAMPLE}")
    marks: dict[Place, tuple[int, int]] = {}
    faults = [*walk(node, (), marks)]
    try:
        sweep = Sweep.model_validate(content)
    except ValidationError as error:
        sweep = None
        faults += [in_words(fault, content, _known_at, EXAMPLE) for fault in error.errors()]
    if sweep is not None and not faults:
        faults = [*_impossible(sweep)]
    if faults:
        lines = dict.fromkeys(
            f"{name}:{line}:{column}: {said}" for (line, column), said in placed(faults, marks)
        )
        raise InputError("\n".join(itertools.islice(lines, 20)))
    assert sweep is not None
    return sweep


def schema() -> dict[str, Any]:
    """The JSON schema of a sweep's file."""
    told = Sweep.model_json_schema()
    for name in ("pairs", "problems"):  # a string stands for a mapping with one key
        listed = told["properties"][name]
        listed["items"] = {"anyOf": [{"type": "string"}, listed["items"]]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **told,
        "title": "Sweep of the replay workbench",
    }


def seeded(condition: Condition, seed: int) -> Condition:
    """A condition as one cell runs it: its random selection, where it has one, is drawn by the cell's seed."""
    if isinstance(condition, str):
        return condition
    return replace(condition, seed=seed if condition.select == "random" else 0)


def _check_depth(condition: Condition, depth: int) -> None:
    if isinstance(condition, Replay):
        condition.loss_layers(depth)
    elif isinstance(condition, Patch):
        condition.check_depth(depth)


def _impossible(sweep: Sweep) -> Iterator[tuple[Place, str]]:
    """What only shows when the grids are multiplied."""
    for entry, grid in sweep.interventions.items():
        count = 1
        for name, values in grid.values.items():
            count *= len(values)
            if len({repr(value) for value in values}) < len(values):
                yield (
                    ("interventions", entry, grid.kind, name),
                    f"`{name}` has a value twice; expected different ones",
                )
        if count > MOST:
            yield ("interventions", entry), f"the grid has {count} combinations; {MOST} are the most"
            return
    for i, rule in enumerate(sweep.exclude):
        known = ("pair", "problems", "intervention", "seed", *FIELDS)
        for key in rule:
            if key not in known:
                yield (
                    ("exclude", i, key),
                    f"unknown key {key!r}{nearest(key, known)}; expected {', '.join(known)}",
                )
                return
    found: list[tuple[Place, str]] = []
    left = 0
    for pair in sweep.pairs:
        made = sweep.conditions(pair, depth_of(pair) or 1000, lambda where, said: found.append((where, said)))
        cells = itertools.product(sweep.problems, made.items(), sweep.seeds)
        left += any(
            not sweep.excluded(pair.title, problems.source, *named, seed) for problems, named, seed in cells
        )
    yield from dict.fromkeys(found)
    if not left and not found:
        yield ("exclude",) if sweep.exclude else (), "no cell is left; expected at least one"


def depth_of(pair: PairSource) -> int | None:
    """Decoder layers of a pair, where its config lies on this machine."""
    source = Path(pair.base or "") if pair.preset is None else pair.preset.found("base")
    try:
        config = json.loads(((source or Path("none")).expanduser() / "config.json").read_text())
        return int((config.get("text_config") or config)["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _agrees(key: str, found: Any, wanted: Any) -> bool:
    """Whether a value is the wanted one, or among those wanted; an entry's name stands for all of its interventions."""
    alike = [
        tuple(w) if isinstance(w, list) else w for w in (wanted if isinstance(wanted, list) else [wanted])
    ]
    if key == "intervention":
        return any(found == one or str(found).startswith((f"{one} ", f"{one}:")) for one in alike)
    return found in alike


def _known_at(path: Place) -> list[str]:
    """Keys that may stand in a mapping."""
    match path:
        case ("pairs", *_):
            model = PairSource
        case ("problems", *_):
            model = ProblemSet
        case ("interventions", _, "replay"):
            model = ReplayGrid
        case ("interventions", _, "patch"):
            model = PatchGrid
        case ("interventions", _, "matrix"):
            model = MatrixGrid
        case ("interventions", *_):
            model = Grid
        case _:
            model = Sweep
    return list(model.model_fields)
