"""`workbench organism`: the bundled pairs made anew, and their card's table."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from workbench.interfaces.options import extra, interruptible, progress_bars, quiet
from workbench.organism.recipes import read_recipe

organism = typer.Typer(
    no_args_is_help=True, help="Train and evaluate the bundled pairs, `shapes` and `smol`."
)


class Trained(StrEnum):
    """The pairs that have a recipe."""

    SHAPES = "shapes"
    SMOL = "smol"


PairName = Annotated[Trained, typer.Option("--pair", help="Which of the bundled pairs.")]


@organism.command("train")
def organism_train(
    pair: PairName = Trained.SHAPES,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and both models.")] = Path("organism-run"),
    recipe: Annotated[Path | None, typer.Option(help="A changed copy of the recipe.")] = None,
) -> None:
    """Make base and RLVR model, and the controls; the same command goes on where it stopped."""
    training = extra(f"workbench.organism.{'adapters_training' if pair == Trained.SMOL else 'training'}")
    with interruptible():
        training.train(out, read_recipe(recipe, training.RECIPE))


@organism.command("evaluate")
def organism_evaluate(
    pair: PairName = Trained.SHAPES,
    folder: Annotated[
        Path | None, typer.Option(help="A trained pair; the default is the bundled one.")
    ] = None,
    problems: Annotated[
        int | None, typer.Option(help="Problems of the held-out split; by default 300, of `sums` 180.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples per problem at temperature 1.")] = 64,
    videos: Annotated[int, typer.Option(help="Problems of `shapes-video`; 0 leaves them out.")] = 150,
    scenes: Annotated[
        int, typer.Option(help="Problems of `shapes-agent`, with the zoom tool; 0 leaves them out.")
    ] = 100,
    easy_vqa: Annotated[
        int, typer.Option(help="Questions of easy-VQA's test split; 0 leaves it out.")
    ] = 1000,
    split: Annotated[str, typer.Option(help="Split of `shapes`.")] = "test",
    seed: Annotated[int, typer.Option(help="Of problems and samples.")] = 0,
) -> None:
    """Reprint the model card's table: accuracies of both models, with intervals."""
    quiet()
    from workbench.organism import adapters_evaluation, evaluation

    if pair == Trained.SMOL:
        models, packaged = adapters_evaluation.models_of(folder), adapters_evaluation.RECIPE
        system = None if folder is None else read_recipe(folder / packaged.name, packaged)["system"]
        with progress_bars() as progress:
            settings = {"samples": samples, "split": split, "seed": seed, "system": system}
            table = adapters_evaluation.evaluate(
                models, problems=problems or 180, progress=progress, **settings
            )
        typer.echo(adapters_evaluation.as_markdown(table))
        return
    with progress_bars() as progress:
        table = evaluation.evaluate(
            folder or evaluation.WEIGHTS,
            problems=problems or 300,
            samples=samples,
            videos=videos,
            scenes=scenes,
            easy_vqa=easy_vqa,
            split=split,
            seed=seed,
            progress=progress,
        )
    typer.echo(evaluation.as_markdown(table))
