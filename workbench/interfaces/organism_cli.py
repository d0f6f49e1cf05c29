"""`workbench organism`: the bundled pairs made anew, and their cards' tables."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.errors import InputError
from workbench.interfaces.checks import check_folder, needs
from workbench.interfaces.flags import Commands
from workbench.interfaces.terminal import interruptible, progress_bars, quiet

organism = Commands(help="Train and evaluate the bundled pairs: `shapes`, `smol` and `smolvl`.")


class Trained(StrEnum):
    """The pairs that have a recipe."""

    SHAPES = "shapes"
    SMOL = "smol"
    SMOLVL = "smolvl"


PairName = Annotated[Trained, typer.Option("--pair", help="Which of the bundled pairs.")]


@organism.command("train")
def organism_train(
    pair: PairName = Trained.SHAPES,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and both models.")] = Path("organism-run"),
    recipe: Annotated[Path | None, typer.Option(help="A changed copy of the recipe.")] = None,
) -> None:
    """Make base and RLVR model, and the controls; the same command goes on where it stopped."""
    from workbench.organism.recipes import RECIPES, read_recipe

    settings = read_recipe(recipe, RECIPES[pair])
    check_folder("out", out)
    needs("train", "trl", "accelerate", "datasets", "easy_vqa" if pair == Trained.SHAPES else "peft")

    if pair != Trained.SHAPES:
        from workbench.organism.adapters_training import train
    else:
        from workbench.organism.training import train

    with interruptible():
        train(out, settings)


@dataclass(frozen=True)
class Sets:
    """How many problems of which set."""

    problems: Annotated[
        int | None,
        typer.Option(
            help="Problems of the held-out split; by default 300, of `sums` and `cards` 180.", min=0
        ),
    ] = None
    videos: Annotated[int, typer.Option(help="Problems of `shapes-video`; 0 leaves them out.", min=0)] = 150
    scenes: Annotated[
        int, typer.Option(help="Problems of `shapes-agent`, with the zoom tool; 0 leaves them out.", min=0)
    ] = 100
    easy_vqa: Annotated[
        int, typer.Option(help="Questions of easy-VQA's test split; 0 leaves it out.", min=0)
    ] = 1000


@organism.command("evaluate")
def organism_evaluate(
    sets: Sets,
    pair: PairName = Trained.SHAPES,
    folder: Annotated[
        Path | None, typer.Option(help="A trained pair; the default is the bundled one.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples per problem at temperature 1.", min=1)] = 64,
    split: Annotated[str, typer.Option(help="Split of the problems.")] = "test",
    seed: Annotated[int, typer.Option(help="Of problems and samples.", min=0)] = 0,
) -> None:
    """Reprint the model card's table: accuracies of both models, with intervals."""
    quiet()
    from workbench.problems.shapes import check_range

    check_range("shapes", split, None)
    settings = {"samples": samples, "split": split, "seed": seed}
    if pair != Trained.SHAPES:
        typer.echo(_adapters(pair, folder, sets.problems, settings))
        return
    if sets.easy_vqa:
        needs("train", "easy_vqa")
    from workbench.organism.recipes import WEIGHTS, check_trained

    check_trained(folder or WEIGHTS)

    from workbench.organism import evaluation

    source = vars(sets) | {"problems": 300 if sets.problems is None else sets.problems}
    with progress_bars() as progress:
        table = evaluation.evaluate(folder or WEIGHTS, **source, **settings, progress=progress)
    typer.echo(evaluation.as_markdown(table))


def _adapters(pair: Trained, folder: Path | None, problems: int | None, settings: dict[str, Any]) -> str:
    """The table of a pair of adapters."""
    from workbench.models.preset_files import named_pair
    from workbench.organism.recipes import RECIPES, check_trained, read_recipe

    packaged = RECIPES[pair]
    asked = read_recipe(None, packaged)["problems"]
    if problems == 0:
        raise InputError(f"`problems` is 0; expected at least 1 of `{asked}`: problems=180")
    if folder is None:
        named_pair(pair)  # says what is to be installed
    else:
        check_trained(folder, pair)
        recipe = read_recipe(folder / packaged.name, packaged)
        settings |= {"system": recipe["system"], "longest": recipe["grpo"]["max_completion_length"]}

    from workbench.organism import adapters_evaluation

    with progress_bars() as progress:
        models = adapters_evaluation.models_of(folder, pair)
        table = adapters_evaluation.evaluate(
            models, asked=asked, problems=problems or 180, progress=progress, **settings
        )
    return adapters_evaluation.as_markdown(table)
