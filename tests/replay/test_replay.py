"""Variants of replay against a naive loop over the whole model (`test_families` has families); identities; what is refused."""

from dataclasses import asdict, replace

import numpy as np
import oracle
import pytest
import tiny
import torch

from workbench.errors import InputError
from workbench.models.loading import load_pair
from workbench.models.prompts import TokenKind
from workbench.replay import descent
from workbench.replay import segment as segments
from workbench.replay.learned_tokens import LearnedTokens
from workbench.replay.nothing_selected import NOTHING, check_selected, unselected
from workbench.replay.replay import Replay, learn_many, learn_tokens, prepare
from workbench.tracing.residuals import read_logits
from workbench.tracing.trace import trace

SETTINGS = {"tau": 0.99, "alpha": 3.0, "layers": 2, "iterations": 3, "top_v": 20}


@pytest.fixture(scope="module")
def double_pair():
    return tiny.pair(dtype=torch.float64)


@pytest.fixture(scope="module")
def prompt(double_pair):
    return double_pair.encode(tiny.problem(seed=2))


def naive(pair, prompt, settings: Replay):
    roles = (pair.base, pair.rlvr) if settings.direction == "base_to_rlvr" else (pair.rlvr, pair.base)
    known = ("tau", "alpha", "layers", "layer", "iterations", "top_v", "normalize", "alignment")
    chosen = {name: value for name, value in asdict(settings).items() if name in known}
    inputs = {k: v.to(pair.dtype) if v.is_floating_point() else v for k, v in prompt.model_inputs.items()}
    return oracle.naive_replay(roles[1], roles[0], inputs, prompt.kinds == TokenKind.VISUAL, **chosen)


@pytest.mark.parametrize(
    "changes",
    [
        {"top_v": None},
        {"normalize": False, "alpha": 0.2},
        {"site": "mid_tokens", "layer": 1, "layers": None},
        {"site": "mid_tokens", "layer": 1, "layers": None, "alignment": "released"},
        {"direction": "reverse"},
        {"tau": 1.0},
    ],
)
def test_every_variant_learns_what_the_naive_loop_learns(double_pair, prompt, changes):
    settings = Replay(**{**SETTINGS, **changes})
    learned = learn_tokens(double_pair, prompt, settings)
    tokens, losses, mask = naive(double_pair, prompt, settings)
    assert torch.equal(learned.mask, mask)
    torch.testing.assert_close(learned.losses, losses, rtol=1e-5, atol=1e-9)
    assert (learned.tokens - tokens).abs().max() < 1e-5 * tokens.abs().max()


def test_without_the_prefix_cut_nothing_changes(double_pair, prompt, monkeypatch):
    whole = learn_tokens(double_pair, prompt, Replay(**SETTINGS))
    assert int(whole.places.nonzero()[0]) > 3
    monkeypatch.setattr(segments, "_can_cut", lambda call, anatomy: False)
    again = learn_tokens(double_pair, prompt, Replay(**SETTINGS))
    torch.testing.assert_close(
        again.tokens, whole.tokens, rtol=0, atol=1e-7 * float(whole.tokens.abs().max())
    )


def test_layers_share_one_mask(double_pair, prompt):
    loss, _ = prepare(double_pair, [prompt], Replay(**SETTINGS))
    masks = [arguments["attention_mask"] for arguments in loss.segment.arguments]
    cut, rows = loss.segment.cut, loss.segment.entry.shape[1]
    assert cut > 0
    assert {mask.untyped_storage().data_ptr() for mask in masks} == {masks[0].untyped_storage().data_ptr()}
    assert masks[0].untyped_storage().nbytes() == rows * (cut + rows)
    assert torch.equal(masks[0][0, 0], torch.ones(cut + rows, cut + rows, dtype=torch.bool).tril()[cut:])


def test_reverse_is_forward_with_swapped_models(double_pair, prompt):
    swapped = replace(double_pair, base=double_pair.rlvr, rlvr=double_pair.base)
    reverse = learn_tokens(double_pair, prompt, Replay(**SETTINGS, direction="reverse"))
    forward = learn_tokens(swapped, prompt, Replay(**SETTINGS))
    assert torch.equal(reverse.tokens, forward.tokens)


def test_batched_equals_solo(double_pair):
    prompts = [double_pair.encode(tiny.problem(seed=i, images=1 + i % 2)) for i in range(4)]
    settings = Replay(**SETTINGS)
    together = learn_many(double_pair, prompts, settings, batch_size=4)
    for one, prompt in zip(together, prompts, strict=True):
        alone = learn_tokens(double_pair, prompt, settings)
        assert torch.equal(one.mask, alone.mask)
        torch.testing.assert_close(
            one.tokens, alone.tokens, rtol=0, atol=1e-6 * float(alone.tokens.abs().max())
        )
        torch.testing.assert_close(one.losses, alone.losses, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("changes", [{"tau": 0.0}, {"alpha": 0.0}, {"iterations": 0}])
def test_identities_leave_logits_bit_equal(tiny_pair, changes):
    prompt = tiny_pair.encode(tiny.problem())
    learned = learn_tokens(tiny_pair, prompt, Replay(**{**SETTINGS, **changes}))
    assert not learned.tokens.any()
    plain = read_logits(tiny_pair.rlvr, prompt.model_inputs, last=len(prompt))
    replayed = read_logits(
        tiny_pair.rlvr, prompt.model_inputs, last=len(prompt), write={0: lambda h: learned.apply(0, h)}
    )
    assert torch.equal(plain, replayed)


def test_descending_lowers_the_loss_and_models_are_left_as_they_were(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    trained = next(iter(tiny_pair.rlvr.model.parameters())).requires_grad_(True)
    before = {name: value.clone() for name, value in tiny_pair.rlvr.model.state_dict().items()}
    learned = learn_tokens(tiny_pair, prompt, Replay(**{**SETTINGS, "iterations": 15, "alpha": 30.0}))
    assert learned.losses[-1] < 0.9 * learned.losses[0]
    assert trained.requires_grad
    trained.requires_grad_(False)
    after = tiny_pair.rlvr.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in tiny_pair.rlvr.model.parameters())


def test_steps_that_raise_the_loss_are_said_and_those_that_lower_it_are_not(tiny_pair, recwarn):
    """Tokens of an untuned step disturb a model as much as they like, and their accuracy would pass for replay's."""
    problems = [tiny.problem(seed=0), tiny.problem(seed=1)]
    small = Replay(tau=0.99, alpha=3.0, layers=2, iterations=5)
    assert not any(one.rose for one in learn_many(tiny_pair, problems, small))
    assert not [one for one in recwarn if "the loss of" in str(one.message)]
    large = replace(small, alpha=1e5)
    with pytest.warns(
        UserWarning,
        match=r"the loss of 2 of 2 prompts rose, of 'p0' from .* alpha=10000, or solver='adaptive'",
    ):
        learned = learn_many(tiny_pair, problems, large)
    assert all(one.losses[-1] > one.losses[0] for one in learned)
    assert not any(one.rose for one in learn_many(tiny_pair, problems, replace(large, solver="adaptive")))


def test_weights_thaw_after_an_exception(tiny_pair, monkeypatch):
    trained = next(iter(tiny_pair.rlvr.model.parameters())).requires_grad_(True)

    def fail(self, x):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(descent.Loss, "__call__", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        learn_tokens(tiny_pair, tiny_pair.encode(tiny.problem()), Replay(**SETTINGS))
    assert trained.requires_grad
    trained.requires_grad_(False)


def test_a_prompt_that_diverges_stops_and_disturbs_no_other(tiny_pair, monkeypatch):
    prompts = [tiny_pair.encode(tiny.problem(seed=i)) for i in (0, 1)]
    whole = descent.Loss.__call__

    def poisoned(self, x):
        losses = whole(self, x)
        return losses * torch.tensor([1.0, float("nan")]) if len(losses) == 2 else losses

    alone = learn_tokens(tiny_pair, prompts[0], Replay(**SETTINGS))
    monkeypatch.setattr(descent.Loss, "__call__", poisoned)
    healthy, ill = learn_many(tiny_pair, prompts, Replay(**SETTINGS), batch_size=2)
    assert healthy.stopped is None
    torch.testing.assert_close(healthy.tokens, alone.tokens, rtol=1e-3, atol=1e-5)
    assert ill.stopped == "the loss or its gradient was not finite at iteration 1; x = 0 is kept"
    assert not ill.tokens.any()
    assert len(ill.losses) == 1
    assert "stopped" in repr(ill)


def test_a_prompt_without_a_selected_cell_keeps_no_tokens(tiny_pair):
    settings = Replay(**{**SETTINGS, "tau": 0.95}, patience=1)
    prompts = [replace(tiny_pair.encode(tiny.problem(seed=i)), problem_id=f"p{i}") for i in range(3)]
    *empty, learned = found = learn_many(tiny_pair, prompts, settings, batch_size=3)
    assert [one.stopped for one in empty] == ["nothing selected"] * 2
    assert not any(one.tokens.any() or one.mask.any() for one in empty)
    assert unselected(found) == ["p0", "p1"]
    alone = learn_tokens(tiny_pair, prompts[2], settings)
    assert learned.tokens.any()
    torch.testing.assert_close(learned.tokens, alone.tokens, rtol=1e-3, atol=1e-5)
    with pytest.warns(UserWarning, match=r"selects no visual position of 2 of 3 prompts .* 'p0' the first"):
        check_selected(unselected(found), 3, settings)
    with pytest.raises(InputError, match=r"no visual position of 2 of 2 prompts in any layer .*raise tau"):
        check_selected(["p0", "p1"], 2, settings)
    for other, stopped in (({"tau": 0.0}, None), ({"threshold": "fixed", "levels": (0.0, 0.0)}, NOTHING)):
        (asked,) = learn_many(tiny_pair, prompts[:1], Replay(**{**SETTINGS, **other}))
        assert (asked.stopped, asked.tokens.any()) == (stopped, False)


def test_tokens_that_run_away_are_dropped(tiny_pair):
    learned = learn_tokens(tiny_pair, tiny_pair.encode(tiny.problem()), Replay(**{**SETTINGS, "alpha": 1e9}))
    assert learned.stopped == "the tokens diverged at iteration 1; x = 0 is kept"
    assert not learned.tokens.any()


def test_patience_ends_on_a_plateau(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    learned = learn_tokens(
        tiny_pair, prompt, Replay(**{**SETTINGS, "alpha": 0.0, "iterations": 9}, patience=2)
    )
    assert learned.stopped == "no progress for 2 iterations, at iteration 3"
    assert len(learned.losses) == 3


def test_half_precision_learns_float32_tokens():
    pair = tiny.pair(dtype=torch.bfloat16)
    learned = learn_tokens(pair, pair.encode(tiny.problem()), Replay(**SETTINGS))
    assert learned.tokens.dtype == torch.float32
    assert learned.tokens.abs().max() > 0
    hidden = torch.zeros(len(learned.places), tiny.HIDDEN, dtype=torch.bfloat16)
    assert learned.apply(0, hidden).dtype == torch.bfloat16


def test_self_smoothing_learns_on_the_disturbed_picture(tiny_pair):
    clean, disturbed = (tiny_pair.encode(tiny.problem(images=(tiny.image(seed=s),))) for s in (0, 1))
    settings = Replay(**{**SETTINGS, "select": "all"}, direction="self")
    learned = learn_tokens(tiny_pair, clean, settings, student=disturbed)
    assert learned.losses[0] > 0
    assert not learn_tokens(tiny_pair, clean, settings, student=clean).tokens.abs().max() > 1e-6


def test_random_takes_as_many_as_low_and_high_the_others(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    masks = {
        select: learn_tokens(tiny_pair, prompt, Replay(**{**SETTINGS, "iterations": 0}, select=select)).mask
        for select in ("low", "high", "random", "all")
    }
    assert torch.equal(masks["low"].sum(1), masks["random"].sum(1))
    assert torch.equal(masks["low"] | masks["high"], masks["all"])
    assert not (masks["low"] & masks["high"]).any()


def test_only_where_base_lower_narrows_the_mask(double_pair):
    prompt = double_pair.encode(tiny.problem(seed=5))
    settings = Replay(**{**SETTINGS, "iterations": 0, "tau": 1.0}, only_where_base_lower=True)
    lens = trace(double_pair, [prompt], null_draws=0, layers=(0, 1))
    lower = (lens.entropy_base < lens.entropy_rlvr) & (prompt.kinds == TokenKind.VISUAL)
    assert lower.sum() > 0
    assert torch.equal(learn_tokens(double_pair, prompt, settings).mask, lower)


def test_what_was_learnt_survives_saving(tiny_pair, tmp_path):
    settings = Replay(**{**SETTINGS, "threshold": "fixed"}, levels=(6.0, 6.0))
    learned = learn_tokens(tiny_pair, tiny_pair.encode(tiny.problem()), settings)
    learned.save(tmp_path / "x.safetensors")
    again = LearnedTokens.load(tmp_path / "x.safetensors")
    assert again.replay == settings
    assert again.loss_layers == learned.loss_layers
    for name in ("tokens", "losses", "mask", "places", "grid"):
        assert torch.equal(getattr(again, name), getattr(learned, name))
    with pytest.raises(InputError, match="holds no learned tokens"):
        LearnedTokens.load(tmp_path / "missing.safetensors")


def test_the_default_depth_is_the_papers_share():
    assert [len(Replay().loss_layers(depth)) for depth in (28, 8, 1)] == [16, 5, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Replay(site="late"),
            r"`site` is 'late'; expected one of tokens, mid_tokens: Replay\(site='tokens'\)",
        ),
        (lambda: Replay(direction="up"), "`direction` is 'up'"),
        (lambda: Replay(alignment="other"), "`alignment` is 'other'"),
        (lambda: Replay(select="lowest"), "`select` is 'lowest'; expected one of low, high, all, random"),
        (lambda: Replay(threshold="mean"), "`threshold` is 'mean'"),
        (lambda: Replay(tau=1.5), "`tau` is 1.5; expected a fraction from 0 to 1"),
        (lambda: Replay(tau=float("nan")), "`tau` is nan"),
        (lambda: Replay(alpha=-1), "`alpha` is -1"),
        (lambda: Replay(layers=0), "`layers` is 0; expected a whole number of at least 1"),
        (lambda: Replay(iterations=2.5), "`iterations` is 2.5"),
        (lambda: Replay(top_v=1), "`top_v` is 1"),
        (
            lambda: Replay(site="mid_tokens"),
            "`layer` is None with site 'mid_tokens'; name a layer for mid tokens",
        ),
        (lambda: Replay(layer=3), "`layer` is 3 with site 'tokens'"),
        (lambda: Replay(levels=(1.0,)), "`levels` belongs to threshold='fixed'"),
        (
            lambda: Replay(layers=9).loss_layers(8),
            r"`layers` is 9, but the models have 8 layers; Replay\(layers=8\) is the most",
        ),
        (
            lambda: Replay(threshold="fixed", levels=(1.0,), layers=2).loss_layers(8),
            "`levels` gives 1 entropies, expected 2",
        ),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_bad_prompts(tiny_pair, pair_of):
    text = pair_of("qwen2")
    with pytest.raises(InputError, match="has no visual tokens to replay; give a problem with an image"):
        learn_tokens(text, text.encode(tiny.problem("qwen2")), Replay(layers=1))
    prompt = tiny_pair.encode(tiny.problem())
    with pytest.raises(InputError, match=r"selects no visual position of 'p0' in any layer .*raise tau"):
        learn_tokens(tiny_pair, prompt, Replay(**{**SETTINGS, "tau": 0.001}))
    with pytest.raises(InputError, match="`students` are missing with direction 'self'"):
        learn_tokens(tiny_pair, prompt, Replay(**SETTINGS, direction="self"))
    with pytest.raises(InputError, match="`students` were given with direction 'base_to_rlvr'"):
        learn_tokens(tiny_pair, prompt, Replay(**SETTINGS), student=prompt)
    other = tiny_pair.encode(tiny.problem(images=2))
    with pytest.raises(InputError, match="`students` differ from `prompts`"):
        learn_tokens(tiny_pair, prompt, Replay(**SETTINGS, direction="self"), student=other)


def test_it_plots_its_loss_and_where_the_tokens_are_long(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem(images=2))
    learned = learn_tokens(tiny_pair, prompt, Replay(**SETTINGS))
    figure = learned.plot()
    assert list(figure.data[0].y) == pytest.approx(learned.losses.tolist())
    drawn = [np.asarray(trace.z, float) for trace in figure.data[1:]]
    assert [z.shape for z in drawn] == [(h, w) for _, h, w in prompt.grids]
    norms = learned.tokens.norm(dim=1).numpy()
    np.testing.assert_allclose(np.concatenate([z.ravel() for z in drawn]), norms, rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_learns_what_the_cpu_learns():
    settings = Replay(**SETTINGS)
    on_cpu = tiny.pair(dtype=torch.float64)
    prompt = on_cpu.encode(tiny.problem(seed=2))
    expected = learn_tokens(on_cpu, prompt, settings)
    models = [tiny.model("qwen2_5_vl", 0, torch.float64) for _ in range(2)]
    for model, anatomy in zip(models, (on_cpu.base, on_cpu.rlvr), strict=True):
        model.load_state_dict(anatomy.model.state_dict())
    base, rlvr = (model.cuda() for model in models)
    on_gpu = load_pair(base=base, rlvr=rlvr, processor=tiny.processor("qwen2_5_vl"))
    learned = learn_tokens(on_gpu, prompt, settings)
    assert learned.tokens.device.type == "cpu"
    assert torch.equal(learned.mask, expected.mask)
    assert (learned.tokens - expected.tokens).abs().max() < 1e-4 * expected.tokens.abs().max()
    halves = load_pair(base=base.bfloat16(), rlvr=rlvr.bfloat16(), processor=tiny.processor("qwen2_5_vl"))
    assert learn_tokens(halves, prompt, replace(settings, tau=1.0)).tokens.dtype == torch.float32
