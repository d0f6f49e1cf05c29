"""Pair presets: two models by name, with what it takes to run them as they were meant to be run; `preset_files` reads them.

``NAME`` is one of the package's (``pairs.yaml`` beside this file says what its fields mean), ``FILE.yaml:NAME`` one in a file of
your own with the same fields, ``FILE.yaml`` the only one in it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from workbench.errors import InputError
from workbench.interventions import Patch
from workbench.models.seeds import seeds_of, unpacked_run
from workbench.models.template_files import template_in
from workbench.problems.answers import Verifier
from workbench.problems.problem import Problem, wording
from workbench.problems.zoom import ZoomTool

PACKAGED = Path(__file__).with_name("pairs.yaml")
"""The package's own presets."""

ROLES = ("base", "rlvr")
CALL = 'load_pair(base="Qwen/Qwen2.5-VL-7B-Instruct", rlvr="TIGER-Lab/VL-Rethinker-7B")'
"""What refusals show."""
_REPLAY: dict[str, tuple[type, ...]] = {
    "layers": (int,),
    "tau": (float, int),
    "alpha": (float, int),
    "iterations": (int,),
    "top_v": (int,),
    "threshold": (str,),
}
_PATCH: dict[str, tuple[type, ...]] = {
    "layers": (int, list, tuple),
    "tau": (float, int),
    "threshold": (str,),
    "levels": (list, tuple),
    "only_where_base_lower": (bool,),
    "positions": (str,),
}
_ZOOM: dict[str, tuple[type, ...]] = {"name": (str,), "relative_to": (float, int, str), "min_side": (int,)}
_STUDY: dict[str, tuple[type, ...]] = dict.fromkeys(("null_draws", "null_models", "answers"), (int,))
_LINES = {
    "replay": "replay: {tau: 0.4, layers: 16}",
    "study": "study: {null_draws: 1, null_models: 1, answers: 24}",
    "patch": "patch: {threshold: fixed, layers: 2, levels: [4.8, 4.7]}",
    "zoom": "zoom: {relative_to: 1000}",
}
_SHARED = {"tau", "layers", "threshold"}
"""Fields that say for tokens and for patches which cells are meant."""


@dataclass(frozen=True)
class PairPreset:
    """Two models and their settings; ``pairs.yaml`` beside this file says more on each field.

    Raises InputError for a field of the wrong kind.
    """

    name: str
    base: str
    rlvr: str
    revision: Mapping[str, str | None] = field(default_factory=dict)
    """By role; a role that is missing or None has the newest."""
    processor: str | None = None
    dtype: str | None = None
    system: str | None = None
    template: str | None = None
    chat_template: str | None = None
    """A file; None is the processor's own."""
    endings: Mapping[str, str] = field(default_factory=dict)
    """By verifier of the problem."""
    image_pixels: tuple[int, int] | None = None
    frame_pixels: tuple[int, int] | None = None
    replay: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `Replay` and `default_matrix`; what is not there has its default."""
    patch: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `Patch`; what is not there is as in `replay`."""
    zoom: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `ZoomTool`."""
    longest_answer: int = 1024
    batch_size: int = 8
    problems: str = "shapes"
    """The set that it is asked where none is named."""
    matmul: Literal["highest", "high", "medium"] | None = None
    """Of its products in float32 where it answers, as `torch.set_float32_matmul_precision` has them."""
    attention: str | None = None
    study: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of a study that suit it."""
    control: str | None = None
    controls: Mapping[str, str] = field(default_factory=dict)
    """Models of the base that RL did not train, by name: folder, adapter or hub id."""
    steps: int | None = None
    """Of RL that the RLVR model of a bundled pair has had: the last of its checkpoints is itself."""
    seed: int = 0
    """Of its training: 0 is the run that ships whole, ``NAME@1`` another (`workbench.models.seeds`). No field of a file."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where facts are from, by field."""
    file: Path = field(default_factory=lambda: PACKAGED)
    """The file that it was read from."""

    def __post_init__(self) -> None:
        for name in (
            "base",
            "rlvr",
            "processor",
            "dtype",
            "system",
            "template",
            "chat_template",
            "problems",
            "attention",
            "control",
        ):
            value = getattr(self, name)
            if not (isinstance(value, str) and value.strip()) and (value is not None or name in ROLES):
                raise self._wrong(name, "text", "base: Qwen/Qwen2.5-VL-7B-Instruct")
        for name, types in (
            ("revision", dict.fromkeys(ROLES, (str,))),
            ("endings", dict.fromkeys(Verifier, (str,))),
            ("replay", _REPLAY),
            ("patch", _PATCH),
            ("zoom", _ZOOM),
            ("study", _STUDY),
        ):
            table, line = getattr(self, name) or {}, _LINES.get(name, _LINES["replay"])
            if not isinstance(table, Mapping) or not set(table) <= set(types):
                raise self._wrong(name, f"entries among {', '.join(types)}", line)
            entries = {key: value for key, value in table.items() if value is not None}
            for key, value in entries.items():
                if not isinstance(value, types[key]) or isinstance(value, bool) is not (
                    types[key] == (bool,)
                ):
                    raise self._wrong(name, f"`{key}` as {types[key][0].__name__}", line)
                if key == "answers" and value < 1:
                    raise self._wrong(name, "`answers` of at least 1", line)
            lists = {key: tuple(value) for key, value in entries.items() if isinstance(value, list)}
            object.__setattr__(self, name, entries | lists)
        self._check_values()
        for name in ("image_pixels", "frame_pixels"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_budget(f"{self._here}: `{name}`", value))
        for name in ("longest_answer", "batch_size", "steps"):
            value = getattr(self, name)
            if name == "steps" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise self._wrong(name, "a whole number of at least 1", f"{name}: 8")
        if self.matmul not in (None, "highest", "high", "medium"):
            raise self._wrong("matmul", "highest, high or medium", "matmul: medium")
        if self.template is not None and self.template.count("{question}") != 1:
            raise self._wrong(
                "template", "text with one {question} in it", 'template: "{question}\\nThink first."'
            )
        if self.chat_template in ROLES:
            expected = "a file with a Jinja template (one of the two models' comes with its `processor`)"
            raise self._wrong("chat_template", expected, "chat_template: ./question.jinja")
        controls = self.controls if isinstance(self.controls, Mapping) else {"": self.controls}
        if not all(isinstance(text, str) and text.strip() for one in controls.items() for text in one):
            raise self._wrong(
                "controls", "a folder, an adapter or a hub id by name", "controls: {sft: ./sft}"
            )
        if not isinstance(self.sources, Mapping):
            raise self._wrong("sources", "a text by field", "sources: {system: its model card}")

    @property
    def _here(self) -> str:
        return f"preset {self.name!r} in {self.file.name}"

    def _wrong(self, name: str, expected: str, line: str) -> InputError:
        return InputError(f"{self._here}: `{name}` is {getattr(self, name)!r}; expected {expected}: {line}")

    def _check_values(self) -> None:
        for name, kinds in (("levels", (float, int)), ("layers", (int,))):
            value = self.patch.get(name)
            if isinstance(value, tuple) and not all(type(item) in kinds for item in value):
                raise self._wrong("patch", f"`{name}` as a list of {kinds[0].__name__}", _LINES["patch"])
        shared = {name: self.replay[name] for name in _SHARED if name in self.replay}
        patch = {"layers": len(self.patch.get("levels", ())) or 7, **shared, **self.patch}
        for name, kind, settings in (("patch", Patch, patch), ("zoom", ZoomTool, self.zoom)):
            try:
                kind(**settings)
            except InputError as error:
                expectation = f"settings of `{kind.__name__}` ({error})"
                raise self._wrong(name, expectation, _LINES[name]) from error

    def matrix(self, changed: Iterable[str] = ()) -> dict[str, Any]:
        """Arguments of `default_matrix`; the caller will replace those named in ``changed``.

        A changed tau, threshold or number of layers holds for patches too, which then have no settings of their own.
        """
        own = {"patch": self.patch} if self.patch and _SHARED.isdisjoint(changed) else {}
        return {**self.replay, **own}

    @property
    def study_settings(self) -> dict[str, int]:
        """``null_draws`` and ``null_models`` of a study, and ``answers``, on how many problems, where not on all."""
        return {"null_draws": 3, "null_models": 3, **self.study}

    @property
    def bundled(self) -> bool:
        """Whether the models themselves ship with the package."""
        return self.file == PACKAGED and self.base.startswith(".")

    def source(self, role: str) -> str | Path:
        """Hub id or folder of ``base`` or ``rlvr``, or of whatever else `processor` or `chat_template` names."""
        value = getattr(self, role) if role in ROLES else role
        if not value.startswith("."):
            return value
        path = (self.file.parent / value).resolve()
        return unpacked_run(path.parent, self.seed) / path.name if self.seed and role in ROLES else path

    @property
    def seeds(self) -> list[int]:
        """Seeds of further training runs that ship: ``load_pair(name, seed=1)``."""
        return seeds_of((self.file.parent / self.base).resolve().parent) if self.bundled else []

    @property
    def control_sources(self) -> dict[str, str | Path]:
        """Where the models of `controls` are, by name."""
        return {name: self.source(value) for name, value in self.controls.items()}

    @property
    def changes(self) -> dict[int | str, Path]:
        """What `checkpoint` of `load_pair` may be: steps of RL and names of controls, with the weights' change.

        The last step is the RLVR model itself, and its file that of whole weights or of an adapter.
        """
        if not self.bundled:
            return {}
        home = Path(self.source("base")).parent
        steps = {int(path.stem): path for path in sorted((home / "deltas").glob("*.safetensors"))}
        if self.steps is not None:
            steps[self.steps] = next(Path(self.source("rlvr")).glob("*.safetensors"))
        return steps | {path.stem: path for path in sorted((home / "control").glob("*.safetensors"))}

    def id_of(self, role: str) -> str:
        """What provenance calls a model."""
        return f"{self.name}/{role}" if self.bundled else str(self.source(role))

    def asked(self, problem: Problem) -> Problem:
        """The problem as this pair is asked it: with the system prompt, unless it has one ("" for none), and the wording."""
        system = self.system if problem.system is None else problem.system
        ending = self.endings.get(problem.verifier, "")
        if self.template is None and not ending:
            return replace(problem, system=system)
        template = (self.template or "{question}").replace("{question}", wording(problem)) + ending
        return replace(problem, system=system, template=template)

    def to_yaml(self) -> str:
        """As it could stand in a file of your own."""
        table = {name: value for name, value in asdict(self).items() if name not in ("name", "file", "seed")}
        table |= {role: str(self.source(role)) for role in ROLES}
        table |= {"controls": {name: str(source) for name, source in self.control_sources.items()}}
        table |= {"chat_template": str(self.source(self.chat_template))} if self.chat_template else {}
        table |= {name: list(table[name]) for name in ("image_pixels", "frame_pixels") if table[name]}
        return yaml.safe_dump({self.name: table}, sort_keys=False, allow_unicode=True, width=110).rstrip()

    def in_words(self) -> dict[str, Any]:
        """What it adds to a problem's text, for provenance."""
        words = {
            "system": self.system,
            "template": self.template,
            "endings": dict(self.endings),
            "chat_template": template_in(self.source(self.chat_template)) if self.chat_template else None,
        }
        return {name: value for name, value in words.items() if value}

    def found(self, role: str) -> Path | None:
        """Where a model's weights lie on this machine: its folder, or in the cache of the hub; None if nowhere."""
        folder = Path(self.source(role)).expanduser()
        if not folder.is_dir() and not folder.is_absolute():
            from huggingface_hub import try_to_load_from_cache

            file = try_to_load_from_cache(str(folder), "config.json", revision=self.revision.get(role))
            folder = Path(file).parent if isinstance(file, str) else folder
        return folder if next(folder.glob("*.safetensors"), None) and not self.needs(role) else None

    def needs(self, role: str) -> str:
        """What is to be installed for a model that ships as an adapter; "" where it can be loaded, or is none."""
        from workbench.models.adapter_files import check_installed, find_adapter

        folder = Path(self.source(role)).expanduser()
        adapter = find_adapter(role, folder) if folder.is_dir() else None
        try:
            return "" if adapter is None else check_installed(role, adapter) or ""
        except InputError as error:
            return str(error).partition("pip install ")[2]


def check_budget(here: str, value: Any) -> tuple[int, int]:
    """A pixel budget as (least, most).

    Raises:
        InputError: starts with `here`.
    """
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in pair)
    if len(pair) != 2 or not whole or not 0 < pair[0] <= pair[1]:
        raise InputError(f"{here} is {value!r}; expected least and most pixels: [3136, 1003520]")
    return pair


NO_PRESET = PairPreset("none", base="none", rlvr="none")
"""What suits pairs that were not loaded by name: the defaults."""
