"""The `shapes` problems: generated boards of coloured shapes, with questions, answers and short chains of thought.

A board has 4 x 4 cells of 28 x 28 pixels, one cell for each visual token of the bundled pair. Shapes vary in size,
rotation, offset, contrast and shade over a noisy tinted background, so no rendering ever repeats. Five question families:

* ``count``       How many red shapes are in the top half?
* ``sum``         How many red shapes and circles are there in total?
* ``difference``  What is the difference between the number of red shapes and the number of circles?
* ``compare``     Which color is most common in the bottom half?
* ``lookup``      What color is the shape in row b column 3?

Every question comes with two chains: ``careful`` names what it counts and counts it, ``hasty`` states an estimate.
A problem is a pure function of (split, seed, index): the splits never share a random stream.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from workbench.errors import InputError

BOARD, CELL = 4, 28
SIDE = BOARD * CELL
COLORS = {
    "red": (205, 45, 45),
    "green": (50, 150, 60),
    "blue": (50, 80, 205),
    "yellow": (215, 190, 40),
    "teal": (30, 150, 150),
}
SHAPES = ("circle", "rectangle", "triangle", "cross")
PLURALS = {"circle": "circles", "rectangle": "rectangles", "triangle": "triangles", "cross": "crosses"}
FAMILIES = ("count", "sum", "difference", "compare", "lookup")
ROWS = "abcd"
SPLITS = {"train": 0, "validation": 1, "test": 2}
REGIONS = {
    "": (slice(None), slice(None)),
    " in the top half": (slice(0, 2), slice(None)),
    " in the bottom half": (slice(2, 4), slice(None)),
}

Rng = np.random.Generator
Filter = tuple[int | None, int | None]  # (color, shape); None = any


@dataclass(frozen=True)
class Board:
    """What stands where: ``color`` and ``shape``, both (4, 4) int, -1 in an empty cell."""

    color: np.ndarray
    shape: np.ndarray

    def matches(self, which: Filter) -> np.ndarray:
        """(4, 4) bool: the cells that hold what the filter names."""
        color, shape = which
        found = self.color >= 0
        if color is not None:
            found = found & (self.color == color)
        if shape is not None:
            found = found & (self.shape == shape)
        return found


@dataclass(frozen=True)
class Question:
    """A question about a board, its answer, and two chains of thought that argue for it."""

    family: str
    text: str
    answer: str
    careful: str
    hasty: str

    def response(self, style: Literal["careful", "hasty"] = "careful") -> str:
        """The reference response: a chain in ``<think>``, the answer in ``<answer>``."""
        chain = self.careful if style == "careful" else self.hasty
        return f"<think> {chain}</think><answer> {self.answer}</answer>"


def sample_board(rng: Rng) -> Board:
    """A random board; how full it is and how uneven its colors are vary from board to board."""
    occupied = rng.random((BOARD, BOARD)) < rng.uniform(0.6, 1.0)
    color_odds = rng.dirichlet(np.full(len(COLORS), 0.8))
    shape_odds = rng.dirichlet(np.full(len(SHAPES), 0.8))
    color = rng.choice(len(COLORS), size=(BOARD, BOARD), p=color_odds)
    shape = rng.choice(len(SHAPES), size=(BOARD, BOARD), p=shape_odds)
    return Board(np.where(occupied, color, -1), np.where(occupied, shape, -1))


def _distance(shape: np.ndarray, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Signed distance (pixels, negative inside) of points (cells, 28, 28) to each cell's shape."""

    def box(half_width: np.ndarray, half_height: np.ndarray) -> np.ndarray:
        return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)

    circle = np.hypot(x, y) - radius
    rectangle = box(radius, 0.6 * radius)
    sides = [np.cos(a) * x + np.sin(a) * y for a in (np.pi / 2, np.pi * 7 / 6, np.pi * 11 / 6)]
    triangle = np.maximum.reduce(sides) - 0.58 * radius
    cross = np.minimum(box(radius, 0.32 * radius), box(0.32 * radius, radius))
    index = shape[:, None, None]
    return np.select([index == 0, index == 1, index == 2], [circle, rectangle, triangle], cross)


def render(board: Board, rng: Rng) -> np.ndarray:
    """(112, 112, 3) uint8 picture of the board."""
    background = rng.uniform(165, 250) + rng.uniform(-14, 14, 3)
    cells = np.broadcast_to(background.astype(np.float32), (BOARD, BOARD, CELL, CELL, 3)).copy()
    where = np.nonzero(board.color >= 0)
    n = len(where[0])
    if n:
        radius = rng.uniform(5.5, 11.0, (n, 1, 1))
        reach = CELL / 2 - 0.5 - radius
        angle = rng.uniform(0, 2 * np.pi, (n, 1, 1))
        grid = np.arange(CELL) - (CELL - 1) / 2
        dx = grid[None, None, :] - rng.uniform(-1, 1, (n, 1, 1)) * reach
        dy = grid[None, :, None] - rng.uniform(-1, 1, (n, 1, 1)) * reach
        x, y = np.cos(angle) * dx + np.sin(angle) * dy, -np.sin(angle) * dx + np.cos(angle) * dy
        ink = np.clip(0.5 - _distance(board.shape[where], x, y, radius), 0, 1) * rng.uniform(
            0.5, 1.0, (n, 1, 1)
        )
        paint = np.array(list(COLORS.values()))[board.color[where]] + rng.normal(0, 20, (n, 3))
        cells[where] += ink[..., None] * (paint[:, None, None, :] - cells[where])
    picture = cells.transpose(0, 2, 1, 3, 4).reshape(SIDE, SIDE, 3)
    picture += rng.uniform(2, 20) * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _phrase(which: Filter) -> str:
    color, shape = which
    noun = "shapes" if shape is None else PLURALS[SHAPES[shape]]
    return noun if color is None else f"{list(COLORS)[color]} {noun}"


def _count(board: Board, which: Filter, region: str) -> int:
    return int(board.matches(which)[REGIONS[region]].sum())


def _filter(rng: Rng) -> Filter:
    if rng.random() < 0.5:
        return int(rng.integers(len(COLORS))), None
    return None, int(rng.integers(len(SHAPES)))


def _region(rng: Rng) -> str:
    return str(rng.choice(list(REGIONS), p=(0.5, 0.25, 0.25)))


def _counting(board: Board, family: str, rng: Rng) -> Question:
    region = _region(rng)
    first = _filter(rng)
    a = _count(board, first, region)
    if family == "count":
        question = f"How many {_phrase(first)} are{region or ' there'}?"
        return Question(family, question, str(a), f"by number {_phrase(first)} {a}", f"about {a}")
    second = _filter(rng)
    while second == first:
        second = _filter(rng)
    b = _count(board, second, region)
    if family == "sum":
        question = f"How many {_phrase(first)} and {_phrase(second)} are there{region} in total?"
        answer, working = str(a + b), f"{a} + {b}"
    else:
        names = f"the number of {_phrase(first)} and the number of {_phrase(second)}"
        question = f"What is the difference between {names}{region}?"
        answer, working = str(abs(a - b)), f"{max(a, b)} - {min(a, b)}"
    careful = f"by number {_phrase(first)} {a} and {_phrase(second)} {b} so {working}"
    return Question(family, question, answer, careful, f"about {working}")


def _balanced(board: Board, family: str, rng: Rng) -> Question:
    """Of several candidates, one whose answer is uniform over the answers they offer: no constant guess pays."""
    candidates = [_counting(board, family, rng) for _ in range(8)]
    answer = rng.choice(sorted({c.answer for c in candidates}))
    return next(c for c in candidates if c.answer == answer)


def _compare(board: Board, rng: Rng) -> Question | None:
    names, noun = (list(COLORS), "color") if rng.random() < 0.6 else (list(SHAPES), "shape")
    values = board.color if noun == "color" else board.shape
    region = _region(rng)
    counts = np.array([(values[REGIONS[region]] == i).sum() for i in range(len(names))])
    best = int(counts.argmax())
    if (counts == counts[best]).sum() > 1:
        return None
    careful = f"by {noun} " + " ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
    question = f"Which {noun} is most common{region}?"
    return Question("compare", question, names[best], careful, f"about {names[best]}")


def _lookup(board: Board, rng: Rng) -> Question | None:
    cells = np.argwhere(board.color >= 0)
    if not len(cells):
        return None
    row, column = cells[rng.integers(len(cells))]
    color = list(COLORS)[board.color[row, column]]
    shape = SHAPES[board.shape[row, column]]
    place = f"row {ROWS[row]} column {column + 1}"
    if rng.random() < 0.5:
        return Question(
            "lookup",
            f"What color is the shape in {place}?",
            color,
            f"by cell {color} {shape}",
            f"about {color}",
        )
    return Question(
        "lookup", f"What shape is in {place}?", shape, f"by cell {color} {shape}", f"about {shape}"
    )


def read_aloud(board: Board, rng: Rng) -> Question:
    """What stands in one row, cell by cell: not among the problems, but what learning to find a cell starts from."""
    row = int(rng.integers(BOARD))
    colors, held = list(COLORS), zip(board.color[row], board.shape[row], strict=True)
    cells = " ".join(f"{colors[c]} {SHAPES[s]}" if c >= 0 else "none" for c, s in held)
    return Question("read", f"What is in row {ROWS[row]}?", cells, "by cell", "by cell")


def ask(board: Board, family: str, rng: Rng) -> Question | None:
    """A random question of the family, or None where the board allows none (a tie, an empty board)."""
    if family == "compare":
        return _compare(board, rng)
    if family == "lookup":
        return _lookup(board, rng)
    return _balanced(board, family, rng)


def draw(split: str, seed: int, index: int) -> tuple[Question, np.ndarray]:
    """Question and picture number `index` of a split; families take turns."""
    rng = np.random.default_rng([SPLITS[split], seed, index])
    while True:
        board = sample_board(rng)
        question = ask(board, FAMILIES[index % len(FAMILIES)], rng)
        if question is not None:
            return question, render(board, rng)


def problems(split: str = "test", limit: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """The first `limit` (default 300) problems of a split, as plain records.

    Raises:
        InputError: unknown split, or a limit below 1.
    """
    if split not in SPLITS:
        raise InputError(
            f"`split` is {split!r}; `shapes` has {', '.join(SPLITS)}: load_problems('shapes', split='test')"
        )
    limit = 300 if limit is None else limit
    if limit < 1:
        raise InputError(f"`limit` is {limit}; expected at least 1: load_problems('shapes', limit=64)")
    records = []
    for index in range(limit):
        question, picture = draw(split, seed, index)
        records.append(
            {
                "id": f"shapes/{split}/{seed}/{index}",
                "question": question.text,
                "answer": question.answer,
                "image": Image.fromarray(picture),
                "family": question.family,
                "chain": question.response("careful"),
            }
        )
    return records
