"""Problems: what every source gives, and the message for everything that can be wrong with one."""

import base64
import csv
import io
import json
import struct
import sys
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from workbench.errors import InputError
from workbench.problems.answers import Verifier
from workbench.problems.images import FRAME_LIMIT, PIXEL_LIMIT
from workbench.problems.problem import FOLDER_QUESTION, Problem, load_problems, load_unseen


def picture(color="red", size=(12, 8)):
    return Image.new("RGB", size, color)


def encoded(image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def b64(image) -> str:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    image = image or noise
    return base64.b64encode(encoded(image)).decode()


def color(image) -> tuple[int, ...]:
    return image.getpixel((0, 0))


def write_jsonl(path, *rows):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    return path


def write_tsv(path, rows):
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return path


def header_only_png(width, height) -> bytes:
    """A PNG that announces a size and holds no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# --- the record


def test_problem_holds_rgb_images_and_plain_text():
    hollow = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    problem = Problem("a/1", "<script>alert(1)</script>", answer="3", images=[hollow], metadata={"k": 1})
    assert problem.images[0].mode == "RGB"
    assert color(problem.images[0]) == (255, 255, 255)  # transparent: white, not the hidden red
    assert problem.verifier is Verifier.EXACT
    assert problem.question == "<script>alert(1)</script>"
    shown = problem._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert 'src="data:image/png;base64,' in shown
    assert repr(problem) == "Problem('a/1', '<script>alert(1)</script>', answer='3', images=1)"


def test_repr_html_escapes_every_text():
    evil = '"><img src=x onerror=alert(1)>'
    problem = Problem(evil, evil, evil, family=evil, system=evil, choices=(evil, "b"))
    assert "<img src=x" not in problem._repr_html_()
    assert problem._repr_html_().count("&lt;img") == 6


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = Image.fromarray(np.full((2, 2), 257 * 100, dtype=np.uint16))
    assert color(Problem("a", "b", images=(grey,)).images[0]) == (100, 100, 100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": ""}, "`id` of problem '' is ''; expected text"),
        ({"question": "  "}, "`question` of problem 'p' is '  '; expected text"),
        ({"question": 3}, "`question` of problem 'p' is 3; expected text"),
        ({"answer": 3}, "`answer` of problem 'p' is 3; expected text"),
        ({"answer": "\ud800"}, "`answer` of problem 'p' cannot be written as UTF-8"),
        ({"images": picture()}, "`images` of problem 'p' is a Image; expected a tuple of PIL images"),
        ({"video": ("1.png",)}, "`video` of problem 'p' is a tuple; expected a tuple of PIL images"),
        ({"images": (Image.new("RGB", (0, 5)),)}, "image 0 of problem 'p' is empty (0 x 5 pixels)"),
        ({"images": (Image.new("F", (2, 2)),)}, "image 0 of problem 'p' has mode F (floating point)"),
        ({"verifier": "exacct"}, "expected one of exact, choice, numeric, math (did you mean 'exact'?)"),
        ({"verifier": "choice"}, "with 0 choices; the verifier 'choice' expects a letter"),
        ({"verifier": "choice", "choices": ("x", "y"), "answer": "C"}, "is 'C' with 2 choices"),
        (
            {"verifier": "numeric", "answer": "3,4"},
            "is '3,4', which the verifier 'numeric' can't read as one number",
        ),
        ({"choices": "ab"}, "`choices` of problem 'p' is 'ab'; expected a tuple of at most 26 texts"),
        ({"choices": (1, 2)}, "`choices` of problem 'p' is 1; expected text"),
    ],
)
def test_inconsistent_problem(arguments, message):
    with pytest.raises(InputError) as error:
        Problem(**{"id": "p", "question": "What?", **arguments})
    assert message in str(error.value)


# --- named sets


def test_shapes():
    problems = load_problems("shapes", limit=6, seed=3)
    assert len({p.id for p in problems}) == 6
    assert all(p.images[0].size == (112, 112) and p.answer and p.family for p in problems)
    assert problems[0].answer in problems[0].metadata["chain"]
    again, other = load_problems("shapes", limit=6, seed=3), load_problems("shapes", limit=6, seed=4)
    assert [p.question for p in again] == [p.question for p in problems] != [p.question for p in other]


def test_easy_vqa_samples_by_seed():
    problems = load_problems("easy-vqa", limit=60, seed=1)
    numbers = [int(p.id.removeprefix("easy-vqa/test/")) for p in problems]
    assert numbers == sorted(set(numbers))
    assert {p.family for p in problems} == {"shape", "color", "yes-no"}
    assert all(p.images[0].mode == "RGB" for p in problems)
    assert [p.id for p in load_problems("easy-vqa", limit=60, seed=1)] == [p.id for p in problems]
    assert [p.id for p in load_problems("easy-vqa", limit=60, seed=2)] != [p.id for p in problems]


# --- TSV


def test_tsv_in_vlmevalkit_format(tmp_path):
    red, blue = b64(picture("red")), b64(picture("blue"))
    rows = [
        {"index": 1, "image": red, "question": "Which?", "A": "x", "B": "y", "answer": "B", "category": "c1"},
        {"index": 2, "image": "1", "question": "Again?", "A": "x", "B": "y", "answer": "a", "hint": "Look."},
        {"index": 3, "image": "5", "question": "How many?", "answer": "12"},  # the image comes further down
        {"index": 4, "image": str([red, blue]), "question": "Both?", "answer": "left", "extra": "kept"},
        {"index": 5, "image": blue, "question": 'tab\t"quote"\nline', "answer": None},
    ]
    one, two, three, four, five = load_problems(write_tsv(tmp_path / "set.tsv", rows))
    assert (one.id, one.choices, one.answer, one.verifier) == ("set/1", ("x", "y"), "B", "choice")
    assert one.family == "c1"
    assert two.images[0] is one.images[0]  # shared, not decoded twice
    assert (two.question, two.answer) == ("Hint: Look.\nQuestion: Again?", "A")
    assert (color(three.images[0]), three.verifier) == ((0, 0, 255), "numeric")
    assert [color(i) for i in four.images] == [(255, 0, 0), (0, 0, 255)]
    assert (four.verifier, four.metadata) == ("exact", {"extra": "kept"})
    assert (five.question, five.answer) == ('tab\t"quote"\nline', None)


def test_tsv_with_image_paths(tmp_path):
    picture("red").save(tmp_path / "1.png")
    picture("blue").save(tmp_path / "2.jpg", quality=100)
    rows = [
        {"index": 1, "image_path": "1.png", "question": "a"},
        {"index": 2, "image_path": "['1.png', '2.jpg']", "question": "b"},
    ]
    one, two = load_problems(write_tsv(tmp_path / "paths.tsv", rows))
    assert color(one.images[0]) == (255, 0, 0)
    assert len(two.images) == 2


def test_tsv_is_not_read_past_the_limit(tmp_path):
    path = write_tsv(tmp_path / "huge.tsv", [{"index": i, "question": f"q{i}"} for i in range(3)])
    with path.open("r+b") as file:
        file.seek(0, io.SEEK_END)
        file.write(b"too\tmany\tcells\there\n")
        file.truncate(16 * 2**30)  # sparse: reading it whole would take minutes and all memory
    assert [p.id for p in load_problems(path, limit=3)] == ["huge/0", "huge/1", "huge/2"]
    with pytest.raises(InputError, match=r"huge.tsv, line 5: 4 cells, the header has 2"):
        load_problems(path, limit=4)


def test_tsv_cells_larger_than_csv_allows_by_default(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    rows = [{"index": 1, "image": b64(Image.fromarray(noise)), "question": "a"}]
    (problem,) = load_problems(write_tsv(tmp_path / "big.tsv", rows))
    assert np.array_equal(np.asarray(problem.images[0]), noise)


# --- JSONL


def test_jsonl(tmp_path):
    (tmp_path / "images").mkdir()
    picture("red").save(tmp_path / "images" / "1.png")
    path = write_jsonl(
        tmp_path / "set.jsonl",
        {"question": "path?", "image": "images/1.png", "answer": 3, "level": 2, "nested": {"dropped": 1}},
        "",
        {"question": "base64?", "images": [b64(picture("blue")), f"data:image/png;base64,{b64(None)}"]},
        {"id": "x", "question": "choices?", "choices": ["red", "blue"], "answer": "blue"},
        {"question": "index?", "options": "['red', 'blue']", "answer": 0},
        {"question": "letters?", "options": {"A": "r", "B": "b"}, "answer": "B", "verifier": "exact"},
        {"question": "none?", "answer": "two", "system": "Be brief.", "family": "f"},
    )
    a, b, c, d, e, f = load_problems(path)
    assert (a.id, color(a.images[0]), a.answer, a.verifier) == ("set/0", (255, 0, 0), "3", "numeric")
    assert a.metadata == {"level": 2}
    assert [i.size for i in b.images] == [(12, 8), (8, 8)]
    assert (c.id, c.answer, c.verifier) == ("set/x", "B", "choice")
    assert (d.choices, d.answer) == (("red", "blue"), "A")
    assert (e.choices, e.answer, e.verifier) == (("r", "b"), "B", "exact")
    assert (f.system, f.family, f.images, f.verifier) == ("Be brief.", "f", (), "exact")


def test_columns_map_and_leave_out(tmp_path):
    path = write_jsonl(tmp_path / "set.jsonl", *[{"id": 7, "query": "q", "answer": "x", "gold": "y"}] * 2)
    with pytest.raises(
        InputError, match=r"set.jsonl, line 2: the id 'set/7' occurs twice; ids must be unique"
    ):
        load_problems(path, columns={"question": "query"})
    first, second = load_problems(path, columns={"question": "query", "answer": "gold", "id": ""})
    assert (first.id, second.id, first.answer) == ("set/0", "set/1", "y")
    assert load_problems(path, columns={"question": "query", "answer": "", "id": ""})[0].answer is None


def test_video_from_frames_folder_animation_and_list(tmp_path):
    (tmp_path / "clip").mkdir()
    frames = [picture((i, 0, 0), (4, 4)) for i in range(40)]
    for i, frame in enumerate(frames):
        frame.save(tmp_path / "clip" / f"{i}.png")
    frames[0].save(tmp_path / "clip.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[3].save(tmp_path / "still.png")
    rows = [
        {"question": "q", "video": v}
        for v in ("clip", "clip.webp", ["clip/0.png", "clip/9.png"], "still.png")
    ]
    folder, animation, listed, still = load_problems(write_jsonl(tmp_path / "v.jsonl", *rows))
    assert [color(f) for f in animation.video] == [color(f) for f in folder.video]
    assert len(folder.video) == FRAME_LIMIT
    assert (color(folder.video[0])[0], color(folder.video[-1])[0]) == (0, 39)  # natural order: 9 before 10
    assert [color(f)[0] for f in listed.video] == [0, 9]
    assert [color(f)[0] for f in still.video] == [3]
    fewer = load_problems(tmp_path / "v.jsonl", frames=4)
    assert [[color(f)[0] for f in p.video] for p in fewer] == [[0, 13, 26, 39], [0, 13, 26, 39], [0, 9], [3]]


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip))
def test_text_is_taken_as_it_is(text):
    with tempfile.TemporaryDirectory() as folder:
        lines = write_jsonl(Path(folder) / "a.jsonl", {"question": text})
        cells = Path(folder) / "a.tsv"
        with cells.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, "excel-tab").writerows([["question", "index"], [text, 1]])
        assert load_problems(lines)[0].question == text
        assert load_problems(cells)[0].question == text


# --- folders and data sets


def test_the_fingerprint_is_of_every_field_and_every_pixel():
    problem = tiny.problem(images=1, frames=2)
    same = tiny.problem(images=1, frames=2)
    changes = [{"answer": "4"}, {"choices": ("3", "4")}, {"system": "Look."}, {"metadata": {"fps": 1}}]
    changes += [{"images": same.images * 2}, {"images": ()}, {"video": same.video[::-1]}]
    prints = {replace(problem, **change).fingerprint for change in changes}
    assert problem.fingerprint == same.fingerprint
    assert len(prints - {problem.fingerprint}) == len(changes)


def test_folder_of_images_in_natural_order(tmp_path):
    for name in ("10.png", "9.PNG", "b.jpeg"):
        picture().save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    problems = load_problems(tmp_path)
    assert [p.id.split("/")[1] for p in problems] == ["9.PNG", "10.png", "b.jpeg"]
    assert {p.question for p in problems} == {FOLDER_QUESTION}
    assert load_problems(str(tmp_path), question="Which color?", limit=1)[0].question == "Which color?"


def test_exif_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    picture(size=(30, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_problems(tmp_path)[0].images[0].size == (10, 30)


def test_hugging_face_data_set(monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = {"query": ["a?", "b?"], "picture": [picture("red"), picture("blue")], "label": ["x", "y"]}
    data = datasets.Dataset.from_dict(rows)
    columns = {"question": "query", "image": "picture", "answer": "label"}
    problems = load_problems(data, columns=columns)
    assert [(p.question, p.answer, color(p.images[0])) for p in problems] == [
        ("a?", "x", (255, 0, 0)),
        ("b?", "y", (0, 0, 255)),
    ]
    calls = []

    def load_dataset(name, configuration, **options):
        calls.append((name, configuration, options))
        return data.to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    problems = load_problems("hf:owner/name:main@v1", split="train", columns=columns, limit=1)
    assert [p.id for p in problems] == ["owner/name/0"]
    assert calls == [("owner/name", "main", {"revision": "v1", "split": "train", "streaming": True})]

    split = datasets.DatasetDict({"train": data, "test": data})
    assert len(load_problems(split, split="train", columns=columns)) == 2
    with pytest.raises(
        InputError, match=r"`split` is 'tset'; the data set has train, test \(did you mean 'test'\?\)"
    ):
        load_problems(split, split="tset", columns=columns)
    with pytest.raises(
        InputError, match=r"data set, row 0: no column 'question'; found query, picture, label"
    ):
        load_problems(data)

    broken = {"question": ["a?", "b?"], "image": [{"bytes": encoded(picture())}, {"bytes": b"no image"}]}
    features = datasets.Features({"question": datasets.Value("string"), "image": datasets.Image()})
    with pytest.raises(InputError, match=r"data set, row 1 could not be read \(UnidentifiedImageError"):
        load_problems(datasets.Dataset.from_dict(broken, features=features))


def test_hugging_face_failure_is_passed_on(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_, **__):
        raise ValueError("Unknown split \"test\". Should be one of ['train'].")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        InputError, match=r"'hf:owner/name' could not be opened \(ValueError: Unknown split \"test\""
    ):
        load_problems("hf:owner/name")


# --- bad input


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        (
            "shaeps",
            {},
            "neither a known problem set (shapes, shapes-video, shapes-agent, sums, cards, easy-vqa, mathverse, ",
        ),
        ("nowhere/set.tsv", {}, "`source` 'nowhere/set.tsv': no such file or folder"),
        (7, {}, "`source` is of type int; expected a name, a path or a data set"),
        ("hf:a b", {}, "`source` 'hf:a b' names no data set: load_problems('hf:owner/name'"),
        ("shapes", {"split": "tset"}, "`split` is 'tset'; `shapes` has train, validation, test"),
        ("easy-vqa", {"split": "tset"}, "'easy-vqa' has train and test (did you mean 'test'?)"),
        ("shapes", {"limit": -1}, "`limit` is -1; expected an integer of at least 1"),
        ("shapes", {"limit": 0}, "`limit` is 0; expected an integer of at least 1"),
        ("shapes", {"limit": 2.5}, "`limit` is 2.5; expected an integer of at least 1"),
        ("shapes", {"seed": -1}, "`seed` is -1; expected an integer of at least 0"),
        ("shapes", {"frames": 0}, "`frames` is 0; expected an integer of at least 1: load_problems('clips'"),
        ("shapes", {"frames": True}, "`frames` is True; expected an integer of at least 1"),
        (
            "shapes",
            {"columns": {"question": "q"}},
            "`columns` applies to files and data sets, not to 'shapes'",
        ),
        ("shapes", {"columns": "question"}, "`columns` is 'question'; expected field to column"),
        ("shapes", {"question": "q"}, "`question` applies to a folder of images, not to 'shapes'"),
        ("a.tsv", {"columns": {"questoin": "q"}}, "no field of a problem (did you mean 'question'?)"),
    ],
)
def test_bad_arguments(source, arguments, message):
    with pytest.raises(InputError) as error:
        load_problems(source, **arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("source", "package"),
    [("easy-vqa", "easy_vqa"), ("hf:owner/name", "datasets")],
    ids=["easy-vqa", "datasets"],
)
def test_missing_package_says_how_to_install_it(monkeypatch, source, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        InputError, match=f"needs a package that is missing: pip install {package.replace('_', '-')}"
    ):
        load_problems(source)


GOOD = {"question": "fine?", "image": b64(picture())}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"question": "cut off', "malformed JSON (Invalid control character at, column 22)"),
        ("[1, 2]", "found a list; expected one object a line"),
        ("[" * 100_000, "malformed JSON"),
        ({"image": "1.png"}, "expected a `question` as text, found none"),
        ({"question": ["a", "b"]}, "expected a `question` as text, found a list"),
        ({"question": "q", "image": "missing.png"}, "`image` is missing: no file"),
        ({"question": "q", "image": "broken.png"}, "`image` could not be read (UnidentifiedImageError"),
        ({"question": "q", "image": "cut.png"}, "`image` could not be read (OSError"),
        ({"question": "q", "image": "flat.png"}, "`image` could not be read"),
        ({"question": "q", "image": "enormous.png"}, "`image` is enormous (8001 x 8000 pixels)"),
        ({"question": "q", "image": "bomb.png"}, "`image` is enormous (Image size (400000000 pixels)"),
        ({"question": "q", "image": "*not base64*"}, "`image` is neither an existing file nor base64"),
        ({"question": "q", "image": "AAAA" * 40}, "`image` could not be read (UnidentifiedImageError"),
        ({"question": "q", "image": "[1.png"}, "`image` is missing: no file"),
        ({"question": "q", "image": "[1.png]"}, "`image` starts with '[1.png]' but is no list"),
        ({"question": "q", "image": [GOOD["image"], 3]}, "`image`, image 1, is a int"),
        ({"question": "q", "image": "https://example.org/1.png"}, "nothing is downloaded"),
        ({"question": "q", "video": "clip.mp4"}, "`video` 'clip.mp4' is missing: no file"),
        ({"question": "q", "video": "cut.webp"}, "`video` could not be read"),
        ({"question": "q", "video": "empty"}, "`video` is a folder without images"),
        ({"question": "q", "choices": ["only"]}, "`choices` is ['only']; expected at least two texts"),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, "`answer` 2 is no index; expected 0 to 1"),
        ({"question": "q", "A": "x", "C": "y"}, "options A, C have a gap"),
        ({"question": "q", "answer": ["a"]}, "`answer` is a list; expected text or a number"),
        (
            {"question": "q", "verifier": "maths"},
            "expected one of exact, choice, numeric, math (did you mean 'math'?)",
        ),
    ],
)
def test_bad_row_is_named_by_file_and_line(tmp_path, row, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_text("no image at all")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes(encoded(noise)[:5000])
    frames = [noise.rotate(90 * i) for i in range(4)]
    animation = encoded(noise, "WEBP", save_all=True, append_images=frames, lossless=True)
    (tmp_path / "cut.webp").write_bytes(animation[: len(animation) // 2])
    (tmp_path / "flat.png").write_bytes(header_only_png(0, 5))
    assert PIXEL_LIMIT < 8001 * 8000
    (tmp_path / "enormous.png").write_bytes(header_only_png(8001, 8000))
    (tmp_path / "bomb.png").write_bytes(header_only_png(20000, 20000))
    with pytest.raises(InputError) as error:
        load_problems(write_jsonl(tmp_path / "bad.jsonl", GOOD, row, GOOD))
    assert str(error.value).startswith("bad.jsonl, line 2: ")
    assert message in str(error.value)


def test_bad_tsv(tmp_path):
    rows = [{"index": 1, "image": "17", "question": "q"}]
    with pytest.raises(
        InputError, match=r"bad.tsv, line 2: `image` is '17', which is neither base64, nor a file"
    ):
        load_problems(write_tsv(tmp_path / "bad.tsv", rows))
    rows = [{"index": 1, "image": "2", "question": "q"}, {"index": 2, "image": "A" * 99, "question": "q"}]
    with pytest.raises(
        InputError, match=r"line 2: `image` of the row with index '2' is neither .* nor base64"
    ):
        load_problems(write_tsv(tmp_path / "bad.tsv", rows))
    with pytest.raises(
        InputError, match=r"'image' to 'imgae', which is no column of bad.tsv, line 2 \(did you mean 'image'"
    ):
        load_problems(tmp_path / "bad.tsv", columns={"image": "imgae"})
    rows = [{"index": 1, "questions": "q"}]
    with pytest.raises(
        InputError, match=r"bad.tsv, line 2: no column 'question' \(did you mean 'questions'\?\)"
    ):
        load_problems(write_tsv(tmp_path / "bad.tsv", rows))


def test_bad_file(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes('{"question": "é"}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.jsonl, near line 1: could not be read \(UnicodeDecodeError"):
        load_problems(tmp_path / "latin.jsonl")
    (tmp_path / "set.csv").write_text("question\n")
    with pytest.raises(
        InputError,
        match=r"'set.csv' is a file of unknown kind; expected .tsv, .jsonl, .ndjson, .json, .parquet or a folder",
    ):
        load_problems(tmp_path / "set.csv")
    for name, what in (("clip.mp4", "video"), ("a.png", "image")):
        (tmp_path / name).touch()
        with pytest.raises(
            InputError,
            match=rf"'{name}' is one {what}; expected a folder .*or rows of a .jsonl .*\"{what}\": ",
        ):
            load_problems(tmp_path / name)
    with pytest.raises(InputError, match=r"no such file or folder \(did you mean 'latin.jsonl'\?\)"):
        load_problems(tmp_path / "latin.json")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").write_text("not an image")
    with pytest.raises(InputError, match=r"broken/1.png could not be read"):
        load_problems(tmp_path / "broken")


@pytest.mark.parametrize("name", ["empty.tsv", "empty.jsonl", "header.tsv", "folder"])
def test_empty_problem_set(tmp_path, name):
    (tmp_path / "folder").mkdir()
    for empty in ("empty.tsv", "empty.jsonl"):
        (tmp_path / empty).touch()
    (tmp_path / "header.tsv").write_text("index\tquestion\n")
    with pytest.raises(InputError, match=f"{name}' is an empty problem set; expected at least one problem"):
        load_problems(tmp_path / name)


def test_what_is_fitted_on_is_never_what_is_tested(tmp_path):
    tested = load_problems("shapes", limit=5, seed=3)
    train, held = load_unseen("shapes", tested, seed=3, train=6, validation=2)
    wanted = load_problems("shapes", split="train", limit=6, seed=3)
    assert [one.fingerprint for one in train] == [one.fingerprint for one in wanted]
    assert [one.id for one in held] == [
        one.id for one in load_problems("shapes", split="validation", limit=2, seed=3)
    ]
    file = tmp_path / "own.jsonl"
    file.write_text(
        "".join(f'{{"id": "q{n}", "question": "{n} + 1?", "answer": "{n + 1}"}}\n' for n in range(3))
    )
    with pytest.raises(InputError, match=r"has no splits: 'own/q0' is tested"):
        load_unseen(file, load_problems(file), train=2, validation=1)
