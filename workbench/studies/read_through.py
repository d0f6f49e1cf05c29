"""The part of a study that another reading than the logit lens asks for: how faithful it is, and what a `LatentLens` says.

A `LatentLens` has no distribution: beside the logit lens stand the nearest text states, what changed of them, and the controls'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.analysis.neighbour_shift import NeighbourShift, neighbour_shift
from workbench.digests import digest_of
from workbench.models.pairs import ModelPair
from workbench.problems.problem import Problem
from workbench.studies.parts import FIDELITY, NEAREST, Measures, Progress
from workbench.tracing.fidelity import neighbour_fidelity, reading_fidelity
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.neighbours import Neighbours, read_neighbours
from workbench.tracing.readings import LogitLens

SHARD = 32
"""Problems read between two saves, and at most those on which the fidelity of a reading is measured."""


@dataclass(frozen=True, eq=False)
class ReadThrough:
    """What was found."""

    name: str
    """Of the reading."""
    fidelity: pd.DataFrame
    """Of `reading_fidelity`, else of `neighbour_fidelity`."""
    found: Neighbours | None = None
    """Of a `LatentLens`."""
    shift: NeighbourShift | None = None

    def tables(self) -> dict[str, pd.DataFrame]:
        """By the names that a run folder gives them."""
        if self.shift is None:
            return {"reading_fidelity": self.fidelity}
        return {"neighbour_fidelity": self.fidelity} | self.shift.tables()

    def figures(self) -> dict[str, Any]:
        """By name."""
        from workbench.views import reading_figures as draw

        if self.shift is None:
            return {"reading_fidelity": draw.fidelity_by_reading(self.fidelity)}
        figures = draw.neighbour_figures(self.shift.table, self.shift.reading)
        return figures | {"neighbour_fidelity": draw.neighbour_fidelity(self.fidelity)}


def read_through(
    pair: ModelPair,
    problems: Sequence[Problem],
    traced: LensTrace,
    controls: Mapping[str, ModelPair],
    how: Measures,
    work: Path,
    tell: Progress,
) -> ReadThrough | None:
    """What the reading adds; None for the logit lens. Of a `LatentLens` the controls are read, too.

    Neighbours are kept shard by shard: what an interrupted run has read is not read again.
    """
    settings: dict[str, Any] = {"resamples": how.resamples, "seed": how.seed}
    if how.reading is not None:
        settings |= {"batch_size": how.batch_size, "progress": partial(tell, FIDELITY)}
        fidelity = reading_fidelity(pair, problems[:SHARD], [LogitLens(), how.reading], **settings)
        return ReadThrough(how.reading.name, fidelity)
    if how.states is None:
        return None
    found = _read(pair, problems, how, work / "near", partial(tell, NEAREST))
    others = {
        name: _read(
            control, problems, how, work / f"near-{digest_of(name)}", partial(tell, f"{NEAREST}: {name}")
        )
        for name, control in controls.items()
    }
    shift = neighbour_shift(found, traced, bins=how.bins, controls=others, **settings)
    return ReadThrough(how.states.name, neighbour_fidelity(found, **settings), found, shift)


def _read(pair: ModelPair, problems: Sequence[Problem], how: Measures, home: Path, tell: Any) -> Neighbours:
    lens = how.states
    assert lens is not None
    settings: dict[str, Any] = {"null_draws": how.null_draws, "seed": how.seed, "batch_size": how.batch_size}
    parts, total = [], len(problems)
    for start in range(0, total, SHARD):
        folder = home / f"{start:06d}"
        prompts = [pair.encode(problem) for problem in problems[start : start + SHARD]]
        if (folder / "neighbours.json").exists():
            parts.append(Neighbours.load(folder, prompts, lens))
        else:
            note = partial(_note, tell, start, total)
            parts.append(
                read_neighbours(pair, prompts, lens, k=min(how.top_k, len(lens)), progress=note, **settings)
            )
            parts[-1].save(folder)
        tell(min(start + SHARD, total), total)
    return Neighbours.join(parts)


def _note(tell: Any, first: int, total: int, done: int, _: int) -> None:
    tell(first + done, total)
