"""Videos of coloured shapes: answers agree with what the clip shows, streams are apart, hasty and wrong ways are as told."""

import re
from collections import Counter

import numpy as np
import pytest

from workbench import load_problems
from workbench.errors import InputError
from workbench.problems import answers, shapes, shapes_video


def clips(family: str, count: int = 60):
    for seed in range(count):
        yield shapes_video.ask(family, np.random.default_rng(seed))


def asked(text: str, clip: shapes_video.Clip) -> tuple[str, np.ndarray]:
    """What is asked about, and (4, 4) where it is."""
    color = re.search(rf"({'|'.join(shapes.COLORS)}) shape", text)
    if color:
        return color[1], (clip.color == list(shapes.COLORS).index(color[1])).reshape(4, -1)
    name = next(shape for shape in shapes.SHAPES if re.search(rf"\b{shape}", text))
    return name, (clip.shape == shapes.SHAPES.index(name)).reshape(4, -1)


def test_total_counts_over_all_moments_and_hastily_over_the_first():
    for question, clip in clips("total"):
        _, where = asked(question.text, clip)
        assert question.answer == str(where.sum())
        assert question.guess == str(where[0].sum())


def test_appear_names_the_first_moment():
    for question, clip in clips("appear"):
        _, where = asked(question.text, clip)
        assert question.answer == shapes_video.MOMENTS[int(where.any(1).argmax())]
        assert question.guess == "first"


def test_move_counts_changes_of_place_of_the_only_one():
    for question, clip in clips("move"):
        _, where = asked(question.text, clip)
        assert (where.sum(1) == 1).all()
        places = where.argmax(1)
        assert question.answer == str((places[1:] != places[:-1]).sum())
        assert question.guess == str(int(places[0] != places[1]))


@pytest.mark.parametrize("family", ["appear", "move"])
def test_answers_are_balanced(family):
    counts = Counter(question.answer for question, _ in clips(family, 300))
    assert len(counts) == 4
    assert max(counts.values()) < 0.4 * 300


def test_a_problem_is_a_function_of_split_seed_and_index_with_two_frames_a_moment():
    first, again = [*shapes_video.problems("test", 6, seed=3)], [*shapes_video.problems("test", 6, seed=3)]
    for one, other in zip(first, again, strict=True):
        assert one["question"] == other["question"]
        assert [f.tobytes() for f in one["video"]] == [f.tobytes() for f in other["video"]]
        assert [f.size for f in one["video"]] == [(56, 56)] * 8
        assert all(
            a.tobytes() == b.tobytes() for a, b in zip(one["video"][::2], one["video"][1::2], strict=True)
        )
    assert [p["family"] for p in first] == list(shapes_video.FAMILIES) * 2
    frames = {p["video"][0].tobytes() for s in shapes.SPLITS for p in shapes_video.problems(s, 6)}
    assert len(frames) == 18


def test_the_reference_is_right_and_the_other_response_wrong_in_the_same_form():
    for problem in load_problems("shapes-video", limit=30):
        right, wrong = (problem.metadata[key] for key in ("chain", "wrong"))
        assert answers.verify(right, problem.answer or "").correct
        assert not answers.verify(wrong, problem.answer or "").correct
        head = right.split()[1]
        assert wrong.split()[1] == head
        said = [re.search(r" so (\w+)</think><answer> (\w+)<", text) for text in (right, wrong)]
        assert all(found and found[1] == found[2] for found in said)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: shapes_video.problems("dev"),
            "`split` is 'dev'; `shapes-video` has train, validation, test",
        ),
        (lambda: shapes_video.problems("test", 0), "`limit` is 0"),
        (lambda: load_problems("shapes-vdeo"), "shapes-video"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
