"""Scenes with small marks: questions have one answer, the careful call finds it, and only the crop shows it well."""

import numpy as np
import pytest
from PIL import Image

from workbench import load_problems
from workbench.errors import InputError
from workbench.problems import answers, shapes, shapes_agent
from workbench.problems.zoom import ZoomTool


def drawn(count: int = 40):
    for index in range(count):
        rng = np.random.default_rng([shapes.SPLITS["test"], 0, index, 3])
        while True:
            scene = shapes_agent.sample_scene(rng)
            question = shapes_agent.ask(scene, shapes_agent.FAMILIES[index % 2], rng)
            if question is not None:
                yield scene, question
                break


def look(board: shapes.Board, row: int, column: int) -> str:
    return f"{list(shapes.COLORS)[board.color[row, column]]} {shapes.SHAPES[board.shape[row, column]]}"


def test_the_answer_is_the_mark_of_the_cell_that_is_named():
    for scene, question in drawn():
        assert question.answer == look(scene.marks, question.row, question.column)
        large = look(scene.board, question.row, question.column)
        if question.family == "detail":
            place = f"row {shapes.ROWS[question.row]} column {question.column + 1}"
            assert place in question.text
        else:
            assert large in question.text
            every = [look(scene.board, *cell) for cell in np.argwhere(scene.board.color >= 0)]
            assert every.count(large) == 1
        assert answers.extract(question.hasty)[0] == large
        assert answers.verify(question.reading, question.answer).correct


def test_the_careful_call_brings_the_cell_with_its_label():
    for index in range(6):
        question, picture = shapes_agent.draw("test", 0, index)
        crop, reply = shapes_agent.zoomed(question, picture)
        assert crop.size == (112, 112)
        assert reply[1] is crop
        assert shapes_agent.shows(question.call, question.box)
        left, top, right, bottom = question.box
        label = picture[top:bottom, left:right]
        step = ZoomTool().read(question.call, [(448, 448)])
        assert step.call is not None
        x, y = left - step.call.box[0], top - step.call.box[1]
        assert np.array_equal(np.array(crop)[y : y + 28, x : x + 28], label)
        row, column = np.unravel_index(((y // 28) * 4 + x // 28), (4, 4))
        assert f"<think> {shapes.ROWS[row]} {column + 1} " in question.reading


def test_only_a_call_that_shows_the_label_large_enough_counts():
    question, _ = shapes_agent.draw("test", 0, 0)
    head = question.call.partition("[")[0]
    left, top, right, bottom = question.box
    assert shapes_agent.shows(f"{head}[{left}, {top}, {right}, {bottom}]}}}}</tool_call>", question.box)
    moved = f"{head}[{left + 14}, {top}, {right + 14}, {bottom}]}}}}</tool_call>"
    assert not shapes_agent.shows(moved, question.box)
    assert not shapes_agent.shows(f"{head}[0, 0, 448, 448]}}}}</tool_call>", question.box)
    assert not shapes_agent.shows(question.hasty, question.box)
    assert not shapes_agent.shows("", question.box)


def test_a_problem_is_a_function_of_split_seed_and_index():
    first, again = [*shapes_agent.problems("test", 4, seed=3)], [*shapes_agent.problems("test", 4, seed=3)]
    assert [p["question"] for p in first] == [p["question"] for p in again]
    assert all(a["image"].tobytes() == b["image"].tobytes() for a, b in zip(first, again, strict=True))
    assert [p["family"] for p in first] == ["detail", "search"] * 2
    pictures = {p["image"].tobytes() for s in shapes.SPLITS for p in shapes_agent.problems(s, 4)}
    assert len(pictures) == 12


def test_problems_name_the_tool_and_hold_large_pictures():
    for problem in load_problems("shapes-agent", limit=4):
        assert problem.system is not None
        assert shapes_agent.TOOL.name in problem.system
        assert problem.images[0].size == (448, 448)
        assert shapes_agent.shows(problem.metadata["call"], problem.metadata["box"])
        assert isinstance(problem.images[0], Image.Image)


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="`shapes-agent` has train, validation, test"):
        shapes_agent.problems("dev")
