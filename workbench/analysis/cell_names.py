"""Whether readings name what lies in the cells of a picture.

1. A visual token's cell shows something that words name (`problems.shapes_contents`); cells that show nothing are left out.
2. A reading says k words there: the lens' top predictions, or the tokens at the nearest states. It is *right* if one of them
   names what the cell shows.
3. *Chance*: how often the same words would name what another such cell shows, over all cells of all problems. A reading that
   says "red" everywhere is as often right as there is red; `beyond` is right minus chance.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.analysis.verdicts import Claim
from workbench.conditions import Model
from workbench.errors import InputError
from workbench.estimates import (
    Array,
    Interval,
    Settings,
    paired_difference,
)
from workbench.estimates import mean as mean_of
from workbench.problems.shapes_contents import Words
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.neighbours import Neighbours
from workbench.tracing.same_prompts import Prompts, check_same_models, check_same_prompts, weights_in

Contents = Mapping[str, Sequence[Sequence[Words]]]
_CALL = "cell_names([trace], {problem.id: contents(problem.id) for problem in problems})"


def cell_names(
    read: Mapping[str, LensTrace | Neighbours],
    contents: Contents,
    *,
    k: int = 5,
    **settings: Unpack[Settings],
) -> pd.DataFrame:
    """How many cells each reading names rightly, by layer, in both models, and what RLVR changes of it.

    Columns: reading, model ("base", "rlvr", or "change": RLVR minus base), layer, words (how many it may say: 1 and ``k``),
    cells, problems; right, chance and beyond, shares of the cells, each with its interval clustered by problem.

    Args:
        read: by name, traces or `read_neighbours` of problems with one picture each, at the same cells.
        contents: by problem, row by row the words that name what a cell shows.
        k: words at most; no more than were traced.
        **settings: of the intervals.

    Raises:
        InputError: nothing read, a problem whose contents are not known, a picture of another size, or fewer words than ``k``.
    """
    if not read:
        raise InputError(f"`read` is empty; expected traces or neighbours by name: {_CALL}")
    rows = []
    for name, one in read.items():
        places, problem, shown, known = _cells(one, contents)
        models: tuple[Model, ...] = ("base", "rlvr")
        beside: dict[int, list[tuple[Array, Array]]] = {}
        for model in models:
            said = _said(one, model, places, known, k)
            for words in sorted({1, k}):
                right, chance = _rightly(np.any(said[:, :, :words], axis=2), shown)
                beside.setdefault(words, []).append((right, chance))
                rows += _measured(name, model, words, one.layers, right, chance, problem, settings)
        for words, ((right, chance), (other, theirs)) in beside.items():
            change = (right, other, chance, theirs)
            rows += _changed(name, words, one.layers, change, problem, settings)
    return pd.DataFrame(rows)


def naming_claims(
    read: Mapping[str, LensTrace | Neighbours],
    contents: Contents,
    *,
    plain: str = "logit lens",
    **settings: Unpack[Settings],
) -> list[Claim]:
    """Whether readings name more cells rightly than the plain one does, and whether RLVR's model has them name more.

    By the first word, right minus chance, the mean over all layers but the last, in points; paired by cell.

    Args:
        read: as for `cell_names`, of the same cells and layers.
        contents: as there.
        plain: the name of the reading that the others are held against.
        **settings: of the intervals.

    Raises:
        InputError: as `cell_names`, or ``plain`` was not read.
    """
    if plain not in read:
        raise InputError(
            f"`plain` is {plain!r}, which is not among {[*read]}: naming_claims(read, contents, plain={next(iter(read), 'x')!r})"
        )
    _check_same(read, plain)
    beyond: dict[str, dict[Model, Array]] = {}
    problem: NDArray[np.str_] = np.array([])
    models: tuple[Model, ...] = ("base", "rlvr")
    for name, one in read.items():
        places, problem, shown, known = _cells(one, contents)
        for model in models:
            right, chance = _rightly(_said(one, model, places, known, 1).any(2), shown)
            beyond.setdefault(name, {})[model] = (right - chance)[:-1].mean(0)
    where = "cells named rightly by the first word, beyond chance, mean of all layers but the last, points"
    problems = len(set(problem.tolist()))

    def claim(what: str, measured: str, before: Array, after: Array) -> Claim:
        gain = paired_difference(before, after, problem, **settings).times(100)
        return Claim(what, "section 3, entropy", f"{measured}, {where}", gain, problems, kind="visual")

    claims = [
        claim(
            f"the {name} names more than the {plain}",
            f"{name} − {plain}, base",
            beyond[plain]["base"],
            of["base"],
        )
        for name, of in beyond.items()
        if name != plain
    ]
    return claims + [
        claim(f"RLVR has the {name} name more", f"{name}, rlvr − base", of["base"], of["rlvr"])
        for name, of in beyond.items()
    ]


def _check_same(read: Mapping[str, LensTrace | Neighbours], plain: str) -> None:
    """Refuse readings of other cells or models than the plain one's, which would be paired with them."""
    first = read[plain]
    for name, one in read.items():
        whose, call = f"`read`: {name!r}", "naming_claims(read, contents)"
        check_same_prompts(whose, _of(one), _of(first), call)
        check_same_models(whose, _weights(one), _weights(first), call)
        if one.layers != first.layers:
            raise InputError(f"{whose} has layers {[*one.layers]}, expected {[*first.layers]}: {call}")


def _of(one: LensTrace | Neighbours) -> Prompts:
    return one if isinstance(one, LensTrace) else one.prompts


def _weights(one: LensTrace | Neighbours) -> Mapping[str, str]:
    return weights_in(one) if isinstance(one, LensTrace) else one.weights


def _cells(
    one: LensTrace | Neighbours, contents: Contents
) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.bool_], list[str]]:
    """Positions of cells that show something, their problem, what they show (cells, words), and these words."""
    if isinstance(one, Neighbours):
        grid = np.concatenate([prompt.grid.numpy() for prompt in one.prompts])
        names, sizes = one.problem, {p.problem_id: p.grids for p in one.prompts}
    else:
        grid, names = one.grid.numpy(), [one.prompts[i].problem_id for i in one.prompt.tolist()]
        sizes = {info.problem_id: info.grids for info in one.prompts}
    known = sorted(
        {word for name in sizes for row in contents.get(name, ()) for cell in row for word in cell}
    )
    for name, grids in sizes.items():
        board = contents.get(name)
        if board is None or len(grids) != 1 or grids[0][1:] != (len(board), len(board[0])):
            size = None if board is None else (len(board), len(board[0]))
            raise InputError(
                f"`contents` of {name!r} is a board of {size}, its views are {grids}; expected one picture, a visual token a "
                f"cell: {_CALL}"
            )
    places, shown = [], []
    for place in (grid[:, 1] >= 0).nonzero()[0].tolist():
        words = contents[names[place]][grid[place, 1]][grid[place, 2]]
        if words:
            places.append(place)
            shown.append([word in words for word in known])
    if not places:
        raise InputError(f"`contents` show nothing at any cell; expected words for some: {_CALL}")
    return np.array(places), np.array([names[p] for p in places]), np.array(shown), known


def _said(
    one: LensTrace | Neighbours, model: Model, places: NDArray[np.int64], known: Sequence[str], k: int
) -> NDArray[np.bool_]:
    """Which of the known words a reading says: (layers, cells, k, words)."""
    ids = getattr(one, f"ids_{model}" if isinstance(one, Neighbours) else f"top_ids_{model}").numpy()[
        :, places
    ]
    if ids.shape[2] < k:
        raise InputError(
            f"`k` is {k}, but {ids.shape[2]} words were read at each cell; read more, or: k={ids.shape[2]}"
        )
    used, index = np.unique(ids[:, :, :k], return_inverse=True)
    spell = one.lens.tokens.__getitem__ if isinstance(one, Neighbours) else one.vocabulary.__getitem__
    words = [spell(int(i)).strip().lower() for i in used]
    meant = np.array([[word == name for name in known] for word in words])
    return meant[index.reshape(ids[:, :, :k].shape)]


def _rightly(said: Any, shown: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Whether (layers, cells) what is said names what is shown, and how often it names what other cells show."""
    right = (said & shown).any(2).astype(float)
    chance = np.stack([(layer.astype(np.float32) @ shown.T.astype(np.float32) > 0).mean(1) for layer in said])
    return right, chance.astype(float)


def _measured(
    name: str,
    model: str,
    words: int,
    layers: Sequence[int],
    right: Array,
    chance: Array,
    problem: NDArray[np.str_],
    settings: Settings,
) -> list[dict[str, Any]]:
    rows = []
    for row, layer in enumerate(layers):
        parts = {"right": right[row], "chance": chance[row]}
        intervals = {part: mean_of(values, problem, **settings) for part, values in parts.items()}
        intervals["beyond"] = paired_difference(chance[row], right[row], problem, **settings)
        rows.append(_row(name, model, words, layer, problem) | _columns(intervals))
    return rows


def _changed(
    name: str,
    words: int,
    layers: Sequence[int],
    change: tuple[Array, Array, Array, Array],
    problem: NDArray[np.str_],
    settings: Settings,
) -> list[dict[str, Any]]:
    """RLVR minus base, cell by cell."""
    rows = []
    for row, layer in enumerate(layers):
        base, rlvr, chance, other = (part[row] for part in change)
        parts = {"right": (base, rlvr), "chance": (chance, other), "beyond": (base - chance, rlvr - other)}
        intervals = {part: paired_difference(*both, problem, **settings) for part, both in parts.items()}
        rows.append(_row(name, "change", words, layer, problem) | _columns(intervals))
    return rows


def _row(name: str, model: str, words: int, layer: int, problem: NDArray[np.str_]) -> dict[str, Any]:
    about = {"reading": name, "model": model, "layer": layer, "words": words}
    return about | {"cells": len(problem), "problems": len(set(problem.tolist()))}


def _columns(intervals: Mapping[str, Interval]) -> dict[str, float]:
    return {name: value for part, one in intervals.items() for name, value in one.columns(part).items()}
