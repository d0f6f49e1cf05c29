"""`trace(..., responses=...)`: the numbers of separate traces, the kinds and places of what was said, and what is refused."""

from dataclasses import replace

import pytest
import tiny
import torch

import workbench as wb
from workbench.analysis.cell_table import cell_table
from workbench.errors import InputError
from workbench.models.batches import collate
from workbench.models.chat import Message
from workbench.models.prefix_cache import shares_prefix
from workbench.models.prompts import TokenKind
from workbench.tracing import both_models
from workbench.tracing.agreement import agreement_by_layer
from workbench.tracing.lens_trace import AXES, LensTrace
from workbench.tracing.residuals import read_logits

TEXTS = ["<answer> 3</answer>", "It is two. No: three", "7"]


def assert_same(found: LensTrace, expected: LensTrace) -> None:
    assert found.prompts[0].tokens == expected.prompts[0].tokens
    for name in AXES:
        a, b = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_several_responses_have_the_numbers_of_separate_traces(pair_of, family, batch_size):
    pair = pair_of(family)
    assert shares_prefix(pair.base)
    problems = [tiny.problem(family, seed=seed, images=images) for seed, images in ((0, 1), (7, 2))]
    if family in tiny.VIDEO:
        problems.append(tiny.problem(family, seed=3, images=0, frames=2))
    texts = {problem.id: TEXTS[: 3 - i] for i, problem in enumerate(problems)}
    traced = wb.trace(pair, problems, responses=texts, top_k=3, batch_size=batch_size)
    order = [(problem, text) for problem in problems for text in texts[problem.id]]
    assert len(traced.prompts) == len(order)
    for number, (problem, text) in enumerate(order):
        alone = wb.trace(pair, [pair.encode(problem, response=text)], top_k=3)
        assert_same(traced.select(prompt=number), alone)


def test_a_prompt_runs_once_for_all_its_responses(tiny_pair, monkeypatch):
    read = []
    original = both_models.read_residuals

    def counted(anatomy, inputs, **settings):
        read.append(inputs["input_ids"].numel())
        return original(anatomy, inputs, **settings)

    monkeypatch.setattr(both_models, "read_residuals", counted)
    problem = tiny.problem()
    prompt, said = len(tiny_pair.encode(problem)), [len(tiny_pair.ids_of(text)) for text in TEXTS]
    wb.trace(tiny_pair, [problem], responses={problem.id: TEXTS}, batch_size=8)
    assert read == [prompt] * 2 + [len(said) * max(said)] * 2


def test_drawn_responses_are_read_by_both_models_as_they_were_drawn(tiny_pair):
    problems = [tiny.problem(seed=1), tiny.problem(seed=2, images=2)]
    drawn = wb.decode_many(tiny_pair, problems, samples=2, temperature=1.0, max_new_tokens=6)
    for given in (drawn, [r for each in drawn for r in each], {r[0].problem_id: r for r in drawn}):
        traced = wb.trace(tiny_pair, problems, responses=given, null_draws=0)
        flat = [r for each in drawn for r in each]
        assert [(info.problem_id, info.sample) for info in traced.prompts] == [
            (r.problem_id, r.sample) for r in flat
        ]
        for number, response in enumerate(flat):
            one = traced.select(prompt=number)
            said = one.kind == TokenKind.RESPONSE
            assert tuple(one.token_id[said].tolist()) == response.ids
            places = (one.predicts >= 0).nonzero()[:, 0]
            assert one.predicts[places].tolist() == [*range(len(response.ids))]
            assert tuple(one.token_id[places + 1].tolist()) == response.ids
            assert not bool(said[places[0]])  # the prompt's last position predicts the first token
            whole = tiny_pair.encode(problems[number // 2], response=response.ids)
            logits = read_logits(tiny_pair.rlvr, collate([whole], tiny_pair.pad_id), last=len(whole))[0]
            assert torch.equal(one.top_ids_rlvr[-1, :, 0].long(), logits.argmax(-1))


def test_what_follows_a_prompt_changes_none_of_its_numbers(tiny_pair):
    problem = tiny.problem()
    prompt = wb.trace(tiny_pair, [problem])
    whole = wb.trace(tiny_pair, [problem], responses={problem.id: TEXTS[0]})
    count = len(prompt.position)
    for name in ("kl", "kl_null", "entropy_base", "cosine"):
        torch.testing.assert_close(
            getattr(whole, name)[..., :count], getattr(prompt, name), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("family", ["qwen2_vl", "internvl", "gemma3", "smolvlm", "llama"])
def test_turns_of_a_conversation_are_responses_with_their_number(pair_of, family):
    pair = pair_of(family)
    said = ["I look closer: two", "yes"]
    reply = ("yes, here: ", tiny.image(32, 32, 9)) if family not in tiny.TEXT_ONLY else ("yes, go on",)
    turns = [
        Message("assistant", (said[0],)),
        Message("user", reply),
        Message("assistant", (said[1],)),
        Message("user", ("And now?",)),
    ]
    problem = tiny.problem(family, question="Is it yes or two?")
    prompt = pair.encode(problem, turns)
    whole = pair.encode(problem, turns, response=TEXTS[0])
    ids = prompt.input_ids
    for number, words in enumerate(said):
        assert pair.tokenizer.decode(ids[prompt.turn == number].tolist()) == words
    assert set(prompt.turn.tolist()) == {-1, 0, 1}
    assert set(whole.turn.tolist()) == {-1, 0, 1, 2}
    assert whole.response_start == len(prompt)
    assert prompt.response_start == len(prompt)
    traced = wb.trace(pair, [prompt], responses={prompt.problem_id: TEXTS[:2]}, null_draws=2)
    assert_same(traced.select(prompt=0), wb.trace(pair, [whole], null_draws=2))
    assert traced.select(prompt=1).turn.max() == 2
    assert int((traced.select(prompt=0).predicts >= 0).sum()) == len(pair.ids_of(TEXTS[0]))


def test_statistics_tables_and_pages_know_responses(tiny_pair, tmp_path):
    problems = [tiny.problem(seed=seed) for seed in range(3)]
    texts = {problem.id: TEXTS for problem in problems}
    traced = wb.trace(tiny_pair, problems, responses=texts, top_k=3)
    shift = wb.stratified_shift(traced, bins=2, resamples=20)
    assert {"visual", "text", "special", "response"} <= {*shift.table["kind"]}
    row = agreement_by_layer(traced, kinds=["response"], resamples=20).iloc[-1]
    said = traced.kind == TokenKind.RESPONSE
    assert row["kl"] == pytest.approx(float(traced.kl[-1, said].double().mean()))
    assert row["problems"] == 3  # three responses of a problem are one cluster
    frame = traced.to_dataframe()
    assert set(frame.loc[frame["kind"] == "response", "turn"]) == {0}
    assert (frame["predicts"] >= 0).sum() == int(said.sum()) * len(traced.layers)
    cells = cell_table(tiny_pair, problems, responses=texts, traced=traced)
    assert "response" in set(cells["kind"])
    assert "response" in set(wb.stratified_by(cells, "position", bins=2, resamples=20)["kind"])
    nulls = wb.weight_nulls(
        tiny_pair, problems, responses=texts, kinds=["permuted"], draws=1, bins=2, resamples=20
    )
    assert "response" in set(nulls.table["kind"])
    assert {trace.name for trace in traced.plot().data} >= {"response"}
    assert "response: " in traced._repr_html_()
    loaded = LensTrace.load(traced.save(tmp_path / "trace"))
    assert [info.sample for info in loaded.prompts] == [0, 1, 2] * 3
    assert torch.equal(loaded.predicts, traced.predicts)
    page = wb.explore(
        tiny_pair, problems[:1], responses={"p0": TEXTS[:2]}, followed=2, max_new_tokens=0
    ).html()
    assert "p0, response 1" in page
    assert "response token" in page


# --- refused -------------------------------------------------------------------------------------------


def refused(pair, message: str, responses, problems=None) -> None:
    problems = [tiny.problem()] if problems is None else problems
    with pytest.raises(InputError, match=message):
        wb.trace(pair, problems, responses=responses)


def test_bad_responses_are_refused_before_anything_runs(tiny_pair, monkeypatch):
    monkeypatch.setattr(both_models, "read_residuals", None)
    image = next(iter(tiny_pair.base.visual_token_ids))
    drawn = wb.decode(tiny_pair, tiny.problem(), max_new_tokens=4)[0]
    refused(tiny_pair, "to 'p0': `response` '' has no tokens", {"p0": ""})
    refused(tiny_pair, "has none to 'p0'; answer it", {"p0": []})
    refused(tiny_pair, "has none to 'p1'", {"p0": "3"}, [tiny.problem(), tiny.problem(seed=1)])
    refused(tiny_pair, "has one to 'q', which is not among the 1 problems", {"p0": "3", "q": "3"})
    refused(tiny_pair, "holds the placeholder '<|image_pad|>'", {"p0": "see <|image_pad|>"})
    refused(
        tiny_pair,
        r"holds the placeholder .*, for which there is no picture",
        [replace(drawn, ids=(image, 5))],
    )
    refused(tiny_pair, "holds token 70000, .* ids of another tokenizer", [replace(drawn, ids=(5, 70000))])
    refused(
        tiny_pair, "they are of another tokenizer: give texts", [replace(drawn, ids=(5, 6), text="spelt")]
    )
    refused(tiny_pair, "is a str; expected a list of responses", "3")
    refused(tiny_pair, "holds a int; expected what `decode` returns", [3])
    refused(tiny_pair, "holds a str; expected what `decode` returns", ["3"])
    answered = tiny_pair.encode(tiny.problem(), response="3")
    refused(tiny_pair, "the prompt 'p0' ends with a response already", {"p0": "4"}, [answered])
    room = tiny_pair.context
    refused(
        tiny_pair,
        rf"after \d+ of the prompt; .* reads {room:,} positions: give its first",
        {"p0": "x" * room},
    )


def test_a_response_that_just_fits_the_context_is_read(pair_of):
    pair = tiny.pair("llama", max_position_embeddings=40)
    problem = tiny.problem("llama")
    room = 40 - len(pair.encode(problem))
    assert len(pair.encode(problem, response="x" * room)) == 40
    with pytest.raises(InputError, match="give its first"):
        pair.encode(problem, response="x" * (room + 1))


def test_what_is_not_finite_is_named_with_its_place(pair_of):
    pair = tiny.pair("qwen2")
    problem = tiny.problem("qwen2")
    with torch.no_grad():
        pair.rlvr.model.get_input_embeddings().weight[pair.ids_of("~")] = torch.inf
    place = len(pair.encode(problem, response="ab"))
    with pytest.raises(InputError, match=f"problem 'p0'.* first at position {place} "):
        wb.trace(pair, [problem], responses={"p0": ["ab~c", "d"]})
