"""Translators: identity is the plain lens, a fit brings the lens closer to the prediction, files come back."""

import pandas as pd
import pytest
import tiny
import torch

from workbench.errors import InputError
from workbench.lens.fused import summarise
from workbench.problems.problem import load_problems
from workbench.tracing.fidelity import kl_to_final, lens_fidelity
from workbench.tracing.model_heads import lens_head
from workbench.tracing.tuned_lens import Translators, fit, fit_translators, read_all


@pytest.fixture(scope="module")
def pair():
    return tiny.pair("qwen2_5_vl")


@pytest.fixture(scope="module")
def bundled():
    from workbench.models.loading import load_pair

    return load_pair("shapes")


@pytest.fixture(scope="module")
def fitted(bundled):
    """Fitted briefly on a few problems of the bundled pair."""
    train, held = (
        load_problems("shapes", split=split, limit=n) for split, n in (("train", 24), ("validation", 8))
    )
    return fit_translators(bundled, train, held, batch_size=16, epochs=3, batch_positions=128)


def test_identity_is_the_plain_lens_bit_for_bit(bundled):
    prompts = [bundled.encode(problem) for problem in load_problems("shapes", limit=2)]
    residuals, head = (
        read_all(bundled.base, prompts, bundled.pad_id),
        lens_head(bundled.base, bundled.vocab_size),
    )
    plain = Translators.identity(bundled.base.depth, bundled.base.hidden_size)
    for layer, hidden in enumerate(residuals):
        read = plain.translate(layer, hidden)
        assert torch.equal(read, hidden)
        assert torch.equal(summarise(read, head).entropy, summarise(hidden, head).entropy)
    half = residuals[0].bfloat16()
    assert torch.equal(plain.translate(0, half), half)


def test_a_fit_lowers_the_kl_on_problems_it_has_not_seen(bundled, fitted):
    table = lens_fidelity(bundled, load_problems("shapes", limit=12), fitted, batch_size=16, resamples=100)
    plain, translated = (
        table.loc[table["lens"] == lens].set_index("layer") for lens in ("plain", "translated")
    )
    assert (translated["kl"] < plain["kl"]).loc[:6].all()
    assert (translated["kl_high"] < plain["kl_low"]).loc[:4].all()
    assert translated["kl"].loc[7] == plain["kl"].loc[7] == 0
    best = fitted.curves.groupby("layer")["kl"].min()
    assert (best < fitted.curves.query("epoch == 0").set_index("layer")["kl"]).all()
    assert not fitted.weight[7].any()


def test_fitting_is_deterministic_and_leaves_the_model_alone(pair):
    prompt = pair.encode(tiny.problem("qwen2_5_vl"))
    residuals, head = read_all(pair.base, [prompt], pair.pad_id), lens_head(pair.base, pair.vocab_size)
    before = {name: value.clone() for name, value in pair.base.model.state_dict().items()}
    told = []
    first, second = (
        fit(
            residuals,
            residuals,
            head,
            epochs=2,
            batch_positions=8,
            seed=1,
            progress=lambda *at: told.append(at),
        )
        for _ in range(2)
    )
    assert torch.equal(first.weight, second.weight)
    assert told[:3] == [(0, 2), (1, 2), (2, 2)]
    assert all(torch.equal(value, before[name]) for name, value in pair.base.model.state_dict().items())
    assert all(parameter.grad is None for parameter in pair.base.model.parameters())


def test_a_layer_that_gains_nothing_keeps_the_plain_lens(pair):
    prompt = pair.encode(tiny.problem("qwen2_5_vl"))
    residuals, head = read_all(pair.base, [prompt], pair.pad_id), lens_head(pair.base, pair.vocab_size)
    same = residuals[-1:].expand(3, -1, -1).clone()  # every layer is the final one already
    found = fit(residuals, same, head, epochs=2, batch_positions=8)
    assert not found.weight.any()
    assert not found.bias.any()
    assert kl_to_final(same, head, found).max() == 0


def test_they_come_back_from_a_folder(fitted, tmp_path):
    again = Translators.load(fitted.save(tmp_path / "translators"))
    assert torch.equal(again.weight, fitted.weight)
    assert torch.equal(again.bias, fitted.bias)
    pd.testing.assert_frame_equal(again.curves, fitted.curves)
    assert again.provenance["base"]["weights"] == fitted.provenance["base"]["weights"]
    assert "8 layers of width 160; 7 differ" in repr(again)
    (tmp_path / "translators" / "translators.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="holds no translators"):
        Translators.load(tmp_path / "translators")
    with pytest.raises(InputError, match="holds no translators"):
        Translators.load(tmp_path / "nowhere")


def test_bad_input_is_refused(pair, fitted):
    problem = tiny.problem("qwen2_5_vl")
    with pytest.raises(InputError, match="different prompts, but both hold"):
        fit_translators(pair, [problem], [problem])
    with pytest.raises(InputError, match="one is empty"):
        fit_translators(pair, [problem], [])
    with pytest.raises(InputError, match="layers 0 to 7 of width 160"):
        fitted.translate(8, torch.zeros(2, 160))
    with pytest.raises(InputError, match="`weight` or `bias` is not finite"):
        Translators(torch.full((1, 2, 2), torch.nan), torch.zeros(1, 2))
    with pytest.raises(InputError, match=r"expected \(layers, hidden, hidden\)"):
        Translators(torch.zeros(1, 2, 3), torch.zeros(1, 2))
    head = lens_head(pair.base, pair.vocab_size)
    rows = torch.zeros(3, 4, tiny.HIDDEN)
    with pytest.raises(InputError, match="`epochs` is 0"):
        fit(rows, rows, head, epochs=0)
    with pytest.raises(InputError, match="`held_out` is"):
        fit(rows, rows[:2], head)
    with pytest.raises(InputError, match="nothing to fit"):
        fit(rows[:1], rows[:1], head)
