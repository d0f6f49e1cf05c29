"""Sets in which some problems have pictures and some have none."""

import pytest
import tiny

import workbench as wb
from workbench.errors import InputError
from workbench.replay.replay import learn_tokens

HOW = {"samples": 1, "max_new_tokens": 4, "resamples": 20}
REPLAY = wb.Replay(layers=2, threshold="quantile", alpha=1000.0, iterations=2)


@pytest.fixture(scope="module")
def problems():
    return [tiny.problem(images=count, seed=seed) for seed, count in enumerate((1, 0, 2, 0, 1))]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "gemma3"])
@pytest.mark.parametrize("direction", ["base_to_rlvr", "reverse", "self"])
def test_a_mixed_set_is_ablated(pair_of, problems, direction, family):
    """Protects from hours of decoding that end at the first problem without a picture."""
    pair = pair_of(family)
    replay = wb.Replay(layers=2, threshold="quantile", iterations=1, direction=direction)
    with pytest.warns(
        UserWarning, match=r"2 of 5 problems have no picture, 'p1' the first: 'replay' leaves the"
    ):
        found = wb.ablate(pair, problems, {"replay": replay, "patch": wb.Patch(layers=2)}, **HOW)
    rows = found.responses.set_index(["intervention", "problem", "sample"])
    assert len(rows) == 4 * 5 * 2
    plain = "base" if direction == "reverse" else "rlvr"
    for problem in ("p1", "p3"):
        assert rows.loc[("replay", problem), "text"].tolist() == rows.loc[(plain, problem), "text"].tolist()
        assert {*rows.loc[("replay", problem), "stopped"]} == {"no picture"}
    assert "no picture" not in {*rows.loc[("replay", "p0"), "stopped"], *rows.loc["patch", "stopped"]}


def test_what_has_a_picture_is_answered_as_alone(pair_of, problems):
    """Protects from an intervention that slips to another problem of the set."""
    pair = pair_of("qwen2_5_vl")
    with pytest.warns(UserWarning, match="have no picture"):
        found = wb.ablate(pair, problems, {"replay": REPLAY}, **HOW).responses
    for problem in problems:
        prompt = pair.encode(problem)
        made = learn_tokens(pair, prompt, REPLAY) if problem.images else None
        wanted = wb.decode(pair, prompt, intervention=made, max_new_tokens=4)[0].text
        here = found.query("intervention == 'replay' and sample == -1 and problem == @problem.id")
        assert here["text"].tolist() == [wanted]


def test_a_set_without_any_picture_is_refused_before_anything_runs(pair_of, problems, monkeypatch):
    """Protects from a comparison of the model with itself."""
    pair = pair_of("qwen2_5_vl")
    monkeypatch.setattr(type(pair), "encode", lambda *_: pytest.fail("something ran"))
    with pytest.raises(
        InputError, match=r"`problems`: none of 2 has a picture, and 'replay' has no visual tokens"
    ):
        wb.ablate(pair, [problems[1], problems[3]], {"replay": REPLAY}, **HOW)


def test_an_id_that_stands_twice_is_refused_before_anything_runs(pair_of, problems, monkeypatch):
    """Protects from a traceback of pandas after all decoding."""
    pair = pair_of("qwen2_5_vl")
    monkeypatch.setattr(type(pair), "encode", lambda *_: pytest.fail("something ran"))
    with pytest.raises(InputError, match=r"'p0'.* twice|twice.*'p0'"):
        wb.ablate(pair, [problems[0], problems[0]], [wb.Patch(layers=2)], **HOW)
