"""Replay at a prompt's text, at all of it, and at spans: against the naive loop, finite differences, and visual tokens."""

import math

import oracle
import pytest
import tiny
import torch

from workbench.decoding.decode import decode
from workbench.errors import InputError
from workbench.experiments.ablation import ablate
from workbench.interventions import Replay, default_matrix
from workbench.models.batches import by_length
from workbench.models.prompts import TokenKind
from workbench.replay.learned_tokens import LearnedTokens
from workbench.replay.replay import learn_many, learn_tokens, prepare
from workbench.views import markup

SETTINGS = {"tau": 0.99, "alpha": 0.5, "layers": 2, "iterations": 3, "top_v": 20}


@pytest.fixture(scope="module", params=tiny.TEXT_ONLY)
def text_pair(request):
    return tiny.pair(request.param, dtype=torch.float64)


@pytest.fixture(scope="module")
def seeing_pair():
    return tiny.pair(dtype=torch.float64)


def naive(pair, prompt, replay, places):
    inputs = {k: v.to(pair.dtype) if v.is_floating_point() else v for k, v in prompt.model_inputs.items()}
    known = {"tau": replay.tau, "alpha": replay.alpha, "layers": replay.layers, "layer": replay.layer}
    known |= {"iterations": replay.iterations, "top_v": replay.top_v, "alignment": replay.alignment}
    return oracle.naive_replay(pair.rlvr, pair.base, inputs, places, normalize=replay.normalize, **known)


def assert_equals_naive(pair, prompt, replay, places):
    learned = learn_tokens(pair, prompt, replay)
    tokens, losses, mask = naive(pair, prompt, replay, places)
    assert torch.equal(learned.places, places)
    assert torch.equal(learned.mask, mask)
    torch.testing.assert_close(learned.losses, losses, rtol=1e-6, atol=1e-9)
    assert (learned.tokens - tokens).abs().max() < 1e-6 * tokens.abs().max()


@pytest.mark.parametrize(
    "changes", [{}, {"alignment": "released"}, {"top_v": None, "normalize": False, "alpha": 0.02}]
)
def test_at_text_without_a_picture_the_naive_loops_tokens_are_learnt(text_pair, changes):
    prompt = text_pair.encode(tiny.problem(seed=2, images=0))
    text = prompt.kinds == TokenKind.TEXT
    assert text.any()
    assert not text.all()  # special tokens are left alone
    assert_equals_naive(text_pair, prompt, Replay(**SETTINGS | changes, positions="text"), text)


@pytest.mark.parametrize("positions", ["text", "all", ((0, 3), (-4, -1))])
def test_beside_a_picture_too(seeing_pair, positions):
    prompt = seeing_pair.encode(tiny.problem(seed=2))
    places = {"text": prompt.kinds == TokenKind.TEXT, "all": torch.ones(len(prompt), dtype=torch.bool)}
    spans = torch.zeros(len(prompt), dtype=torch.bool)
    spans[:3] = spans[-4:-1] = True
    # Of several groups (a picture, the text) each has a threshold of its own; with tau 1 all cells are low in each.
    replay = Replay(**SETTINGS | {"tau": 1.0}, positions=positions)
    assert_equals_naive(seeing_pair, prompt, replay, places.get(str(positions), spans))


def test_a_span_over_the_picture_is_what_visual_is(seeing_pair):
    prompt = seeing_pair.encode(tiny.problem(seed=2))
    where = (prompt.kinds == TokenKind.VISUAL).nonzero()[:, 0].tolist()
    assert where == list(range(where[0], where[-1] + 1))
    plain = learn_tokens(seeing_pair, prompt, Replay(**SETTINGS))
    span = learn_tokens(seeing_pair, prompt, Replay(**SETTINGS, positions=((where[0], where[-1] + 1),)))
    assert torch.equal(span.tokens, plain.tokens)
    assert torch.equal(span.mask, plain.mask)


def test_the_gradient_is_the_losss_slope(text_pair):
    prompt = text_pair.encode(tiny.problem(seed=3, images=0))
    loss_at, _ = prepare(text_pair, [prompt], Replay(**SETTINGS, positions="text"))
    count = int((prompt.kinds == TokenKind.TEXT).sum())
    x = 0.01 * torch.randn(
        count, text_pair.base.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_at(x).sum(), x)
    way = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step = 1e-4  # smaller ones see the float32 of the models' norms
    with torch.no_grad():
        slope = (loss_at(x + step * way) - loss_at(x - step * way)).item() / (2 * step)
    assert slope == pytest.approx((gradient * way).sum().item(), rel=1e-3)


def test_prompts_of_a_batch_learn_what_they_learn_alone(text_pair):
    prompts = [
        text_pair.encode(tiny.problem(images=0, question=question, id=question))
        for question in ("Why?", "How many of them?")
    ]
    assert len(prompts[0]) != len(prompts[1])
    replay = Replay(**SETTINGS, positions="text")
    for one, prompt in zip(learn_many(text_pair, prompts, replay), prompts, strict=True):
        torch.testing.assert_close(
            one.tokens, learn_tokens(text_pair, prompt, replay).tokens, rtol=1e-6, atol=1e-9
        )


def test_batches_of_prompts_that_are_alike_in_length_come_back_in_order(text_pair):
    questions = ("How many of them are there?", "Why?", "Which of all these is it?", "When?", "So?")
    prompts = [text_pair.encode(tiny.problem(images=0, question=one, id=one)) for one in questions]
    order = by_length(prompts)
    lengths = [len(prompts[i]) for i in order]
    assert lengths == sorted(map(len, prompts))
    assert order != [*range(5)]
    replay = Replay(**SETTINGS, positions="text")
    learned = learn_many(text_pair, prompts, replay, batch_size=2)
    assert [one.problem_id for one in learned] == [*questions]
    for one, prompt in zip(learned, prompts, strict=True):
        torch.testing.assert_close(
            one.tokens, learn_tokens(text_pair, prompt, replay).tokens, rtol=1e-6, atol=1e-9
        )


def test_without_iterations_the_answer_is_the_models_own(text_pair):
    problem = tiny.problem(seed=2, images=0)
    plain, same = (
        decode(text_pair, problem, samples=2, temperature=1.0, max_new_tokens=6, seed=3, intervention=one)
        for one in (None, Replay(**SETTINGS | {"iterations": 0}, positions="all"))
    )
    assert [r.text for r in same] == [r.text for r in plain]


def test_tokens_at_text_lie_in_a_file_and_come_back(text_pair, tmp_path):
    prompt = text_pair.encode(tiny.problem(seed=2, images=0))
    learned = learn_tokens(text_pair, prompt, Replay(**SETTINGS, positions=((1, 4), (-2, -1))))
    learned.save(tmp_path / "tokens.safetensors")
    again = LearnedTokens.load(tmp_path / "tokens.safetensors")
    assert again.replay == learned.replay
    assert torch.equal(again.places, learned.places)
    assert "other tokens" in learned._repr_html_()
    with pytest.raises(InputError, match=r"can't be written .*name a file in a folder that is there"):
        learned.save(tmp_path / "none" / "tokens.safetensors")
    assert [trace.type for trace in learned.plot().data] == ["scatter", "bar"]


def test_over_the_picture_is_of_the_picture_alone(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    learned = learn_tokens(tiny_pair, prompt, Replay(**SETTINGS, positions="all"))
    seen = learned.tokens[learned.grid[:, 0] >= 0].norm(dim=1).max()
    learned.tokens[learned.grid[:, 0] < 0] *= 1e4
    page = learned._repr_html_()
    assert f"over the picture, up to {markup.shown(float(seen))}" in page


def test_the_default_matrix_of_a_text_pair_runs_and_its_drift_is_of_text(text_pair):
    problems = [tiny.problem(seed=seed, images=0, id=f"p{seed}") for seed in range(2)]
    matrix = default_matrix(text_pair.depth, alpha=0.1, iterations=2, pictures=False)
    assert {condition.positions for name, condition in matrix.items() if "patch" not in name} == {"text"}
    assert "self-smoothing" not in matrix
    assert "tokens, low" in matrix
    table = ablate(text_pair, problems, matrix, samples=1, max_new_tokens=3)
    drift = table.drift.set_index(["intervention", "scope", "stratum"])
    before = drift.loc[("tokens, all", "without last layer", "low"), "before"]
    assert math.isfinite(before)
    assert before > 0


@pytest.mark.parametrize(
    ("positions", "says"),
    [
        ("images", "`positions` is 'images'; expected visual, text, all or spans"),
        ((), "expected a name or spans"),
        ((3, 4), "expected a name or spans"),
        (7, "expected a name or spans"),
    ],
)
def test_what_positions_cannot_be(positions, says):
    with pytest.raises(InputError, match=says):
        Replay(positions=positions)


def test_prompts_without_such_tokens_are_refused_with_what_would_work(text_pair):
    prompt = text_pair.encode(tiny.problem(seed=2, images=0))
    with pytest.raises(
        InputError,
        match=r"no visual tokens to replay; .* or learn tokens at its text: Replay\(positions='text'\)",
    ):
        learn_tokens(text_pair, prompt, Replay(layers=2))
    with pytest.raises(InputError, match=rf"span \(0, 900\), but .* has positions 0 to {len(prompt) - 1}"):
        learn_tokens(text_pair, prompt, Replay(layers=2, positions=((0, 900),)))
