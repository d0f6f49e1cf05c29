"""`try_replay` against the pieces that it is made of, and how it shows itself."""

from dataclasses import replace

import ipywidgets
import pytest
import tiny
from parsed import shown
from synthetic import SCRIPT

from workbench import Replay, decode, learn_tokens, load_pair, load_problems, try_replay
from workbench.errors import InputError

HOW = {"tau": 0.5, "threshold": "quantile", "alpha": 100.0, "layers": 3, "iterations": 5}


@pytest.fixture(scope="module")
def pair():
    return load_pair("shapes", device="cpu")


@pytest.fixture(scope="module")
def problem():
    return load_problems("shapes", split="validation", limit=2)[1]


def test_it_is_learning_and_three_models_answering(pair, problem):
    found = try_replay(pair, problem, samples=4, max_new_tokens=64, **HOW)
    prompt = pair.encode(problem)
    learned = learn_tokens(pair, prompt, Replay(**HOW))
    assert found.learned.tokens.equal(learned.tokens)
    assert found.table["model"].tolist() == ["base", "rlvr", "replay"]
    answers = {
        "base": {"model": "base"},
        "rlvr": {"model": "rlvr"},
        "replay": {"model": "rlvr", "intervention": learned},
    }
    for row in found.table.to_dict("records"):
        how = answers[row["model"]] | {"max_new_tokens": 64}
        assert row["greedy"] == decode(pair, prompt, **how)[0].text
        drawn = decode(pair, prompt, samples=4, temperature=1.0, **how)
        wanted = f"<answer> {problem.answer}</answer>"
        assert row["samples_right"] == sum(wanted in response.text for response in drawn)
        assert row["right"] == (wanted in row["greedy"])
    assert repr(found).startswith("Attempt(LearnedTokens('shapes/validation")
    assert problem.answer in "".join(shown(found).itertext())
    assert len(found.plot().data) == 2


def test_a_layer_means_mid_tokens(pair, problem):
    found = try_replay(pair, problem, layer=2, samples=1, max_new_tokens=4, **HOW)
    assert (found.learned.replay.site, found.learned.layer, found.learned.loss_layers) == (
        "mid_tokens",
        2,
        (2,),
    )
    assert not found.table["right"].any()  # cut off before the answer


def test_it_escapes_what_models_said(pair, problem):
    found = try_replay(pair, problem, samples=1, max_new_tokens=2, **HOW)
    hostile = replace(found, table=found.to_dataframe().assign(greedy=SCRIPT))
    assert SCRIPT in "".join(shown(hostile).itertext())


def test_sliders_can_call_it(pair, problem):
    fixed = ipywidgets.fixed
    panel = ipywidgets.interactive(
        try_replay,
        pair=fixed(pair),
        problem=fixed(problem),
        tau=ipywidgets.FloatSlider(0.4, min=0.1, max=1.0),
        threshold=fixed("quantile"),
        layers=ipywidgets.IntSlider(2, min=1, max=8),
        layer=ipywidgets.Dropdown(options=[None, 1, 2]),
        iterations=fixed(2),
        samples=fixed(1),
        seed=fixed(0),
        max_new_tokens=fixed(2),
    )
    panel.update()
    assert panel.result.learned.replay == Replay(tau=0.4, threshold="quantile", layers=2, iterations=2)
    next(slider for slider in panel.children if slider.description == "tau").value = 0.7
    assert panel.result.learned.replay.tau == 0.7


def test_a_problem_without_an_answer_is_refused(tiny_pair):
    with pytest.raises(InputError, match=r"`problem` 'p0' has no answer to compare with"):
        try_replay(tiny_pair, tiny.problem(answer=None))
