"""The `shapes-agent` problems: large pictures whose small marks can be read only after zooming in, for the bundled pair.

A picture is a board of 4 x 4 cells as in `workbench.problems.shapes`, 448 pixels wide: each cell is 112 x 112 and holds a large
shape with a label of 28 x 28 pixels somewhere on it, which bears a small mark. The bundled pair sees the whole picture
as 112 x 112 pixels, where a mark is 3 to 5 pixels wide; a cell that is cut out has just the pixels it can see. Two
question families, both answered like "red circle":

* ``detail``  What is the small mark in row b column 3?
* ``search``  What is the small mark on the teal cross? (only one large shape looks like that)

The careful way is to name the cell, to call the zoom tool on it, to find the label and to read it. The hasty one
answers at once with what the large shape looks like, which is right only by luck.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from workbench.problems.shapes import (
    BOARD,
    CELL,
    COLORS,
    ROWS,
    SHAPES,
    SPLITS,
    Board,
    Question,
    Rng,
    check_range,
    render,
    sample_board,
    sample_tint,
    worded,
)
from workbench.problems.zoom import CLOSES, OPENS, ZoomTool

LARGE = 4 * CELL  # pixels of a cell
SYSTEM = "You may zoom in with image_zoom_in_tool."
WORDINGS = {
    "detail": (
        "What is the small mark in{where}?",
        "Name the small mark in{where}.",
        "Any idea what small mark is in{where}?",
    ),
    "search": (
        "What is the small mark on the {0}?",
        "Name the small mark on the {0}.",
        "Any idea what small mark is on the {0}?",
    ),
}
FAMILIES = tuple(WORDINGS)
TOOL = ZoomTool()
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the picture."""
_STREAM = 3


@dataclass(frozen=True)
class Scene:
    """Large shapes, the mark on each, and in which of its cell's 16 places (row by row) each mark is; -1 where none is."""

    board: Board
    marks: Board
    spots: np.ndarray


@dataclass(frozen=True)
class Search:
    """A question about a scene: where its answer lies, and the ways of answering it.

    ``call`` is the careful first response, ``reading`` the one after it, ``hasty`` answers at once.
    """

    family: str
    text: str
    answer: str
    tone: str
    row: int
    column: int
    spot: int
    call: str
    reading: str
    hasty: str

    @property
    def box(self) -> Box:
        """The label with the mark."""
        down, right = divmod(self.spot, BOARD)
        left, top = self.column * LARGE + right * CELL, self.row * LARGE + down * CELL
        return left, top, left + CELL, top + CELL


def sample_scene(rng: Rng) -> Scene:
    """A random scene."""
    board = sample_board(rng)
    size = board.color.shape
    empty = board.color < 0
    color, shape, spots = (
        np.where(empty, -1, rng.integers(n, size=size)) for n in (len(COLORS), len(SHAPES), BOARD**2)
    )
    return Scene(board, Board(color, shape), spots)


def render_scene(scene: Scene, rng: Rng) -> np.ndarray:
    """(448, 448, 3) uint8 picture of the scene."""
    tint = sample_tint(rng)
    picture = render(scene.board, rng, size=LARGE, tint=tint)
    labels = render(scene.marks, rng, tint=tint)
    for row, column in np.argwhere(scene.spots >= 0):
        down, right = divmod(int(scene.spots[row, column]), BOARD)
        top, left = row * LARGE + down * CELL, column * LARGE + right * CELL
        picture[top : top + CELL, left : left + CELL] = labels[
            row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL
        ]
    return picture


def ask(scene: Scene, family: str, rng: Rng) -> Search | None:
    """A random question of the family, or None where the scene allows none."""
    color, shape = scene.board.color, scene.board.shape
    if family == "search":
        looks = np.where(color < 0, -1, color * len(SHAPES) + shape)
        values, counts = np.unique(looks[looks >= 0], return_counts=True)
        cells = np.argwhere(np.isin(looks, values[counts == 1]))
    else:
        cells = np.argwhere(color >= 0)
    if not len(cells):
        return None
    row, column = cells[rng.integers(len(cells))].tolist()
    large, answer = _look(scene.board, row, column), _look(scene.marks, row, column)
    where = f" row {ROWS[row]} column {column + 1}"
    text, tone = worded(WORDINGS[family], large, where=where, rng=rng)
    down, right = divmod(int(scene.spots[row, column]), BOARD)
    box = [column * LARGE, row * LARGE, (column + 1) * LARGE, (row + 1) * LARGE]
    call = json.dumps({"name": TOOL.name, "arguments": {"bbox_2d": box}})
    reading = Question(family, text, answer, f"{ROWS[down]} {right + 1} {answer}", "", answer)
    return Search(
        family=family,
        text=text,
        answer=answer,
        tone=tone,
        row=row,
        column=column,
        spot=int(scene.spots[row, column]),
        call=f"<think> {large if family == 'search' else 'mark'}{where}</think>{OPENS}{call}{CLOSES}",
        reading=reading.response(),
        hasty=Question(family, text, large, f"about {large}", "", large).response(),
    )


def draw(split: str, seed: int, index: int) -> tuple[Search, np.ndarray]:
    """Question and picture (448, 448, 3) number `index` of a split; families take turns."""
    rng = np.random.default_rng([SPLITS[split], seed, index, _STREAM])
    while True:
        scene = sample_scene(rng)
        question = ask(scene, FAMILIES[index % len(FAMILIES)], rng)
        if question is not None:
            return question, render_scene(scene, rng)


def shows(response: str, box: Box) -> bool:
    """Whether a response calls the tool so that the crop shows the label in ``box``, at half its resolution or better."""
    call = TOOL.read(response, [(BOARD * LARGE, BOARD * LARGE)]).call
    if call is None:
        return False
    left, top, right, bottom = call.box
    inside = left <= box[0] and top <= box[1] and right >= box[2] and bottom >= box[3]
    return inside and max(right - left, bottom - top) <= 2 * LARGE


def zoomed(question: Search, picture: np.ndarray) -> tuple[Image.Image, tuple[str | Image.Image, ...]]:
    """The crop that the careful call brings, and the tool's reply with it."""
    step = TOOL.read(question.call, [(picture.shape[1], picture.shape[0])])
    assert step.call is not None
    crop = TOOL.crop(step.call, [Image.fromarray(picture)])
    return crop, TOOL.reply(step, crop, 1)


def problems(split: str = "test", limit: int | None = None, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The first `limit` (default 300) problems of a split, as plain records, each made when it is asked for.

    ``box`` is the label to be read.

    Raises:
        InputError: unknown split, or a limit below 1.
    """
    return (_record(split, seed, index) for index in range(check_range("shapes-agent", split, limit)))


def _record(split: str, seed: int, index: int) -> dict[str, Any]:
    question, picture = draw(split, seed, index)
    return {
        "id": f"shapes-agent/{split}/{seed}/{index}",
        "question": question.text,
        "answer": question.answer,
        "image": Image.fromarray(picture),
        "family": question.family,
        "system": SYSTEM,
        "tone": question.tone,
        "box": question.box,
        "call": question.call,
    }


def _look(board: Board, row: int, column: int) -> str:
    return f"{list(COLORS)[board.color[row, column]]} {SHAPES[board.shape[row, column]]}"
