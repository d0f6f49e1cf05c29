"""The classes for lmms-eval, on requests of its shape. With lmms-eval itself: `tests/harness/run`."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
import tiny

import workbench as wb
from workbench.decoding.decode import decode
from workbench.decoding.likelihoods import response_ids, response_nats
from workbench.errors import InputError
from workbench.replay.replay import Replay, learn_tokens

TASK = "mine"
GREEDY = {
    "max_new_tokens": 8,
    "temperature": 0,
    "do_sample": False,
    "top_p": 1.0,
    "num_beams": 1,
    "until": ["\n\n"],
}
MODULE = "workbench.interfaces.lmms_eval_models"
LMMS_EVAL = ("lmms_eval", "lmms_eval.api", "lmms_eval.api.instance", "lmms_eval.api.model")


@pytest.fixture(scope="module")
def models():
    """The module, with a stand-in for lmms-eval's base class."""

    class Lmms:
        is_simple = True

        def __init__(self):
            self.task_dict = {}

    package = {name: ModuleType(name) for name in LMMS_EVAL}
    package["lmms_eval.api.model"].lmms = Lmms
    package["lmms_eval.api.instance"].GenerationResult = lambda text: SimpleNamespace(text=text)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in package.items():
            patch.setitem(sys.modules, name, module)
        patch.delitem(sys.modules, MODULE, raising=False)
        yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


@pytest.fixture(scope="module")
def load(models, pair_of):
    def load(kind="ChatModel", intervention=None, **settings):
        made = getattr(models, kind)(pair_of("qwen2_5_vl"), intervention, **settings)
        made.task_dict = {TASK: {"test": [tiny.problem(seed=seed) for seed in range(3)]}}
        return made

    return load


def messages(problem):
    image = {"type": "image", "url": problem.images[0]}
    text = {"type": "text", "text": f"<image>{problem.question}"}
    return [
        {"role": "system", "content": [{"type": "text", "text": "Look."}]},
        {"role": "user", "content": [image, text]},
    ]


def chat(number, making=messages, **how):
    return SimpleNamespace(args=("ignored", making, GREEDY | how, number, TASK, "test"))


def simple(number, **how):
    question = f"<image>{tiny.problem(seed=number).question}"
    return SimpleNamespace(args=(question, GREEDY | how, lambda p: [[*p.images]], number, TASK, "test"))


def choice(number, said):
    question = tiny.problem(seed=number).question
    return SimpleNamespace(args=(question, said, lambda p: p.images, number, TASK, "test"))


def alone(pair, number, system=None, intervention=None, **how):
    problem = tiny.problem(seed=number)
    prompt = pair.encode(
        wb.Problem(f"{TASK}/test/{number}", problem.question, images=problem.images, system=system)
    )
    made = learn_tokens(pair, prompt, intervention) if intervention else None
    return decode(pair, prompt, intervention=made, **{"max_new_tokens": 8} | how)[0].text


def test_requests_are_answered_in_their_order_whatever_their_settings(load, tiny_pair):
    requests = [chat(0), chat(1, max_new_tokens=3), chat(2)]
    found = load(batch_size=2).generate_until(requests)
    assert found == [
        alone(tiny_pair, number, system="Look.", max_new_tokens=longest)
        for number, longest in enumerate((8, 3, 8))
    ]


def test_texts_with_pictures_are_answered_alike(load, tiny_pair):
    replay = Replay(layers=2, threshold="quantile", iterations=2, alpha=1e4)
    found = load("SimpleModel", replay, batch_size=1).generate_until([simple(0), simple(2)])
    assert found == [alone(tiny_pair, number, intervention=replay) for number in (0, 2)]


def test_until_ends_a_response_and_is_not_part_of_it(load, tiny_pair):
    whole = alone(tiny_pair, 0, system="Look.")
    stop = whole[3]
    assert load().generate_until([chat(0, until=["\n\n", stop])]) == [whole[: whole.index(stop)]]


def test_the_same_request_again_draws_another_response(load):
    how = {"temperature": 1.0, "do_sample": True}
    first, second = load().generate_until([chat(0, **how), chat(0, **how)])
    assert first != second
    assert load().generate_until([chat(0, **how), chat(0, **how)]) == [first, second]
    assert load().generate_until([chat(0, do_sample=False, temperature=1.0)]) == load().generate_until(
        [chat(0)]
    )


def test_later_messages_are_turns(load, tiny_pair):
    def shots(problem):
        return [
            *messages(problem),
            {"role": "assistant", "content": [{"type": "text", "text": "3"}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "And here?"}, *messages(problem)[1]["content"][:1]],
            },
        ]

    (question,) = load()._questions([chat(0, shots)])
    made = question()
    assert made.problem.system == "Look."
    assert [turn.role for turn in made.turns] == ["assistant", "user"]
    assert made.turns[1].parts[0] == "And here?"
    assert len(tiny_pair.encode(made.problem, made.turns)) > len(tiny_pair.encode(made.problem))


def test_failures_count_as_empty_unless_all_fail(load, tiny_pair):
    def broken(problem):
        raise KeyError("image")

    with pytest.warns(UserWarning, match="1 of 2 requests failed and count as wrong; the first: KeyError"):
        found = load(batch_size=2).generate_until([chat(0, broken), chat(1)])
    assert found == ["", alone(tiny_pair, 1, system="Look.")]
    with pytest.raises(KeyError):
        load().generate_until([chat(0, broken)])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"num_beams": 4}, "`num_beams` is 4"),
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.9}, "`top_p` is 0.9"),
    ],
)
def test_settings_that_would_change_responses_are_refused(load, how, message):
    with pytest.raises(InputError, match=message):
        load().generate_until([chat(0, **how)])


def test_likelihoods_of_choices(load, tiny_pair):
    said = [" a", " bcd", " ef"]
    requests = [choice(number, text) for number in (0, 1) for text in said]
    found = [result.text for result in load("SimpleModel").loglikelihood(requests)]
    for (score, _), request in zip(found, requests, strict=True):
        _, text, _, number, *_ = request.args
        prompt, ids = tiny_pair.encode(tiny.problem(seed=number)), response_ids(tiny_pair, text)
        (nats,) = response_nats(tiny_pair.rlvr, [prompt], [ids], pad_id=tiny_pair.pad_id)
        assert score == pytest.approx(nats * len(ids), abs=1e-4)
    target = SimpleNamespace(args=(requests[0].args[0], lambda p: " a", *requests[0].args[2:]))
    assert load("SimpleModel").loglikelihood([target])[0].text == pytest.approx(found[0], abs=1e-4)
    with pytest.raises(InputError, match="acc_mutual_info"):
        load("SimpleModel").loglikelihood([SimpleNamespace(args=("", "a"))])


def test_what_is_not_supported_is_refused(load, monkeypatch):
    with pytest.raises(InputError, match="several rounds"):
        load().generate_until_multi_round([chat(0)])
    with pytest.raises(InputError, match="expected a user's first and last"):
        load().generate_until([chat(0, lambda problem: [{"role": "assistant", "content": "3"}])])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="`WORLD_SIZE` is above 1"):
        load()


def test_without_lmms_eval_the_extra_is_named(monkeypatch):
    for name in LMMS_EVAL:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(InputError, match=r"lmms-eval can't be imported.*pip install -e .\.\[lmms-eval\]"):
        importlib.import_module(MODULE)
