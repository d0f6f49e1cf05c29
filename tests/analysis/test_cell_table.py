"""Which cells of a generated problem hold a shape: the generator's own board, and what the picture shows."""

from dataclasses import replace

import numpy as np
import pytest

from workbench.analysis.cell_table import cell_table
from workbench.models.loading import load_pair
from workbench.problems import shapes, shapes_video
from workbench.problems.problem import load_problems


def spread(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(rows, columns): how much each cell's colours differ from its median colour, less the cell's own noise."""
    size = shapes.CELL
    cells = picture.astype(float).reshape(rows, size, columns, size, 3).swapaxes(1, 2)
    smooth = cells.reshape(rows, columns, 7, 4, 7, 4, 3).mean((3, 5))  # noise is averaged out, shapes are not
    return np.abs(smooth - np.median(smooth, (2, 3), keepdims=True)).max((2, 3, 4))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_boards_mask_is_the_generators(split):
    for index, problem in enumerate(load_problems("shapes", split=split, limit=12, seed=3)):
        _, picture, board = shapes.draw(split, 3, index)
        assert problem.metadata["occupied"] == (board.color >= 0).tolist()
        assert np.array_equal(np.asarray(problem.images[0]), picture)


def test_a_boards_mask_is_what_the_picture_shows():
    shown = {True: [], False: []}
    for problem in load_problems("shapes", split="test", limit=24):
        seen = spread(np.asarray(problem.images[0]), 4, 4)
        for occupied, value in zip(np.ravel(problem.metadata["occupied"]), seen.ravel(), strict=True):
            shown[bool(occupied)].append(value)
    background, objects = np.array(shown[False]), np.array(shown[True])
    apart = (objects[:, None] > background).mean()  # area under the curve
    assert len(background) > 20
    assert apart > 0.98


def test_a_videos_mask_is_the_generators_and_what_its_frames_show():
    found = []
    for index, problem in enumerate(load_problems("shapes-video", split="test", limit=12)):
        occupied = np.array(problem.metadata["occupied"])
        pictures = shapes_video.draw("test", 0, index)[1]
        assert occupied.shape == (4, 2, 2)
        assert all(np.array_equal(np.asarray(problem.video[2 * i]), pictures[i]) for i in range(4))
        seen = np.stack([spread(picture, 2, 2) for picture in pictures])
        found.append((seen[occupied], seen[~occupied]))
    objects, background = (np.concatenate(part) for part in zip(*found, strict=True))
    assert (objects[:, None] > background).mean() > 0.98


def test_a_mask_is_no_part_of_a_problems_fingerprint():
    (problem,) = load_problems("shapes", split="test", limit=1)
    without = {key: told for key, told in problem.metadata.items() if key != "occupied"}
    assert replace(problem, metadata=without).fingerprint == problem.fingerprint
    assert replace(problem, metadata=without | {"chain": "other"}).fingerprint != problem.fingerprint


@pytest.mark.parametrize("source", ["shapes", "shapes-video"])
def test_the_cells_of_a_table_are_the_generators(source):
    pair, problems = load_pair("shapes"), load_problems(source, split="test", limit=3)
    table = cell_table(pair, problems, batch_size=3)
    for problem in problems:
        rows = table[(table["problem"] == problem.id) & (table["kind"] == "visual")]
        for _, layer in rows.groupby("layer"):
            told = layer.sort_values("position")["object"].tolist()
            assert told == np.ravel(problem.metadata["occupied"]).astype(float).tolist()
    assert table.loc[table["kind"] != "visual", "object"].isna().all()
