"""Weight changes: norms, ranks and outputs as worked out by hand; nothing stays hooked; what predicts what."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from workbench.analysis.null_models import null_pair
from workbench.analysis.weight_changes import change_cosine, compare_weights, effective_rank, weight_table
from workbench.errors import InputError
from workbench.models.anatomy import dissect
from workbench.models.loading import load_pair
from workbench.views.tables import NothingToDraw
from workbench.views.weight_figures import prediction_scatter, weight_heatmap

SETTINGS = {"resamples": 50}


@pytest.fixture(scope="module")
def problems():
    return [tiny.problem(seed=i) for i in range(3)]


@pytest.fixture(scope="module")
def found(tiny_pair, problems):
    return compare_weights(tiny_pair, problems, **SETTINGS)


def with_change(pair, name, change):
    """The pair with a base whose one weight was changed in place of its RLVR model."""
    model = deepcopy(pair.base.model)
    with torch.no_grad():
        model.get_parameter(name).add_(change)
    return replace(pair, rlvr=dissect(model))


@pytest.mark.parametrize(
    ("singular", "expected"), [([1, 1, 1], 3.0), ([5, 0, 0], 1.0), ([1, 1, 0], 2.0), ([2, 1, 1], 2 * 2**0.5)]
)
def test_the_effective_rank_is_the_exponential_of_the_entropy_of_singular_values(singular, expected):
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, 3, dtype=torch.float64))[0] for n in (5, 7))
    matrix = left @ torch.diag(torch.tensor(singular, dtype=torch.float64)) @ right.T
    assert effective_rank(matrix) == pytest.approx(expected)
    assert effective_rank(7.5 * matrix.T) == pytest.approx(expected)


def test_norms_and_ranks_of_one_known_change(tiny_pair):
    name = f"{tiny_pair.base.layers_path}.1.mlp.up_proj.weight"
    weight = tiny_pair.base.model.get_parameter(name)
    change = 0.01 * torch.outer(
        torch.ones(weight.shape[0]), torch.arange(weight.shape[1], dtype=torch.float32)
    )
    table = weight_table(with_change(tiny_pair, name, change)).set_index("weight")
    row = table.loc[name]
    assert (row["layer"], row["part"]) == (1, "mlp.up_proj")
    assert row["norm"] == pytest.approx(change.norm().item(), rel=1e-4)
    assert row["relative"] == pytest.approx((change.norm() / weight.norm()).item(), rel=1e-4)
    assert row["effective_rank"] == pytest.approx(1, abs=0.01)
    assert row["full_rank"] == min(weight.shape)
    others = table.drop(name)
    assert (others["norm"] == 0).all()
    assert others["effective_rank"].isna().all()


def test_a_modules_own_doing_is_told_from_what_comes_down_to_it(tiny_pair, problems):
    path = tiny_pair.base.layers_path
    pair = with_change(tiny_pair, f"{path}.0.mlp.up_proj.weight", 0.05)
    outputs = compare_weights(pair, problems, **SETTINGS).outputs.set_index("module")
    changed, later, before = (
        outputs.loc[f"{path}.{module}"] for module in ("0.mlp.up_proj", "1.mlp.up_proj", "0.self_attn.q_proj")
    )
    assert changed["own"] > 0.01
    assert changed["own"] == pytest.approx(changed["total"])
    assert (later["own"], later["total"] > 0) == (0, True)
    assert (before["own"], before["total"]) == (0, 0)
    prompt = pair.encode(problems[0])
    alone = compare_weights(pair, [prompt], **SETTINGS).outputs.set_index("module")
    kept = {}
    for role, anatomy in (("base", pair.base), ("rlvr", pair.rlvr)):
        layer = anatomy.layers[1]
        handle = layer.register_forward_hook(lambda _m, _i, out, role=role: kept.update({role: out}))
        with torch.no_grad():
            anatomy.model(**prompt.model_inputs)
        handle.remove()
    expected = ((kept["rlvr"] - kept["base"]).norm() / kept["base"].norm()).item()
    assert alone.loc[f"{path}.1", "total"] == pytest.approx(expected, rel=1e-4)
    assert np.isnan(alone.loc[f"{path}.1", "total_low"])  # one problem has no interval


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "llama"])
def test_every_linear_module_of_the_decoder_is_measured_and_nothing_stays_hooked(pair_of, family):
    pair = pair_of(family)
    hooks = [
        dict(m._forward_hooks) for a in (pair.base, pair.rlvr) for m in a.model.modules()
    ]  # transformers leaves some of its own, once `output_hidden_states` has been asked for
    found = compare_weights(pair, [tiny.problem(family, seed=i) for i in range(2)], **SETTINGS)
    layers = found.outputs.loc[found.outputs["part"] == "layer"]
    assert layers["layer"].tolist() == list(range(pair.depth))
    parts = found.outputs.loc[found.outputs["layer"] == 0, "part"].tolist()
    assert {"self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"} <= set(parts)
    assert (layers["total"] > 0).all()
    assert hooks == [dict(m._forward_hooks) for a in (pair.base, pair.rlvr) for m in a.model.modules()]


def test_what_is_told_and_drawn(found):
    sets = found.prediction.set_index(["modules", "change"])
    assert sets.loc[("linear modules", "own"), "n"] == len(found.outputs.dropna(subset="own"))
    assert sets["rho"].dropna().between(-1, 1).all()
    assert "Relative weight change and own change of output" in repr(found)
    assert "every weight" in found._repr_html_()
    assert set(found.tables()) == {"weight_changes", "output_changes", "weight_prediction"}
    heat = found.plot()
    assert heat.data[0].y[0] == "self_attn.q_proj"
    assert found.plot("effective_rank").layout.title.text.startswith("Effective rank")
    assert prediction_scatter(found.outputs).data
    with pytest.raises(InputError, match="`measure` is 'kl'"):
        found.plot("kl")
    with pytest.raises(NothingToDraw):
        weight_heatmap(found.table.loc[found.table["layer"] < 0])
    with pytest.raises(NothingToDraw):
        prediction_scatter(found.outputs.loc[found.outputs["part"] == "layer"])


def test_cosines_of_changes(tiny_pair):
    assert change_cosine(tiny_pair, tiny_pair) == pytest.approx(1)
    assert abs(change_cosine(tiny_pair, null_pair(tiny_pair, "permuted"))) < 0.1
    with pytest.raises(InputError, match="expected a pair with the same base"):
        change_cosine(tiny_pair, tiny.pair("qwen2"))


def test_bad_input(tiny_pair, problems):
    with pytest.raises(InputError, match="`problems` is empty"):
        compare_weights(tiny_pair, [])
    with pytest.raises(InputError, match="zero shift"):
        compare_weights(replace(tiny_pair, rlvr=tiny_pair.base), problems)


def test_tied_weights_are_counted_once():
    base, rlvr = (tiny.model("qwen2", seed, tie_word_embeddings=True) for seed in (0, 1))
    table = weight_table(load_pair(base=base, rlvr=rlvr, processor=tiny.processor("qwen2")))
    assert table["weight"].is_unique
    assert "lm_head.weight" not in set(table["weight"])
