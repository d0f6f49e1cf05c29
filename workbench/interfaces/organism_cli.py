"""`workbench organism`: the bundled pairs made anew, and their card's table."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.interfaces.options import extra, interruptible, progress_bars, quiet
from workbench.organism.recipe import RECIPE, read_recipe

organism = typer.Typer(no_args_is_help=True, help="Train and evaluate the bundled pair `shapes`.")


@organism.command("train")
def organism_train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and both models.")] = Path("organism-run"),
    recipe: Annotated[Path | None, typer.Option(help="A changed copy of the recipe.")] = None,
) -> None:
    """Make base and RLVR model from nothing; the same command goes on where it stopped."""
    chosen = read_recipe(recipe or RECIPE)
    training = extra("workbench.organism.training")
    with interruptible():
        training.train(out, chosen)


@organism.command("evaluate")
def organism_evaluate(
    folder: Annotated[
        Path | None, typer.Option(help="A trained pair; the default is the bundled one.")
    ] = None,
    problems: Annotated[int, typer.Option(help="Problems of the held-out split.")] = 300,
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
    from workbench.organism import evaluation

    with progress_bars() as progress:
        table = evaluation.evaluate(
            folder or evaluation.WEIGHTS,
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
