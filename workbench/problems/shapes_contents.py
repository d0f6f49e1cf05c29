"""What lies in each cell of a `shapes` board or a `cards` picture, in words: what readings of visual tokens are held against.

It is drawn anew from its problem's id (split, seed, index), so nothing of it need be kept with the problem.
"""

from workbench.errors import InputError
from workbench.problems import cards
from workbench.problems.shapes import COLORS, PLURALS, SHAPES, SPLITS, draw

Words = frozenset[str]


def contents(problem_id: str) -> list[list[Words]]:
    """Row by row, the words that name what a cell shows; none for an empty one.

    They are a board's color and shape (one and several), a card's color and digit.

    Raises:
        InputError: no id of a `shapes` or a `cards` problem.

    Example:
        >>> cells = contents("shapes/test/0/0")
        >>> len(cells), sorted(cells[1][0])
        (4, ['teal', 'triangle', 'triangles'])
    """
    family, *place = problem_id.split("/")
    if (
        family not in ("shapes", "cards")
        or len(place) != 3
        or place[0] not in SPLITS
        or not all(map(str.isdigit, place[1:]))
    ):
        raise InputError(
            f"`problem_id` is {problem_id!r}, expected that of a shapes or cards problem, whose cells are known: "
            "contents('shapes/test/0/0')"
        )
    if family == "cards":
        _, _, hand = cards.draw(place[0], int(place[1]), int(place[2]))
        return [[frozenset(cell.split()) for cell in row] for row in hand.words]
    _, _, board = draw(place[0], int(place[1]), int(place[2]))
    colors = list(COLORS)
    return [
        [
            frozenset() if color < 0 else frozenset({colors[color], SHAPES[shape], PLURALS[SHAPES[shape]]})
            for color, shape in zip(row_colors, row_shapes, strict=True)
        ]
        for row_colors, row_shapes in zip(board.color, board.shape, strict=True)
    ]
