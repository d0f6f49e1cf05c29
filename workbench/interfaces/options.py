"""Options as values: what several commands share stands here once, with its checks, and a command hands on what they make.

Everything is looked at in the order of its price, and all of it before torch is imported: the values, the run folder, names and
files of the models, the problems.
"""

import time
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.errors import InputError, install, nearest
from workbench.interfaces.checks import check_device, check_processor_name
from workbench.interfaces.terminal import Progress

if TYPE_CHECKING:
    from workbench.models.pairs import ModelPair
    from workbench.models.presets import PairPreset

ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")
"""Attention kernels that transformers has by name; one with a slash is fetched from the hub."""


class Dtype(StrEnum):
    """Dtypes a pair can run in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT64 = "float64"


class Threshold(StrEnum):
    """What makes a cell low in entropy; `fixed` needs a level for each layer, which only Python can give."""

    MAX_FRACTION = "max_fraction"
    QUANTILE = "quantile"


class When(StrEnum):
    """Whether to do what takes long."""

    AUTO = "auto"
    YES = "yes"
    NO = "no"


class Agents(StrEnum):
    """What is done to an agent at every turn."""

    NONE = "none"
    TOKENS = "tokens"
    PATCH = "patch"


class Engines(StrEnum):
    """What can draw responses instead of the models in this process."""

    VLLM = "vllm"


class Placements(StrEnum):
    """How a forecast of memory places the models."""

    TOGETHER = "together"
    SEQUENTIAL = "sequential"


Base = Annotated[str | None, typer.Option(help="Base model: hub id or folder.")]
Rlvr = Annotated[str | None, typer.Option(help="RLVR model: hub id or folder.")]
PairDtype = Annotated[Dtype | None, typer.Option(help="The default is the pair's preset, else as stored.")]
NumberOfSamples = Annotated[int, typer.Option(help="Sampled responses per problem and intervention.", min=1)]


@dataclass(frozen=True)
class Models:
    """Which two models, and where they run."""

    pair: Annotated[
        str | None,
        typer.Option(help="A name of `workbench pairs list`, or FILE.yaml:NAME; the default is `shapes`."),
    ] = None
    base: Base = None
    rlvr: Rlvr = None
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, ..., auto (spread over all GPUs); the default is the GPU where there is one."
        ),
    ] = None
    dtype: PairDtype = None

    @property
    def name(self) -> str | None:
        """The preset's name; the bundled pair where no models are named."""
        return self.pair if self.pair or self.base or self.rlvr else "shapes"

    @property
    def preset(self) -> "PairPreset | None":
        """The preset of that name.

        Raises:
            InputError: there is none.
        """
        from workbench.models.preset_files import named_pair

        return None if self.name is None else named_pair(self.name, self.base, self.rlvr)

    def check(self) -> int | None:
        """Look at names, files and device; the models' depth, where their files say it.

        Raises:
            InputError: whatever is wrong with them, as far as it shows without loading them.
        """
        from workbench.models.checkpoint_files import depth_in_files

        check_device(self.device)
        preset = self.preset
        if preset is not None:
            sources = {"base": preset.source("base"), "rlvr": preset.source("rlvr")}
            return depth_in_files(sources, preset.revision)
        sources_here = {role: source for role, source in (("base", self.base), ("rlvr", self.rlvr)) if source}
        if len(sources_here) < 2:
            lacks = "rlvr" if "base" in sources_here else "base"
            raise InputError(
                f"`{lacks}` is missing beside {' '.join(sources_here.values())}; give both models, or the name of a pair "
                '(--pair shapes): load_pair(base="runs/base", rlvr="runs/rlvr")'
            )
        return depth_in_files(sources_here)

    def load(self, progress: Progress | None = None, **settings: Any) -> "ModelPair":
        """Both models, loaded."""
        from workbench.models.loading import load_pair

        tell = progress or (lambda what, done, total: None)
        tell("loading the models", 0, 1)
        dtype = self.dtype.value if self.dtype else None
        pair = load_pair(
            self.name, base=self.base, rlvr=self.rlvr, device=self.device, dtype=dtype, **settings
        )
        tell("loading the models", 1, 1)
        return pair


@dataclass(frozen=True)
class ModelsHere(Models):
    """The same, with the kernel that they run on."""

    attn_implementation: Annotated[
        str | None, typer.Option(help="sdpa, eager, flash_attention_2, or one of the hub's, owner/name.")
    ] = None
    processor: Annotated[
        str | None,
        typer.Option(
            help="Processor that both models read with: hub id or folder; the default is the base's."
        ),
    ] = None
    chat_template: Annotated[
        str | None,
        typer.Option(help="Chat template that both models read, where they differ: base, rlvr, or a file."),
    ] = None

    def check(self) -> int | None:
        """Also the kernel, the processor and the chat template."""
        from workbench.models.template_files import template_in

        if self.chat_template is not None:
            template_in(self.chat_template)
        check_processor_name(self.processor)
        kernel = self.attn_implementation
        if kernel is not None and "/" not in kernel and kernel not in ATTENTION:
            raise InputError(
                f"`attn_implementation` is {kernel!r}{nearest(kernel, ATTENTION)}; expected one of {', '.join(ATTENTION)}: "
                "attn_implementation='sdpa'"
            )
        if kernel == "flash_attention_2" and find_spec("flash_attn") is None:
            raise InputError(
                "`attn_implementation` 'flash_attention_2' needs a package that is missing: pip install flash-attn; or take "
                "another: attn_implementation='sdpa'"
            )
        return super().check()

    def load(self, progress: Progress | None = None, **settings: Any) -> "ModelPair":
        """Both models, loaded."""
        return super().load(progress, **self.reading, **settings)

    @property
    def reading(self) -> dict[str, str | None]:
        """Kernel, processor and chat template, as `load_pair` takes them."""
        names = ("attn_implementation", "processor", "chat_template")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class RunFolder:
    """Where a run goes."""

    out: Annotated[
        Path | None,
        typer.Option(help="Run folder to make; the default is runs/ with the command's name, date and time."),
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that lies there.")] = False

    def place(self, kind: str) -> Path:
        """The folder.

        Raises:
            InputError: no run can be made there.
        """
        from workbench.runs import check_output

        out = self.out or Path("runs") / time.strftime(f"{kind}-%Y%m%d-%H%M%S")
        check_output(out, overwrite=self.overwrite)
        return out


@dataclass(frozen=True)
class Drawing:
    """How a response is drawn."""

    max_new_tokens: Annotated[
        int | None,
        typer.Option(help="Where a response is cut off; the default is the pair's preset, else 1024.", min=1),
    ] = None
    engine: Annotated[
        Engines | None,
        typer.Option(help="What draws the responses: vllm (extra `vllm`); the default is this process."),
    ] = None

    def check(self) -> None:
        """Refuse an engine that is not installed.

        Raises:
            InputError: it isn't.
        """
        if self.engine is Engines.VLLM and find_spec("vllm") is None:
            raise InputError(
                f"`engine` is 'vllm', which is not installed: {install('vllm')}; or leave it out, and this process draws"
            )

    def keywords(self, pair: "ModelPair") -> dict[str, Any]:
        """As the library's functions take them; what is not given suits the pair."""
        longest = pair.sampling(max_new_tokens=self.max_new_tokens).max_new_tokens
        return {"max_new_tokens": longest, **({} if self.engine is None else {"engine": self.engine.value})}


@dataclass(frozen=True)
class Answers(Drawing):
    """How many responses, and how many at a time."""

    samples: NumberOfSamples = 16
    batch_size: Annotated[
        int | None, typer.Option(help="Prompts per forward; the default is the pair's preset, else 8.", min=1)
    ] = None

    def keywords(self, pair: "ModelPair") -> dict[str, Any]:
        """As the library's functions take them; what is not given suits the pair."""
        size = pair.sampling(batch_size=self.batch_size).batch_size
        return {"samples": self.samples, **super().keywords(pair), "batch_size": size}


@dataclass(frozen=True)
class LowCells:
    """Which cells replay and patches act on, and how strongly; what is not given is the preset's."""

    tau: Annotated[
        float | None, typer.Option(help="Low-entropy threshold of replay and patches.", min=0, max=1)
    ] = None
    alpha: Annotated[float | None, typer.Option(help="Step size of replay.", min=0)] = None
    layers: Annotated[int | None, typer.Option(help="Layers that replay and patches cover.", min=1)] = None
    threshold: Annotated[Threshold | None, typer.Option(help="What `tau` is a part of.")] = None

    @property
    def given(self) -> dict[str, Any]:
        """What was given."""
        threshold = {"threshold": self.threshold.value} if self.threshold else {}
        return {name: value for name, value in vars(self).items() if value is not None} | threshold

    def check(self, preset: "PairPreset | None", depth: int | None) -> None:
        """Refuse what no intervention can have.

        Args:
            preset: of the pair, if it has one.
            depth: decoder layers of the models; None: unknown, and then all is checked but that.

        Raises:
            InputError: a value out of range, or more layers than the models have.
        """
        from workbench.conditions import check_depth
        from workbench.interventions import default_matrix

        deep = depth or 10_000
        defaults = {} if preset is None else preset.matrix(self.given)
        for condition in default_matrix(deep, **defaults | self.given).values():
            check_depth(condition, deep)

    def matrix(
        self, pair: "ModelPair", engine: Engines | None = None, *, pictures: bool = True
    ) -> dict[str, Any]:
        """The default interventions with what the options change; a pair loaded by name has settings of its own.

        With an engine those that it can't draw are left out, and named on the terminal; without pictures those that need some.
        """
        matrix = pair.matrix(**self.given, **({} if pictures else {"pictures": False}))
        omitted = [name for name, condition in matrix.items() if engine and not condition.drawn_by_engine]
        if omitted:
            message = f"Left out, because vLLM takes tokens at layer 0 and no more: {'; '.join(omitted)}."
            typer.echo(message, err=True)
        return {name: condition for name, condition in matrix.items() if name not in omitted}


def wanted(name: str, when: When, preset: "PairPreset | None", against: str | None) -> bool:
    """Whether to do what takes long: where it is asked for, and by itself on a bundled pair.

    Raises:
        InputError: it is asked for, and ``against`` says why it can't be done.
    """
    if when is When.AUTO:
        return against is None and preset is not None and preset.bundled
    if when is When.YES and against:
        raise InputError(
            f"`{name}` is yes, but of `problems` {against}; add it to the rows, or do without: {name}='no'"
        )
    return when is When.YES


def tool_of(pair: "ModelPair", relative_to: str | None) -> Any:
    """The pair's zoom tool, with what the option changes."""
    from dataclasses import replace

    from workbench.experiments.agent import tool_of as own

    if relative_to is None:
        return own(pair)
    words = {"pixels": None, "seen": "seen"}
    return replace(own(pair), relative_to=words[relative_to] if relative_to in words else float(relative_to))
