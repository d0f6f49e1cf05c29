"""The bench without a browser: what it answers is what `wb.decode` says, and the models are as they were."""

import contextlib
import io
import json
import threading
import time

import psutil
import pytest
import torch

import workbench as wb
from workbench.experiments.agent import given
from workbench.live import acting
from workbench.live.trial import changed_tokens
from workbench.models.identity import fingerprint
from workbench.models.prompts import TokenKind
from workbench.problems.answers import verify
from workbench.stopping import Stopped


@pytest.fixture(scope="module")
def pair():
    return wb.load_pair("shapes")


@pytest.fixture(scope="module")
def problems():
    return wb.load_problems("shapes", limit=4)


@pytest.fixture(scope="module")
def opened(pair, problems):
    return wb.bench(pair, problems[0])


@pytest.fixture
def bench(opened, problems):
    return opened.open(problems[0])


def hooks(pair):
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks)
        for anatomy in (pair.base, pair.rlvr)
        for m in anatomy.model.modules()
    )


# ---- selecting ----------------------------------------------------------------------------------------------


def test_it_selects_by_rectangle_word_kind_and_layer(bench):
    prompt = bench.prompt
    bench.select(rectangle=(0, 1, 1, 2), layers=(2, 4))
    rows, columns = prompt.grid[:, 1], prompt.grid[:, 2]
    inside = (rows >= 0) & (rows <= 1) & (columns >= 1) & (columns <= 2)
    assert bench.selection.any(1).nonzero()[:, 0].tolist() == [2, 4]
    assert torch.equal(bench.selection[2], inside)
    mask = bench.select(word="crosses", layers=3)
    assert "".join(prompt.tokens[at] for at in mask.positions).strip().startswith("cross")
    bench.select(kind="visual", layers=3, how="add")
    assert int(bench.selection[3].sum()) == len(mask.positions) + int(
        (prompt.kinds == TokenKind.VISUAL).sum()
    )
    bench.select(word="crosses", how="remove")
    assert torch.equal(bench.selection[3], prompt.kinds == TokenKind.VISUAL)
    bench.invert()
    assert torch.equal(bench.selection[3], prompt.kinds != TokenKind.VISUAL)
    assert bench.selection.any(1).nonzero()[:, 0].tolist() == [3]
    assert bench.clear().count == 0


@pytest.mark.parametrize("stratum", ["low", "high"])
def test_a_stratum_is_what_a_patch_takes(bench, pair, stratum):
    prepared = wb.prepare_patch(pair, bench.prompt, wb.Patch(select=stratum, tau=0.7, layers=5))
    bench.select(stratum=stratum, tau=0.7, layers=range(5))
    assert torch.equal(bench.selection[:5], prepared.mask.cpu())
    assert not bench.selection[5:].any()


def test_the_selection_is_a_value_that_is_set(bench):
    bench.selection = bench.prompt.kinds == 1
    assert bench.mask == wb.Mask.of((bench.prompt.kinds == 1).expand(8, -1))
    bench.selection = wb.Mask({3: [(4, 6)]})
    assert bench.mask.positions == (4, 5)
    bench.selection = lambda prompt: prompt.grid[:, 1] == 0
    assert torch.equal(bench.selection[7], bench.prompt.grid[:, 1] == 0)


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        ({"word": "elephant"}, "'elephant' does not stand in"),
        ({"layers": 8}, "expected layers from 0 to 7"),
        ({"positions": [99]}, "expected 0 to 36"),
        ({"rectangle": (9, 9, 9, 9)}, "holds no visual token"),
        ({"kind": "visul"}, "did you mean 'visual'"),
        ({"kind": "text", "rectangle": (0, 0, 1, 1)}, "no cell of"),
        ({"stratum": "middle"}, "`select` is 'middle'"),
        ({"word": "the", "how": "both"}, "expected one of set, add, remove"),
    ],
)
def test_what_is_not_there_is_refused_in_words(bench, choose, message):
    before = bench.mask
    with pytest.raises(wb.InputError, match=message):
        bench.select(**choose)
    assert bench.mask == before


# ---- acting -------------------------------------------------------------------------------------------------

ACTS = {
    "patch": {},
    "patch from rlvr": {"source": "rlvr"},
    "replay": {"iterations": 4},
    "scale": {"factor": 0.0},
    "remove": {"layer": 7, "head": 1},
    "cross-sample": {"host": "base", "criterion": "divergence", "threshold": 0.05},
    "extrapolate": {"gamma": 1.5},
    "adapter": {},
}


@pytest.mark.parametrize("name", ACTS)
def test_an_action_answers_what_decode_does_and_its_code_says_the_same(bench, pair, problems, name):
    bench.select(kind="visual", layers=range(5))
    trial = bench.do(name.split(" from")[0], **ACTS[name])
    model = trial.condition.answered_by
    (answer,) = wb.decode(pair, problems[0], model=model, intervention=trial.condition)
    assert trial.text == answer.text
    for plain in ("base", "rlvr"):
        assert trial.answers[plain][0].text == wb.decode(pair, problems[0], model=plain)[0].text
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(bench.code(), {})
    assert printed.getvalue() == answer.text + "\n"


def test_the_lens_after_is_that_of_a_trace_with_the_intervention(bench, pair):
    bench.select(kind="visual", layers=(2, 3))
    trial = bench.scale(0.0)
    (made,) = wb.prepare(trial.condition, pair, [bench.prompt])
    expected = wb.trace(pair, [bench.prompt], null_draws=0, interventions=[made])
    lens = bench.lenses[trial.number]
    torch.testing.assert_close(lens.entropy_rlvr, expected.entropy_rlvr)
    torch.testing.assert_close(lens.entropy_base, bench.lens.entropy_rlvr)
    assert float(lens.kl[:2].max()) < 1e-6
    assert trial.effect["lens_max"] == float(lens.kl.max())


def test_changed_tokens_are_those_that_the_model_does_not_say_without_it(bench):
    bench.select(kind="visual")
    trial = bench.scale(0.0)
    before, after = trial.answers["rlvr"][0].ids, trial.answers["action"][0].ids
    kept = [i for at, i in enumerate(after) if at not in set(changed_tokens(trial))]
    assert trial.effect["changed"] == len(after) - len(kept) > 0
    remaining = iter(before)
    assert all(i in remaining for i in kept)  # what is not marked stands in the other answer, in this order
    assert bench.scale(1.0).effect["changed"] == 0


def test_answers_are_coloured_by_the_divergence_of_both_models(bench, pair):
    read = wb.divergence(pair, [bench.problem], responses=[bench.answers["base"][0]], resamples=1)
    expected = read.positions.loc[read.positions["condition"] == "rlvr", "jensen_shannon"]
    assert [token.divergence for token in bench.strips["base"]] == pytest.approx(expected.tolist(), abs=1e-6)
    assert bench.strips["base"][1].base[0][1] == read.predictions(bench.problem.id, 1)["base"][0]


def test_an_alternative_is_taken_and_goes_on(bench, pair, problems):
    strip = bench.strips["rlvr"]
    at = max(range(len(strip) - 1), key=lambda i: strip[i].divergence)
    other = next(i for i, _, _ in strip[at].base if i != strip[at].id)
    trial = bench.go_on("rlvr", at, other)
    begun = [*(token.id for token in strip[:at]), other]
    prompt = pair.encode(problems[0], response=begun)
    for model in ("base", "rlvr"):
        assert list(trial.answers[model][0].ids) == begun + list(wb.decode(pair, prompt, model=model)[0].ids)
    assert trial.begun == tuple(begun)
    with pytest.raises(wb.InputError, match="`position` is 999"):
        bench.go_on("rlvr", 999)


def test_samples_are_those_of_decode_beside_the_greedy_answers(bench, pair, problems, tmp_path):
    bench.select(kind="visual", layers=(3,))
    greedy = bench.patch()
    trial = bench.sample(3, temperature=1.0)
    hows = {
        "base": {"model": "base"},
        "rlvr": {"model": "rlvr"},
        "action": {"intervention": trial.condition},
    }
    for who, how in hows.items():
        expected = wb.decode(pair, problems[0], samples=3, temperature=1.0, **how)
        assert [one.text for one in trial.samples[who]] == [one.text for one in expected]
        right = [verify(one.text, problems[0].answer, problems[0].verifier).correct for one in expected]
        assert trial.effect["samples_right"][who] == sum(right)
    assert trial.answers == greedy.answers
    assert len(bench.trials) == 2
    assert bench.patch(samples=3).samples == trial.samples
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(bench.code(), {})
    assert printed.getvalue() == "".join(one.text + "\n" for one in trial.samples["action"])
    again = wb.bench(pair, reopen=bench.save(tmp_path / "b.json"))
    assert again.trials[1].samples == trial.samples
    with pytest.raises(wb.InputError, match="`samples` is 0"):
        bench.sample(0)


@pytest.mark.parametrize("name", ["patch", "replay"])
def test_a_selection_is_turned_into_code(bench, pair, problems, name):
    bench.select(rectangle=(0, 0, 1, 1), layers=(1, 2))
    namespace: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(bench.code(name), namespace)
    assert type(namespace["condition"]) is {"patch": wb.Patch, "replay": wb.Replay}[name]
    assert namespace["condition"].cells == bench.mask
    assert len(bench.trials) == 1
    assert printed.getvalue() == bench.do(name).text + "\n"


def test_norms_are_those_of_the_learnt_tokens(bench, pair, tmp_path):
    bench.select(rectangle=(0, 0, 1, 1), layers=range(3))
    trial = bench.replay(iterations=4)
    learnt = wb.learn_tokens(pair, bench.prompt, trial.condition)
    expected = torch.zeros(len(bench.prompt))
    expected[learnt.places] = learnt.tokens.norm(dim=-1)
    torch.testing.assert_close(torch.tensor(trial.norms), expected, rtol=1e-4, atol=1e-6)
    assert (expected > 0).sum() == 4
    assert bench.scale(0.0).norms == ()
    again = wb.bench(pair, reopen=bench.save(tmp_path / "b.json"))
    assert again.trials[1].norms == trial.norms


def test_the_null_of_a_bench_is_that_of_a_trace(bench, pair):
    expected = wb.trace(pair, [bench.prompt])
    torch.testing.assert_close(bench.lens.kl_null, expected.kl_null)
    bench.select(kind="visual", layers=(2, 3))
    number = bench.scale(0.5).number
    assert len(bench.lenses[number].kl_null) == 0
    lens = bench.noise()
    assert lens is bench.lenses[number]
    assert lens.kl_null.shape == (3, *lens.kl.shape)
    assert float(lens.kl_null[:, :2].max()) < 1e-6  # nothing changed before, so the noise is as long as that
    assert float(lens.kl_null[:, 3].max()) > 0


def test_an_agents_turn_is_opened_kept_and_reopened(pair, tmp_path):
    problem = wb.load_problems("shapes-agent", limit=1)[0]
    transcript = wb.run_agent(pair, problem, turns=2)
    asked, turns = given(pair, transcript, 2)
    bench = wb.bench(pair, asked, turns=turns)
    assert bench.prompt.grids[1:] != ()
    assert bench.answers["rlvr"][0].text == transcript.turns[1].text
    bench.select(view=1)
    trial = bench.scale(0.0)
    assert "pair.encode(problem, turns)" in bench.code()
    again = wb.bench(pair, reopen=bench.save(tmp_path / "b.json"))
    assert torch.equal(again.prompt.input_ids, bench.prompt.input_ids)
    assert again.turns[1].images[0].tobytes() == turns[1].images[0].tobytes()
    assert again.act(trial.condition).text == trial.text
    with pytest.raises(wb.InputError, match="turns 1 to 2"):
        given(pair, transcript, 3)


def test_undo_and_redo_go_through_selections_and_answers(bench):
    bench.select(kind="visual", layers=3)
    first = bench.mask
    bench.scale(0.0)
    bench.select(word="top")
    assert (bench.undo().number, bench.mask) == (1, first)
    assert (bench.undo().number, bench.mask) == (0, first)
    assert (bench.undo().number, bench.mask.count) == (0, 0)
    assert not bench.can_undo
    assert (bench.redo(), bench.redo().number, bench.mask) == (bench.trials[0], 1, first)
    bench.clear()
    assert not bench.can_redo
    assert len(bench.trials) == 2
    assert bench.show(1).number == 1
    assert bench.mask == first


def test_a_bench_is_kept_as_json_and_reopened(bench, pair, tmp_path):
    bench.select(rectangle=(0, 0, 1, 1), layers=(2, 3))
    bench.patch()
    bench.do("cross-sample", threshold=0.1)
    bench.go_on("base", 1)
    again = wb.bench(pair, reopen=bench.save(tmp_path / "b.json"))
    assert [repr(one) for one in again.trials] == [repr(one) for one in bench.trials]
    assert [one.condition for one in again.trials] == [one.condition for one in bench.trials]
    assert (again.mask, again.trial.number, again.code()) == (bench.mask, 3, bench.code())
    assert again.problem.images[0].tobytes() == bench.problem.images[0].tobytes()
    assert again.problem.question == bench.problem.question
    assert again.strips == bench.strips


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kept: kept.update(pair="smol"), "is of pair 'smol'"),
        (lambda kept: kept.update(shown=9), "shows trial 9"),
        (lambda kept: kept.update(workbench_bench=9), "no bench of format 1"),
        (lambda kept: kept.pop("problem"), "problem can't be read"),
        (lambda kept: kept["trials"][0].pop("answers"), "trials can't be read"),
        (lambda kept: kept["trials"][1]["action"].update(kind="os.system"), "without a known kind"),
        (lambda kept: kept["trials"][1]["action"].update(fctor=2), "did you mean 'factor'"),
        (lambda kept: kept.update(selection={"99": [[0, 1]]}), "layer 99"),
    ],
)
def test_a_file_that_is_no_bench_is_refused_in_words(bench, pair, tmp_path, change, message):
    bench.select(kind="visual")
    bench.scale(0.5)
    path = bench.save(tmp_path / "b.json")
    kept = json.loads(path.read_text())
    change(kept)
    path.write_text(json.dumps(kept))
    with pytest.raises(wb.InputError, match=message):
        wb.bench(pair, reopen=path)


# ---- what must hold -----------------------------------------------------------------------------------------


def test_after_fifty_actions_the_models_are_as_they_were(bench, pair):
    before = [fingerprint(anatomy.model) for anatomy in (pair.base, pair.rlvr)], hooks(pair)
    sizes, widget = [], bench.widget
    for number in range(50):
        bench.select([4 + number % 16], layers=number % 7)
        name, settings = (
            ("patch", {}),
            ("remove", {"layer": 7}),
            ("replay", {"iterations": 2}),
            ("scale", {"factor": 0.5}),
            ("cross-sample", {"threshold": 0.1}),
        )[number % 5]
        bench.do(name, **settings)
        sizes.append(psutil.Process().memory_info().rss)
    assert ([fingerprint(anatomy.model) for anatomy in (pair.base, pair.rlvr)], hooks(pair)) == before
    assert len(bench.trials) == 51
    assert widget.state["shown"] == widget.answers["trial"] == widget.effect["trial"] == 50
    assert len(bench.lenses) == acting.KEPT
    assert max(sizes[-10:]) < 1.05 * max(sizes[5:15])


def test_an_action_is_cancelled_within_a_second_and_leaves_nothing(bench, pair):
    before = [fingerprint(anatomy.model) for anatomy in (pair.base, pair.rlvr)]
    bench.select(kind="visual")
    shown = bench.trial
    condition = wb.Replay(select="all", iterations=100_000, alpha=1e-3)
    threading.Timer(0.5, bench.cancel).start()
    begun = time.monotonic()
    with pytest.raises(Stopped):
        bench.act(condition)
    assert time.monotonic() - begun < 1.5
    assert bench.trial is shown
    assert len(bench.trials) == 1
    assert "Cancelled" in bench.error
    assert [fingerprint(anatomy.model) for anatomy in (pair.base, pair.rlvr)] == before
    assert bench.scale(1.0).effect["changed"] == 0
    assert bench.error is None


def test_two_benches_and_a_cell_beside_them_answer_as_alone(bench, pair, problems):
    other = wb.bench(pair, problems[1])
    expected = {p.id: wb.decode(pair, p)[0].text for p in problems[:2]}
    bench.select(kind="visual")
    other.select(kind="visual")
    texts: list[str] = []
    threads = [threading.Thread(target=lambda b=b: texts.append(b.scale(1.0).text)) for b in (bench, other)]
    for thread in threads:
        thread.start()
    beside = [wb.decode(pair, p)[0].text for p in problems[:2]]
    for thread in threads:
        thread.join()
    assert beside == list(expected.values())
    assert sorted(texts) == sorted(expected.values())


def test_while_it_works_nothing_else_is_begun_and_an_error_is_words(bench):
    bench.select(kind="visual")
    held = threading.Event()
    job = bench.begin("something long", lambda: held.wait(60))
    try:
        with pytest.raises(wb.InputError, match=r"busy \(something long\)"):
            bench.scale(0.0)
    finally:
        held.set()
    job.result()
    with pytest.raises(ZeroDivisionError):
        bench.begin("a fault", lambda: 1 / 0).result()
    assert bench.error == "That did not work: division by zero (ZeroDivisionError)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pair, p: wb.bench(pair), "neither given"),
        (lambda pair, p: wb.bench(pair, p, reopen="a.json"), "both given"),
        (lambda pair, p: wb.bench("shapes", p), "expected a pair"),
        (lambda pair, p: wb.bench(pair, p, top_k=0), "`top_k` is 0"),
        (lambda pair, p: wb.bench(pair, 3), "expected a problem, an encoded prompt or a question"),
        (lambda pair, p: wb.bench(pair, p, picture="a.png"), "belongs to a question in words"),
        (lambda pair, p: wb.bench(pair, "How many?", picture="no.png"), "missing"),
        (lambda pair, p: wb.bench(pair, reopen="no.json"), "can't be read"),
    ],
)
def test_bad_arguments_are_refused(pair, problems, call, message):
    with pytest.raises(wb.InputError, match=message):
        call(pair, problems[0])


def test_without_a_selection_there_is_nothing_to_patch(bench):
    for name in ("patch", "replay", "scale"):
        with pytest.raises(wb.InputError, match=f"nothing is selected to {name}"):
            bench.do(name)
    with pytest.raises(wb.InputError, match="does not take these settings"):
        bench.do("remove", layers=3)


def test_a_question_in_words_and_a_prompt_that_is_encoded(pair, problems):
    asked = wb.bench(pair, problems[0].question, picture=problems[0].images[0])
    assert asked.answers["rlvr"][0].text == wb.decode(pair, problems[0])[0].text
    encoded = wb.bench(pair, pair.encode(problems[0]))
    assert encoded.answers["rlvr"][0].text == asked.answers["rlvr"][0].text
    with pytest.raises(wb.InputError, match="can't be written as JSON"):
        encoded.save("b.json")
    with pytest.raises(wb.InputError, match=r"expected \.html, \.json or \.py"):
        asked.save("b.txt")
