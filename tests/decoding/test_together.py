"""Two models decode together: what is never replaced is the host's own response, what is replaced everywhere the guest's."""

import math
from dataclasses import replace

import pytest
import tiny
import torch

import workbench as wb
from workbench.decoding import decode as decoding
from workbench.errors import InputError
from workbench.models.anatomy import dissect
from workbench.models.finite import NotFiniteError
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.tracing.residuals import read_logits

GREEDY = {"max_new_tokens": 8}
SAMPLED = {"samples": 3, "temperature": 1.0, "seed": 4, "max_new_tokens": 8}
NEVER, ALWAYS = math.inf, 0.0
REPLAY = wb.Replay(select="all", layers=2, iterations=2, alpha=500.0)
REVERSE = replace(REPLAY, direction="reverse")
PATCH = wb.Patch(select="all", layers=2, positions="all")


def ids(responses):
    """All that a response is, token ids too, which are not compared."""
    return [[(r, r.ids) for r in rows] for rows in responses]


def flat(responses):
    return [response for rows in responses for response in rows]


def crossed(pair, prompts, condition, **how):
    return wb.decode_many(pair, prompts, model=condition.answered_by, interventions=condition, **how)


def assert_oracles(pair: ModelPair, problems) -> None:
    for how in (GREEDY, SAMPLED):
        own = {m: wb.decode_many(pair, problems, model=m, **how) for m in ("base", "rlvr")}
        for host, guest in (("base", "rlvr"), ("rlvr", "base")):
            for threshold, who in ((NEVER, host), (ALWAYS, guest)):
                condition = wb.CrossSample(host, "divergence", threshold=threshold)
                found = crossed(pair, problems, condition, **how)
                assert ids(found) == ids(own[who])
                for response in flat(found):
                    assert len(response.replaced) == (response.tokens if threshold == ALWAYS else 0)
                    assert len(response.values) == response.tokens
        for gamma, who in ((0, "rlvr"), (-1, "base")):
            assert ids(crossed(pair, problems, wb.Extrapolate(gamma), **how)) == ids(own[who])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_ends_are_the_models_themselves(pair_of, family):
    pair = pair_of(family)
    problems = [tiny.problem(family, images=1 + i % 2, seed=3 * i) for i in range(3)]
    assert_oracles(pair, problems)
    different = [
        wb.decode_many(pair, problems, model=model, **SAMPLED) for model in ("base", "rlvr")
    ]  # so that the oracles tell anything
    assert different[0] != different[1]


@pytest.mark.parametrize("family", tiny.VIDEO)
def test_the_ends_are_the_models_themselves_after_a_video(pair_of, family):
    assert_oracles(pair_of(family), [tiny.problem(family, images=0, frames=4, seed=2)])


def naive(pair: ModelPair, prompt: EncodedPrompt, steps: int, choose) -> list[int]:
    """Greedy, every step a whole forward of both models: ``choose(base's logits, rlvr's)`` -> the next token."""
    said: list[int] = []
    forbidden = sorted(pair.rlvr.visual_token_ids)
    for _ in range(steps):
        whole = prompt.continued(torch.tensor(said, dtype=torch.int64)) if said else prompt
        both = [read_logits(m, whole.model_inputs)[0, -1].double() for m in (pair.base, pair.rlvr)]
        token = choose(*both, forbidden)
        said.append(token)
        if token == 258:  # the tiny families' end
            break
    return said


def top(logits, forbidden):
    logits = logits.clone()
    logits[forbidden] = -math.inf
    return int(logits.argmax())


def divergence(base, rlvr) -> float:
    p, q = base.softmax(-1), rlvr.softmax(-1)
    mean = (p + q) / 2
    return float((p * (p / mean).log() + q * (q / mean).log()).sum() / 2)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "qwen2"])
def test_a_threshold_does_what_a_naive_loop_does(pair_of, family):
    pair = pair_of(family)
    prompt = pair.encode(tiny.problem(family, seed=1))
    plain = wb.CrossSample("base", "divergence", threshold=NEVER)
    values = crossed(pair, [prompt], plain, max_new_tokens=12)[0][0].values
    level = sorted(values)[len(values) // 2] + 1e-5  # about half of the tokens exceed it, none by a hair
    seen: list[float] = []

    def choose(base, rlvr, forbidden):
        seen.append(divergence(base, rlvr))
        return top(rlvr if seen[-1] >= level else base, forbidden)

    expected = naive(pair, prompt, 12, choose)
    (response,) = crossed(
        pair, [prompt], wb.CrossSample("base", "divergence", threshold=level), max_new_tokens=12
    )[0]
    assert list(response.ids) == expected
    assert response.values == pytest.approx(seen, abs=2e-6)
    assert list(response.replaced) == [i for i, value in enumerate(seen) if value >= level]
    assert 0 < len(response.replaced) < len(response.ids)


def test_extrapolation_does_what_a_naive_loop_does(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem(seed=1))
    found = {}
    for gamma in (-2.0, -0.5, 3.0):
        expected = naive(tiny_pair, prompt, 10, lambda b, r, f, g=gamma: top(r + g * (r - b), f))
        (response,) = wb.decode(tiny_pair, prompt, intervention=wb.Extrapolate(gamma), max_new_tokens=10)
        assert list(response.ids) == found.setdefault(gamma, expected)
        assert response.replaced == (*range(len(expected)),)
        assert response.values == ()
    assert len({*map(tuple, found.values())}) > 1
    never = wb.Extrapolate(3.0, where="divergence", threshold=NEVER)
    assert wb.decode(tiny_pair, prompt, intervention=never, **SAMPLED) == wb.decode(
        tiny_pair, prompt, **SAMPLED
    )
    always = wb.Extrapolate(3.0, where="divergence", threshold=0)
    assert wb.decode(tiny_pair, prompt, intervention=always, **SAMPLED) == wb.decode(
        tiny_pair, prompt, intervention=wb.Extrapolate(3.0), **SAMPLED
    )
    (some,) = wb.decode(
        tiny_pair, prompt, intervention=wb.Extrapolate(3.0, where="dlogp", threshold=0.1), max_new_tokens=20
    )
    assert some.replaced == tuple(i for i, value in enumerate(some.values) if value >= 0.1)
    assert 0 < len(some.replaced) < some.tokens


def test_replacing_where_it_is_low_is_the_other_model_replaced_where_it_is_high(tiny_pair):
    prompts = [tiny_pair.encode(tiny.problem(seed=i)) for i in range(3)]
    for how in (GREEDY, SAMPLED):
        forward = wb.CrossSample("base", "divergence", threshold=0.025)
        reverse = wb.CrossSample("rlvr", "low_divergence", threshold=0.025)
        one, other = (crossed(tiny_pair, prompts, condition, **how) for condition in (forward, reverse))
        assert ids(one) == ids(other)
        for a, b in zip(flat(one), flat(other), strict=True):
            assert sorted([*a.replaced, *b.replaced]) == [*range(a.tokens)]
        assert 0 < sum(len(r.replaced) for r in flat(one)) < sum(r.tokens for r in flat(one))


@pytest.mark.parametrize("criterion", ["divergence", "entropy", "dlogp", "low_divergence", "random"])
def test_a_budget_is_kept_whatever_the_criterion(tiny_pair, criterion):
    prompts = [tiny_pair.encode(tiny.problem(seed=i)) for i in range(2)]
    how = {"samples": 2, "temperature": 1.0, "max_new_tokens": 30}
    for budget in (0.0, 0.1, 0.4, 1.0):
        condition = wb.CrossSample("base", criterion, budget=budget)
        for response in flat(crossed(tiny_pair, prompts, condition, **how)):
            count, due = len(response.replaced), budget * response.tokens
            assert count <= math.ceil(due - 1e-9) if criterion != "random" else abs(count - due) <= 1
            assert len(response.values) == (0 if criterion == "random" else response.tokens)
    everything = crossed(tiny_pair, prompts, wb.CrossSample("base", criterion, budget=1.0), **how)
    assert everything == wb.decode_many(tiny_pair, prompts, model="rlvr", **how)


def test_random_replacements_are_drawn_by_their_own_seed(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    how = {"samples": 4, "temperature": 1.0, "max_new_tokens": 30}

    def places(seed, **changes):
        found = crossed(
            tiny_pair, [prompt], wb.CrossSample("base", "random", budget=0.2, seed=seed), **how | changes
        )
        return [r.replaced for r in found[0]]

    assert places(0) == places(0) == places(0, samples=6)[:4]
    assert places(0) != places(1)
    assert len({*places(0)}) > 1


def test_neither_batch_nor_samples_nor_dropping_changes_a_response(pair_of, monkeypatch):
    pair = pair_of("qwen2_5_vl")
    for anatomy in (pair.base, pair.rlvr):
        ends = [*range(0, tiny.VOCAB, 8)]
        monkeypatch.setattr(anatomy.model.generation_config, "eos_token_id", ends)
    prompts = [pair.encode(tiny.problem(seed=3 * i)) for i in range(3)]
    how = {"temperature": 2.0, "max_new_tokens": 16}
    for condition in (
        wb.CrossSample("base", "divergence", budget=0.3),
        wb.CrossSample("rlvr", "random", budget=0.3),
        wb.CrossSample("base", "dlogp", threshold=0.2),
        wb.Extrapolate(1.0, where="divergence", threshold=0.02),
    ):
        many = crossed(pair, prompts, condition, samples=4, **how)
        assert len({r.tokens for r in flat(many)}) > 2
        monkeypatch.setattr(decoding, "DROP_AT", 2.0)
        undropped = crossed(pair, prompts, condition, samples=4, **how)
        monkeypatch.undo()
        for anatomy in (pair.base, pair.rlvr):
            monkeypatch.setattr(anatomy.model.generation_config, "eos_token_id", ends)
        alone = [crossed(pair, [prompt], condition, samples=2, **how)[0] for prompt in prompts]
        assert ids(many) == ids(undropped)
        assert [rows[:2] for rows in many] == alone
        assert [[r.replaced for r in rows[:2]] for rows in many] == [
            [r.replaced for r in rows] for rows in alone
        ]


# --- with replay and patches ---------------------------------------------------------------------------------


def test_what_is_done_to_either_model_is_done_here_too(tiny_pair):
    problems = [tiny.problem(seed=i) for i in range(2)]
    for how in (GREEDY, SAMPLED):
        for one in (REPLAY, PATCH):
            expected = wb.decode_many(tiny_pair, problems, interventions=one, **how)
            assert expected != wb.decode_many(tiny_pair, problems, **how)
            everywhere = wb.CrossSample("base", "divergence", threshold=ALWAYS, under=one)
            nowhere = wb.CrossSample("rlvr", "divergence", threshold=NEVER, under=(one, REVERSE))
            for condition in (everywhere, nowhere, wb.Extrapolate(0, under=one)):
                assert ids(crossed(tiny_pair, problems, condition, **how)) == ids(expected)
        reverse = wb.decode_many(tiny_pair, problems, model="base", interventions=REVERSE, **how)
        assert ids(crossed(tiny_pair, problems, wb.Extrapolate(-1, under=(PATCH, REVERSE)), **how)) == ids(
            reverse
        )


def test_conditions_of_all_kinds_stand_in_one_call(tiny_pair):
    problems = [tiny.problem(seed=i) for i in range(4)]
    given = [REPLAY, wb.Extrapolate(1.0), None, wb.CrossSample("rlvr", "dlogp", threshold=0.1)]
    counted = []
    how = {**GREEDY, "progress": lambda done, total: counted.append((done, total))}
    found = wb.decode_many(tiny_pair, problems, interventions=given, **how)
    for problem, condition, responses in zip(problems, given, found, strict=True):
        assert responses == wb.decode(tiny_pair, problem, intervention=condition, **GREEDY)
    assert counted == [(2, 4), (3, 4), (4, 4)]  # one model alone first, then each mixture


def test_prepared_once_it_is_decoded_as_often_as_one_likes(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    condition = wb.CrossSample("base", "entropy", threshold=1.0, under=PATCH)
    (made,) = wb.prepare(condition, tiny_pair, [prompt])
    expected = wb.decode(tiny_pair, prompt, model="base", intervention=condition, **GREEDY)
    assert wb.decode(tiny_pair, prompt, model="base", intervention=made, **GREEDY) == expected
    with pytest.raises(InputError, match="acts on 'base', and `model` is 'rlvr'"):
        wb.decode(tiny_pair, prompt, intervention=made, **GREEDY)


def test_a_stop_string_ends_it(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    how = {"samples": 6, "temperature": 1.0, "max_new_tokens": 12}
    plain = wb.decode(tiny_pair, prompt, model="rlvr", **how)
    stop = next(letter for r in plain for letter in r.text[1:-1] if letter != "\ufffd")
    everywhere = wb.CrossSample("base", "divergence", threshold=ALWAYS)
    expected = wb.decode(tiny_pair, prompt, model="rlvr", stop=[stop], **how)
    assert expected != plain
    assert wb.decode(tiny_pair, prompt, model="base", intervention=everywhere, stop=[stop], **how) == expected


# --- what is refused -----------------------------------------------------------------------------------------


def test_models_that_end_at_different_tokens_are_refused_and_load_pair_gives_both_one_set(
    tiny_pair, monkeypatch
):
    crossing = wb.CrossSample("base", "divergence", threshold=0.1)
    monkeypatch.setattr(tiny_pair.rlvr.model.generation_config, "eos_token_id", [258, 7])
    for condition in (crossing, wb.Extrapolate(1.0)):
        with pytest.raises(
            InputError, match=r"end a response at tokens alike; `base` has \[258\], `rlvr` \[7, 258\]"
        ):
            wb.decode(tiny_pair, tiny.problem(), model=condition.answered_by, intervention=condition)
        with pytest.raises(InputError, match="end a response at tokens alike"):
            wb.ablate(tiny_pair, [tiny.problem()], condition, samples=1)
    models = {role: getattr(tiny_pair, role).model for role in ("base", "rlvr")}
    with pytest.warns(UserWarning, match=r"`base` ends a response at tokens \[258\], `rlvr` at \[7, 258\]"):
        pair = wb.load_pair(**models, processor=tiny_pair.processor)
    assert_oracles(pair, [tiny.problem()])


def test_models_of_different_vocabularies_are_refused(tiny_pair):
    pair = replace(tiny_pair, rlvr=dissect(tiny.model("qwen2_5_vl", 1, vocab_size=260)))
    with pytest.raises(InputError, match="vocabularies of 320 and 260 rows"):
        wb.decode(pair, tiny.problem(), intervention=wb.Extrapolate(1.0))


def test_rows_that_stand_for_no_token_are_never_drawn():
    small, large = tiny.model("qwen2", 0), tiny.model("qwen2", 1, vocab_size=tiny.VOCAB + 32)
    large.get_output_embeddings().weight[tiny.VOCAB :] *= 30  # they would be drawn all the time
    pair = wb.load_pair(base=small, rlvr=large, processor=tiny.processor("qwen2"))
    for condition in (wb.CrossSample("base", "divergence", threshold=ALWAYS), wb.Extrapolate(0.5)):
        for response in crossed(pair, [tiny.problem("qwen2")], condition, **SAMPLED)[0]:
            assert max(response.ids) < tiny.VOCAB


def test_an_engine_has_one_model(tiny_pair):
    with pytest.raises(InputError, match="takes tokens at layer 0 and no more"):
        wb.ablate(tiny_pair, [tiny.problem()], wb.Extrapolate(1.0), samples=1, engine="vllm")
    with pytest.raises(InputError, match="has one model, and 'extrapolated by 1' needs both at every token"):
        wb.decode(
            tiny_pair, tiny.problem(), intervention=wb.Extrapolate(1.0), engine=object.__new__(wb.VllmEngine)
        )


def test_what_is_done_meanwhile_has_to_fit_the_models(tiny_pair):
    deep = wb.Patch(layers=9)
    for condition in (wb.CrossSample("base", "dlogp", budget=0.1, under=deep), wb.Extrapolate(1, under=deep)):
        with pytest.raises(InputError, match="`layers` of the patch go up to 8"):
            wb.ablate(tiny_pair, [tiny.problem()], condition, samples=1)


def test_logits_that_are_not_finite_are_told_with_the_place():
    pair = tiny.pair()
    pair.base.unembedding.weight[5, 3] = math.nan
    with pytest.raises(NotFiniteError):
        wb.decode(pair, tiny.problem(), intervention=wb.Extrapolate(1.0), max_new_tokens=2)
