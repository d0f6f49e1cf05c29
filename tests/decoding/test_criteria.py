"""Criteria and rules of cross-sampling, against naive counterparts on tensors alone."""

import math

import pytest
import torch

from workbench.decoding.criteria import Largest, at_least, below, random_places, values_of
from workbench.lens.kl import jensen_shannon


def logits(seed: int, rows: int = 5, vocabulary: int = 50, scale: float = 4.0) -> torch.Tensor:
    return scale * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def naive_divergence(a: torch.Tensor, b: torch.Tensor) -> float:
    p, q = (x.double().softmax(-1).tolist() for x in (a, b))
    total = 0.0
    for one, other in zip(p, q, strict=True):
        mean = (one + other) / 2
        total += sum(x * math.log(x / mean) / 2 for x in (one, other) if x > 0)
    return total


def test_divergence_is_that_of_a_naive_sum():
    host, guest = logits(0), logits(1)
    guest[3] = host[3]
    host[4], guest[4] = 0, 0
    host[4, 0], guest[4, 1] = 200.0, 200.0
    values = values_of("divergence", host, guest, torch.zeros(5, dtype=torch.int64))
    expected = [naive_divergence(a, b) for a, b in zip(host, guest, strict=True)]
    assert values.tolist() == pytest.approx(expected, abs=1e-6)
    assert values[3] == pytest.approx(0, abs=1e-8)
    assert values[4].item() == pytest.approx(math.log(2), abs=1e-6)
    assert values.max() <= math.log(2)
    double = jensen_shannon(host.double().log_softmax(-1), guest.double().log_softmax(-1))
    assert double.tolist() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(values, values_of("divergence", guest, host, torch.zeros(5, dtype=torch.int64)))


def test_entropy_is_the_hosts_and_dlogp_that_of_the_guests_draw():
    host, guest, drawn = logits(2), logits(3), torch.tensor([0, 7, 49, 3, 3])
    log_host, log_guest = host.double().log_softmax(-1), guest.double().log_softmax(-1)
    entropy = [-sum(math.exp(x) * x for x in row) for row in log_host.tolist()]
    assert values_of("entropy", host, guest, drawn).tolist() == pytest.approx(entropy, abs=1e-5)
    gain = [log_guest[i, t].item() - log_host[i, t].item() for i, t in enumerate(drawn.tolist())]
    assert values_of("dlogp", host, guest, drawn).tolist() == pytest.approx(gain, abs=1e-5)
    assert values_of("random", host, guest, drawn).isnan().all()


def test_low_is_what_high_is_not():
    values, rows = torch.tensor([0.0, 0.1, 0.5]), torch.arange(3)
    assert at_least(0.1)(0, rows, values).tolist() == [False, True, True]
    assert below(0.1)(0, rows, values).tolist() == [True, False, False]
    assert at_least(0.0)(0, rows, values).all()
    assert not at_least(math.inf)(0, rows, values).any()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 1.0])
def test_the_largest_as_they_come(share):
    tokens, number = 200, 4
    values = torch.rand(number, tokens, generator=torch.Generator().manual_seed(0))
    values[3] = torch.linspace(1, 0, tokens)  # never a new largest
    rule, chosen = Largest(share, number, tokens, torch.device("cpu")), []
    for step in range(tokens):
        chosen.append(rule(step, torch.arange(number), values[:, step]))
    for row in range(number):
        count, seen = 0, []
        for step in range(tokens):
            value, due = values[row, step].item(), share * (step + 1) - 1e-9
            expected = sum(x >= value for x in seen) < due and count < math.ceil(due)
            expected = expected and (step > 0 or share == 1)
            seen.append(value)
            count += expected
            assert bool(chosen[step][row]) == expected
            assert count <= math.ceil(due)
    if share == 1:
        assert torch.stack(chosen).all()
    counts = torch.stack(chosen).sum(0)[:3].tolist()
    assert all(abs(count - share * tokens) <= 0.25 * share * tokens + 1 for count in counts)


def test_rows_that_are_dropped_take_no_memory_of_others():
    values = torch.rand(3, 40, generator=torch.Generator().manual_seed(1))
    whole, part = (Largest(0.2, 3, 40, torch.device("cpu")) for _ in range(2))
    for step in range(40):
        rows = torch.arange(3) if step < 10 else torch.tensor([0, 2])
        all_rows = whole(step, torch.arange(3), values[:, step])
        assert part(step, rows, values[rows, step]).tolist() == all_rows[rows].tolist()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.1, 1 / 3, 0.5, 0.61, 0.9, 0.99, 1.0])
def test_random_places_are_as_many_as_asked_of_every_beginning(share):
    for seed in range(20):
        uniforms = torch.rand(300, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        places = random_places(share, uniforms)
        for n in range(301):
            assert abs(int(places[:n].sum()) - share * n) <= 1 + 1e-9
        assert torch.equal(random_places(share, uniforms[:100]), places[:100])


def test_random_places_are_anywhere():
    draws = [torch.rand(60, generator=torch.Generator().manual_seed(seed)) for seed in range(2000)]
    often = torch.stack([random_places(0.1, uniforms) for uniforms in draws]).float().mean(0)
    assert (often - 0.1).abs().max() < 5 * (0.1 * 0.9 / 2000) ** 0.5
