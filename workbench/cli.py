"""The commands. Each one parses, calls the library, and says where to look; heavy imports wait until a command runs."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What RLVR changes inside a large multimodal model, seen through the logit lens.",
)
organism = typer.Typer(no_args_is_help=True, help="Train and evaluate the bundled pair `shapes`.")
app.add_typer(organism, name="organism")


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


# Options that several commands share.
Pair = Annotated[str | None, typer.Option(help="A bundled pair; the default is `shapes`.")]
Base = Annotated[str | None, typer.Option(help="Base model: hub id or folder.")]
Rlvr = Annotated[str | None, typer.Option(help="RLVR model: hub id or folder.")]
Problems = Annotated[
    str, typer.Option(help="shapes, easy-vqa, a .tsv or .jsonl file, a folder of images, hf:owner/name.")
]
Split = Annotated[str, typer.Option(help="Split of the problem set.")]
Limit = Annotated[int, typer.Option(help="How many problems.")]
Overwrite = Annotated[bool, typer.Option(help="Replace `out` if it exists.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the default is the GPU where there is one.")
]
PairDtype = Annotated[Dtype | None, typer.Option(help="The default is as stored.")]
Attention = Annotated[str | None, typer.Option(help="sdpa, eager, flash_attention_2.")]
BatchSize = Annotated[
    int | None, typer.Option(help="Prompts per forward; the default is 8, or 32 for a bundled pair.")
]
Samples = Annotated[int, typer.Option(help="Sampled responses per problem and intervention.")]
NewTokens = Annotated[
    int | None,
    typer.Option(help="Where a response is cut off; the default is 1024, less for a bundled pair."),
]
Tau = Annotated[float | None, typer.Option(help="Low-entropy threshold of replay and patches.")]
Alpha = Annotated[float | None, typer.Option(help="Step size of replay.")]
Layers = Annotated[int | None, typer.Option(help="Layers that replay and patches cover.")]
HowLow = Annotated[Threshold | None, typer.Option(help="What `tau` is a part of.")]


@app.command()
def study(
    pair: Pair = None,
    base: Base = None,
    rlvr: Rlvr = None,
    problems: Problems = "shapes",
    split: Split = "test",
    limit: Limit = 64,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make; the default is runs/study-<date>-<time>.")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    dtype: PairDtype = None,
    attn_implementation: Attention = None,
    seed: Annotated[int, typer.Option(help="Of problems, null draws, samples and bootstrap.")] = 0,
    top_k: Annotated[int, typer.Option(help="Top predictions kept per layer and position.")] = 10,
    null_draws: Annotated[int, typer.Option(help="Matched-noise draws per layer and position.")] = 3,
    bins: Annotated[int, typer.Option(help="Strata of base entropy.")] = 5,
    batch_size: BatchSize = None,
    ablate: Annotated[
        When,
        typer.Option(help="Also let both models answer, with every intervention; auto: for a bundled pair."),
    ] = When.AUTO,
    samples: Samples = 16,
    max_new_tokens: NewTokens = None,
    tau: Tau = None,
    alpha: Alpha = None,
    layers: Layers = None,
    threshold: HowLow = None,
) -> None:
    """Trace both models, measure what changed, and write a report you can open. No arguments: the bundled pair."""
    _quiet()
    from workbench.folders import check_output
    from workbench.pairs import BUNDLED
    from workbench.presets import batch_of, longest_answer
    from workbench.study import study as run

    out = out or _run_name("study")
    check_output(out, overwrite=overwrite)
    listed = _problems(problems, split, limit, seed)
    with _progress() as progress:
        loaded = _pair(pair, base, rlvr, device, dtype, attn_implementation)
        asked = ablate is When.YES or (ablate is When.AUTO and loaded.name in BUNDLED)
        result = run(
            loaded,
            listed,
            out,
            seed=seed,
            top_k=top_k,
            null_draws=null_draws,
            bins=bins,
            batch_size=batch_size or batch_of(loaded),
            interventions=_matrix(loaded, tau, alpha, layers, threshold) if asked else None,
            samples=samples,
            max_new_tokens=max_new_tokens or longest_answer(loaded),
            notes={"source": {"problems": problems, "split": split, "limit": limit}},
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo(f"\n{result.shift.verdict}\n")
    if result.hint:
        typer.echo(result.hint)
    typer.echo(
        f"Report   {result.report}\nTables   {result.folder / 'tables'}\nFigures  {result.folder / 'figures'}"
    )


@app.command()
def ablate(
    pair: Pair = None,
    base: Base = None,
    rlvr: Rlvr = None,
    problems: Problems = "shapes",
    split: Split = "test",
    limit: Limit = 64,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make; the default is runs/ablate-<date>-<time>.")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    dtype: PairDtype = None,
    attn_implementation: Attention = None,
    seed: Annotated[int, typer.Option(help="Of problems, samples, random selections and bootstrap.")] = 0,
    batch_size: BatchSize = None,
    samples: Samples = 16,
    temperature: Annotated[float, typer.Option(help="Of the samples.")] = 1.0,
    max_new_tokens: NewTokens = None,
    tau: Tau = None,
    alpha: Alpha = None,
    layers: Layers = None,
    threshold: HowLow = None,
) -> None:
    """Compare interventions: replay and patches at low and at high entropy, and every control, against both models."""
    _quiet()
    from rich.console import Console
    from rich.table import Table

    from workbench.experiments import ablate as run
    from workbench.figures import write
    from workbench.folders import check_output, made_with, run_folder, write_json, write_tables
    from workbench.outcome_figures import ablation_figures
    from workbench.outcomes import accuracy_rows
    from workbench.presets import batch_of, longest_answer

    out = out or _run_name("ablate")
    check_output(out, overwrite=overwrite)
    listed = _problems(problems, split, limit, seed)
    with _progress() as progress:
        loaded = _pair(pair, base, rlvr, device, dtype, attn_implementation)
        matrix = _matrix(loaded, tau, alpha, layers, threshold)
        settings: dict[str, Any] = {
            "samples": samples,
            "temperature": temperature,
            "seed": seed,
            "max_new_tokens": max_new_tokens or longest_answer(loaded),
            "batch_size": batch_size or batch_of(loaded),
        }
        spec = {"pair": dict(loaded.provenance), "settings": settings, "interventions": matrix}
        spec |= {"source": {"problems": problems, "split": split, "limit": limit}}
        with run_folder(out, "ablate", spec, overwrite=overwrite) as work:
            found = run(loaded, listed, matrix, **settings, keep=work / "shards", progress=progress)
            built = work / "run"
            write_tables(built / "tables", found.tables(), large=("responses",))
            hint = write(ablation_figures(found.summary, found.drift), built / "figures")
            write_json(built / "spec.json", {**spec, **dict(found.settings), "made_with": made_with()})
    shown = Table(
        "intervention", "greedy", "- RLVR", "Pass@1", "- RLVR", "McNemar p", title="percent, 95% intervals"
    )
    for row in accuracy_rows(found.summary):
        shown.add_row(row["name"], *row["cells"])
    Console().print(shown)
    if hint:
        typer.echo(hint)
    typer.echo(f"Tables   {out / 'tables'}\nFigures  {out / 'figures'}")


@app.command()
def conform(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Parity folders: base/, rlvr/, case.json, inputs and expected tensors."),
    ],
    dtype: Annotated[Dtype, typer.Option(help="Dtype to run in.")] = Dtype.FLOAT64,
    device: Annotated[str, typer.Option(help="Device to run on.")] = "cpu",
    tolerance: Annotated[float, typer.Option(help="Largest absolute deviation allowed.")] = 1e-6,
) -> None:
    """Check this machine's numerics against recorded reference outputs."""
    from workbench.conform import conform as check

    report = check(folders, dtype=dtype.value, device=device, tolerance=tolerance)
    typer.echo(str(report))
    raise typer.Exit(report.exit_code)


@app.command()
def doctor() -> None:
    """Show what is installed and works here, what would fail, and how to mend it."""
    from rich.console import Console

    from workbench.doctor import doctor as examine

    report = examine()
    Console().print(report)
    raise typer.Exit(report.exit_code)


@organism.command("train")
def organism_train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and both models.")] = Path("organism-run"),
    recipe: Annotated[Path | None, typer.Option(help="A changed copy of the recipe.")] = None,
) -> None:
    """Make base and RLVR model from nothing; the same command goes on where it stopped."""
    training = _extra("workbench.organism.training")
    with _interruptible():
        training.train(out, training.read_recipe(recipe or training.RECIPE))


@organism.command("evaluate")
def organism_evaluate(
    folder: Annotated[
        Path | None, typer.Option(help="A trained pair; the default is the bundled one.")
    ] = None,
    problems: Annotated[int, typer.Option(help="Problems of the held-out split.")] = 300,
    samples: Annotated[int, typer.Option(help="Samples per problem at temperature 1.")] = 64,
    easy_vqa: Annotated[
        int, typer.Option(help="Questions of easy-VQA's test split; 0 leaves it out.")
    ] = 1000,
    split: Annotated[str, typer.Option(help="Split of `shapes`.")] = "test",
    seed: Annotated[int, typer.Option(help="Of problems and samples.")] = 0,
) -> None:
    """Reprint the model card's table: greedy, Pass@K and easy-VQA accuracy of both models, with intervals."""
    _quiet()
    from workbench.organism import evaluation

    with _progress() as progress:
        table = evaluation.evaluate(
            folder or evaluation.WEIGHTS,
            problems=problems,
            samples=samples,
            easy_vqa=easy_vqa,
            split=split,
            seed=seed,
            progress=progress,
        )
    typer.echo(evaluation.as_markdown(table))


def main() -> None:
    """Entry point of the `workbench` command: bad input exits with 2, Ctrl-C with 130, neither with a traceback."""
    try:
        app()
    except InputError as error:
        typer.echo(f"workbench: {error}", err=True)
        sys.exit(2)


def _run_name(kind: str) -> Path:
    import time

    return Path("runs") / time.strftime(f"{kind}-%Y%m%d-%H%M%S")


def _problems(source: str, split: str, limit: int, seed: int) -> list[Any]:
    from workbench.problems import load_problems

    return list(load_problems(source, split=split, limit=limit, seed=seed))


def _pair(
    name: str | None,
    base: str | None,
    rlvr: str | None,
    device: str | None,
    dtype: Dtype | None,
    attn_implementation: str | None,
) -> Any:
    """The pair that the options name; none of them: the bundled one."""
    from workbench.pairs import load_pair

    return load_pair(
        name if name or base or rlvr else "shapes",
        base=base,
        rlvr=rlvr,
        device=device,
        dtype=dtype.value if dtype else None,
        attn_implementation=attn_implementation,
    )


def _matrix(
    pair: Any, tau: float | None, alpha: float | None, layers: int | None, threshold: Threshold | None
) -> dict[str, Any]:
    """The default interventions with what the options change; the bundled pair has settings of its own."""
    from workbench.presets import default_matrix, settings_for

    given = {"tau": tau, "alpha": alpha, "layers": layers, "threshold": threshold and threshold.value}
    return default_matrix(
        pair.depth, **settings_for(pair) | {k: v for k, v in given.items() if v is not None}
    )


def _extra(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f'{error.name} is not installed; training needs `pip install "replay-workbench[train]"`'
        ) from error


def _quiet() -> None:
    """Keep the progress bars of the libraries below out of the way of ours; they look once, when imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends a long job with a sentence instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. What was finished is kept: the same command goes on from there.", err=True)
        raise typer.Exit(130) from None


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
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
    with _interruptible(), Progress(*columns) as bars:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield update


if __name__ == "__main__":
    main()
