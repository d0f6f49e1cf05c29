"""What changed of the nearest text states, by stratum, against sums by hand; and the claims that follow."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.analysis.neighbour_shift import neighbour_shift
from workbench.errors import InputError
from workbench.models.prompts import TokenKind
from workbench.tracing.latent_lens import LatentLens
from workbench.tracing.neighbours import Neighbours
from workbench.tracing.readings import TunedLens
from workbench.tracing.tuned_lens import Translators

FAST = {"resamples": 100, "seed": 3}


@pytest.fixture(scope="module")
def pair():
    return wb.load_pair("shapes")


@pytest.fixture(scope="module")
def problems():
    return wb.load_problems("shapes", split="test", limit=12)


@pytest.fixture(scope="module")
def traced(pair, problems):
    return wb.trace(pair, problems, top_k=1)


@pytest.fixture(scope="module")
def found(pair, problems) -> Neighbours:
    chains = [problem.metadata["chain"] for problem in wb.load_problems("shapes", split="train", limit=8)]
    return wb.read_neighbours(pair, problems, LatentLens.build(pair, chains), k=3, null_draws=1)


def by_hand(values, traced, kind, layers, bins):
    """The mean of values (layers, positions) in each stratum of every layer's base entropy."""
    here = traced.kind == TokenKind[kind.upper()]
    members = [[] for _ in range(bins)]
    for layer in layers:
        order = traced.entropy_base[layer, here].argsort(stable=True).numpy()
        for stratum, part in enumerate(np.array_split(order, bins)):
            members[stratum] += values[layer, here][part].tolist()
    return [np.mean(part) for part in members]


@pytest.mark.parametrize("kind", ["visual", "text"])
def test_strata_and_claims_are_those_by_hand(found, traced, kind):
    shift = neighbour_shift(found, traced, bins=4, **FAST)
    rows = shift.table.loc[(shift.table["scope"] == "without last layer") & (shift.table["kind"] == kind)]
    expected = {
        "changed": 1 - found.overlap,
        "changed_null": 1 - found.overlap_null[0],
        "moved": (found.rank > 0).float(),
        "rank": found.rank.float(),
    }
    means = {name: by_hand(values, traced, kind, range(7), 4) for name, values in expected.items()}
    for name, values in means.items():
        assert rows[name].tolist() == pytest.approx(values, rel=1e-5), name
    raw, over = (claim for claim in shift.claims if claim.kind == kind)
    factor = means["changed"][0] / means["changed"][3]
    assert raw.interval.estimate == pytest.approx(factor, rel=1e-5)
    assert over.interval.estimate == pytest.approx(
        factor / (means["changed_null"][0] / means["changed_null"][3]), rel=1e-5
    )
    assert raw.interval.low < raw.interval.estimate < raw.interval.high
    one = shift.table.loc[
        (shift.table["scope"] == "layer") & (shift.table["layer"] == 2) & (shift.table["kind"] == kind)
    ]
    assert one["changed"].tolist() == pytest.approx(
        by_hand(expected["changed"], traced, kind, [2], 4), rel=1e-5
    )


def test_beside_a_control_stands_the_ratio_of_both_factors(found, traced):
    plain = neighbour_shift(found, traced, **FAST)
    assert not [claim for claim in plain.claims if claim.place == "beside controls"]
    rolled = {name: getattr(found, name).roll(1, -1) for name in ("overlap", "overlap_null")}
    other = replace(found, **rolled)
    beside = neighbour_shift(found, traced, controls={"sft": other, "itself": found}, **FAST)
    theirs = neighbour_shift(other, traced, **FAST)
    for kind in ("visual", "text"):
        own, rest = (
            [claim.interval.estimate for claim in shift.claims if claim.kind == kind]
            for shift in (plain, theirs)
        )
        claims = [c for c in beside.claims if c.kind == kind and c.place == "beside controls"]
        assert [c.interval.estimate for c in claims] == pytest.approx(
            [own[0] / rest[0], own[1] / rest[1], 1, 1]
        )
        assert ["of sft" in c.measured for c in claims] == [True, True, False, False]


def test_without_draws_nothing_is_said_of_noise(found, traced):
    undrawn = replace(found, overlap_null=found.overlap_null[:0])
    shift = neighbour_shift(undrawn, traced, **FAST)
    assert not [claim for claim in shift.claims if "noise" in claim.measured]
    assert shift.table[["changed_null", "over_null"]].isna().all(axis=None)
    assert list(shift.columns["column"])[:3] == ["scope", "layer", "kind"]
    names = [trace.name for trace in shift.plot().data]
    assert names == ["RLVR"]
    assert [trace.name for trace in neighbour_shift(found, traced, **FAST).plot("text").data] == [
        "RLVR",
        "matched noise",
    ]


def test_other_cells_are_refused(found, traced):
    with pytest.raises(InputError, match=r"`traced` has .* expected .* at the same layers"):
        neighbour_shift(found, traced.select(prompt=0), **FAST)
    with pytest.raises(InputError, match="`controls`: 'sft' has 1 prompts, expected the same 12"):
        neighbour_shift(found, traced, controls={"sft": found.select(prompt=0)}, **FAST)


def test_a_trace_of_other_prompts_or_in_another_order_is_refused(pair, problems, found, traced):
    same_size = wb.trace(pair, problems[::-1], top_k=1, null_draws=0)
    assert same_size.entropy_base.shape == found.overlap.shape
    with pytest.raises(
        InputError, match=r"`traced` holds other prompts, or these in another order: prompt 0 is 'shapes"
    ):
        neighbour_shift(found, same_size, **FAST)
    assert neighbour_shift(found, wb.trace(pair, problems, top_k=1, null_draws=0), **FAST).claims


def test_a_trace_of_another_pair_or_through_another_lens_is_refused(pair, problems, found, traced):
    tuned = TunedLens(Translators.identity(pair.depth, pair.base.hidden_size))
    read = wb.trace(pair, problems, top_k=1, null_draws=0, reading=tuned)
    with pytest.raises(InputError, match="`traced` was read through the tuned lens, expected the logit lens"):
        neighbour_shift(found, read, **FAST)
    for model in ("base", "rlvr"):
        other = traced.provenance | {model: traced.provenance[model] | {"weights": "theirs"}}
        with pytest.raises(InputError, match=f"of other models: its {model} model has weights theirs"):
            neighbour_shift(found, replace(traced, provenance=other), **FAST)
    unknown = replace(found, weights={})
    assert neighbour_shift(unknown, traced, **FAST).claims  # of a folder of an earlier version


def test_what_is_no_neighbours_or_no_trace_is_refused(found, traced):
    with pytest.raises(InputError, match="`found` is a LensTrace, expected Neighbours"):
        neighbour_shift(traced, found, **FAST)
    with pytest.raises(InputError, match="`traced` is a LatentLens, expected LensTrace"):
        neighbour_shift(found, found.lens, **FAST)
    with pytest.raises(InputError, match="`controls`: 'sft' is a LensTrace, expected Neighbours"):
        neighbour_shift(found, traced, controls={"sft": traced}, **FAST)


def test_controls_have_the_pair_s_base(found, traced):
    own = replace(found, weights={**found.weights, "rlvr": "not trained"})
    assert neighbour_shift(found, traced, controls={"sft": own}, **FAST).claims
    other = replace(found, weights={**found.weights, "base": "theirs"})
    with pytest.raises(
        InputError, match="`controls`: 'sft' is of other models: its base model has weights theirs"
    ):
        neighbour_shift(found, traced, controls={"sft": other}, **FAST)


def test_the_pair_that_was_read_stands_in_what_was_found(pair, found, tmp_path):
    assert found.weights == {model: pair.provenance[model]["weights"] for model in ("base", "rlvr")}
    assert Neighbours.load(found.save(tmp_path), found.prompts, found.lens).weights == found.weights
    first, second = found.select(prompt=0), found.select(prompt=1)
    assert Neighbours.join([replace(first, weights={}), second]).weights == found.weights
    with pytest.raises(InputError, match="`parts` are of several pairs"):
        Neighbours.join([first, replace(second, weights={"base": "theirs"})])
    file = tmp_path / "neighbours.json"
    about = json.loads(file.read_text())
    for held in ("x", None, [1]):
        file.write_text(json.dumps(about | {"weights": held}))
        with pytest.raises(InputError, match="holds no neighbours of these"):
            Neighbours.load(tmp_path, found.prompts, found.lens)
    del about["weights"]
    file.write_text(json.dumps(about))
    assert Neighbours.load(tmp_path, found.prompts, found.lens).weights == {}


def test_parts_are_the_whole_and_come_back_from_a_folder(found, tmp_path):
    parts = [found.select(prompt=i) for i in range(len(found.prompts))]
    whole = Neighbours.join(parts)
    for name in ("ids_base", "overlap", "overlap_null", "rank"):
        assert torch.equal(getattr(whole, name), getattr(found, name))
    assert whole.problem == found.problem
    again = Neighbours.load(found.save(tmp_path / "near"), found.prompts, found.lens)
    assert torch.equal(again.overlap_null, found.overlap_null)
    assert again.layers == found.layers
    with pytest.raises(InputError, match="of other prompts"):
        Neighbours.load(tmp_path / "near", found.prompts[1:], found.lens)
    with pytest.raises(InputError, match="of other states"):
        Neighbours.load(tmp_path / "near", found.prompts, replace(found.lens, layer=found.lens.layer + 1))
    with pytest.raises(InputError, match="holds no neighbours of these"):
        Neighbours.load(tmp_path / "nowhere", found.prompts, found.lens)
    with pytest.raises(InputError, match="prompts 0 to 11"):
        found.select(prompt=12)
