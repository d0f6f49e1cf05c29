"""The `shapes` problems: generated boards of coloured shapes, with questions, answers and short chains of thought.

A board has 4 x 4 cells of 28 x 28 pixels, one cell for each visual token of the bundled pair. Shapes vary in size,
rotation, offset, contrast and shade over a noisy tinted background, so no rendering ever repeats. Six question
families:

* ``count``       How many red shapes are there in the top half?
* ``sum``         How many circles and crosses are there in total?
* ``difference``  What is the difference in number between red shapes and teal shapes?
* ``compare``     Which color is most common in the bottom half?
* ``lookup``      What color is in row b column 3?
* ``tally``       How many shapes of each color are there in the top half? (answered in the order of ``COLORS``)

Every question can be put in three tones and answered in two ways. A ``careful`` response reads the board and is
right; a ``hasty`` one goes by the first row (or the first shape) it meets, which is right only by luck. Which tone
meets which kind of response, and how often, is the business of whoever trains on them (``organism/recipe.yaml``).
A problem is a pure function of (split, seed, index): the splits never share a random stream. Beside the reference
response every problem has a wrong one, which misreads one thing and is careful with all the rest (``mistaken``).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

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
TONES = ("formal", "plain", "casual")
# {0} and {1}: what is asked about; {where}: the region. In the order of TONES.
WORDINGS = {
    "count": (
        "How many {0} are there{where}?",
        "Count the {0}{where}.",
        "Any idea how many {0}{where}?",
    ),
    "sum": (
        "How many {0} and {1} are there in total{where}?",
        "Add up the {0} and the {1}{where}.",
        "Any idea how many {0} and {1} in all{where}?",
    ),
    "difference": (
        "What is the difference in number between {0} and {1}{where}?",
        "Subtract the fewer of {0} and {1} from the more{where}.",
        "Any idea how far apart {0} and {1} are in number{where}?",
    ),
    "compare": (
        "Which {0} is most common{where}?",
        "Name the most common {0}{where}.",
        "Any idea what {0} is most common{where}?",
    ),
    "lookup": (
        "What {0} is in{where}?",
        "Name the {0} in{where}.",
        "Any idea what {0} is in{where}?",
    ),
    "tally": (
        "How many shapes of each {0} are there{where}?",
        "Count the shapes of each {0}{where}.",
        "Any idea how many shapes of each {0}{where}?",
    ),
}
FAMILIES = tuple(WORDINGS)
ROWS = "abcd"
SPLITS = {"train": 0, "validation": 1, "test": 2}
REGIONS = {
    "": slice(0, 4),  # rows
    " in the top half": slice(0, 2),
    " in the bottom half": slice(2, 4),
}

Rng = np.random.Generator
T = TypeVar("T")


@dataclass(frozen=True)
class Board:
    """What stands where: ``color`` and ``shape``, both (rows, columns) int, -1 in an empty cell."""

    color: np.ndarray
    shape: np.ndarray


@dataclass(frozen=True)
class Question:
    """A question about a board, its answer, and two ways of answering it.

    ``careful`` is a chain of thought that leads to the answer, ``hasty`` a short cut that leads to ``guess``.
    """

    family: str
    text: str
    answer: str
    careful: str
    hasty: str
    guess: str
    tone: str = TONES[0]

    def response(self, style: Literal["careful", "hasty"] = "careful") -> str:
        """A response: a chain in ``<think>``, what it leads to in ``<answer>``. The careful one is the reference."""
        chain, answer = (self.careful, self.answer) if style == "careful" else (self.hasty, self.guess)
        return f"<think> {chain}</think><answer> {answer}</answer>"


def sample_board(rng: Rng) -> Board:
    """A random board; how full it is and how uneven its colors are vary from board to board."""
    occupied = rng.random((BOARD, BOARD)) < rng.uniform(0.6, 1.0)
    color_odds = rng.dirichlet(np.full(len(COLORS), 0.8))
    shape_odds = rng.dirichlet(np.full(len(SHAPES), 0.8))
    color = rng.choice(len(COLORS), size=(BOARD, BOARD), p=color_odds)
    shape = rng.choice(len(SHAPES), size=(BOARD, BOARD), p=shape_odds)
    return Board(np.where(occupied, color, -1), np.where(occupied, shape, -1))


def sample_tint(rng: Rng) -> np.ndarray:
    """(3,) a light color of paper."""
    return rng.uniform(165, 250) + rng.uniform(-14, 14, 3)


def _box(x: np.ndarray, y: np.ndarray, half_width: np.ndarray, half_height: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _distance(shape: int, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Signed distance (pixels, negative inside) of points (cells, size, size) to a shape around the origin."""
    if SHAPES[shape] == "circle":
        return np.hypot(x, y) - radius
    if SHAPES[shape] == "rectangle":
        return _box(x, y, radius, 0.6 * radius)
    if SHAPES[shape] == "triangle":
        sides = [np.cos(a) * x + np.sin(a) * y for a in (np.pi / 2, np.pi * 7 / 6, np.pi * 11 / 6)]
        return np.maximum.reduce(sides) - 0.58 * radius
    return np.minimum(_box(x, y, radius, 0.32 * radius), _box(x, y, 0.32 * radius, radius))


def render(board: Board, rng: Rng, size: int = CELL, tint: np.ndarray | None = None) -> np.ndarray:
    """(rows x size, columns x size, 3) uint8 picture of a board; ``tint`` (3,) is the color of its paper."""
    rows, columns = board.color.shape
    paper = sample_tint(rng) if tint is None else tint
    cells = np.broadcast_to(paper.astype(np.float32), (rows, columns, size, size, 3)).copy()
    where = np.nonzero(board.color >= 0)
    n = len(where[0])
    if n:
        radius = size / CELL * rng.uniform(5.5, 11.0, (n, 1, 1))
        reach = size / 2 - 0.5 - radius
        angle = rng.uniform(0, 2 * np.pi, (n, 1, 1))
        grid = np.arange(size) - (size - 1) / 2
        dx = grid[None, None, :] - rng.uniform(-1, 1, (n, 1, 1)) * reach
        dy = grid[None, :, None] - rng.uniform(-1, 1, (n, 1, 1)) * reach
        x, y = np.cos(angle) * dx + np.sin(angle) * dy, -np.sin(angle) * dx + np.cos(angle) * dy
        distance = np.empty_like(x)
        for shape in range(len(SHAPES)):
            like = board.shape[where] == shape
            distance[like] = _distance(shape, x[like], y[like], radius[like])
        ink = np.clip(0.5 - distance, 0, 1) * rng.uniform(0.5, 1.0, (n, 1, 1))
        paint = np.array(list(COLORS.values()))[board.color[where]] + rng.normal(0, 20, (n, 3))
        cells[where] += ink[..., None] * (paint[:, None, None, :] - cells[where])
    picture = cells.transpose(0, 2, 1, 3, 4).reshape(rows * size, columns * size, 3)
    picture += rng.uniform(2, 20) * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def worded(wordings: Sequence[str], *asked: str, where: str = "", rng: Rng) -> tuple[str, str]:
    """A question in a random tone, and the tone; ``wordings`` are in the order of ``TONES``."""
    tone = int(rng.integers(len(TONES)))
    return wordings[tone].format(*asked, where=where), TONES[tone]


def phrase(noun: str, name: str) -> str:
    """All that has the color or shape ``name``: "red shapes", "circles"."""
    return f"{name} shapes" if noun == "color" else PLURALS[name]


def _region(rng: Rng) -> str:
    return str(rng.choice(list(REGIONS), p=(0.5, 0.25, 0.25)))


def _kind(board: Board, odds: float, rng: Rng) -> tuple[str, tuple[str, ...], np.ndarray]:
    """Color or shape: the word, its values, and which of them each cell holds."""
    if rng.random() < odds:
        return "color", tuple(COLORS), board.color
    return "shape", SHAPES, board.shape


def _counting(board: Board, family: str, rng: Rng) -> Question:
    noun, names, grid = _kind(board, 0.5, rng)
    region = _region(rng)
    rows = REGIONS[region]
    picks = rng.choice(len(names), size=1 if family == "count" else 2, replace=False)
    cells_read = [["none" if cell < 0 else names[cell] for cell in cells] for cells in grid[rows]]
    chain, answer, first = count_rows([names[i] for i in picks], ROWS[rows], cells_read, family)
    short_cut, guess = _worked_out(family, first)
    text, tone = worded(WORDINGS[family], *(phrase(noun, names[i]) for i in picks), where=region, rng=rng)
    return Question(family, text, answer, chain, f"about {short_cut}", guess, tone)


def count_rows(
    asked: Sequence[str], rows: Sequence[str], read: Sequence[Sequence[str]], family: str
) -> tuple[str, str, list[int]]:
    """The chain that reads ``rows`` and counts what is asked about, its answer, and the counts after one row."""
    chain, counts, first = [*asked], [0] * len(asked), [0] * len(asked)
    for number, (row, cells) in enumerate(zip(rows, read, strict=True)):
        chain.append(row)
        for cell in cells:
            chain.append(cell)
            if cell in asked:
                counts[asked.index(cell)] += 1
                chain.append(str(counts[asked.index(cell)]))
        first = counts.copy() if number == 0 else first
    working, answer = _worked_out(family, counts)
    return " ".join([*chain, "so", working]), answer, first


def _worked_out(family: str, counts: list[int]) -> tuple[str, str]:
    """How the counts make the answer, and the answer."""
    if family == "count":
        return str(counts[0]), str(counts[0])
    if family == "sum":
        return f"{counts[0]} + {counts[1]}", str(sum(counts))
    return f"{max(counts)} - {min(counts)}", str(max(counts) - min(counts))


def balanced(draw: Callable[[], T], answer: Callable[[T], str], rng: Rng) -> T:
    """Of eight draws, one whose answer is uniform over the answers that they offer: no constant guess pays."""
    candidates = [draw() for _ in range(8)]
    target = rng.choice(sorted({answer(candidate) for candidate in candidates}))
    return next(candidate for candidate in candidates if answer(candidate) == target)


def _compare(board: Board, rng: Rng) -> Question | None:
    noun, names, grid = _kind(board, 0.6, rng)
    region = _region(rng)
    inside = grid[REGIONS[region]]
    counts = np.array([(inside == i).sum() for i in range(len(names))])
    best = int(counts.argmax())
    if (counts == counts[best]).sum() > 1:
        return None
    careful = " ".join([noun, *(f"{name} {count}" for name, count in zip(names, counts, strict=True))])
    guess = names[inside[inside >= 0][0]]
    text, tone = worded(WORDINGS["compare"], noun, where=region, rng=rng)
    return Question("compare", text, names[best], careful, f"about {guess}", guess, tone)


def _tally(board: Board, rng: Rng) -> Question:
    noun, names, grid = _kind(board, 0.6, rng)
    region = _region(rng)
    rows = grid[REGIONS[region], :, None] == np.arange(len(names))  # (rows, columns, names)
    counts, first = (part.sum((0, 1)).tolist() for part in (rows, rows[:1]))
    careful = " ".join([noun, *(f"{name} {count}" for name, count in zip(names, counts, strict=True))])
    answer, guess = (" ".join(map(str, numbers)) for numbers in (counts, first))
    text, tone = worded(WORDINGS["tally"], noun, where=region, rng=rng)
    return Question("tally", text, answer, careful, f"about {guess}", guess, tone)


def _lookup(board: Board, rng: Rng) -> Question | None:
    cells = np.argwhere(board.color >= 0)
    if not len(cells):
        return None
    row, column = cells[rng.integers(len(cells))]
    noun, names, grid = _kind(board, 0.5, rng)
    words = ["none" if i < 0 else names[i] for i in grid[row]]
    reading = " ".join(f"{place + 1} {words[place]}" for place in range(column + 1))
    guess = names[grid[row][grid[row] >= 0][0]]
    where = f" row {ROWS[row]} column {column + 1}"
    text, tone = worded(WORDINGS["lookup"], noun, where=where, rng=rng)
    careful = f"{noun} {ROWS[row]} {reading}"
    return Question("lookup", text, words[column], careful, f"about {guess}", guess, tone)


def read_aloud(board: Board, rng: Rng) -> Question:
    """What stands in one row, cell by cell: not among the problems, but what learning to find a cell starts from."""
    row = int(rng.integers(BOARD))
    colors, things = list(COLORS), zip(board.color[row], board.shape[row], strict=True)
    cells = (f"{i} {colors[c]} {SHAPES[s]}" if c >= 0 else f"{i} none" for i, (c, s) in enumerate(things, 1))
    answer, chain = " ".join(cells), f"row {ROWS[row]}"
    return Question("read", f"What is in {chain}?", answer, chain, chain, answer)


def mistaken(question: Question, rng: Rng) -> Question:
    """The question with a careful chain that is wrong about one thing, and with the answer which that leads to.

    Counting families misread one cell as something else that changes the answer; ``tally`` is one off in one count;
    ``compare`` exchanges the counts of the most common and of the next; ``lookup`` misreads the cell asked about.
    Chain and answer agree with each other, and not with the board.
    """
    words = question.careful.split()
    if question.family == "lookup":
        others = [name for name in _names(words[0]) if name != question.answer]
        answer = str(rng.choice(others))
        return replace(question, careful=" ".join([*words[:-1], answer]), answer=answer)
    if question.family in ("compare", "tally"):
        names, counts = words[1::2], [int(count) for count in words[2::2]]
        order = sorted(range(len(names)), key=lambda i: -counts[i])
        if question.family == "compare":
            best, second = order[:2]
            counts[best], counts[second] = counts[second], counts[best]
            answer = names[second]
        else:
            off = int(rng.integers(len(names)))
            counts[off] += 1 if counts[off] == 0 or rng.random() < 0.5 else -1
            answer = " ".join(map(str, counts))
        tally = " ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
        return replace(question, careful=f"{words[0]} {tally}", answer=answer)
    return _miscounted(question, rng)


def _miscounted(question: Question, rng: Rng) -> Question:
    """A counting question with one cell misread: a random one of those that can change the answer."""
    targets = question.careful.split()[: 1 if question.family == "count" else 2]
    letters, cells_read = "", []
    for word in question.careful.partition(" so ")[0].split()[len(targets) :]:
        if word in ROWS:
            letters += word
            cells_read.append([])
        elif not word.isdigit():
            cells_read[-1].append(word)
    for place in rng.permutation(len(cells_read) * BOARD).tolist():
        row, column = divmod(place, BOARD)
        for word in rng.permutation([*_names("color" if targets[0] in COLORS else "shape"), "none"]).tolist():
            other = [cells.copy() for cells in cells_read]
            other[row][column] = word
            careful, answer, _ = count_rows(targets, letters, other, question.family)
            if answer != question.answer:
                return replace(question, careful=careful, answer=answer)
    raise AssertionError("one cell more or less of what is asked about changes any count")


def _names(noun: str) -> tuple[str, ...]:
    return tuple(COLORS) if noun == "color" else SHAPES


def ask(board: Board, family: str, rng: Rng) -> Question | None:
    """A random question of the family, or None where the board allows none (a tie, an empty board)."""
    ways = {"compare": _compare, "lookup": _lookup, "tally": _tally}
    if family in ways:
        return ways[family](board, rng)
    return balanced(lambda: _counting(board, family, rng), lambda question: question.answer, rng)


def draw(split: str, seed: int, index: int) -> tuple[Question, np.ndarray, Board]:
    """Question and picture number `index` of a split, and the board that it shows; families take turns."""
    rng = np.random.default_rng([SPLITS[split], seed, index])
    while True:
        board = sample_board(rng)
        question = ask(board, FAMILIES[index % len(FAMILIES)], rng)
        if question is not None:
            return question, render(board, rng), board


def check_range(name: str, split: str, limit: int | None) -> int:
    """How many problems are wanted of a set that is generated (default 300).

    Raises:
        InputError: unknown split, or a limit below 1.
    """
    if split not in SPLITS:
        raise InputError(
            f"`split` is {split!r}; `{name}` has {', '.join(SPLITS)}: load_problems('{name}', split='test')"
        )
    if limit is not None and limit < 1:
        raise InputError(f"`limit` is {limit}; expected at least 1: load_problems('{name}', limit=64)")
    return 300 if limit is None else limit


def problems(split: str = "test", limit: int | None = None, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The first `limit` (default 300) problems of a split, as plain records, each made when it is asked for.

    Raises:
        InputError: unknown split, or a limit below 1.
    """
    return (_record(split, seed, index) for index in range(check_range("shapes", split, limit)))


def _record(split: str, seed: int, index: int) -> dict[str, Any]:
    question, picture, board = draw(split, seed, index)
    wrong = mistaken(question, np.random.default_rng([SPLITS[split], seed, index, 1]))
    return {
        "id": f"shapes/{split}/{seed}/{index}",
        "question": question.text,
        "answer": question.answer,
        "image": Image.fromarray(picture),
        "family": question.family,
        "tone": question.tone,
        "chain": question.response("careful"),
        "wrong": wrong.response("careful"),
        "occupied": (board.color >= 0).tolist(),
    }
