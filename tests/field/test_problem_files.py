"""Protects from rows that lose a picture, an option, a letter or other rows on the way, without a word."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from workbench.errors import InputError
from workbench.problems.answers import verify
from workbench.problems.problem import load_problems


def encoded(color: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


B64 = base64.b64encode(encoded()).decode()


def rows(folder: Path, *given: Any) -> Path:
    for name in ("1.png", "2.png"):
        (folder / name).write_bytes(encoded("red" if name == "1.png" else "blue"))
    path = folder / "set.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in given), encoding="utf-8")
    return path


def one(folder: Path, row: dict[str, Any], **options: Any) -> Any:
    (problem,) = load_problems(rows(folder, row), **options)
    return problem


# --- rows


@pytest.mark.parametrize(
    "lines",
    [
        ['1\t"an open cell\tyes', "2\tfine\tno", "3\tfine\tyes"],  # never closed
        ['1\t"an open cell\tyes', "2\tfine\tno", '3\tended by"\tyes'],  # closed by chance, in its own column
        ['1\t"an open cell\tyes', '2\tthe "second\tno', "3\tfine\tyes"],
        ["1\tfine\tyes", '2\t"open', "3\tfine\tno"],
    ],
)
def test_an_unclosed_quotation_mark_does_not_swallow_the_rows_after_it(tmp_path, lines):
    path = tmp_path / "set.tsv"
    path.write_text("\n".join(["index\tquestion\tanswer", *lines, ""]))
    with pytest.raises(
        InputError, match=r"set.tsv, line \d: a cell begins with a quotation mark that is not closed"
    ) as error:
        load_problems(path)
    assert "to_csv(path" in str(error.value)


def test_quoted_cells_of_several_lines_are_still_one_cell(tmp_path):
    path = tmp_path / "set.tsv"
    path.write_text(
        'index\tquestion\tanswer\n1\t"two\nlines, and a ""mark"""\tyes\n2\tan inch is 1" here\tno\n'
    )
    first, second = load_problems(path)
    assert (first.question, second.question) == ('two\nlines, and a "mark"', 'an inch is 1" here')


def test_an_id_that_stands_twice_is_refused_at_loading(tmp_path):
    with pytest.raises(InputError, match=r"line 2: the id 'set/7' occurs twice"):
        load_problems(rows(tmp_path, {"id": 7, "question": "a"}, {"id": 7, "question": "b"}))


# --- pictures


@pytest.mark.parametrize(
    ("row", "mapping"),
    [
        ({"image_1": "1.png"}, "columns={'image': 'image_1'}"),
        ({"image_1": "1.png", "image_2": "2.png"}, "columns={'image': ['image_1', 'image_2']}"),
        ({"image": "1.png", "image_2": "2.png"}, "columns={'image': ['image', 'image_2']}"),
        ({"image": "1.png", "images": ["2.png"]}, "columns={'image': ['image', 'images']}"),
        ({"img": "1.png"}, "columns={'image': 'img'}"),
        ({"img": B64}, "columns={'image': 'img'}"),
        ({"image_file": "1.png"}, "columns={'image': 'image_file'}"),
        ({"picture": "missing.png"}, "columns={'image': 'picture'}"),
        ({"anything": "1.png"}, "columns={'image': 'anything'}"),
        ({"anything": ["1.png", "2.png"]}, "columns={'image': 'anything'}"),
        ({"decoded": {"path": "1.png"}}, "columns={'image': 'decoded'}"),
        ({"image_url": "https://example.org/1.png"}, "columns={'image': 'image_url'}"),
    ],
)
def test_a_column_of_pictures_that_nobody_reads_is_refused_with_the_mapping_that_reads_it(
    tmp_path, row, mapping
):
    path = rows(tmp_path, {"question": "What?", "answer": "x", **row})
    with pytest.raises(
        InputError, match="that no field reads, so that the question would go out without them"
    ) as error:
        load_problems(path)
    assert f"{mapping} reads them" in str(error.value)


def test_the_mapping_of_the_message_reads_every_picture_in_order(tmp_path):
    row = {"question": "What?", "image_1": "1.png", "image_2": "2.png", "image_3": None}
    problem = one(tmp_path, row, columns={"image": ["image_1", "image_2"]})
    assert [picture.getpixel((0, 0)) for picture in problem.images] == [(255, 0, 0), (0, 0, 255)]


def test_pictures_left_out_knowingly_are_told(tmp_path):
    path = rows(tmp_path, {"question": "What?", "image": "1.png", "thumbnail": "2.png"})
    problems = load_problems(path, columns={"image": "image"})
    assert len(problems[0].images) == 1
    assert "cells of column 'thumbnail', which hold images: 1" in problems.told
    assert load_problems(path, columns={"image": ""})[0].images == ()


def test_image_features_of_a_data_set_are_found_in_any_column():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"question": ["a?"], "scan": [{"bytes": encoded(), "path": None}]})
    with pytest.raises(
        InputError, match=r"column 'scan' holds images .* columns=\{'image': 'scan'\} reads them"
    ):
        load_problems(data)
    assert len(load_problems(data, columns={"image": "scan"})[0].images) == 1
    decoded = data.cast_column("scan", datasets.Image())
    with pytest.raises(InputError, match="column 'scan' holds images"):
        load_problems(decoded)


def test_words_and_numbers_about_pictures_are_no_pictures(tmp_path):
    row = {
        "question": "What?",
        "image_width": 3,
        "image_caption": "a dog",
        "image": "1.png",
        "picture": "a drawing",
    }
    assert one(tmp_path, row).metadata == {"image_width": 3, "image_caption": "a dog", "picture": "a drawing"}


@pytest.mark.parametrize(
    ("question", "images", "expected"),
    [
        ("<image>\nWhat is it?", ["1.png"], "What is it?"),
        ("What is it?\n<image>", ["1.png"], "What is it?"),
        ("<image> <image> Which is red?", ["1.png", "2.png"], "Which is red?"),
        ("Is <image> like <image>, or not?", ["1.png", "2.png"], "Is image 1 like image 2, or not?"),
        ("In <image> what is red?", ["1.png"], "In the image what is red?"),
        ("See <image 1>.", ["1.png"], "See <image 1>."),
        ("a < b > c", ["1.png"], "a < b > c"),
    ],
)
def test_marks_of_pictures_do_not_stay_in_the_text(tmp_path, question, images, expected):
    assert one(tmp_path, {"question": question, "images": images}).question == expected


def test_marks_in_options_become_words(tmp_path):
    row = {
        "question": "Which?",
        "choices": ["<image>", "<image>"],
        "images": ["1.png", "2.png"],
        "answer": "B",
    }
    assert one(tmp_path, row).choices == ("image 1", "image 2")


@pytest.mark.parametrize("images", [[], ["1.png", "2.png"]])
def test_another_number_of_marks_than_pictures_is_refused(tmp_path, images):
    with pytest.raises(
        InputError, match=rf"has 1 of the mark <image> and the row has {len(images)} pictures"
    ):
        one(tmp_path, {"question": "<image> What?", **({"images": images} if images else {})})


def test_problems_with_and_without_pictures_load_together(tmp_path):
    problems = load_problems(
        rows(tmp_path, {"question": "a", "image": "1.png"}, {"question": "b", "answer": 4})
    )
    assert [len(problem.images) for problem in problems] == [1, 0]
    assert (
        problems.told
        == "2 problems; 1 picture; 1 of text alone; answers by exact 1, numeric 1; 1 without an answer"
    )


# --- options


@pytest.mark.parametrize(
    ("options", "answer", "choices", "letter"),
    [
        ({"B": "blue", "A": "red"}, "B", ("red", "blue"), "B"),
        ({"B": "blue", "A": "red"}, "red", ("red", "blue"), "A"),
        ({"b": "blue", "a": "red"}, "b", ("red", "blue"), "B"),
        ("{'B': 'blue', 'A': 'red'}", "B", ("red", "blue"), "B"),
        ({"A": "red", "B": "blue", "C": ""}, "B", ("red", "blue"), "B"),
        ({"1": "red", "2": "blue"}, "2", ("red", "blue"), "B"),
        ({"2": "blue", "1": "red", "10": "x", **{str(n): str(n) for n in range(3, 10)}}, "10", None, "J"),
        ({"0": "red", "1": "blue"}, "1", ("red", "blue"), "B"),
        ({"1": "red", "2": "blue"}, 2, ("red", "blue"), "B"),
        ({"text": ["red", "blue"], "label": ["A", "B"]}, "B", ("red", "blue"), "B"),
        (["A. red", "B. blue"], "B. blue", ("red", "blue"), "B"),
        (["(A) red", "(B) blue"], "(B)", ("red", "blue"), "B"),
        (["red", "blue"], "(B)", ("red", "blue"), "B"),
        (["red", "blue"], "B.", ("red", "blue"), "B"),
        (["red", "blue"], "b.", ("red", "blue"), "B"),
        (["red", "blue"], "b", ("red", "blue"), "B"),
        (["red", "blue"], "B. blue", ("red", "blue"), "B"),
        (["red", "blue"], "(B) Blue", ("red", "blue"), "B"),
        (["red", "blue"], "Blue", ("red", "blue"), "B"),
        (["red", "blue"], " blue. ", ("red", "blue"), "B"),
        (["red", "blue"], 1, ("red", "blue"), "B"),
        ([3, 4, 5], 4, ("3", "4", "5"), "B"),
        ([3, 4, 5], "4", ("3", "4", "5"), "B"),
        (["3.0", "4.0"], 4, ("3.0", "4.0"), "B"),
        (["3 cm", "4 cm"], "4 cm", ("3 cm", "4 cm"), "B"),
        (["yes", "no"], False, ("yes", "no"), "B"),
        (["True", "False"], False, ("True", "False"), "B"),
        ([True, False], False, ("yes", "no"), "B"),
    ],
)
def test_an_answer_names_its_option_however_it_is_written(tmp_path, options, answer, choices, letter):
    problem = one(tmp_path, {"question": "Which?", "choices": options, "answer": answer})
    assert problem.choices == (choices or problem.choices)
    assert (problem.answer, problem.verifier) == (letter, "choice")
    assert verify(
        f"<answer>{letter}</answer>", problem.answer, problem.verifier, choices=problem.choices
    ).correct


@pytest.mark.parametrize(
    ("options", "answer", "message"),
    [
        ([0, 1, 2], 1, None),
        ([1, 2, 3], 1, "`answer` 1 names A and B (A. 1; B. 2; C. 3)"),
        ([1, 0], 0, "`answer` 0 names A and B"),
        (["red", "blue"], "2", "`answer` '2' names none of the options (A. red; B. blue)"),
        (["red", "blue"], "green", "`answer` 'green' names none of the options"),
        (["red", "blue"], "B. red", "`answer` 'B. red' names A and B"),
        (["red", "blue"], "A, B", "names none of the options"),
        (["red", "blue"], True, "`answer` True names none of the options"),
        (["red", "blue"], 2, "`answer` 2 is no index; expected 0 to 1, or a letter"),
        (["red", "Red"], "RED", "names A and B"),
        (["B", "A"], "B", "names A and B"),
        (
            {"A": "red", "C": "blue"},
            "C",
            "has the labels A, C; expected A, B, ... or 1, 2, ... without a gap",
        ),
        ({"x": "red", "y": "blue"}, "x", "has the labels x, y"),
        ({"A": "red"}, "A", "expected at least two texts"),
    ],
)
def test_an_answer_that_names_no_option_or_two_is_refused(tmp_path, options, answer, message):
    row = {"question": "Which?", "choices": options, "answer": answer}
    if message is None:
        assert one(tmp_path, row).answer == "B"
        return
    with pytest.raises(InputError) as error:
        one(tmp_path, row)
    assert message in str(error.value)


def test_options_in_columns_that_nobody_reads_are_refused(tmp_path):
    row = {"question": "Which?", "option_a": "red", "option_b": "blue", "answer": "B"}
    with pytest.raises(InputError, match=r"columns=\{'choices': \['option_a', 'option_b'\]\}"):
        one(tmp_path, row)
    problem = one(tmp_path, row, columns={"choices": ["option_a", "option_b"]})
    assert (problem.choices, problem.answer) == (("red", "blue"), "B")


@pytest.mark.parametrize(("answer", "text"), [(True, "yes"), (False, "no"), ("True", "True")])
def test_true_and_false_are_yes_and_no(tmp_path, answer, text):
    problem = one(tmp_path, {"question": "Is it?", "answer": answer})
    assert (problem.answer, problem.verifier) == (text, "exact")
    said = "Yes, it is." if answer in (True, "True") else "No."
    assert verify(said, text, "exact").correct
    assert not verify("No." if said[0] == "Y" else "Yes", text, "exact").correct


def test_the_number_of_a_class_becomes_its_name():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.ClassLabel(names=["cat", "dog"])}
    )
    data = datasets.Dataset.from_dict({"question": ["a?"], "answer": [1]}, features=features)
    assert load_problems(data)[0].answer == "dog"
    assert load_problems(data.to_iterable_dataset())[0].answer == "dog"
