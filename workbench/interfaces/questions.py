"""Which problems: the options that several commands share."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from workbench.interfaces.columns import Columns, column_mapping
from workbench.interfaces.terminal import Progress

if TYPE_CHECKING:
    from workbench.models.presets import PairPreset
    from workbench.problems.problem import Problem

MANY = 1000
"""Problems from which on reading them is worth a bar."""
SHAPES = "shapes"


@dataclass(frozen=True)
class Questions:
    """Which problems."""

    problems: Annotated[
        str | None,
        typer.Option(
            help="shapes, sums, cards, easy-vqa, a set by name (mathvista, math-500, ...), a .tsv or .jsonl file, a folder of "
            "images or movies, hf:owner/name; the default is the pair's own, else shapes."
        ),
    ] = None
    split: Annotated[str, typer.Option(help="Split of the problem set.")] = "test"
    limit: Annotated[int, typer.Option(help="How many problems.", min=1)] = 64
    seed: Annotated[int, typer.Option(help="Of problems, draws, samples and bootstrap.", min=0)] = 0
    columns: Columns = None

    @property
    def mapping(self) -> Any:
        """Columns as `load_problems` takes them."""
        return column_mapping(self.columns)

    def of(self, preset: "PairPreset | None") -> Self:
        """The same, of the set that suits the pair where none is named."""
        return replace(self, problems=self.problems or (preset.problems if preset else SHAPES))

    @property
    def described(self) -> dict[str, Any]:
        """For the run's specification."""
        return {name: value for name, value in vars(self).items() if name != "seed"}

    def load(self, progress: Progress | None = None, *, limit: int | None = None) -> "list[Problem]":
        """The problems, or only so many of them.

        Raises:
            InputError: what `load_problems` refuses.
        """
        from workbench.problems.problem import load_problems

        count = self.limit if limit is None else limit
        listed = load_problems(
            self.problems or SHAPES,
            split=self.split,
            limit=count,
            seed=self.seed,
            columns=column_mapping(self.columns),
            progress=(lambda done, total: progress("reading the problems", done, total))
            if progress and count >= MANY
            else None,
            **self._more(),
        )
        if listed.read:
            typer.echo(f"{self.problems}: {listed.told}", err=True)
        return listed

    def _more(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Clips(Questions):
    """The same, where videos may be among them."""

    frames: Annotated[int, typer.Option(help="Of every video at most, evenly spaced in time.", min=1)] = 16

    def _more(self) -> dict[str, Any]:
        return {"frames": self.frames}
