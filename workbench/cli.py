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


@app.command()
def study(
    pair: Annotated[str | None, typer.Option(help="A bundled pair; the default is `shapes`.")] = None,
    base: Annotated[str | None, typer.Option(help="Base model: hub id or folder.")] = None,
    rlvr: Annotated[str | None, typer.Option(help="RLVR model: hub id or folder.")] = None,
    problems: Annotated[
        str, typer.Option(help="shapes, easy-vqa, a .tsv or .jsonl file, a folder of images, hf:owner/name.")
    ] = "shapes",
    split: Annotated[str, typer.Option(help="Split of the problem set.")] = "test",
    limit: Annotated[int, typer.Option(help="How many problems.")] = 64,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make; the default is runs/study-<date>-<time>.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace `out` if it exists.")] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the default is the GPU where there is one.")
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="The default is as stored.")] = None,
    attn_implementation: Annotated[str | None, typer.Option(help="sdpa, eager, flash_attention_2.")] = None,
    seed: Annotated[int, typer.Option(help="Of problems, null draws and bootstrap.")] = 0,
    top_k: Annotated[int, typer.Option(help="Top predictions kept per layer and position.")] = 10,
    null_draws: Annotated[int, typer.Option(help="Matched-noise draws per layer and position.")] = 3,
    bins: Annotated[int, typer.Option(help="Strata of base entropy.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Prompts per forward.")] = 8,
) -> None:
    """Trace both models, measure what changed, and write a report you can open. No arguments: the bundled pair."""
    import time

    _quiet()
    from workbench.pairs import load_pair
    from workbench.problems import load_problems
    from workbench.study import check_output
    from workbench.study import study as run

    out = out or Path("runs") / time.strftime("study-%Y%m%d-%H%M%S")
    check_output(out, overwrite=overwrite)
    listed = load_problems(problems, split=split, limit=limit, seed=seed)
    name = pair if pair or base or rlvr else "shapes"
    with _progress() as progress:
        result = run(
            load_pair(
                name,
                base=base,
                rlvr=rlvr,
                device=device,
                dtype=dtype.value if dtype else None,
                attn_implementation=attn_implementation,
            ),
            listed,
            out,
            seed=seed,
            top_k=top_k,
            null_draws=null_draws,
            bins=bins,
            batch_size=batch_size,
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
