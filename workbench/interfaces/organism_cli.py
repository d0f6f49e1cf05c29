"""`workbench organism`: the bundled pairs made anew, and their card's table."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.interfaces.checks import check_folder, needs
from workbench.interfaces.flags import Commands
from workbench.interfaces.terminal import interruptible, progress_bars, quiet
from workbench.organism.recipe import RECIPE, WEIGHTS, check_trained, read_recipe

organism = Commands(help="Train and evaluate the bundled pair `shapes`.")


@organism.command("train")
def organism_train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and both models.")] = Path("organism-run"),
    recipe: Annotated[Path | None, typer.Option(help="A changed copy of the recipe.")] = None,
) -> None:
    """Make base and RLVR model from nothing; the same command goes on where it stopped."""
    settings = read_recipe(recipe or RECIPE)
    check_folder("out", out)
    needs("train", "trl", "accelerate", "datasets", "easy_vqa")

    from workbench.organism.training import train

    with interruptible():
        train(out, settings)


@organism.command("evaluate")
def organism_evaluate(
    folder: Annotated[
        Path | None, typer.Option(help="A trained pair; the default is the bundled one.")
    ] = None,
    problems: Annotated[int, typer.Option(help="Problems of the held-out split.", min=0)] = 300,
    samples: Annotated[int, typer.Option(help="Samples per problem at temperature 1.", min=1)] = 64,
    videos: Annotated[int, typer.Option(help="Problems of `shapes-video`; 0 leaves them out.", min=0)] = 150,
    scenes: Annotated[
        int, typer.Option(help="Problems of `shapes-agent`, with the zoom tool; 0 leaves them out.", min=0)
    ] = 100,
    easy_vqa: Annotated[
        int, typer.Option(help="Questions of easy-VQA's test split; 0 leaves it out.", min=0)
    ] = 1000,
    split: Annotated[str, typer.Option(help="Split of `shapes`.")] = "test",
    seed: Annotated[int, typer.Option(help="Of problems and samples.", min=0)] = 0,
) -> None:
    """Reprint the model card's table: accuracies of both models, with intervals."""
    quiet()
    from workbench.problems.shapes import check_range

    check_trained(folder or WEIGHTS)
    check_range("shapes", split, None)
    if easy_vqa:
        needs("train", "easy_vqa")

    from workbench.organism import evaluation

    with progress_bars() as progress:
        table = evaluation.evaluate(
            folder or WEIGHTS,
            problems=problems,
            samples=samples,
            videos=videos,
            scenes=scenes,
            easy_vqa=easy_vqa,
            split=split,
            seed=seed,
            progress=progress,
        )
    typer.echo(evaluation.as_markdown(table))
