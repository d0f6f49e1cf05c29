"""The `shapes-video` problems: short videos of coloured shapes, for the bundled pair.

Four moments of two equal frames each, because Qwen-VL reads two frames as one. A moment is a board of 2 x 2 cells of
28 x 28 pixels, so that a video costs the 16 visual tokens of a picture. Three question families:

* ``total``   How many red shapes are shown over the whole video?
* ``appear``  When do circles first appear? (first, second, third or fourth)
* ``move``    How many times does the teal shape move?

Tones, careful and hasty responses and streams of random numbers are those of `workbench.problems.shapes`; hasty ones look at
the first moment (``move``: the first two) only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from workbench.problems.shapes import (
    COLORS,
    SHAPES,
    SPLITS,
    Board,
    Question,
    Rng,
    balanced,
    check_range,
    count_rows,
    phrase,
    render,
    sample_tint,
    worded,
)

MOMENTS = ("first", "second", "third", "fourth")
SIDE = 2  # cells
FRAMES_A_MOMENT = 2
WORDINGS = {
    "total": (
        "How many {0} are shown over the whole video?",
        "Count the {0} over the whole video.",
        "Any idea how many {0} over the whole video?",
    ),
    "appear": (
        "When do {0} first appear?",
        "Name the moment when {0} first appear.",
        "Any idea when {0} first appear?",
    ),
    "move": (
        "How many times does the {0} move?",
        "Count the moves of the {0}.",
        "Any idea how many times the {0} moves?",
    ),
}
FAMILIES = tuple(WORDINGS)
_STREAM = 2  # boards draw from streams without such a number


@dataclass(frozen=True)
class Clip:
    """What stands where over time: ``color`` and ``shape``, both (4, 2, 2) int, -1 in an empty cell."""

    color: np.ndarray
    shape: np.ndarray


def sample_clip(rng: Rng) -> Clip:
    """Moments that have nothing to do with each other."""
    size = (len(MOMENTS), SIDE, SIDE)
    occupied = rng.random(size) < rng.uniform(0.4, 1.0)
    color = rng.choice(len(COLORS), size=size, p=rng.dirichlet(np.full(len(COLORS), 0.8)))
    shape = rng.choice(len(SHAPES), size=size, p=rng.dirichlet(np.full(len(SHAPES), 0.8)))
    return Clip(np.where(occupied, color, -1), np.where(occupied, shape, -1))


def render_clip(clip: Clip, rng: Rng) -> np.ndarray:
    """(4, 56, 56, 3) uint8: a picture of each moment, all on the same paper."""
    tint = sample_tint(rng)
    boards = (Board(c, s) for c, s in zip(clip.color, clip.shape, strict=True))
    return np.stack([render(board, rng, tint=tint) for board in boards])


def frames(pictures: np.ndarray) -> tuple[Image.Image, ...]:
    """The frames of a video, from the pictures of its moments."""
    return tuple(Image.fromarray(picture) for picture in pictures for _ in range(FRAMES_A_MOMENT))


def ask(family: str, rng: Rng) -> tuple[Question, Clip]:
    """A random question of the family and the clip that it is about; answers are balanced."""
    question, clip, _ = _ask(family, rng)
    return question, clip


def draw(split: str, seed: int, index: int) -> tuple[Question, np.ndarray]:
    """Question and pictures (4, 56, 56, 3) number `index` of a split; families take turns."""
    question, _, pictures, _ = _draw(split, seed, index)
    return question, pictures


def problems(split: str = "test", limit: int | None = None, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The first `limit` (default 300) problems of a split, as plain records, each made when it is asked for.

    Raises:
        InputError: unknown split, or a limit below 1.
    """
    return (_record(split, seed, index) for index in range(check_range("shapes-video", split, limit)))


def _record(split: str, seed: int, index: int) -> dict[str, Any]:
    question, wrong, pictures, clip = _draw(split, seed, index)
    return {
        "id": f"shapes-video/{split}/{seed}/{index}",
        "question": question.text,
        "answer": question.answer,
        "video": frames(pictures),
        "family": question.family,
        "tone": question.tone,
        "chain": question.response("careful"),
        "wrong": wrong,
        "occupied": (clip.color >= 0).tolist(),
    }


def _draw(split: str, seed: int, index: int) -> tuple[Question, str, np.ndarray, Clip]:
    rng = np.random.default_rng([SPLITS[split], seed, index, _STREAM])
    question, clip, wrong = _ask(FAMILIES[index % len(FAMILIES)], rng)
    return question, wrong, render_clip(clip, rng), clip


def _ask(family: str, rng: Rng) -> tuple[Question, Clip, str]:
    """The question, its clip, and a response that misreads as little of it as makes it wrong."""
    draw = _moving if family == "move" else partial(_watching, family)
    return balanced(lambda: draw(rng), lambda drawing: drawing[0].answer, rng)


def _response(chain: str, answer: str) -> str:
    return Question("", "", answer, chain, chain, answer).response()


def _watching(family: str, rng: Rng) -> tuple[Question, Clip, str]:
    """``total`` and ``appear``: every cell of every moment is read, until enough is known."""
    while True:
        clip = sample_clip(rng)
        by_color = rng.random() < 0.5
        names = tuple(COLORS) if by_color else SHAPES
        words = np.array(["none", *names])
        grid = words[(clip.color if by_color else clip.shape) + 1].reshape(len(MOMENTS), -1)
        name = str(rng.choice(names))
        if name in grid:
            break
    text, tone = worded(WORDINGS[family], phrase("color" if by_color else "shape", name), rng=rng)
    if family == "total":
        chain, answer, counts = count_rows([name], MOMENTS, grid.tolist(), "count")
        guess = str(counts[0])
        misread = _another_cell(name, grid, words, rng)
        wrong, other, _ = count_rows([name], MOMENTS, misread.tolist(), "count")
    else:
        chain, answer = _appearance(name, grid)
        guess = MOMENTS[0]
        wrong, other = _appearance(name, _another_moment(name, grid, rng))
    question = Question(family, text, answer, chain, f"about {guess}", guess, tone)
    return question, clip, _response(wrong, other)


def _another_cell(name: str, grid: np.ndarray, words: np.ndarray, rng: Rng) -> np.ndarray:
    """The clip with one cell misread so that a count changes."""
    misread = grid.copy()
    place = rng.integers(grid.size)
    misread.flat[place] = rng.choice(words[words != name]) if grid.flat[place] == name else name
    return misread


def _another_moment(name: str, grid: np.ndarray, rng: Rng) -> np.ndarray:
    """The clip with as few cells misread as make the name appear first at another moment."""
    first = int((grid == name).any(1).argmax())
    moment = int(rng.choice([m for m in range(len(MOMENTS)) if m != first]))
    misread = grid.copy()
    misread[:moment][misread[:moment] == name] = "none"
    if name not in misread[moment]:
        misread[moment, rng.integers(grid.shape[1])] = name
    return misread


def _appearance(name: str, grid: np.ndarray) -> tuple[str, str]:
    chain = [name]
    for moment, cells in zip(MOMENTS, grid.tolist(), strict=True):
        chain += [moment, *cells]
        if name in cells:
            return " ".join([*chain, "so", moment]), moment
    raise AssertionError("what is asked about appears")


def _moving(rng: Rng) -> tuple[Question, Clip, str]:
    """``move``: one thing goes from cell to cell among others that come and go as they please."""
    by_color = rng.random() < 0.5
    names = tuple(COLORS) if by_color else SHAPES
    which = int(rng.integers(len(names)))
    clip = sample_clip(rng)
    # Nothing else looks like it; half of the rest is cleared away, so that there is room to go.
    hidden = ((clip.color if by_color else clip.shape) == which) | (rng.random(clip.color.shape) < 0.5)
    color, shape = (
        np.where(hidden, -1, codes).reshape(len(MOMENTS), -1) for codes in (clip.color, clip.shape)
    )
    places = [int(rng.integers(SIDE**2))]
    moves = int(rng.integers(len(MOMENTS)))
    moving = set(rng.choice(len(MOMENTS) - 1, size=moves, replace=False).tolist())
    for step in range(len(MOMENTS) - 1):
        elsewhere = [place for place in range(SIDE**2) if place != places[-1]]
        places.append(int(rng.choice(elsewhere)) if step in moving else places[-1])
    other = int(rng.integers(len(SHAPES if by_color else COLORS)))
    look = (which, other) if by_color else (other, which)
    for moment, place in enumerate(places):
        color[moment, place], shape[moment, place] = look
    chain, answer = _moved(names[which], places)
    text, tone = worded(WORDINGS["move"], f"{names[which]} shape" if by_color else names[which], rng=rng)
    guess = str(int(places[0] != places[1]))
    question = Question("move", text, answer, chain, f"about {guess}", guess, tone)
    size = (len(MOMENTS), SIDE, SIDE)
    while True:
        misread = [*places]
        misread[int(rng.integers(len(places)))] = int(rng.integers(SIDE**2))
        if (story := _moved(names[which], misread))[1] != answer:
            return question, Clip(color.reshape(size), shape.reshape(size)), _response(*story)


def _moved(name: str, places: Sequence[int]) -> tuple[str, str]:
    chain, count = [name], 0
    for number, (moment, place) in enumerate(zip(MOMENTS, places, strict=True)):
        row, column = divmod(place, SIDE)
        chain += [moment, "ab"[row], str(column + 1)]
        if number and place != places[number - 1]:
            count += 1
            chain += ["moved", str(count)]
    return " ".join([*chain, "so", str(count)]), str(count)
