"""The fused lens against torch's own functions over the whole vocabulary."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import naive_logits, randn, rms_norm
from torch import Tensor
from torch.nn import functional as F

from workbench.errors import InputError
from workbench.lens import blocks
from workbench.lens import fused as lens
from workbench.lens.fused import LensStats
from workbench.lens.heads import LensHead

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def random_pair(positions=5, hidden=16, vocabulary=300, seed=0, shift=0.3, scale=0.7, dtype=torch.float64):
    """Residuals and heads of a base and of a slightly different model."""
    h = randn(positions, hidden, seed=seed)
    weight = scale * randn(vocabulary, hidden, seed=seed + 1)
    h_rlvr = h + shift * randn(positions, hidden, seed=seed + 2)
    weight_rlvr = weight + 0.1 * shift * randn(vocabulary, hidden, seed=seed + 3)
    heads = LensHead(rms_norm, weight.to(dtype)), LensHead(rms_norm, weight_rlvr.to(dtype))
    return h.to(dtype), h_rlvr.to(dtype), *heads


def naive_entropy(log_p: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=log_p).entropy()


def naive_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def best_ids(logits: Tensor, k: int) -> Tensor:
    """Most probable first, of equal logits the lower id first."""
    return logits.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def assert_naive(stats: LensStats, h_base: Tensor, h_rlvr: Tensor, base: LensHead, rlvr: LensHead) -> None:
    k, tolerance = stats.top_ids_base.shape[1], TOLERANCE[h_base.dtype]
    z_base, z_rlvr = naive_logits(h_base, base), naive_logits(h_rlvr, rlvr)
    log_p, log_q = z_base.log_softmax(-1), z_rlvr.log_softmax(-1)
    ids_base, ids_rlvr = best_ids(z_base, k), best_ids(z_rlvr, k)
    expected = {
        "entropy_base": naive_entropy(log_p),
        "entropy_rlvr": naive_entropy(log_q),
        "kl": naive_kl(log_p, log_q),
        "top_probs_base": log_p.exp().gather(1, ids_base),
        "top_probs_rlvr": log_q.exp().gather(1, ids_rlvr),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(stats, name), value, rtol=tolerance, atol=tolerance, msg=name)
    assert torch.equal(stats.top_ids_base, ids_base)
    assert torch.equal(stats.top_ids_rlvr, ids_rlvr)
    assert torch.equal(stats.top1_agreement, ids_base[:, 0] == ids_rlvr[:, 0])
    shared = [len(set(a) & set(b)) / k for a, b in zip(ids_base.tolist(), ids_rlvr.tolist(), strict=True)]
    assert stats.topk_overlap.tolist() == pytest.approx(shared)


# --- changes multiplied in bfloat16


@pytest.mark.parametrize("shift", [0.3, 0.003])
def test_changes_in_bfloat16_move_a_shift_by_parts_in_a_thousand_of_itself(shift):
    h_base, h_rlvr, base, _ = random_pair(40, 64, 3000, shift=shift, scale=0.3, dtype=torch.float32)
    null = lens.matched_noise(h_base, h_rlvr, draws=2)
    exact = lens.compare(h_base.double(), h_rlvr.double(), base, base, null=null.double())
    rounded = replace(base, changes=torch.bfloat16)
    stats = lens.compare(h_base, h_rlvr, rounded, rounded, null=null, jensen_shannon=True)
    assert exact.kl_null is not None
    assert stats.kl_null is not None
    for found, expected in ((stats.kl, exact.kl), (stats.kl_null, exact.kl_null)):
        apart = found.double() / expected - 1
        assert 0 < apart.abs().max() < 0.03
        assert apart.abs().median() < 0.005
        assert abs(found.double().median() / expected.median() - 1) < 0.005
    torch.testing.assert_close(stats.entropy_base.double(), exact.entropy_base, rtol=1e-5, atol=1e-5)
    # Where rounding whole logits would leave next to nothing of a small shift.
    halves = base.weight.bfloat16()
    p, q = ((rms_norm(h).bfloat16() @ halves.t()).double().log_softmax(-1) for h in (h_base, h_rlvr))
    lost = (naive_kl(p, q) / exact.kl - 1).abs().median()
    assert lost > (1 / shift) * (stats.kl / exact.kl - 1).abs().median()


def test_changes_in_bfloat16_are_of_one_unembedding_and_float32_alone():
    h_base, h_rlvr, base, rlvr = random_pair(dtype=torch.float32)
    own = lens.compare(h_base, h_rlvr, base, rlvr).kl
    allowed = [replace(head, changes=torch.bfloat16) for head in (base, rlvr)]
    assert torch.equal(lens.compare(h_base, h_rlvr, *allowed).kl, own)
    one = replace(base, changes=torch.bfloat16)
    doubles = h_base.double(), h_rlvr.double()
    assert torch.equal(lens.compare(*doubles, one, one).kl, lens.compare(*doubles, base, base).kl)


@pytest.mark.parametrize("block", [64, 192, 300])
def test_changes_in_bfloat16_know_bias_softcap_and_multiplier(block):
    h_base, h_rlvr, base, _ = random_pair(shift=0.01, dtype=torch.float32)
    bias = randn(300, seed=9).float()
    bias[7] = -math.inf
    for extra in ({"bias": bias}, {"softcap": 3.0, "multiplier": 0.5}):
        head = replace(base, **extra)
        one = replace(head, changes=torch.bfloat16)
        exact = lens.compare(h_base, h_rlvr, head, head, block=block)
        torch.testing.assert_close(
            lens.compare(h_base, h_rlvr, one, one, block=block).kl, exact.kl, rtol=0.02, atol=0
        )


# --- against the whole vocabulary


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block", [None, 7, 64, 100, 299, 1000])
@pytest.mark.parametrize("top_k", [1, 10, 70])
def test_compare_is_the_naive_computation(dtype: torch.dtype, block: int | None, top_k: int):
    pair = random_pair(dtype=dtype)
    stats = lens.compare(*pair, top_k=top_k, block=block)
    assert stats.kl.dtype == dtype
    assert_naive(stats, *pair)


@pytest.mark.parametrize("vocabulary", [1, 2, 63, 64, 65, 1009])
def test_any_vocabulary_size(vocabulary: int):
    pair = random_pair(vocabulary=vocabulary)
    assert_naive(lens.compare(*pair, top_k=min(5, vocabulary), block=128), *pair)


@pytest.mark.parametrize(("softcap", "multiplier"), [(3.0, 1.0), (None, 0.0625), (30.0, 2.5)])
def test_bias_softcap_and_multiplier(softcap: float | None, multiplier: float):
    h_base, h_rlvr, *heads = random_pair()
    base, rlvr = (
        replace(head, softcap=softcap, multiplier=multiplier, bias=randn(300, seed=9 + i))
        for i, head in enumerate(heads)
    )
    assert_naive(lens.compare(h_base, h_rlvr, base, rlvr, block=128), h_base, h_rlvr, base, rlvr)


def test_summarise_is_one_side_of_compare():
    h_base, h_rlvr, base, rlvr = random_pair()
    both = lens.compare(h_base, h_rlvr, base, rlvr, top_k=4)
    one = lens.summarise(h_rlvr, rlvr, top_k=4)
    torch.testing.assert_close(one.entropy, both.entropy_rlvr, rtol=0, atol=1e-14)
    torch.testing.assert_close(one.top_probs, both.top_probs_rlvr, rtol=0, atol=1e-14)
    assert torch.equal(one.top_ids, both.top_ids_rlvr)


def test_strips_of_positions_change_nothing(monkeypatch: pytest.MonkeyPatch):
    pair = random_pair(positions=23)
    null = lens.matched_noise(*pair[:2], draws=2)
    whole = lens.compare(*pair, null=null, jensen_shannon=True)
    monkeypatch.setattr(blocks, "STRIP_ELEMENTS", 5 * 4 * 300)
    strips = lens.compare(*pair, null=null, jensen_shannon=True)
    for name in ("entropy_base", "kl", "kl_null", "jensen_shannon"):
        torch.testing.assert_close(getattr(strips, name), getattr(whole, name), rtol=0, atol=1e-14)


def test_many_positions_get_small_blocks():
    pair = random_pair(positions=3, vocabulary=600, dtype=torch.float32)
    tall = [h.repeat(2_800, 1) for h in pair[:2]]
    stats = lens.compare(tall[0], tall[1], *pair[2:])
    torch.testing.assert_close(stats.kl[:3], lens.compare(*pair).kl, rtol=1e-5, atol=1e-6)
    running = lens._Running(list(zip(pair[2:], tall, strict=True)), torch.float32, 10, None)
    assert running.block == 256


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_operands_keep_float32_statistics(dtype: torch.dtype):
    halves = random_pair(hidden=64, dtype=dtype)
    stats = lens.compare(*halves)
    assert stats.kl.dtype == stats.entropy_base.dtype == stats.top_probs_rlvr.dtype == torch.float32
    h_base, h_rlvr, *heads = halves
    # The norm in half precision, as the models compute it, and nothing else.
    base, rlvr = (LensHead(lambda h: rms_norm(h.to(dtype)).double(), head.weight.double()) for head in heads)
    exact = lens.compare(h_base.double(), h_rlvr.double(), base, rlvr)
    for name in ("entropy_base", "entropy_rlvr", "kl", "top_probs_base"):
        torch.testing.assert_close(getattr(stats, name).double(), getattr(exact, name), rtol=1e-5, atol=1e-5)
    full = lens.compare(*random_pair(hidden=64))
    torch.testing.assert_close(stats.kl.double(), full.kl, rtol=0.1, atol=2e-2)
    torch.testing.assert_close(stats.entropy_base.double(), full.entropy_base, rtol=0, atol=2e-2)


def test_wide_residuals_of_narrow_weights():
    h_base, h_rlvr, base, rlvr = random_pair()
    narrow = [replace(head, weight=head.weight.float()) for head in (base, rlvr)]
    stats = lens.compare(h_base, h_rlvr, *narrow)
    assert stats.kl.dtype == torch.float64
    assert_naive(stats, h_base, h_rlvr, *(replace(head, weight=head.weight.double()) for head in narrow))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_cuda_equals_the_cpu(dtype: torch.dtype):
    h_base, h_rlvr, *heads = random_pair(hidden=64, vocabulary=3000, dtype=dtype)
    null = lens.matched_noise(h_base, h_rlvr, draws=2)
    cpu = lens.compare(h_base, h_rlvr, *heads, null=null, jensen_shannon=True)
    on_gpu = [LensHead(head.norm, head.weight.cuda()) for head in heads]
    gpu = lens.compare(h_base.cuda(), h_rlvr.cuda(), *on_gpu, null=null.cuda(), jensen_shannon=True)
    for name in ("entropy_base", "entropy_rlvr", "kl", "kl_null", "jensen_shannon", "top_probs_base"):
        torch.testing.assert_close(getattr(gpu, name).cpu(), getattr(cpu, name), rtol=5e-3, atol=5e-3)


# --- properties


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    positions=st.integers(1, 6),
    vocabulary=st.integers(2, 200),
    shift=st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 30.0]),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 100.0, 3000.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_bounds_of_every_statistic(seed, positions, vocabulary, shift, scale, dtype):
    pair = random_pair(positions, 8, vocabulary, seed, shift, scale, dtype)
    null = lens.matched_noise(*pair[:2], draws=2, seed=seed)
    stats = lens.compare(*pair, top_k=2, null=null, jensen_shannon=True, block=33)
    largest = torch.tensor(math.log(vocabulary), dtype=dtype)
    for entropy in (stats.entropy_base, stats.entropy_rlvr):
        assert ((entropy >= 0) & (entropy <= largest)).all()
    assert stats.kl_null is not None
    assert stats.jensen_shannon is not None
    for kl in (stats.kl, stats.kl_null):
        assert ((kl >= 0) & kl.isfinite()).all()
    assert ((stats.jensen_shannon >= 0) & (stats.jensen_shannon <= torch.tensor(2.0).log())).all()
    assert ((stats.topk_overlap >= 0) & (stats.topk_overlap <= 1)).all()
    for probs in (stats.top_probs_base, stats.top_probs_rlvr):
        assert ((probs >= 0) & (probs <= 1)).all()
        assert (probs.diff(dim=1) <= 0).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 1000.0]), block=st.integers(1, 200))
def test_identical_models_do_not_differ(seed: int, scale: float, block: int):
    h, _, head, _ = random_pair(vocabulary=150, seed=seed, scale=scale, dtype=torch.float32)
    stats = lens.compare(h, h, head, head, block=block, jensen_shannon=True)
    assert stats.jensen_shannon is not None
    assert not stats.kl.any()
    assert not stats.jensen_shannon.any()
    assert stats.top1_agreement.all()
    assert (stats.topk_overlap == 1).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), block=st.integers(1, 400), scale=st.sampled_from([0.5, 20.0]))
def test_block_size_changes_nothing_beyond_rounding(seed: int, block: int, scale: float):
    pair = random_pair(seed=seed, scale=scale)
    one, many = (
        lens.compare(*pair, jensen_shannon=True),
        lens.compare(*pair, jensen_shannon=True, block=block),
    )
    for name in ("entropy_base", "entropy_rlvr", "kl", "top_probs_base", "jensen_shannon"):
        torch.testing.assert_close(getattr(many, name), getattr(one, name), rtol=1e-11, atol=1e-11)
    assert torch.equal(many.top_ids_base, one.top_ids_base)
    assert torch.equal(many.top_ids_rlvr, one.top_ids_rlvr)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), constant=st.floats(-1e4, 1e4))
def test_a_constant_added_to_all_logits_changes_nothing(seed: int, constant: float):
    h_base, h_rlvr, base, rlvr = random_pair(seed=seed)
    moved = replace(rlvr, bias=torch.full((300,), constant, dtype=torch.float64))
    before = lens.compare(h_base, h_rlvr, base, rlvr, block=64)
    after = lens.compare(h_base, h_rlvr, base, moved, block=64)
    for name in ("entropy_rlvr", "kl", "top_probs_rlvr"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=1e-9, atol=1e-9)
    assert torch.equal(after.top_ids_rlvr, before.top_ids_rlvr)


# --- extremes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block", [None, 16])
def test_logits_of_ten_thousand(dtype: torch.dtype, block: int | None):
    """The base is sure of the last id, far below it the others; the RLVR model of the first."""
    weight = torch.zeros(100, 4, dtype=dtype)
    first, last = torch.zeros_like(weight), torch.zeros_like(weight)
    first[0], last[-1] = 1e4, 1e4
    h = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]], dtype=dtype)
    stats = lens.compare(
        h, h, LensHead(torch.clone, last), LensHead(torch.clone, first), top_k=3, block=block
    )
    # Where both ids are 1e4 below the rest, each model spreads evenly over the 99 others.
    assert stats.entropy_base.tolist() == pytest.approx([0, math.log(99)], abs=1e-6)
    assert stats.kl.tolist() == pytest.approx([1e4, 1e4 / 99], rel=1e-6)
    assert stats.top_ids_base.tolist() == [[99, 0, 1], [0, 1, 2]]
    assert stats.top_ids_rlvr.tolist() == [[0, 1, 2], [1, 2, 3]]


@pytest.mark.parametrize("block", [None, 10, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_masked_in_both_heads_are_as_if_absent(block: int | None, dtype: torch.dtype):
    h_base, h_rlvr, base, rlvr = random_pair(dtype=dtype)
    masked = torch.zeros(300, dtype=torch.bool)
    masked[:20] = masked[100:180] = masked[-1] = True
    bias = torch.zeros(300, dtype=dtype).masked_fill(masked, -math.inf)
    null = lens.matched_noise(h_base, h_rlvr, draws=2)
    settings = {"top_k": 12, "null": null, "jensen_shannon": True, "block": block}
    stats = lens.compare(h_base, h_rlvr, replace(base, bias=bias), replace(rlvr, bias=bias), **settings)
    present = [LensHead(rms_norm, head.weight[~masked]) for head in (base, rlvr)]
    expected = lens.compare(h_base, h_rlvr, *present, **settings)
    for name in ("entropy_base", "entropy_rlvr", "kl", "kl_null", "jensen_shannon", "top_probs_base"):
        torch.testing.assert_close(getattr(stats, name), getattr(expected, name), rtol=1e-5, atol=1e-6)
    assert torch.equal(stats.top_ids_base, (~masked).nonzero().squeeze(1)[expected.top_ids_base])


def test_a_mask_of_one_model_only():
    h_base, h_rlvr, base, rlvr = random_pair()
    bias = torch.zeros(300, dtype=torch.float64)
    bias[7] = -math.inf
    half_masked = replace(rlvr, bias=bias)
    stats = lens.compare(h_base, h_rlvr, base, half_masked, null=h_base[None], jensen_shannon=True)
    assert stats.kl_null is not None
    assert stats.jensen_shannon is not None
    assert stats.kl.isposinf().all()
    assert stats.kl_null.isposinf().all()
    assert stats.jensen_shannon.isfinite().all()
    assert stats.entropy_rlvr.isfinite().all()
    # The other way round a base without the row is fine, and so is a softcap, which makes the mask finite.
    masked_base = replace(base, bias=bias)
    log_p = naive_logits(h_base, masked_base).log_softmax(-1)
    log_q = naive_logits(h_rlvr, rlvr).log_softmax(-1)
    kl = lens.compare(h_base, h_rlvr, masked_base, rlvr).kl
    torch.testing.assert_close(kl, F.kl_div(log_q, log_p.exp(), reduction="none").sum(1))
    assert lens.compare(h_base, h_rlvr, base, replace(half_masked, softcap=30.0)).kl.isfinite().all()


@pytest.mark.parametrize(("shift", "largest_error"), [(1e-4, 1e-7), (1e-3, 1e-7), (1e-2, 3e-7)])
def test_small_shifts_are_not_lost_in_float32(shift: float, largest_error: float):
    """Of logits rounded to float32, KL is exact to about 1e-8, where the textbook formula loses about 1e-6."""
    h_base, h_rlvr, base, rlvr = random_pair(20, 32, 20_000, shift=shift, dtype=torch.float32)
    stats = lens.compare(h_base, h_rlvr, base, rlvr, jensen_shannon=True)
    assert stats.jensen_shannon is not None
    logits = naive_logits(h_base, base), naive_logits(h_rlvr, rlvr)
    log_p, log_q = (z.double().log_softmax(-1) for z in logits)
    torch.testing.assert_close(stats.kl.double(), naive_kl(log_p, log_q), rtol=0, atol=largest_error)
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    expected = (naive_kl(log_p, log_mean) + naive_kl(log_q, log_mean)) / 2
    torch.testing.assert_close(stats.jensen_shannon.double(), expected, rtol=1e-2, atol=largest_error / 10)


# --- known values


def test_known_entropies():
    weight = torch.zeros(64, 2, dtype=torch.float64)
    weight[3, 0], weight[5, 1] = 500.0, 500.0
    h = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    stats = lens.summarise(h, LensHead(torch.clone, weight), top_k=2, block=5)
    assert stats.entropy.tolist() == pytest.approx([math.log(64), 0.0, math.log(2)], abs=1e-14)
    assert stats.top_ids.tolist() == [[0, 1], [3, 0], [3, 5]]
    assert stats.top_probs[1].tolist() == pytest.approx([1.0, 0.0])


def test_dirichlet_entropy():
    """Softmax of Dirichlet logits gives the sampled distributions themselves."""
    torch.manual_seed(0)
    probs = torch.distributions.Dirichlet(torch.full((500,), 0.3, dtype=torch.float64)).sample((8,))
    probs = probs.clamp(min=1e-30)
    stats = lens.summarise(torch.eye(8, dtype=torch.float64), LensHead(torch.clone, probs.log().T), block=64)
    torch.testing.assert_close(stats.entropy, torch.special.entr(probs).sum(1), rtol=1e-10, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    vocabulary=st.integers(1, 300),
    values=st.integers(1, 40),
    block=st.integers(1, 300),
    data=st.data(),
)
def test_top_k_with_ties_prefers_lower_ids(seed, vocabulary, values, block, data):
    """Logits out of a few whole numbers, so that nearly all of them are tied."""
    k = data.draw(st.integers(1, vocabulary))
    numbers = torch.randint(values, (3, vocabulary), generator=torch.Generator().manual_seed(seed)).float()
    stats = lens.summarise(torch.eye(3), LensHead(torch.clone, numbers.T), top_k=k, block=block)
    assert torch.equal(stats.top_ids, best_ids(numbers, k))
    expected = torch.topk(numbers.softmax(1), k).values
    torch.testing.assert_close(stats.top_probs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["rising", "falling"])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_top_k_is_torch_topk_when_the_best_come_last_or_first(order: str, k: int):
    logits = randn(4, 1000, seed=1).sort(dim=1, descending=order == "falling").values
    stats = lens.summarise(torch.eye(4).double(), LensHead(torch.clone, logits.T), top_k=k, block=64)
    assert torch.equal(stats.top_ids, logits.topk(k).indices)


# --- null draws and Jensen-Shannon


@pytest.mark.parametrize("block", [None, 50])
def test_null_draws_are_divergences_of_their_own(block: int | None):
    h_base, h_rlvr, base, rlvr = random_pair()
    null = h_base + randn(3, 5, 16, seed=8)
    stats = lens.compare(h_base, h_rlvr, base, rlvr, null=null, block=block)
    alone = lens.compare(h_base, h_rlvr, base, rlvr, block=block)
    assert alone.kl_null is None
    assert stats.kl_null is not None
    log_p = naive_logits(h_base, base).log_softmax(-1)
    expected = torch.stack([naive_kl(log_p, naive_logits(draw, rlvr).log_softmax(-1)) for draw in null])
    torch.testing.assert_close(stats.kl_null, expected, rtol=1e-10, atol=1e-10)
    for name in ("kl", "entropy_rlvr", "top_probs_rlvr"):
        torch.testing.assert_close(getattr(stats, name), getattr(alone, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [0.01, 1.0, 100.0])
def test_jensen_shannon_is_the_mean_divergence_from_the_average(dtype: torch.dtype, shift: float):
    pair = random_pair(shift=shift, dtype=dtype)
    null = lens.matched_noise(*pair[:2], draws=2)
    stats = lens.compare(*pair, null=null, jensen_shannon=True, block=70)
    assert stats.jensen_shannon is not None
    p, q = (naive_logits(h, head).softmax(-1) for h, head in zip(pair[:2], pair[2:], strict=True))
    average = (p + q) / 2
    expected = (torch.xlogy(p, p / average) + torch.xlogy(q, q / average)).sum(1) / 2
    torch.testing.assert_close(
        stats.jensen_shannon, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], equal_nan=False
    )


def test_matched_noise_is_as_long_as_the_change():
    h_base, h_rlvr = random_pair(positions=50, hidden=400)[:2]
    noise = lens.matched_noise(h_base, h_rlvr, draws=4, seed=3) - h_base
    assert noise.shape == (4, 50, 400)
    length = (h_rlvr - h_base).norm(dim=-1)
    torch.testing.assert_close(noise.norm(dim=-1), length.expand(4, 50), rtol=1e-10, atol=1e-10)
    directions = F.normalize(noise, dim=-1).flatten(0, 1)
    cosines = (directions @ directions.T).fill_diagonal_(0)
    assert cosines.abs().max() < 6 / math.sqrt(400)  # random directions are nearly orthogonal


def test_matched_noise_has_its_own_seed():
    h_base, h_rlvr = random_pair()[:2]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = lens.matched_noise(h_base, h_rlvr, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(lens.matched_noise(h_base, h_rlvr, seed=1), one)
    assert not torch.equal(lens.matched_noise(h_base, h_rlvr, seed=2), one)
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(lens.matched_noise(h_base, h_rlvr, seed=generator), one)
    assert not torch.equal(lens.matched_noise(h_base, h_rlvr, seed=generator), one)


def test_matched_noise_of_half_precision_keeps_its_length():
    h_base, h_rlvr = (h.to(torch.bfloat16) for h in random_pair(shift=0.02)[:2])
    noise = lens.matched_noise(h_base, h_rlvr) - h_base.float()
    assert noise.dtype == torch.float32
    length = (h_rlvr.float() - h_base.float()).norm(dim=-1)
    torch.testing.assert_close(noise.norm(dim=-1), length.expand(3, -1), rtol=1e-4, atol=1e-5)


def test_no_change_gives_no_noise():
    h = random_pair()[0]
    assert torch.equal(lens.matched_noise(h, h), h.expand(3, -1, -1))


# --- what it leaves alone, and shows


def test_inputs_are_left_as_they_were():
    pair = random_pair(dtype=torch.float32)
    weight = torch.nn.Parameter(pair[2].weight.clone())
    h = pair[0].clone().requires_grad_()
    stats = lens.compare(h, pair[1], LensHead(rms_norm, weight), pair[3])
    assert not stats.kl.requires_grad
    assert torch.equal(h, pair[0])
    assert torch.equal(weight, pair[2].weight)


def test_the_norm_is_called_once_however_many_blocks():
    h_base, h_rlvr, base, rlvr = random_pair()
    calls = []

    def norm(h: Tensor) -> Tensor:
        calls.append(h.shape)
        return rms_norm(h)

    lens.compare(h_base, h_rlvr, replace(base, norm=norm), rlvr, block=10)
    assert calls == [(5, 16)]


def test_short_repr():
    pair = random_pair()
    stats = lens.compare(*pair)
    assert repr(pair[2]) == "LensHead(vocabulary=300, hidden=16)"
    assert repr(stats).startswith("LensStats(positions=5, top_k=10, mean KL ")
    assert repr(lens.summarise(pair[0], pair[2])).startswith("HeadStats(positions=5, top_k=10, mean entropy ")


# --- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"h_base": torch.zeros(5, 15)}, r"`h_base` must be .* \(positions, 16\).*found .* \(5, 15\)"),
        ({"h_rlvr": torch.zeros(2, 5, 16)}, r"`h_rlvr` .*\(2, 5, 16\); pass `h_rlvr.flatten\(0, -2\)`"),
        ({"h_base": torch.zeros(0, 16)}, r"`h_base` must be .*not empty.*found .* \(0, 16\)"),
        ({"h_base": torch.zeros(5, 16, dtype=torch.long)}, "`h_base` must be a floating-point .*torch.int64"),
        ({"h_rlvr": torch.zeros(4, 16)}, r"hold the same positions.*found shapes \(5, 16\) and \(4, 16\)"),
        ({"h_rlvr": torch.full((5, 16), math.nan)}, "`h_rlvr` must be finite, found NaN or infinity"),
        ({"vocabulary": 301}, r"must have the same .*\(300, 16\) and \(301, 16\); cut both to the rows"),
        ({"hidden": 8}, r"`head_base` and `head_rlvr` must have the same .*\(300, 16\) and \(300, 8\)"),
        ({"top_k": 301}, "`top_k` must be from 1 to the vocabulary's 300, found 301; pass 1"),
        ({"top_k": 0}, "`top_k` must be from 1 to the vocabulary's 300, found 0"),
        ({"block": 0}, "`block` must be at least 1, found 0; pass `block=None`"),
        (
            {"null": torch.zeros(5, 16)},
            r"`null` must have .*\*\(5, 16\)\), found \(5, 16\); pass `null=matched",
        ),
        ({"null": torch.full((1, 5, 16), math.inf)}, "`null` must be finite"),
        ({"null": torch.zeros(0, 5, 16)}, "`null` must be .*not empty"),
    ],
)
def test_bad_arguments_of_compare(changes: dict, message: str):
    changes = dict(changes)
    h_base, h_rlvr, base, rlvr = random_pair()
    shape = changes.pop("vocabulary", 300), changes.pop("hidden", 16)
    if shape != (300, 16):
        rlvr = LensHead(rms_norm, torch.zeros(shape))
    arguments = {"h_base": h_base, "h_rlvr": h_rlvr, "head_base": base, "head_rlvr": rlvr} | changes
    with pytest.raises(InputError, match=message):
        lens.compare(**arguments)


def test_bad_arguments_of_summarise_and_matched_noise():
    h, h_rlvr, head, _ = random_pair()
    with pytest.raises(InputError, match=r"`h` must be .*\(positions, 16\)"):
        lens.summarise(h[:, :3], head)
    with pytest.raises(InputError, match="`top_k` must be from 1 to"):
        lens.summarise(h, head, top_k=-1)
    with pytest.raises(InputError, match="same positions; pass residuals of the same layer and input"):
        lens.matched_noise(h, h_rlvr[:2])
    with pytest.raises(InputError, match="`draws` must be at least 1, found 0; pass `draws=3`"):
        lens.matched_noise(h, h_rlvr, draws=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"weight": torch.zeros(300)},
            r"`weight` must be a \(vocabulary, hidden\) matrix, found shape \(300,\)",
        ),
        ({"weight": torch.zeros(0, 16)}, r"`weight` must be .*found shape \(0, 16\); pass `LensHead\("),
        ({"bias": torch.zeros(299)}, r"`bias` must have shape \(300,\).*found \(299,\); pass `bias=None`"),
        ({"softcap": 0.0}, "`softcap` must be a positive number, found 0.0"),
        ({"multiplier": -1.0}, "`multiplier` must be a positive number, found -1.0"),
        ({"multiplier": math.nan}, "`multiplier` must be a positive number, found nan"),
    ],
)
def test_bad_heads(arguments: dict, message: str):
    with pytest.raises(InputError, match=message):
        LensHead(**{"norm": rms_norm, "weight": torch.zeros(300, 16)} | arguments)


def test_statistics_of_different_positions_do_not_go_together():
    stats = lens.compare(*random_pair())
    with pytest.raises(InputError, match=r"`kl_null` must have `kl`'s 5 positions"):
        replace(stats, kl_null=torch.zeros(3, 4))
