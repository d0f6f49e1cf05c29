"""Fitting translators: whole after interruptions, exact in every precision, never measured on what they were fitted on."""

import pytest
import tiny
import torch

from workbench.analysis.cell_table import cell_table
from workbench.errors import InputError
from workbench.lens.fused import summarise
from workbench.lens.heads import LensHead
from workbench.tracing import tuned_lens as module
from workbench.tracing.fidelity import kl_to_final
from workbench.tracing.tuned_lens import Translators, fit, fit_translators

QUICK = {"epochs": 6, "patience": 2, "batch_positions": 64}


def residuals(positions: int, *, layers: int = 3, width: int = 8, seed: int = 0) -> torch.Tensor:
    """Each layer is the final one behind an affine map and noise: what a translator can undo."""
    made = torch.Generator().manual_seed(seed)
    maps = torch.Generator().manual_seed(99)
    final = torch.randn(positions, width, generator=made)
    mixed = [
        final @ torch.randn(width, width, generator=maps)
        + 0.05 * torch.randn(positions, width, generator=made)
        for _ in range(layers - 1)
    ]
    return torch.stack([*mixed, final])


@pytest.fixture(scope="module")
def head() -> LensHead:
    return LensHead(torch.nn.Identity(), torch.randn(20, 8, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_identity_is_the_plain_lens_bit_for_bit(dtype, head):
    hidden = residuals(50)[0].to(dtype)
    read = Translators.identity(layers=3, hidden=8).translate(0, hidden)
    assert read.dtype == dtype
    assert torch.equal(read, hidden)
    assert torch.equal(summarise(read, head, top_k=3).entropy, summarise(hidden, head, top_k=3).entropy)


def test_the_best_epoch_is_kept(head):
    found = fit(residuals(40), residuals(200, seed=1), head, epochs=15, learning_rate=0.3)
    best = found.curves.groupby("layer")["kl"].min().to_numpy()
    assert kl_to_final(residuals(200, seed=1), head, found).mean(1)[:-1].tolist() == pytest.approx(
        best.tolist(), rel=1e-5
    )


def test_equal_seeds_give_equal_translators_and_others_do_not(head):
    parts = residuals(150), residuals(60, seed=1)
    first, same, other = (fit(*parts, head, seed=seed, **QUICK) for seed in (0, 0, 1))
    assert torch.equal(first.weight, same.weight)
    assert not torch.equal(first.weight, other.weight)


def test_an_interrupted_fit_goes_on_where_it_stopped(head, tmp_path, monkeypatch):
    parts, done = (residuals(150, layers=4), residuals(60, layers=4, seed=1)), []
    whole = fit(*parts, head, **QUICK)

    def stop(layers: int, total: int) -> None:
        done.append((layers, total))
        if layers == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(*parts, head, keep=tmp_path, progress=stop, **QUICK)
    assert done == [(0, 3), (1, 3), (2, 3)]
    fitted_anew, real = [], module._fit_layer
    monkeypatch.setattr(module, "_fit_layer", lambda *a, **k: fitted_anew.append(1) or real(*a, **k))
    found = fit(*parts, head, keep=tmp_path, **QUICK)
    assert len(fitted_anew) == 1
    assert torch.equal(found.weight, whole.weight)
    assert found.curves.equals(whole.curves)
    fit(*parts, head, keep=tmp_path, **(QUICK | {"seed": 1}))
    assert len(fitted_anew) == 4


def test_problems_that_they_were_fitted_on_are_not_measured(tiny_pair):
    train, held, other = (tiny.problem("qwen2_5_vl", seed=seed) for seed in range(3))
    found = fit_translators(tiny_pair, [train], [held], **QUICK)
    assert "entropy_translated" in cell_table(tiny_pair, [other], translators=found)
    for seen in (train, held):
        with pytest.raises(
            InputError, match=f"`translators` were fitted on '{seen.id}', which is among `problems`"
        ):
            cell_table(tiny_pair, [other, seen], translators=found)
