"""The prepared cases: eight of them, each opened by its name, and each still shows what its sentence says."""

import pytest

import workbench as wb
from workbench.live.cases import case_named, cases

OF_SHAPES = [case.name for case in cases() if case.pair == "shapes"]


@pytest.fixture(scope="module")
def bench():
    return wb.bench(wb.load_pair("shapes"), wb.load_problems("shapes", limit=1)[0])


def test_there_are_eight_and_an_unknown_one_is_refused():
    names = ["lost", "parting", "entropy", "video", "crop", "sum", "adapter", "replay"]
    assert [case.name for case in cases()] == names
    assert all(case.title for case in cases())
    with pytest.raises(wb.InputError, match="did you mean 'lost'"):
        case_named("lst")


@pytest.mark.parametrize("name", OF_SHAPES)
def test_a_case_shows_what_it_says(bench, name):
    case, trial = case_named(name), bench.play(name)
    pair, problem = bench.pair, case.problem()
    texts = {who: wb.decode(pair, problem, model=who)[0].text for who in ("base", "rlvr")}
    for who, text in texts.items():
        assert bench.trials[0].answers[who][0].text == text
    if trial.condition is not None:
        (answer,) = wb.decode(pair, problem, intervention=trial.condition)
        assert trial.text == answer.text != texts["rlvr"]
    right = trial.effect["right"]
    if name == "lost":
        assert right == {"base": False, "rlvr": True, "action": False}
        assert len(bench.mask.positions) == 3
    elif name == "parting":
        assert right == {"base": True, "rlvr": True}
        assert not bench.trials[0].effect["right"]["base"]
    elif name == "entropy":
        assert bench.mask.count > 0
    elif name == "video":
        assert (right["rlvr"], right["action"], problem.video != ()) == (True, False, True)
    elif name == "crop":
        assert "bbox_2d" in trial.text
    elif name == "adapter":
        assert [one.condition is not None for one in bench.trials] == [False, True, True]
        assert all(one.effect["changed"] for one in bench.trials[1:])
    else:
        assert right["action"] != right["rlvr"]


def test_a_sum_is_of_the_text_only_pair():
    case = case_named("sum")
    assert (case.pair, case.problems) == ("smol", "sums")
    assert case.actions
