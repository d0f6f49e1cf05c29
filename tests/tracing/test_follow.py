"""Exact probabilities of followed tokens, against a softmax over the whole vocabulary."""

import math
from dataclasses import replace

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import naive_logits, randn, rms_norm
from synthetic import synthetic_trace

import workbench as wb
from workbench.errors import InputError
from workbench.lens.heads import LensHead
from workbench.lens.token_probabilities import log_probabilities
from workbench.replay.patching import Patch, prepare_patch
from workbench.studies.explore import explore
from workbench.tracing.edits import batch_edits
from workbench.tracing.follow import Followed, follow, likeliest
from workbench.tracing.model_heads import lens_heads
from workbench.tracing.residuals import read_logits
from workbench.tracing.trace import compare_residuals, trace


def naive(h, ids, head):
    """In float64, over the whole vocabulary."""
    wide = LensHead(
        head.norm,
        head.weight.double(),
        None if head.bias is None else head.bias.double(),
        head.softcap,
        head.multiplier,
    )
    return naive_logits(h.double(), wide).log_softmax(-1).gather(1, ids)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    positions=st.integers(1, 5),
    vocabulary=st.integers(2, 70),
    block=st.sampled_from([None, 1, 7, 64]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    options=st.sampled_from([{}, {"softcap": 5.0}, {"multiplier": 0.3}, {"bias": True}]),
)
def test_log_probabilities_are_those_of_a_softmax(seed, positions, vocabulary, block, dtype, options):
    h = randn(positions, 8, seed=seed, dtype=dtype)
    if "bias" in options:
        options = {"bias": randn(vocabulary, seed=seed + 1, dtype=dtype)}
    head = LensHead(rms_norm, 3 * randn(vocabulary, 8, seed=seed + 2, dtype=dtype), **options)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (positions, 3), generator=generator)
    found = log_probabilities(h, ids, head, block=block)
    assert found.dtype == dtype
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.double(), naive(h, ids, head), rtol=tolerance, atol=tolerance)


def test_far_apart_logits_and_masked_rows():
    h = torch.ones(1, 1)
    head = LensHead(lambda x: x, torch.tensor([[300.0], [0.0], [0.0]]), torch.tensor([0.0, 0.0, -math.inf]))
    for block in (1, 3):
        found = log_probabilities(h, torch.tensor([[0, 1, 2]]), head, block=block)
        assert found.tolist() == [[0.0, -300.0, -math.inf]]


def test_half_precision_heads_are_read_in_float32():
    h = randn(4, 8, seed=1, dtype=torch.bfloat16)
    head = LensHead(rms_norm, randn(50, 8, seed=2, dtype=torch.bfloat16))
    ids = torch.arange(4)[:, None]
    found = log_probabilities(h, ids, head)
    assert found.dtype == torch.float32
    wide = LensHead(lambda x: rms_norm(x.bfloat16()).double(), head.weight.double())
    torch.testing.assert_close(found.double(), naive(h, ids, wide), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"h": torch.zeros(2, 3)}, r"`h` must be a floating-point tensor \(positions, 8\), not empty"),
        ({"ids": torch.zeros(3, 1).long()}, r"`ids` must hold integers \(2, tokens\).*`ids.expand\(2, -1\)`"),
        ({"ids": torch.zeros(2, 1)}, "found torch.float32"),
        ({"ids": torch.tensor([[0], [9]])}, "`ids` must be from 0 to 8, .*found 0 to 9"),
        ({"ids": torch.tensor([[-1], [0]])}, r"found -1 to 0; pass `ids.clamp\(min=0\)`"),
        ({"block": 0}, "`block` must be at least 1, found 0"),
    ],
)
def test_bad_arguments_of_log_probabilities(change, message):
    arguments = {"h": torch.zeros(2, 8), "ids": torch.zeros(2, 1).long(), "block": None} | change
    with pytest.raises(InputError, match=message):
        log_probabilities(
            arguments["h"],
            arguments["ids"],
            LensHead(rms_norm, torch.zeros(9, 8)),
            block=arguments["block"],
        )


def test_the_likeliest_tokens_are_those_of_a_loop():
    one = synthetic_trace(problems=1, visual=3, text=2, top_k=3, seed=4)
    found = likeliest(one, 6)
    for position in range(len(one.prompt)):
        best: dict[int, float] = {}
        for model in ("base", "rlvr"):
            ids, probs = (getattr(one, f"top_{what}_{model}")[:, position] for what in ("ids", "probs"))
            for token, p in zip(ids.flatten().tolist(), probs.flatten().tolist(), strict=True):
                best[token] = max(p, best.get(token, 0.0))
        order = sorted(best, key=lambda token: (-best[token], token))[:6]
        assert found[position].tolist() == order + [-1] * (6 - len(order))


def test_ranks_end_where_the_tokens_do():
    one = synthetic_trace(problems=1, visual=0, text=2, special=0, depth=1, top_k=1, seed=1)
    ids = {i: torch.tensor([[[4], [7]]], dtype=torch.int32) for i in ("top_ids_base", "top_ids_rlvr")}
    assert likeliest(replace(one, **ids), 3).tolist() == [[4, -1], [7, -1]]


@pytest.fixture(scope="module")
def pair():
    return wb.load_pair("shapes")


@pytest.fixture(scope="module")
def problems():
    return wb.load_problems("shapes", split="test", limit=3)


@pytest.fixture(scope="module")
def traced(pair, problems):
    return trace(pair, problems, top_k=3, null_draws=0)


@pytest.fixture(scope="module")
def followed(pair, problems, traced) -> Followed:
    return follow(pair, problems, traced, tokens=5)


def test_every_followed_probability_is_the_models_own(pair, problems, traced, followed):
    prompts, heads = [pair.encode(problem) for problem in problems], lens_heads(pair)
    read = compare_residuals(pair, prompts, lambda layer, base, rlvr: (base.clone(), rlvr.clone()))
    for model, head in enumerate(heads):
        full = torch.stack(
            [naive_logits(read[i][model].double(), double(head)).log_softmax(-1) for i in traced.layers]
        )
        expected = full.gather(2, followed.ids.long().clamp(min=0).expand(len(full), -1, -1))
        found = (followed.log_probs_base, followed.log_probs_rlvr)[model].double()
        there = (followed.ids >= 0).expand_as(found)
        torch.testing.assert_close(found[there], expected[there], rtol=1e-4, atol=1e-4)
        assert found[~there].isnan().all()


def double(head: LensHead) -> LensHead:
    return replace(head, norm=lambda h: head.norm(h.float()).double(), weight=head.weight.double())


def test_tables_and_choices(traced, followed):
    frame = followed.to_dataframe()
    assert len(frame) == int((followed.ids >= 0).sum()) * len(traced.layers)
    row = frame.query("problem == 'shapes/test/0/1' and position == 2 and layer == 3").iloc[0]
    place = int((traced.prompt == 0).sum()) + 2
    assert row["token"] == traced.vocabulary[int(followed.ids[place, 0])]
    assert row["p_rlvr"] == pytest.approx(math.exp(followed.log_probs_rlvr[3, place, 0]))
    one = followed.select(prompt=1)
    assert one.problem_ids == ("shapes/test/0/1",)
    assert torch.equal(one.ids, followed.ids[followed.prompt == 1])
    assert "up to 5 tokens each" in repr(one)
    assert "<table" in one._repr_html_()


def test_a_followed_token_draws_itself(followed):
    figure = followed.plot(prompt=1, position=-1, token=1)
    one = followed.select(prompt=1)
    drawn = {line.name: line for line in figure.data if line.name == "RLVR" and len(line.x) > 1}
    assert drawn["RLVR"].y.tolist() == pytest.approx(one.log_probs_rlvr[:-1, -1, 1].double().exp().tolist())
    assert f"position {len(one.prompt) - 1} of shapes/test/0/1" in figure.layout.title.subtitle.text


def test_the_first_few_problems_will_do(pair, problems, traced, followed):
    seen = []
    first = follow(
        pair, problems[:2], traced, tokens=5, batch_size=1, progress=lambda *done: seen.append(done)
    )
    assert seen == [(0, 2), (1, 2), (2, 2)]
    count = len(first.prompt)
    assert torch.equal(first.ids, followed.ids[:count])
    torch.testing.assert_close(first.log_probs_base, followed.log_probs_base[:, :count], equal_nan=True)


def test_bad_arguments_of_follow(pair, problems, traced, followed):
    with pytest.raises(InputError, match=r"`tokens` is 0, expected at least 1: `follow\(pair"):
        follow(pair, problems, traced, tokens=0)
    with pytest.raises(InputError, match="`problems` has 0 entries, but the trace has 3 prompts"):
        follow(pair, [], traced)
    with pytest.raises(
        InputError, match=r"`problems` holds other prompts, or .* prompt 0 is 'shapes/test/0/1'"
    ):
        follow(pair, problems[1:], traced)
    with pytest.raises(InputError, match="`prompt` is 3, but prompts 0 to 2 were followed"):
        followed.select(prompt=3)
    with pytest.raises(InputError, match="`position` is 99, but prompt 0 has positions 0 to"):
        followed.plot(position=99)
    with pytest.raises(InputError, match="`token` is 5, expected 0 to 4"):
        followed.plot(token=5)
    with pytest.raises(InputError, match="`log_probs_rlvr` has shape"):
        replace(followed, log_probs_rlvr=followed.log_probs_rlvr[:1])


def test_interventions_are_in_place_in_the_rlvr_model(tiny_pair):
    problem = tiny.problem()
    prompt = tiny_pair.encode(problem)
    patch = prepare_patch(tiny_pair, prompt, Patch(layers=2, select="all"))
    how = {"top_k": 3, "followed": 5, "interventions": [patch]}
    page = explore(tiny_pair, [problem], **how)
    logits = read_logits(
        tiny_pair.rlvr, prompt.model_inputs, last=len(prompt), write=batch_edits([prompt], [patch])
    )
    expected = logits[0].log_softmax(-1).gather(1, page.followed.ids.long().clamp(min=0))
    found, there = page.followed.log_probs_rlvr[-1], page.followed.ids >= 0
    assert torch.allclose(found[there], expected[there], atol=1e-4)
    plain = follow(tiny_pair, [problem], page.trace, tokens=5)
    assert not torch.allclose(plain.log_probs_rlvr[-1][there], expected[there], atol=1e-2)
    assert torch.equal(plain.log_probs_base.nan_to_num(), page.followed.log_probs_base.nan_to_num())
    with pytest.raises(InputError, match="2 entries for 1 prompts"):
        follow(tiny_pair, [problem], page.trace, interventions=[patch, None])
