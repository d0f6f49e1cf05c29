"""Options that several commands share, and what becomes of them: a pair, problems, progress bars."""

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.errors import InputError, install


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


Pair = Annotated[
    str | None,
    typer.Option(help="A name of `workbench pairs list`, or FILE.yaml:NAME; the default is `shapes`."),
]
Base = Annotated[str | None, typer.Option(help="Base model: hub id or folder.")]
Rlvr = Annotated[str | None, typer.Option(help="RLVR model: hub id or folder.")]
Problems = Annotated[
    str,
    typer.Option(
        help="shapes, easy-vqa, a set of the paper (mathvista, ...), a .tsv or .jsonl file, a folder of images or movies, "
        "hf:owner/name."
    ),
]
Split = Annotated[str, typer.Option(help="Split of the problem set.")]
Limit = Annotated[int, typer.Option(help="How many problems.")]
Frames = Annotated[int, typer.Option(help="Of every video at most, evenly spaced in time.")]
Overwrite = Annotated[bool, typer.Option(help="Replace `out` if it exists.")]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1, ..., auto (spread over all GPUs); the default is the GPU where there is one."
    ),
]
PairDtype = Annotated[Dtype | None, typer.Option(help="The default is the pair's preset, else as stored.")]
Attention = Annotated[str | None, typer.Option(help="sdpa, eager, flash_attention_2.")]
BatchSize = Annotated[
    int | None, typer.Option(help="Prompts per forward; the default is the pair's preset, else 8.", min=1)
]
Samples = Annotated[int, typer.Option(help="Sampled responses per problem and intervention.")]
NewTokens = Annotated[
    int | None,
    typer.Option(help="Where a response is cut off; the default is the pair's preset, else 1024.", min=1),
]
Engine = Annotated[
    Engines | None,
    typer.Option(help="What draws the responses: vllm (extra `vllm`); the default is this process."),
]
RelativeTo = Annotated[
    str | None,
    typer.Option(
        help="What boxes count: pixels (of the image at full size), seen (pixels of the image as resized for the model), or "
        "what its whole width counts, such as 1000; the default is the pair's preset, else pixels."
    ),
]
Run = Annotated[
    Path | None, typer.Option(help="A finished study or ablation to take tables from; nothing is computed.")
]
Figures = Annotated[Path, typer.Option(help="Folder for what is made.")]
Cache = Annotated[Path, typer.Option(help="Folder for finished parts, which all analyses share.")]
Seed = Annotated[int, typer.Option(help="Of problems, draws, samples and bootstrap.")]
Tau = Annotated[float | None, typer.Option(help="Low-entropy threshold of replay and patches.")]
Alpha = Annotated[float | None, typer.Option(help="Step size of replay.")]
Layers = Annotated[int | None, typer.Option(help="Layers that replay and patches cover.")]
HowLow = Annotated[Threshold | None, typer.Option(help="What `tau` is a part of.")]


def problems_of(source: str, split: str, limit: int, seed: int, frames: int = 16) -> list[Any]:
    """The problems that the options name."""
    from workbench.problems.problem import load_problems

    found = load_problems(source, split=split, limit=limit, seed=seed, frames=frames)
    if found.read:
        typer.echo(f"{source}: {found.told}", err=True)
    return list(found)


def pair_of(
    name: str | None,
    base: str | None,
    rlvr: str | None,
    device: str | None,
    dtype: Dtype | None,
    attn_implementation: str | None,
) -> Any:
    """The pair that the options name; none of them: the bundled one."""
    from workbench.models.pairs import load_pair

    return load_pair(
        name if name or base or rlvr else "shapes",
        base=base,
        rlvr=rlvr,
        device=device,
        dtype=dtype.value if dtype else None,
        attn_implementation=attn_implementation,
    )


def matrix_of(
    pair: Any,
    tau: float | None,
    alpha: float | None,
    layers: int | None,
    threshold: Threshold | None,
    engine: Engines | None = None,
) -> dict[str, Any]:
    """The default interventions with what the options change; a pair loaded by name has settings of its own.

    With an engine those that it can't draw are left out, and named on the terminal.
    """
    from workbench.conditions import default_matrix
    from workbench.models.pairs import matrix_settings
    from workbench.studies.claims import like_with_like

    options = {"tau": tau, "alpha": alpha, "layers": layers, "threshold": threshold and threshold.value}
    given = {name: value for name, value in options.items() if value is not None}
    matrix = like_with_like(default_matrix(pair.depth, **matrix_settings(pair, given) | given))
    left = [
        name for name, condition in matrix.items() if engine is not None and not condition.drawn_by_engine
    ]
    if left:
        typer.echo(
            f"Left out, because vLLM takes tokens at layer 0 and no more: {'; '.join(left)}.", err=True
        )
    return {name: condition for name, condition in matrix.items() if name not in left}


def tool_of(pair: Any, relative_to: str | None) -> Any:
    """The pair's zoom tool, with what the option changes."""
    from dataclasses import replace

    from workbench.experiments.agent import tool_of as own

    if relative_to is None:
        return own(pair)
    try:
        counted = (
            {"pixels": None, "seen": "seen"}[relative_to] if relative_to.isalpha() else float(relative_to)
        )
    except (KeyError, ValueError):
        raise InputError(
            f"`--relative-to` is {relative_to!r}; expected pixels, seen or a number: --relative-to 1000"
        ) from None
    return replace(own(pair), relative_to=counted)


def size_of(text: str) -> tuple[int, int] | None:
    """Width and height that an option gives as 1000x800; None for 0x0."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise InputError(f"`--image` is {text!r}; expected width and height in pixels: --image 1000x800")
    width, height = int(found[1]), int(found[2])
    return (width, height) if width and height else None


def extra(module: str) -> Any:
    """A module that needs the extra `train`; InputError without it."""
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; training needs {install('train')}") from error


def quiet() -> None:
    """Keep the progress bars of the libraries below out of the way of ours; they look once, when imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")


@contextmanager
def refusals() -> Iterator[None]:
    """Bad input ends a command with what is wrong with it, and with status 2."""
    try:
        yield
    except InputError as error:
        typer.echo(f"workbench: {error}", err=True)
        sys.exit(2)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings are a line each, without the place in the code that a person at the terminal can do nothing with."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def interruptible(
    said: str = "\nInterrupted. What was finished is kept: the same command goes on from there.",
) -> Iterator[None]:
    """Ctrl-C ends a long job with a sentence instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(said, err=True)
        raise typer.Exit(130) from None


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars with an estimate of the time left, one per stage."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with interruptible(), Progress(*columns) as bars:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield update
