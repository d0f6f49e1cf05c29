"""The YAML file of a sweep: pairs x problem sets x interventions x seeds, checked before anything heavy is imported.

1. The file is parsed twice: into values, and into nodes that know line and column.
2. pydantic checks keys and types; the conditions themselves check the values of every combination that is not excluded.
3. Whatever is wrong is said with file, line and column, all of it at once.

A list under a field of an intervention is a grid; a field that is not named has the pair's preset, else its default. A value
that is itself a list (``layers`` of a patch, ``levels``) stands in a list of its own: ``layers: [7, [4, 5, 6]]``.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from workbench.conditions import PLAIN, Named, check_depth
from workbench.errors import InputError, nearest
from workbench.interventions import Patch, Replay
from workbench.mixtures import CrossSample
from workbench.models.preset_files import pair_preset
from workbench.models.presets import ROLES, PairPreset
from workbench.problems.presets import read_problem_presets
from workbench.problems.sources import NAMES, SPLITS
from workbench.sweeps.grids import FIELDS, KINDS, Checked, Grid
from workbench.sweeps.yaml_errors import Place, in_words, placed, walk

EXAMPLE = """\
pairs: [shapes]
problems: [{source: shapes, limit: 64}]
interventions:
  tokens: {replay: {tau: [0.2, 0.4], alpha: [10, 20, 40], select: [low, high, random]}}
"""
SCHEMA = Path(__file__).with_name("sweep.schema.json")
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
        present = [getattr(self, role) is not None for role in ("name", "base", "rlvr")]
        if present not in ([True, False, False], [False, True, True]):
            raise InputError("give a `name`, or `base` and `rlvr`: {base: runs/my-base, rlvr: runs/my-rlvr}")
        saved = {} if self.preset is None else self.preset.changes  # says what is wrong with the name
        if self.checkpoint is not None and self.checkpoint not in saved:
            choice = f"{self.name} has {[*saved]}" if saved else "only a bundled pair has any"
            raise InputError(
                f"`checkpoint` is {self.checkpoint!r}; {choice}: {{name: shapes, checkpoint: sft}}"
            )
        return self

    @property
    def title(self) -> str:
        """What tables call the pair."""
        named = self.name if self.name is not None else f"{self.base} -> {self.rlvr}"
        named = named if self.checkpoint is None else f"{named} @ {self.checkpoint}"
        return named if self.dtype is None else f"{named}, {self.dtype}"

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

    @property
    def label(self) -> str:
        """What tables call the set."""
        named = [self.split] if self.split != "test" else []
        named += [f"seed {self.seed}"] if self.seed else []
        return f"{self.source} ({', '.join(named)})" if named else self.source


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
    plain: list[Literal["base", "rlvr"]] = Field(["base", "rlvr"])
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
    """Cells to leave out: those that agree with every key (pair, problems, intervention, seed, or a field). A list of values
    stands for any of them, so that one value that is itself a list stands in a list of its own: ``layers: [[4, 5, 6]]``."""
    device: Literal["cpu", "cuda"] | None = None
    """null: the GPU where there is one. Part of a cell, because results differ by rounding."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Of one worker on the CPU. Part of a cell, for the same reason."""

    slurm: dict[str, Any] = Field({})
    """Parameters of submitit's executor, for the engine `slurm`: slurm_partition, timeout_min, ..., and cluster."""

    def conditions(
        self,
        pair: PairSource,
        depth: int = 28,
        told: Callable[[Place, str], None] | None = None,
        used: set[int] | None = None,
    ) -> dict[str, Named]:
        """Every intervention for a pair of `depth` layers, by name, the plain models first.

        Args:
            pair: one of `pairs`; its preset has the values of fields that are not named.
            depth: decoder layers of the models.
            told: called with (where, what) for a combination that is refused, instead of raising.
            used: numbers of rules under `exclude` that left a combination out are added here.

        Raises:
            InputError: a combination that `Replay` or `Patch` refuses, or deeper than the models, or two of one name.
        """
        by_name: dict[str, Named] = {name: name for name in self.plain}
        for entry, grid in self.interventions.items():
            for title, combination in grid.combinations(entry):
                settings = {field: (value,) for field, value in combination.items()}
                if rules := self._rules({"pair": (pair.title,), "intervention": (entry, title), **settings}):
                    (used if used is not None else set()).update(rules)
                    continue  # it need not make sense
                defaults = {} if pair.preset is None else pair.preset.matrix(combination)
                try:
                    for name, condition in grid.build(title, combination, defaults, depth).items():
                        if name in by_name:
                            raise InputError(f"{name!r} is the name of two interventions; expected another")
                        by_name[name] = condition
                        check_depth(condition, depth)
                except InputError as error:
                    if told is None:
                        raise
                    told(("interventions", entry, grid.kind), str(error))
        return by_name

    def excluded(
        self, pair: PairSource, problems: ProblemSet, name: str, condition: Named, seed: int
    ) -> list[int]:
        """The rules under `exclude`, by number, that leave a cell out."""
        if not self.exclude:
            return []
        entries = [e for e in self.interventions if name == e or name.startswith((f"{e} ", f"{e}:"))]
        facts: dict[str, tuple[Any, ...]] = {}
        if is_dataclass(condition):
            facts = {f.name: (getattr(condition, f.name),) for f in fields(condition)}
        facts |= {"pair": (pair.title,), "problems": (problems.label, problems.source), "seed": (seed,)}
        return self._rules(facts | {"intervention": (name, max(entries, key=len, default=name))})

    def _rules(self, told: Mapping[str, tuple[Any, ...]]) -> list[int]:
        """The rules that agree with a cell; ``told``: what each key may be called."""
        return [
            i
            for i, rule in enumerate(self.exclude)
            if all(key in told and _agrees(told[key], value) for key, value in rule.items())
        ]


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
    return parse_sweep(text, str(file), here=True)


def parse_sweep(text: str, name: str = "sweep.yaml", *, here: bool = False) -> Sweep:
    """What `read_sweep` makes of a file's text; `name` is the file's, for messages.

    `here`: whether its folders and problem sets must be on this machine.
    """
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
        faults = [*(_absent(sweep) if here else ()), *_impossible(sweep)]
    if faults:
        lines = dict.fromkeys(
            f"{name}:{line}:{column}: {message}" for (line, column), message in placed(faults, marks)
        )
        raise InputError("\n".join(itertools.islice(lines, 20)))
    assert sweep is not None
    return sweep


def schema() -> dict[str, Any]:
    """The JSON schema of a sweep's file."""
    whole = Sweep.model_json_schema()
    for name in ("pairs", "problems"):  # a string stands for a mapping with one key
        listed = whole["properties"][name]
        listed["items"] = {"anyOf": [{"type": "string"}, listed["items"]]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **whole,
        "title": "Sweep of the replay workbench",
    }


def seeded(condition: Named, seed: int) -> Named:
    """A condition as one cell runs it: what it selects at random, if anything, is drawn by the cell's seed."""
    if isinstance(condition, CrossSample):
        return replace(condition, seed=seed if condition.criterion == "random" else 0)
    if not isinstance(condition, Replay | Patch):
        return condition
    return replace(condition, seed=seed if condition.select == "random" else 0)


def _impossible(sweep: Sweep) -> Iterator[tuple[Place, str]]:
    """What only shows when everything is known: names, and the grids when they are multiplied."""
    named = {"pairs": [pair.title for pair in sweep.pairs], "seeds": sweep.seeds}
    named["problems"] = [problems.label for problems in sweep.problems]
    for key, names in named.items():
        for i, name in enumerate(names):
            if name in names[:i]:
                yield (key, i), f"`{key}` names {name!r} twice; expected each once"
    for entry, grid in sweep.interventions.items():
        if entry in PLAIN:
            yield (
                ("interventions", entry),
                f"{entry!r} is what a plain model is called; expected another name",
            )
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
        own = [name for grid in sweep.interventions.values() if grid.own for name in grid.values]
        keys = ("pair", "problems", "intervention", "seed", *FIELDS, *own)
        for key in rule:
            if key not in keys:
                yield (
                    ("exclude", i, key),
                    f"unknown key {key!r}{nearest(key, keys)}; expected {', '.join(keys)}",
                )
                return
    yield from _cells_left(sweep)


def _absent(sweep: Sweep) -> Iterator[tuple[Place, str]]:
    """Folders, problem sets and splits that there are none of."""
    for i, pair in enumerate(sweep.pairs):
        for role in ROLES if pair.name is None else ():
            named = str(getattr(pair, role))
            if named.startswith(("/", ".", "~")) and not Path(named).expanduser().is_dir():
                yield ("pairs", i, role), f"there is no folder {named}; expected a model's, or a hub id"
    presets = (*NAMES, *read_problem_presets())
    for i, problems in enumerate(sweep.problems):
        source, split = problems.source, problems.split
        splits = SPLITS.get(source, (split,))
        if split not in splits:
            message = (
                f"{source!r} has no split {split!r}{nearest(split, splits)}; expected {', '.join(splits)}"
            )
            yield ("problems", i, "split"), message
        named = source in NAMES or source.startswith("hf:") or source.partition(":")[0] in presets
        if not named and not Path(source).expanduser().exists():
            message = f"{source!r} is no problem set, file or folder{nearest(source, presets)}; expected {', '.join(presets)}"
            yield ("problems", i, "source"), message


def _cells_left(sweep: Sweep) -> Iterator[tuple[Place, str]]:
    """Combinations that are refused, exclusions that exclude nothing, or everything."""
    faults: list[tuple[Place, str]] = []
    any_left, used = False, set[int]()
    for pair in sweep.pairs:
        depth = depth_of(pair) or 1000
        conditions = sweep.conditions(pair, depth, lambda where, said: faults.append((where, said)), used)
        for problems, named, seed in itertools.product(sweep.problems, conditions.items(), sweep.seeds):
            rules = sweep.excluded(pair, problems, *named, seed)
            any_left = any_left or not rules
            used.update(rules)
            if any_left and len(used) == len(sweep.exclude):
                break
    yield from dict.fromkeys(faults)
    if faults:
        return
    if not any_left:
        yield ("exclude",) if sweep.exclude else (), "no cell is left; expected at least one"
    for i in range(len(sweep.exclude)):
        if i not in used:
            yield ("exclude", i), "this agrees with no cell; expected values that some cell has"


def depth_of(pair: PairSource) -> int | None:
    """Decoder layers of a pair, where its config lies on this machine."""
    source = Path(pair.base or "") if pair.preset is None else pair.preset.found("base")
    try:
        config = json.loads(((source or Path("none")).expanduser() / "config.json").read_text())
        return int((config.get("text_config") or config)["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _agrees(found: tuple[Any, ...], wanted: Any) -> bool:
    """Whether a value, whatever it may be called, is the wanted one or among those wanted."""
    several = wanted if isinstance(wanted, list) else [wanted]
    alike = [tuple(one) if isinstance(one, list) else one for one in several]
    return any(one in alike for one in found)


def _known_at(path: Place) -> list[str]:
    """Keys that may stand in a mapping."""
    match path:
        case ("pairs", *_):
            model = PairSource
        case ("problems", *_):
            model = ProblemSet
        case ("interventions", _, kind) if kind in KINDS:
            model = KINDS[str(kind)]
        case ("interventions", *_):
            model = Grid
        case _:
            model = Sweep
    return list(model.model_fields)
