"""Attribution: TransformerLens over shared weights, exact sums, exact swaps, their approximations, and the result."""

import sys
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import workbench as wb
from workbench.attribution.attribute import attribute, contributions
from workbench.attribution.bridge import FAMILIES, bridge, half_rule
from workbench.attribution.contributions import Answer, Component, mean_slope, measure, split_change
from workbench.attribution.effects import correlate, relp_gain
from workbench.attribution.final_head import FinalHead
from workbench.attribution.one_prompt import AttributedPrompt, Cells, final_head
from workbench.attribution.swaps import DIRECTIONS, Aim, Side, exact, slopes, write_of
from workbench.errors import InputError
from workbench.estimates import pearson
from workbench.lens import fused as lens
from workbench.models.anatomy import frozen, sharing
from workbench.models.loading import load_pair
from workbench.problems.problem import load_problems
from workbench.tracing.model_heads import lens_heads
from workbench.tracing.residuals import read_residuals
from workbench.tracing.trace import trace
from workbench.views.attribution_figures import component_heatmap, exact_scatter

METRICS = ("kl", "logit_difference", "log_probability", "probability")
SAID = ("ab 3", "ab 4")


def attributed(pair, family="qwen2_5_vl", said=SAID, cells=None):
    prompt = pair.encode(tiny.problem(family))
    return AttributedPrompt.of(pair, prompt, cells or Cells(tau=0.4), METRICS, said)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl", "qwen2"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def one(family, pair_of):
    """A prompt of a tiny pair: with pictures, with visual features between layers, of text alone."""
    return attributed(pair_of(family), family)


@pytest.fixture(scope="module")
def shapes():
    return load_pair("shapes")


@pytest.fixture(scope="module")
def found(shapes):
    problems = wb.load_problems("shapes", split="validation", limit=3)
    return attribute(shapes, problems, metrics=METRICS, resamples=200)


def aims(one):
    base, rlvr = one.sides
    for direction in DIRECTIONS:
        receiver, donor = (rlvr, base) if direction == "noising" else (base, rlvr)
        yield Aim(one.metrics, receiver, donor, direction, one.cells, one.answer)


# --- bridges ------------------------------------------------------------------------------------------


def test_the_bridge_shares_the_weights_and_leaves_the_traced_pair_as_it_was():
    pair = tiny.pair("qwen2_5_vl")
    prompt = pair.encode(tiny.problem())
    model = pair.base.model
    held = [type(module) for module in model.modules()]
    before, traced = read_residuals(pair.base, prompt.model_inputs), trace(pair, [prompt], null_draws=0)
    bridge(pair.base).read(prompt.model_inputs)
    after, again = read_residuals(pair.base, prompt.model_inputs), trace(pair, [prompt], null_draws=0)
    assert [type(module) for module in model.modules()] == held
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(before[layer], after[layer]) for layer in before)
    np.testing.assert_array_equal(traced.kl, again.kl)
    twin = {id(p) for p in bridge(pair.base).model.original_model.parameters()}
    assert twin == {id(p) for p in model.parameters()}
    assert bridge(pair.base) is bridge(pair.base)


@pytest.mark.parametrize("name", FAMILIES)
def test_residuals_equal_those_of_nnsight_bit_for_bit_under_the_same_attention(name):
    pair = tiny.pair(name)
    pair.base.model.set_attn_implementation("eager")
    inputs = pair.encode(tiny.problem(name)).model_inputs
    mine = bridge(pair.base).read(inputs).residuals
    for layer, theirs in read_residuals(pair.base, inputs).items():
        assert torch.equal(mine[layer], theirs[0])


def test_sdpa_and_eager_attention_differ_by_rounding_alone(shapes):
    prompt = shapes.encode(wb.load_problems("shapes", split="validation", limit=1)[0])
    mine = bridge(shapes.rlvr).read(prompt.model_inputs).residuals
    for layer, theirs in read_residuals(shapes.rlvr, prompt.model_inputs).items():
        bound = 32 * torch.finfo(torch.float32).eps * theirs.abs().max()
        assert (mine[layer] - theirs[0]).abs().max() < bound


def test_a_layer_run_alone_does_what_it_did_in_the_prompt(one):
    side = one.sides[0]
    hidden = side.wrote.embedding.expand(3, -1, -1)
    for layer in range(side.bridge.depth):
        output = side.bridge.block(layer, hidden, side.wrote.calls[layer])
        torch.testing.assert_close(
            output, side.wrote.residuals[layer].expand(3, -1, -1), rtol=1e-5, atol=1e-5
        )
        hidden = output + side.wrote.gaps[layer]


def test_a_twin_has_the_weights_of_a_model_whose_embedding_is_tied():
    model = tiny.model("qwen2", tie_word_embeddings=True)
    twin = sharing(model)
    assert twin.lm_head.weight is twin.model.embed_tokens.weight is model.model.embed_tokens.weight


def test_unsupported_families_are_refused_with_the_supported_ones(pair_of):
    with pytest.raises(
        InputError, match=r"'gemma3'; attribution by TransformerLens supports qwen2_5_vl, .*load_pair"
    ):
        attribute(pair_of("gemma3"), [tiny.problem("gemma3")], metrics=["kl"])


def test_without_transformer_lens_the_extra_is_named(pair_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformer_lens", None)
    with pytest.raises(InputError, match=r'pip install -e "\.\[attribution\]"'):
        attribute(pair_of("qwen2"), [tiny.problem("qwen2")], metrics=["kl"])


# --- the split ----------------------------------------------------------------------------------------


def test_what_components_write_sums_to_the_residual_stream(one):
    for side in one.sides:
        for layer in range(side.bridge.depth):
            parts = [c for c in [*one.components, *one.further] if c.layer + (c.kind == "vision") <= layer]
            total = sum(write_of(component, side) for component in parts)
            torch.testing.assert_close(total, side.wrote.residuals[layer], rtol=1e-5, atol=1e-5)


def test_contributions_sum_to_the_measured_change(one):
    totals = []
    one.direct(totals)
    for row in totals:
        assert row["explained"] == pytest.approx(row["total"], rel=1e-4), row


def test_contributions_of_the_bundled_pair_sum_and_the_kl_is_that_of_the_lens(found, shapes):
    np.testing.assert_allclose(found.totals["explained"], found.totals["total"], rtol=1e-4)
    problem = wb.load_problems("shapes", split="validation", limit=1)[0]
    one = AttributedPrompt.of(shapes, shapes.encode(problem), Cells(), ("kl",), None)
    residuals = [side.wrote.residuals[one.cells] for side in one.sides]
    fused = lens.compare(*residuals, *lens_heads(shapes)).kl.mean().item()
    assert found.totals["total"].iloc[0] == pytest.approx(fused, rel=1e-4)


def test_an_interrupted_attribution_goes_on(tiny_pair, tmp_path, monkeypatch):
    problems = [tiny.problem(seed=i) for i in range(3)]
    settings = {"metrics": ["kl"], "resamples": 10}
    whole = attribute(tiny_pair, problems, **settings)

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attribute(tiny_pair, problems, keep=tmp_path, progress=stop, **settings)
    seen, of = [], AttributedPrompt.of
    monkeypatch.setattr(AttributedPrompt, "of", lambda *given: seen.append(given[1].problem_id) or of(*given))
    on = attribute(tiny_pair, problems, keep=tmp_path, **settings)
    assert seen == [problems[2].id]
    for name, table in whole.tables().items():
        pd.testing.assert_frame_equal(on.tables()[name], table)
    with pytest.raises(InputError, match="`keep` needs problems"):
        attribute(tiny_pair, [tiny_pair.encode(problems[0])], keep=tmp_path, **settings)


def test_contributions_by_layer_are_those_of_the_components(shapes):
    problems = load_problems("shapes", split="validation", limit=3)
    found = contributions(shapes, problems)
    asked = attribute(shapes, problems, metrics=["kl"], swaps=False)
    assert [*found][:3] == ["embedding", "L0 heads", "L0 MLP"]
    assert [*found][-2:] == ["norm scale", "unembedding"]
    assert sum(found.values()) == pytest.approx(asked.totals["total"].to_numpy(), rel=1e-4)
    heads = asked.direct.loc[(asked.direct["kind"] == "head") & (asked.direct["layer"] == 2)]
    by_problem = heads.groupby("problem")["change"].sum().loc[[p.id for p in problems]]
    assert found["L2 heads"] == pytest.approx(by_problem.to_numpy())


def test_the_base_side_is_direct_logit_attribution_of_transformer_lens():
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformer_lens.tools.analysis import direct_logit_attribution

    pair = tiny.pair("qwen2", num_key_value_heads=4)
    model = deepcopy(pair.base.model)
    model.set_attn_implementation("eager")
    theirs = build_bridge_from_module(model, type(model).__name__, hf_config=deepcopy(model.config))
    theirs.enable_compatibility_mode(disable_warnings=True)
    one = attributed(pair, "qwen2")
    prompt = pair.encode(tiny.problem("qwen2"))
    answer = Answer(len(prompt) - 1, 7, 9)
    cells = [(pair.depth - 1, answer.position)]
    sides = [Side(bridge(a), bridge(a).read(prompt.model_inputs), final_head(a, 320)) for a in one.anatomies]
    split = split_change(
        "logit_difference",
        one.components,
        cells,
        tuple(side.wrote.residuals[-1, [answer.position]] for side in sides),
        tuple(lambda c, positions, side=side: write_of(c, side)[positions] for side in sides),
        (sides[0].head, sides[1].head),
        answer,
    )
    told = direct_logit_attribution(theirs, prompt.input_ids[None], 7, 9, unit="head")
    named = dict(zip(told.labels, told.attribution.flatten().tolist(), strict=True))
    for component, value in split.base.items():
        if component.kind == "head":
            assert value == pytest.approx(named[component.name], rel=1e-3, abs=1e-4)


def test_two_models_that_differ_in_one_mlp_alone_have_one_writer(pair_of):
    base = tiny.model("qwen2_5_vl")
    rlvr = deepcopy(base)
    with torch.no_grad():
        rlvr.model.language_model.layers[1].mlp.down_proj.weight.mul_(1.5)
    pair = load_pair(base=base, rlvr=rlvr, processor=tiny.processor("qwen2_5_vl"))
    result = attribute(pair, [tiny.problem()], metrics=["kl"], cells=[(1, 3), (1, 10)])
    direct = result.direct.set_index("component")["change"]
    assert direct["L1 MLP"] + direct["norm scale"] == pytest.approx(result.totals["total"].item(), rel=1e-4)
    assert direct.drop(["L1 MLP", "norm scale"]).abs().max() < 1e-6
    back = result.effects.set_index(["direction", "component", "where"])["exact"]
    total = result.totals["total"].item()
    assert back["noising", "L1 MLP", "all"] == pytest.approx(-total, rel=1e-3)
    assert back["denoising", "L1 MLP", "all"] == pytest.approx(-total, rel=1e-3)


def test_the_norm_scale_and_the_unembedding_have_terms_of_their_own():
    torch.manual_seed(0)
    heads = [FinalHead(torch.rand(8) + 0.5, 1e-6, torch.randn(20, 8), torch.randn(20)) for _ in range(2)]
    same, residual = (heads[0], heads[0]), torch.randn(1, 8)
    still = Component("embedding", 0)

    def split(residuals, heads, metric="kl"):
        writes = tuple(lambda component, positions, r=r: r[positions] for r in residuals)
        return split_change(metric, [still], [(0, 0)], residuals, writes, heads, Answer(0, 3, 4))

    moved = split((residual, residual), heads)
    assert moved.unembedding == pytest.approx(moved.total, rel=1e-6)
    assert (moved.change[still], moved.scale) == (0, 0)
    stretched = split((residual, 2 * residual), same)  # a norm undoes what its input is multiplied by
    assert stretched.total == pytest.approx(0, abs=1e-6)
    assert stretched.change[still] == pytest.approx(-stretched.scale, abs=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_the_path_integral_gives_back_the_whole_change(metric):
    torch.manual_seed(1)
    a, b = torch.randn(2, 5, 40, dtype=torch.float64) * 4
    answer = Answer(0, 3, 4)
    whole = (mean_slope(metric, a, b, answer) * (b - a)).sum(-1)
    torch.testing.assert_close(whole, measure(metric, a, b, answer), rtol=1e-5, atol=1e-7)


# --- swaps --------------------------------------------------------------------------------------------


def test_swaps_side_by_side_equal_single_ones_and_a_forward_with_a_hook(one):
    aim = next(aims(one))
    swaps, _ = one.swaps()
    together = exact(aim, swaps)
    torch.testing.assert_close(together, exact(aim, swaps, rows=5), rtol=1e-3, atol=1e-5)
    receiver = aim.receiver
    wrote, layer = receiver.wrote, 1
    chosen = next(i for i, s in enumerate(swaps) if s.component == Component("mlp", layer))
    hidden = wrote.embedding[None]
    with receiver.bridge.edited(
        lambda kind, at, value: aim.donor.wrote.mlps[at][None] if (kind, at) == ("mlp", layer) else value
    ):
        for at in range(receiver.bridge.depth):
            output = receiver.bridge.block(at, hidden, wrote.calls[at])
            hidden = output + wrote.gaps[at]
    for row, metric in enumerate(one.metrics[1:], start=1):
        clean = wrote.residuals[-1][None]
        expected = aim.at_end(metric, output) - aim.at_end(metric, clean)
        assert together[row, chosen].item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-5)


def test_swapping_a_model_with_itself_does_nothing(tiny_pair):
    same = replace(tiny_pair, rlvr=tiny_pair.base)
    one = attributed(same)
    for aim in aims(one):
        assert (
            exact(aim, one.swaps()[0]).abs().max() < 1e-5
        )  # rows of a batch are rounded differently on some CPUs


def test_effects_of_small_differences_are_what_gradients_say(one):
    """Between two models that hardly differ, a swap is its first order."""
    base, rlvr = one.sides
    with torch.no_grad():
        near = {
            name: getattr(base.wrote, name) + 1e-3 * (getattr(rlvr.wrote, name) - getattr(base.wrote, name))
            for name in ("embedding", "heads", "mlps")
        }
    donor = Side(base.bridge, replace(base.wrote, **near), base.head)
    aim = Aim(METRICS[1:], base, donor, "denoising", one.cells, one.answer)
    swaps, _ = one.swaps()
    with frozen(one.anatomies[0]):
        approximate = slopes(aim).effects(aim, swaps)
    exactly = exact(aim, swaps)
    for row in range(2):
        assert np.corrcoef(approximate[row], exactly[row])[0, 1] > 0.98


def test_gradients_are_those_of_transformer_lens_attribution_patching():
    from transformer_lens.tools.analysis.attribution_patching import cache_activation_and_gradient

    pair = tiny.pair("qwen2")
    prompt = pair.encode(tiny.problem("qwen2"))
    one = AttributedPrompt.of(pair, prompt, Cells(tau=0.4), METRICS, ("3", "4"))
    aim = next(aims(one))
    with frozen(pair.base), frozen(pair.rlvr):
        found = slopes(replace(aim, metrics=("logit_difference",)))
        answer = one.answer
        theirs = cache_activation_and_gradient(
            deepcopy(aim.receiver.bridge.model).requires_grad_(True),
            prompt.input_ids[None],
            lambda logits: logits[0, -1, answer.right] - logits[0, -1, answer.wrong],
            names_filter=[f"blocks.{layer}.hook_mlp_out" for layer in range(3)],
        )
    for layer in range(3):
        torch.testing.assert_close(
            found.mlp[layer], theirs.gradients[f"blocks.{layer}.hook_mlp_out"], rtol=1e-3, atol=1e-4
        )


def test_relevance_leaves_values_as_they_are_and_changes_gradients(one):
    aim = next(aims(one))
    with frozen(one.anatomies[0]), frozen(one.anatomies[1]):
        plain, ruled, again = slopes(aim), slopes(aim, relevance=True), slopes(aim)
    assert not torch.allclose(plain.mlp[0], ruled.mlp[0], rtol=1e-2)
    torch.testing.assert_close(plain.mlp[0], again.mlp[0])  # the rules are gone
    side = aim.receiver
    with side.bridge.relevance():
        hidden = side.wrote.embedding[None]
        for layer in range(side.bridge.depth):
            output = side.bridge.block(layer, hidden, side.wrote.calls[layer])
            hidden = output + side.wrote.gaps[layer]
    torch.testing.assert_close(output[0], side.wrote.residuals[-1], rtol=1e-4, atol=1e-4)


def test_relevance_is_conserved_through_a_whole_model_without_biases(pair_of):
    """RelP's coefficients times the embeddings sum to the logit difference: nothing is lost at norms, attention or MLPs."""
    one = attributed(pair_of("llama"), "llama")
    aim = replace(next(aims(one)), metrics=("logit_difference",))
    with frozen(one.anatomies[0]), frozen(one.anatomies[1]):
        plain, ruled = slopes(aim), slopes(aim, relevance=True)
    wrote = aim.receiver.wrote
    value = aim.at_end("logit_difference", wrote.residuals[-1][None]).item()
    assert (ruled.embedding[0] * wrote.embedding).sum().item() == pytest.approx(value, rel=1e-3)
    assert (plain.embedding[0] * wrote.embedding).sum().item() != pytest.approx(value, rel=1e-1)


def test_relevance_is_conserved_through_a_gated_product():
    """Relevance in equals relevance out: input times coefficient, summed over both factors, is the product."""
    gate, linear = (torch.randn(50, dtype=torch.float64, requires_grad=True) for _ in range(2))
    act = torch.nn.functional.silu
    product = act(gate) * linear
    ruled = half_rule(product, gate, linear, act)
    assert torch.equal(ruled, product)
    by_gate, by_linear = torch.autograd.grad(ruled.sum(), (gate, linear))
    torch.testing.assert_close(gate * by_gate + linear * by_linear, product)
    torch.testing.assert_close(gate * by_gate, linear * by_linear)


# --- the result ---------------------------------------------------------------------------------------


def test_the_bundled_pair_in_tables(found):
    assert found.metrics == METRICS
    assert {*found.effects["where"]} == {"all", "visual", "text", "response"}
    assert {*found.effects["direction"]} == {*DIRECTIONS}
    rows = found.effects.loc[found.effects["where"] == "all"]
    assert len(rows) == 3 * len(METRICS) * 2 * (1 + 8 * 5)
    best = found.correlations.query(
        "where == 'all' and metric == 'kl' and approximation == 'attribution_patching'"
    )
    assert (best["pearson"] > 0.5).all()
    assert found.correlations["pearson_low"].isna().all()  # of three problems
    direct = found.summary.query("direction == 'direct' and metric == 'kl'")
    assert direct["estimate"].sum() == pytest.approx(
        found.totals.query("metric == 'kl'")["total"].mean(), rel=1e-3
    )
    assert "most is written by" in repr(found)
    pd.testing.assert_frame_equal(found.to_dataframe(), found.summary)


def test_it_shows_and_draws_itself(found):
    page = found._repr_html_()
    assert "Correlations with exact swaps" in page
    for direction in ("direct", *DIRECTIONS):
        figure = found.plot("kl", direction)
        assert figure.data[0].z.shape == (8, 5)
        assert figure.layout.title.subtitle.text.startswith("KL(base‖RLVR)")
    assert {trace.name for trace in found.plot_approximations().data} >= {"attribution patching", "RelP"}
    with pytest.raises(InputError, match=r"`direction` is 'sideways'; expected one of direct"):
        component_heatmap(found.summary, direction="sideways")
    with pytest.raises(InputError, match=r"has no rows with"):
        component_heatmap(found.summary, metric="entropy")
    with pytest.raises(InputError, match=r"has no approximate effects"):
        exact_scatter(found.effects, found.correlations, where="nowhere")


def test_a_prompt_without_swaps_and_with_markup_in_its_name(tiny_pair):
    result = attribute(tiny_pair, [tiny.problem(id="<b>")], metrics=["kl"], swaps=False)
    assert len(result.effects) == len(result.correlations) == 0
    assert "<b>" not in result._repr_html_()
    assert result.plot() is not None
    assert np.isnan(result.summary["estimate_low"]).all()


def test_half_precision_sums_up_to_its_rounding():
    pair = tiny.pair("qwen2_5_vl", torch.bfloat16)
    result = attribute(pair, [tiny.problem()], metrics=METRICS, responses=[SAID])
    kl = result.totals.set_index("metric").loc["kl"]
    assert kl["explained"] == pytest.approx(kl["total"], rel=0.2)
    best = result.correlations.query(
        "where == 'all' and metric == 'kl' and approximation == 'attribution_patching'"
    )
    assert (best["pearson"] > 0.5).all()


def test_cells_follow_entropy_and_what_is_asked(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    low, high = (
        AttributedPrompt.of(tiny_pair, prompt, Cells(select=s, tau=0.4), ("kl",), None).cells
        for s in ("low", "high")
    )
    visual = prompt.kinds == 1
    assert not (low & high).any()
    assert torch.equal((low | high).any(0), visual)
    named = AttributedPrompt.of(tiny_pair, prompt, [(2, 5), (0, 1)], ("kl",), None).cells
    assert named.nonzero().tolist() == [[0, 1], [2, 5]]
    some = AttributedPrompt.of(tiny_pair, prompt, Cells(layers=(1,), tokens="text"), ("kl",), None).cells
    assert some.any(1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"metrics": ["kl", "entropy"]},
            r"`metrics` is .*; expected some of kl, logit_difference, log_probability",
        ),
        ({"metrics": "kl"}, r"`metrics` is 'kl'; expected some of"),
        ({"metrics": []}, r"`metrics` is \[\]"),
        ({"cells": [(3, 0)]}, r"`cells` names layer 3; expected 0 to 2"),
        ({"cells": Cells(layers=(7,))}, r"`cells` names layer 7; expected 0 to 2"),
        ({"cells": [(1, 999)]}, r"`cells` names position 999 of 'p0'; expected 0 to 45"),
        ({"cells": []}, r"`cells` is empty; expected \(layer, position\) pairs"),
        ({"cells": Cells(tau=0.0)}, r"`cells` selects none of the \d+ visual positions"),
        (
            {"approximations": ["guess"]},
            r"`approximations` is \['guess'\]; expected some of attribution_patching, relp",
        ),
        ({"rows": 0}, r"`rows` is 0; expected at least 1"),
        ({"metrics": 3}, r"`metrics` is 3; expected some of"),
        ({"cells": "low"}, r"`cells` is 'low'; expected Cells\(\.\.\.\) or \(layer, position\) pairs"),
        ({"cells": (3, 10)}, r"`cells` is \(3, 10\); expected Cells"),
        ({"cells": [(1, 2, 3)]}, r"`cells` is \[\(1, 2, 3\)\]; expected Cells"),
        (
            {"problems": tiny.problem()},
            r"`problems` is a Problem; expected a list of Problem or EncodedPrompt",
        ),
        ({"problems": ["what?"]}, r"`problems` holds a str; expected Problem or EncodedPrompt"),
        ({"problems": [tiny.problem(), tiny.problem()]}, r"`problems` holds 'p0' twice"),
        (
            {"metrics": ["log_probability"], "responses": [None]},
            r"`responses` is \[None\]; expected a right and a wrong text each",
        ),
        (
            {"metrics": ["log_probability"], "responses": [("a", "b", "c")]},
            r"`responses` is .*; expected a right",
        ),
        ({"problems": []}, r"`problems` is empty"),
        (
            {"metrics": ["log_probability"]},
            r"`responses` is None and a problem brings no right and wrong response",
        ),
        ({"metrics": ["log_probability"], "responses": []}, r"`responses` has 0 pairs for 1 problems"),
        (
            {"metrics": ["log_probability"], "responses": [("ab", "ab 4")]},
            r"`responses` of 'p0' do not differ before one of them ends",
        ),
    ],
)
def test_bad_input_is_refused(tiny_pair, changes, message):
    given = {"problems": [tiny.problem()], "metrics": ["kl"]} | changes
    with pytest.raises(InputError, match=message):
        attribute(tiny_pair, given.pop("problems"), **given)


def test_cells_refuse_what_they_cannot_select():
    with pytest.raises(InputError, match=r"`tokens` is 'pictures'; expected visual, text or all"):
        Cells(tokens="pictures")
    with pytest.raises(InputError, match=r"`tau` is 2"):
        Cells(tau=2)
    for layers in (3, (1.5,), (), "3", (True,)):
        with pytest.raises(InputError, match=r"`layers` is .*; expected decoder layers"):
            Cells(layers=layers)  # pyright: ignore[reportArgumentType]
    assert Cells(layers=[2, 1]).layers == (2, 1)  # pyright: ignore[reportArgumentType]


def test_correlations_of_known_effects():
    rng = np.random.default_rng(0)
    exactly = rng.normal(size=60)
    effects = pd.DataFrame(
        {
            "problem": np.repeat([f"p{i}" for i in range(10)], 6),
            "metric": "kl",
            "direction": "noising",
            "where": "all",
            "exact": exactly,
            "attribution_patching": 2 * exactly + 1,
            "relp": -(exactly**3),
        }
    )
    right, wrong = correlate(effects).to_dict("records")
    assert (right["pearson"], right["spearman"]) == pytest.approx((1, 1))
    assert wrong["spearman"] == pytest.approx(-1)
    assert wrong["pearson"] == pytest.approx(np.corrcoef(exactly, effects["relp"])[0, 1])
    assert wrong["pearson_low"] <= wrong["pearson"] <= wrong["pearson_high"]
    gain = relp_gain(effects, "kl", "noising")
    assert gain.estimate == pytest.approx(wrong["pearson"] - 1)
    assert gain.low <= gain.estimate <= gain.high


def test_pearson_of_numbers_far_from_zero_and_of_a_constant():
    x = 1e6 + np.arange(8.0)
    assert pearson(x, x[::-1], np.arange(8)).estimate == pytest.approx(-1)
    assert np.isnan(pearson(x, np.ones(8), np.arange(8)).estimate)
