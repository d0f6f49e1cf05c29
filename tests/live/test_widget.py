"""The widget without a browser: what a page sends becomes calls, what goes back is small, and nothing is ever a traceback."""

import base64
import io
import json
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

import workbench as wb
from workbench.live import acting
from workbench.live.state import ACTION_BYTES, ANSWER_BYTES, shown_answers, shown_effect, shown_state
from workbench.live.trial import Token
from workbench.live.widget import DOES, BenchWidget
from workbench.models.identity import fingerprint
from workbench.tracing.lens_trace import AXES, LensTrace
from workbench.views.explorer_data import STEPS, pack_after

LIMIT = 1_000_000


@pytest.fixture(scope="module")
def pair():
    return wb.load_pair("shapes")


@pytest.fixture(scope="module")
def problems():
    return wb.load_problems("shapes", limit=3)


@pytest.fixture(scope="module")
def opened(pair, problems):
    bench = wb.bench(pair, problems[0])
    return bench, bench.widget


@pytest.fixture
def page(opened, problems):
    """(bench, a function that sends it a message as a page does, and waits)."""
    bench, widget = opened
    bench.open(problems[0])

    def send(**message):
        widget._handle_custom_msg(message, [])
        if bench.job is not None:
            with_error = bench.job._future.exception()
            assert with_error is None or bench.error
        return widget.state

    return bench, send


def test_it_shows_itself_as_a_widget_that_is_the_same_every_time(opened):
    bench, widget = opened
    assert isinstance(widget, BenchWidget)
    assert bench.widget is widget
    data = bench._repr_mimebundle_()
    shown = data[0] if isinstance(data, tuple) else data
    assert shown["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id


def test_messages_select_act_undo_and_take_an_alternative(page, pair, problems):
    bench, send = page
    send(do="select", where={"layers": [2, 3], "positions": [4, 5]}, how="set")
    assert bench.mask == wb.Mask({2: [(4, 6)], 3: [(4, 6)]})
    send(do="select", where={"layers": [0, 7], "word": "crosses"}, how="add")
    assert bench.mask.layers == tuple(range(8))
    send(do="invert")
    assert bench.widget.selection == {"mask": bench.mask.spans, "count": bench.mask.count}
    assert bench.mask.count > 0
    state = send(do="act", name="scale", settings={"factor": 0})
    (answer,) = wb.decode(pair, problems[0], intervention=bench.trial.condition)
    answers = bench.widget.answers
    assert answers["action"]["text"] == answer.text
    assert [answers["ids"][one[0]] for one in answers["action"]["tokens"]] == list(answer.ids)
    assert state["shown"] == 1
    assert send(do="undo")["shown"] == 0
    assert send(do="redo")["shown"] == 1
    state = send(do="go_on", who="base", position=1, token=bench.strips["base"][1].rlvr[0][0])
    assert state["begun"] == 2
    assert send(do="show", number=0)["shown"] == 0


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"do": "format the disk"}, "which a bench does not do"),
        ({"do": "select", "where": {"layers": [0, 99]}, "how": "set"}, "layers from 0 to 7"),
        ({"do": "select", "where": {}}, "That did not work"),
        ({"do": "act", "name": "patch"}, "nothing is selected"),
        ({"do": "act", "name": "scale", "settings": {"factor": "a"}}, "nothing is selected"),
        ({"do": "act", "name": "remove", "settings": {"layer": 8}}, "have layers 0 to 7"),
        ({"do": "sample", "samples": 0}, "`samples` is 0"),
        ({"do": "code", "name": "patch"}, "nothing is selected to patch"),
        ({"do": "go_on", "who": "nobody", "position": 0}, "`who` is 'nobody'"),
        ({"do": "ask", "question": " "}, "`question`"),
        ({"do": "ask", "question": "What?", "picture": "data:image/png;base64,AAAA"}, "the picture"),
        ({"do": "case", "name": "nothing"}, "`case` is 'nothing'"),
        ({"do": "reopen", "content": "{}"}, "no bench of format 1"),
        ({"do": "reopen", "content": "not json"}, "That did not work"),
        ({}, "which a bench does not do"),
    ],
)
def test_whatever_goes_wrong_is_words(page, message, words):
    bench, send = page
    state = send(**message)
    assert words in state["error"]
    assert "Traceback" not in state["error"]
    assert state["busy"] is None
    assert bench.trial.number == 0


def test_a_question_with_a_picture_is_opened_and_what_was_tried_reopened(page, problems):
    bench, send = page
    send(do="select", where={"layers": [0, 7]}, how="set")
    send(do="act", name="scale", settings={"factor": 0})
    kept = DOES["save"](bench, {"kind": "json"})
    picture = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(picture, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    state = send(do="ask", question="How many circles?", picture=uri)
    assert state["error"] is None
    assert bench.problem.images[0].getpixel((0, 0)) == (255, 0, 0)
    assert (state["shown"], len(state["trials"])) == (0, 1)
    state = send(do="reopen", content=kept["file"]["content"])
    assert (state["shown"], len(state["trials"]), state["problem"]) == (1, 2, problems[0].id)


def test_an_action_sends_less_than_a_megabyte(page):
    bench, send = page
    send(do="select", where={"layers": [0, 7]}, how="set")
    sent = []
    bench.widget.observe(lambda change: sent.append((change.name, len(json.dumps(change.new)))))
    try:
        send(do="act", name="scale", settings={"factor": 0})
    finally:
        bench.widget.unobserve_all()
    assert {name for name, _ in sent} == {"state", "answers", "effect"}
    assert sum(size for _, size in sent) < LIMIT
    assert ACTION_BYTES + 2 * ANSWER_BYTES < 0.9 * LIMIT  # answers come alone first, then with their tokens


def test_the_answer_is_there_before_the_lens(page, monkeypatch):
    bench, send = page
    send(do="select", where={"layers": [0, 7]}, how="set")
    seen = []
    monkeypatch.setattr(
        acting,
        "lens_effect",
        lambda *_: seen.append(
            (bench.widget.state["shown"], bench.widget.answers, bench.widget.state["busy"])
        ),
    )
    send(do="act", name="scale", settings={"factor": 0})
    ((shown, answers, busy),) = seen
    assert busy == "zeroed: reading every layer"
    assert shown == 1
    assert answers["action"]["text"] == bench.trial.text
    assert bench.trials[1].strips["action"]


def test_what_is_cancelled_after_its_answer_leaves_no_trial(page, monkeypatch):
    bench, send = page
    send(do="select", where={"layers": [0, 7]}, how="set")
    before = bench.mask
    monkeypatch.setattr(acting, "lens_effect", lambda *_: bench.cancel())
    state = send(do="act", name="scale", settings={"factor": 0})
    assert "Cancelled" in state["error"]
    assert (state["shown"], len(state["trials"]), bench.mask) == (0, 1, before)
    bench.undo()
    assert (bench.mask.count, bench.can_undo) == (0, False)


def test_a_selection_sends_neither_answers_nor_lens(page):
    bench, send = page
    sent = []
    bench.widget.observe(lambda change: sent.append((change.name, len(json.dumps(change.new)))))
    try:
        send(do="select", where={"layers": [0, 7]}, how="set")
    finally:
        bench.widget.unobserve_all()
    assert {name for name, _ in sent} == {"state", "selection"}
    assert sum(size for _, size in sent) < 5000


def test_long_answers_keep_fewer_alternatives(page):
    """Of 1,000 tokens, each with words of its own: with the lens, the list and the selection under 1 MB."""
    bench, _ = page
    trial = bench.trials[0]
    tops = tuple((number, f"word {number}", 0.123456789) for number in range(5))
    strip = tuple(Token(number, f" token {number}", 0.123456789, tops, tops) for number in range(1000))
    long = replace(trial, strips={"base": strip, "rlvr": strip})
    bench.trials[0] = long
    try:
        packed = shown_answers(bench)
    finally:
        bench.trials[0] = trial
    assert len(json.dumps(packed)) <= ANSWER_BYTES
    assert len(packed["base"]["tokens"]) == 1000
    word, divergence, base, rlvr = packed["base"]["tokens"][7]
    assert (packed["ids"][word], packed["words"][word], divergence) == (7, "␣token 7", 0.1235)
    assert 0 < len(base) == len(rlvr) < 10
    assert [packed["ids"][one] for one in base[::2]] == list(range(len(base) // 2))
    assert set(base[1::2]) == {0.1235}


def test_code_is_given_on_request_and_a_page_hears_that_it_is_there(page, monkeypatch):
    bench, send = page
    replies = []
    monkeypatch.setattr(bench.widget, "send", replies.append)
    send(do="select", where={"layers": [2, 3], "positions": [4, 5]}, how="set")
    send(do="code", name="patch")
    send(do="code")
    send(do="ping")
    assert replies == [{"code": bench.code("patch")}, {"code": bench.code()}, {"here": True}]
    assert "wb.Patch(select='all'" in replies[0]["code"]


def test_a_page_that_is_closed_while_it_works_leaves_the_models_as_they_were(page, pair):
    bench, _ = page
    before = [fingerprint(anatomy.model) for anatomy in (pair.base, pair.rlvr)]
    shown = BenchWidget(bench)
    bench.select(kind="visual", layers=range(5))
    shown._handle_custom_msg({"do": "act", "name": "replay", "settings": {"iterations": 20}}, [])
    shown.close()
    trial = bench.job.result()
    assert trial.number == bench.trial.number
    assert bench.error is None
    assert [fingerprint(anatomy.model) for anatomy in (pair.base, pair.rlvr)] == before
    assert BenchWidget(bench).state["shown"] == trial.number


def long_lens(layers: int, positions: int, words: int) -> LensTrace:
    """Random numbers, as many as of a large model at a prompt of `positions` that predicts so many different words."""
    one = wb.trace(wb.load_pair("shapes"), wb.load_problems("shapes", limit=1), top_k=5, null_draws=0)
    sizes = {"L": layers, "P": positions, "D": 0, "k": 5, "3": 3}
    tensors = {
        name: torch.zeros([sizes[axis] for axis in axes], dtype=dtype) for name, (axes, dtype) in AXES.items()
    }
    shape = (layers, positions, 5)
    tensors["kl"], tensors["top_probs_rlvr"] = torch.rand(layers, positions), torch.rand(shape)
    tensors["top_ids_rlvr"] = torch.randint(0, words, shape, dtype=torch.int32)
    texts = {i: f"token{i}" for i in range(words)}
    return replace(one, **tensors, layers=tuple(range(layers)), depth=layers, vocabulary=texts)


@pytest.mark.parametrize(
    ("layers", "positions", "top_k", "halves"),
    [(28, 300, 5, False), (28, 1200, 2, True), (28, 1900, 1, True), (64, 2500, None, None)],
)
def test_the_lens_of_a_large_model_is_cut_to_what_may_travel(layers, positions, top_k, halves):
    lens = long_lens(layers, positions, 3000)
    packed = pack_after(lens, ACTION_BYTES)
    if top_k is None:
        assert packed is None
        return
    assert len(json.dumps(packed)) <= ACTION_BYTES
    assert (packed["topK"], packed["halves"]) == (top_k, halves)
    stored = base64.b64decode(packed["kl"])
    kl = torch.frombuffer(bytearray(stored), dtype=torch.bfloat16 if halves else torch.float32).float()
    torch.testing.assert_close(kl.view(layers, positions), lens.kl, rtol=0.004 if halves else 0, atol=0)


def test_the_lens_that_is_sent_is_the_trace(page):
    bench, send = page
    send(do="select", where={"layers": [0, 7], "kind": "visual"}, how="set")
    send(do="act", name="scale", settings={"factor": 0})
    effect, lens = shown_effect(bench), bench.lenses[1]
    kl = torch.frombuffer(bytearray(base64.b64decode(effect["kl"])), dtype=torch.float32)
    assert torch.equal(kl.view_as(lens.kl), lens.kl)
    words = torch.frombuffer(bytearray(base64.b64decode(effect["words"])), dtype=torch.int16)
    ids = torch.tensor(effect["ids"])[words.long()].view(*lens.kl.shape, -1)
    assert torch.equal(ids, lens.top_ids_rlvr[..., : effect["topK"]].long())
    chances = (
        torch.frombuffer(bytearray(base64.b64decode(effect["chances"])), dtype=torch.int16).int() & 0xFFFF
    )
    read = torch.exp(-chances.view_as(ids) / STEPS)
    torch.testing.assert_close(read, lens.top_probs_rlvr[..., : effect["topK"]], rtol=3e-4, atol=1e-6)
    assert shown_state(bench)["shown"] == 1


def test_two_views_of_one_bench_show_the_same(opened):
    bench, widget = opened
    other = BenchWidget(bench)
    bench.select(kind="visual", layers=3)
    assert other.state == widget.state
    other.close()


def test_without_anywidget_it_is_the_page_that_needs_no_kernel(pair, problems, monkeypatch):
    monkeypatch.setitem(sys.modules, "workbench.live.widget", None)
    bench = wb.bench(pair, problems[0])
    shown = bench._repr_mimebundle_()
    assert shown["text/html"].startswith("<iframe srcdoc=")
    with pytest.raises(wb.InputError, match=r"needs anywidget .*notebooks"):
        _ = bench.widget
