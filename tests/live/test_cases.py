"""The prepared cases: eight of them, each opened by its name, and each still shows what its sentence says."""

import pytest

import workbench as wb
from workbench.live.cases import case_named, cases
from workbench.models.prompts import TokenKind


@pytest.fixture(scope="module")
def bench():
    return wb.bench(wb.load_pair("shapes"), wb.load_problems("shapes", limit=1)[0])


def test_there_are_eight_and_an_unknown_one_is_refused():
    names = ["lost", "parting", "entropy", "video", "crop", "sum", "adapter", "replay"]
    assert [case.name for case in cases()] == names
    assert all(case.title for case in cases())
    with pytest.raises(wb.InputError, match="did you mean 'lost'"):
        case_named("lst")


@pytest.mark.parametrize("name", [case.name for case in cases()])
def test_a_case_shows_what_it_says(bench, name):
    case, trial = case_named(name), bench.play(name)
    pair, problem = bench.pair, case.problem()
    asked, _, turns = case.asked(pair)
    prompt = pair.encode(asked, turns)
    texts = {who: wb.decode(pair, prompt, model=who)[0].text for who in ("base", "rlvr")}
    for who, text in texts.items():
        assert bench.trials[0].answers[who][0].text == text
    if trial.condition is not None:
        (answer,) = wb.decode(pair, prompt, intervention=trial.condition)
        assert trial.text == answer.text != texts["rlvr"]
    right = trial.effect["right"]
    if name == "lost":
        assert right == {"base": False, "rlvr": True, "action": False}
        assert isinstance(trial.condition, wb.Patch)
        assert trial.condition.cells == bench.mask
        assert [prompt.kinds[at] for at in bench.mask.positions] == [TokenKind.VISUAL] * 3
    elif name == "parting":
        assert right == {"base": True, "rlvr": True}
        assert not bench.trials[0].effect["right"]["base"]
    elif name == "entropy":
        assert bench.mask.count > 0
    elif name == "video":
        assert (right["rlvr"], right["action"], problem.video != ()) == (True, False, True)
    elif name == "crop":
        call, reply = turns
        assert "bbox_2d" in call.parts[0]
        assert len(reply.images) == 1
        assert set(prompt.visual_index[list(bench.mask.positions)].tolist()) == {
            1
        }  # the crop's, after the picture's
        assert (right["rlvr"], right["action"]) == (True, False)
    elif name == "sum":
        assert (pair.name, case.problems, prompt.grids) == ("smol", "sums", ())
        assert right["rlvr"]
    elif name == "adapter":
        assert [one.condition is not None for one in bench.trials] == [False, True, True]
        assert all(one.effect["changed"] for one in bench.trials[1:])
    else:
        assert right["action"] != right["rlvr"]
