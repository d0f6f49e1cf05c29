"""Questions of an evaluation harness: they become problems, fail alone, and are answered as the library answers them."""

from dataclasses import replace

import pytest
import tiny

import workbench as wb
from workbench.decoding.decode import decode_many
from workbench.decoding.likelihoods import response_ids, response_nats
from workbench.errors import InputError
from workbench.interfaces.harness import Question, Responder, before_stop, kind_of, make_problem
from workbench.models.pairs import weights_of
from workbench.replay.adapters import Adapter
from workbench.replay.patching import Patch, prepare_patch
from workbench.replay.replay import Replay, learn_many

REPLAY = Replay(layers=2, threshold="quantile", iterations=2, alpha=1e4)
PATCH = Patch(layers=2, threshold="quantile")
LONGEST = 12


def asked(*problems):
    return [lambda problem=problem: Question(problem) for problem in problems]


@pytest.mark.parametrize("condition", [None, "base", REPLAY, PATCH])
def test_answers_are_those_of_the_library(tiny_pair, condition):
    problems = [tiny.problem(seed=seed) for seed in range(3)]
    responder = Responder.of(tiny_pair, condition, batch_size=2)
    found = responder.answer(asked(*problems), max_new_tokens=LONGEST)
    prompts = [tiny_pair.encode(problem) for problem in problems]
    made = None
    if condition is REPLAY:
        made = learn_many(tiny_pair, prompts, REPLAY)
    if condition is PATCH:
        made = [prepare_patch(tiny_pair, prompt, PATCH) for prompt in prompts]
    model = "base" if condition == "base" else "rlvr"
    expected = decode_many(tiny_pair, prompts, model=model, interventions=made, max_new_tokens=LONGEST)
    assert found == [responses[0].text for responses in expected]


def test_words_of_a_command_line_become_a_condition():
    settings = {"alpha": 3, "only_where_base_lower": True, "levels": "none", "site": "mid_tokens", "layer": 2}
    made = Responder.of("shapes", "replay", batch_size="auto", **settings, layers="none")
    preset = made.pair.preset
    assert (made.condition.alpha, made.condition.only_where_base_lower, made.condition.layers) == (
        3,
        True,
        None,
    )
    assert (made.condition.threshold, made.batch_size) == (preset.replay["threshold"], preset.batch_size)
    patched = Responder.of(made.pair, "patch", layers="[1, 2]", batch_size="4")
    assert (patched.condition.layers, patched.condition.tau, patched.batch_size) == (
        (1, 2),
        preset.replay["tau"],
        4,
    )
    own = replace(
        made.pair, preset=replace(preset, patch={"threshold": "fixed", "levels": (1, 2), "layers": 2})
    )
    assert Responder.of(own, "patch").condition.levels == (1, 2)
    assert Responder.of(own, "patch", layers=1).condition == Patch(
        layers=1, tau=0.4, threshold=preset.replay["threshold"]
    )
    assert [Responder.of(made.pair, word).condition for word in (None, "none", "rlvr", "base")] == [
        "rlvr",
        "rlvr",
        "rlvr",
        "base",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"intervention": "replai"}, "`intervention` is 'replai'.*did you mean 'replay'"),
        ({"intervention": "replay", "taau": 0.4}, "`taau` is no setting of intervention 'replay'.*'tau'"),
        ({"tau": 0.4}, "`tau` is no setting of intervention None"),
        ({"intervention": "replay", "layers": 99}, "`layers` is 99"),
        ({"intervention": "patch", "layers": 99}, "layers 0 to"),
        ({"intervention": "patch", "layers": "[1, 2"}, "expected a list"),
        ({"engine": "wllm"}, "`engine` is 'wllm'"),
        ({"batch_size": "many"}, "`batch_size` is 'many'"),
        ({"device": "cpu"}, "`device` was given beside a loaded `pair`"),
    ],
)
def test_what_cannot_be_is_refused_at_once(tiny_pair, arguments, message):
    with pytest.raises(InputError, match=message):
        Responder.of(tiny_pair, **arguments)


def test_a_failing_question_costs_no_other_its_answer(tiny_pair):
    def broken():
        raise KeyError("no such column")

    responder = Responder.of(tiny_pair, REPLAY, batch_size=4)
    good = asked(tiny.problem(seed=0), tiny.problem(seed=1))
    found = responder.answer([good[0], broken, good[1]], max_new_tokens=LONGEST)
    alone = [responder.answer([question], max_new_tokens=LONGEST)[0] for question in good]
    assert [found[0], found[2]] == alone
    assert isinstance(found[1], KeyError)


def test_a_question_without_pictures_is_answered_without_tokens(tiny_pair):
    text = wb.Problem("mine/1", "How many?")
    responder = Responder.of(tiny_pair, REPLAY, batch_size=2)
    found = responder.answer(asked(tiny.problem(), text), max_new_tokens=LONGEST)
    plain = Responder.of(tiny_pair, batch_size=2).answer(asked(tiny.problem(), text), max_new_tokens=LONGEST)
    assert found[1] == plain[1]
    assert found[0] != plain[0]


def test_a_wrong_number_is_refused_rather_than_counted_as_a_failure(tiny_pair):
    with pytest.raises(InputError, match="`temperature` is -1"):
        Responder.of(tiny_pair).answer(asked(tiny.problem()), temperature=-1)


@pytest.mark.parametrize("condition", [None, REPLAY, PATCH])
def test_likelihoods_are_those_of_the_library(tiny_pair, condition):
    problem, said = tiny.problem(), ["a", "bcd", "ef", "a"]
    responder = Responder.of(tiny_pair, condition, batch_size=3)
    found = responder.likelihoods(asked(problem)[0], said)
    prompt = tiny_pair.encode(problem)
    made = {None: lambda: None, REPLAY: lambda: learn_many(tiny_pair, [prompt], REPLAY)[0]}
    intervention = made.get(condition, lambda: prepare_patch(tiny_pair, prompt, PATCH))()
    for (score, _), text in zip(found, said, strict=True):
        ids = response_ids(tiny_pair, text)
        (nats,) = response_nats(
            tiny_pair.rlvr, [prompt], [ids], pad_id=tiny_pair.pad_id, interventions=[intervention]
        )
        assert score == pytest.approx(-nats * len(ids), abs=1e-4)


def test_questions_of_which_nothing_is_selected_are_answered_as_they_are(tiny_pair):
    problems = [replace(tiny.problem(seed=seed), id=f"p{seed}") for seed in range(3)]
    some = Responder.of(tiny_pair, Replay(layers=2, tau=0.95, iterations=2), batch_size=1)
    with pytest.warns(UserWarning, match="selects no visual position of 2 of 3 prompts"):
        found = some.answer(asked(*problems), max_new_tokens=4)
    assert found[:2] == Responder.of(tiny_pair).answer(asked(*problems[:2]), max_new_tokens=4)
    assert some.answer(asked(problems[0]), max_new_tokens=4) == found[:1]
    with pytest.raises(InputError, match="no visual position of 2 of 2 prompts"):
        some.answer(asked(*problems[:2]), max_new_tokens=4)


def test_a_question_without_pictures_is_answered_under_an_adapter_too(tiny_pair):
    told = {"name": "tiny", **weights_of(tiny_pair)}
    adapter = Adapter.untrained(tiny_pair.base.hidden_size, 8, REPLAY, told)
    words = asked(tiny.problem(images=0))
    (found,) = Responder.of(tiny_pair, adapter).answer(words, max_new_tokens=3)
    assert [found] == Responder.of(tiny_pair).answer(words, max_new_tokens=3)


def test_no_tokens_are_refused(tiny_pair):
    with pytest.raises(InputError, match="`max_new_tokens` is 0; expected a whole number of at least 1"):
        Responder.of(tiny_pair).answer(asked(tiny.problem()), max_new_tokens=0)


def test_what_greedy_decoding_says_is_known_as_greedy(tiny_pair):
    problem = tiny.problem()
    (response,) = Responder.of(tiny_pair, PATCH).answer(asked(problem), max_new_tokens=3)
    ids = response_ids(tiny_pair, response)
    found = Responder.of(tiny_pair, PATCH).likelihoods(asked(problem)[0], [response, "zz"])
    if len(ids) == 3:  # bytes that are no text do not come back as the same tokens
        assert found[0][1]
    assert not found[1][1]


def test_pictures_go_before_texts_in_their_order(tmp_path):
    first, second = tiny.problem(images=2).images
    second.save(tmp_path / "second.png")
    parts = [
        ("text", "One"),
        ("image", first),
        ("text", " "),
        ("text", "two"),
        ("image", f"file://{tmp_path}/second.png"),
    ]
    problem = make_problem("mine/1", parts, system="Look.")
    assert (problem.question, problem.system) == ("One\ntwo", "Look.")
    assert [image.tobytes() for image in problem.images] == [first.tobytes(), second.tobytes()]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([("image", "nowhere.png"), ("text", "What?")], "mine/1: image.* is missing"),
        ([("image", "http://x.org/1.png"), ("text", "What?")], "nothing is downloaded"),
        ([("text", " ")], "`question` of problem 'mine/1'"),
        ([("video", "a.mp4"), ("video", "b.mp4"), ("text", "What?")], "has 2 videos"),
    ],
)
def test_a_question_that_is_none_is_refused(parts, message):
    with pytest.raises(InputError, match=message):
        make_problem("mine/1", parts)


def test_kinds_and_stops():
    assert [kind_of(v) for v in ("a.PNG", "b.mp4", "frames", "c.gif", "data:image/png;base64,AA")] == [
        "image",
        "video",
        "video",
        "video",
        "image",
    ]
    assert before_stop("one. Two! three", ["!", "."]) == "one"
    assert before_stop("one", ["!"]) == "one"
