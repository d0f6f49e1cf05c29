"""What is decoded under a condition is what is decoded under what the condition makes, for problems as for prompts."""

import pytest
import tiny
import torch

import workbench as wb
from workbench.errors import InputError

REPLAY = wb.Replay(select="all", layers=2, iterations=2, alpha=500.0)
PATCH = wb.Patch(select="all", layers=2, positions="all")


def test_a_condition_does_here_what_it_does_made_by_hand(tiny_pair):
    problem = tiny.problem()
    prompt = tiny_pair.encode(problem)
    learned, patch = wb.learn_tokens(tiny_pair, problem, REPLAY), wb.prepare_patch(tiny_pair, problem, PATCH)
    for condition, made in ((REPLAY, learned), (PATCH, patch)):
        how = {"samples": 3, "temperature": 1.0, "max_new_tokens": 8}
        expected = wb.decode(tiny_pair, prompt, intervention=made, **how)
        assert wb.decode(tiny_pair, problem, intervention=condition, **how) == expected
        assert expected != wb.decode(tiny_pair, prompt, **how)


def test_one_condition_for_all_or_one_for_each(tiny_pair):
    problems = [tiny.problem(seed=i) for i in range(3)]
    alone = [wb.decode(tiny_pair, p, intervention=REPLAY, max_new_tokens=6)[0] for p in problems]
    for given in (REPLAY, [REPLAY] * 3):
        many = wb.decode_many(tiny_pair, problems, interventions=given, max_new_tokens=6)
        assert [one for (one,) in many] == alone
    mixed = wb.decode_many(tiny_pair, problems, interventions=[REPLAY, None, PATCH], max_new_tokens=6)
    assert mixed[0][0] == alone[0]
    assert mixed[1] == wb.decode(tiny_pair, problems[1], max_new_tokens=6)
    assert mixed[2] == wb.decode(tiny_pair, problems[2], intervention=PATCH, max_new_tokens=6)


def test_a_condition_of_the_other_model_is_refused(tiny_pair):
    with pytest.raises(InputError, match="acts on 'rlvr', and `model` is 'base': decode"):
        wb.decode(tiny_pair, tiny.problem(), model="base", intervention=REPLAY)


def test_a_response_is_traced_behind_its_prompt(tiny_pair):
    problem = tiny.problem()
    response = wb.decode(tiny_pair, problem, max_new_tokens=5)[0]
    assert len(response.ids) == response.tokens
    whole = tiny_pair.encode(problem, response=response.ids)
    prompt = tiny_pair.encode(problem)
    assert whole.input_ids.tolist() == [*prompt.input_ids.tolist(), *response.ids]
    logits = wb.tracing.read_logits(tiny_pair.rlvr, whole.model_inputs, last=len(response.ids) + 1)[0]
    assert tuple(logits[:-1].argmax(-1).tolist()) == response.ids  # greedy: what it wrote
    with pytest.raises(InputError, match="`response` '' has no tokens"):
        tiny_pair.encode(problem, response="")


def test_tokens_of_ones_own_choice_are_followed(tiny_pair):
    problems = [tiny.problem()]
    traced = wb.trace(tiny_pair, problems, null_draws=0)
    followed = wb.follow(tiny_pair, problems, traced, tokens=[7, 5])
    assert followed.ids.tolist() == [[7, 5]] * len(traced.position)
    prompt = tiny_pair.encode(problems[0])
    logits = wb.tracing.read_logits(tiny_pair.base, prompt.model_inputs, last=len(prompt))[0].float()
    expected = logits.log_softmax(-1)[:, [7, 5]]
    torch.testing.assert_close(followed.log_probs_base[-1], expected, atol=1e-4, rtol=1e-4)
    for tokens in ([7, 7], [10**6]):
        with pytest.raises(InputError, match="expected different ids from 0 to"):
            wb.follow(tiny_pair, problems, traced, tokens=tokens)


def test_a_misspelt_field_is_named_with_the_nearest():
    with pytest.raises(
        InputError, match=r"`taus` is no field of Replay \(did you mean 'tau'\?\); it has site"
    ):
        wb.Replay(taus=0.3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(InputError, match=r"`layer` is no field of Patch \(did you mean 'layers'\?\)"):
        wb.Patch(layer=3)  # pyright: ignore[reportCallIssue]
