"""Emergence: half-times as worked out by hand, curves as the shift and the answers say, order with paired intervals."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny

from workbench.analysis.null_models import null_pair
from workbench.analysis.shift import stratified_shift
from workbench.errors import InputError
from workbench.experiments import emergence as module
from workbench.experiments.emergence import follow_training
from workbench.experiments.half_times import RL, WHOLE, half_times
from workbench.models.bundled import checkpoints_of
from workbench.models.loading import load_pair
from workbench.studies.claims import emergence_claims
from workbench.tracing.trace import trace
from workbench.views.emergence_figures import emergence_curves, further_heatmap
from workbench.views.tables import NothingToDraw

SETTINGS = {"samples": 2, "bins": 2, "max_new_tokens": 4, "batch_size": 5, "resamples": 50}


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0, 1, 2, 4], 20.0),
        ([4, 2, 1, 0], 10.0),  # a loss is timed as a gain
        ([1, 1, 1, 3], 25.0),
        ([0, 0, 0, 0], np.nan),
        ([0, 3, 1, 4], 10 * 2 / 3),  # the first time, though it falls back
        ([0, -1, 5, 4], 10 + 10 * 3 / 6),
    ],
)
def test_a_half_time_is_the_first_step_at_half_of_the_final_change(curve, expected):
    found = half_times(np.array([curve, curve], float), [0, 10, 20, 30])
    assert found == pytest.approx([expected] * 2, nan_ok=True)


@pytest.fixture(scope="module")
def problems():
    return [tiny.problem(seed=i) for i in range(16)]


@pytest.fixture(scope="module")
def checkpoints(tiny_pair):
    steps = {step: null_pair(tiny_pair, "permuted", scale=scale) for step, scale in ((5, 0.1), (10, 0.3))}
    start = replace(
        tiny_pair,
        rlvr=tiny_pair.base,
        provenance={**tiny_pair.provenance, "rlvr": tiny_pair.provenance["base"]},
    )
    loaded = {0: start, **steps, "control": null_pair(tiny_pair, "gaussian", scale=0.3)}
    return {name: lambda pair=pair: pair for name, pair in loaded.items()}


@pytest.fixture(scope="module")
def found(problems, checkpoints, tmp_path_factory):
    further = {
        "written": lambda pair, asked: {
            "by layer 0": np.linspace(0.9, 1.1, len(asked)) * float(pair.rlvr is not pair.base),
            "kl": np.zeros(len(asked)),  # a name that cells have too
        }
    }
    return follow_training(
        problems, checkpoints, further=further, keep=tmp_path_factory.mktemp("kept"), **SETTINGS
    )


def pick(frame, **where):
    for column, value in where.items():
        frame = frame.loc[frame[column] == value]
    return frame


def test_curves_are_those_of_the_stratified_shift(found, problems, checkpoints):
    traced = trace(checkpoints[10](), problems, null_draws=1)
    rows = pick(stratified_shift(traced, 2, kinds=["visual"], resamples=5).table, scope="without last layer")
    here = {"condition": RL, "step": 10, "kind": "visual", "scope": "without last layer"}
    kl = pick(found.table, measure="kl", **here)["estimate"].to_numpy()
    assert kl == pytest.approx(rows["kl"].to_numpy(), rel=1e-6)
    assert pick(found.table, measure="size", **here)["estimate"].to_numpy() == pytest.approx(kl**0.5)
    ratio = pick(found.table, measure="ratio", **here)["estimate"].to_numpy()
    assert ratio == pytest.approx(rows["ratio"].to_numpy(), rel=1e-4)
    (contrast,) = pick(found.table, measure="contrast", **here)["estimate"]
    assert contrast == pytest.approx(kl[0] / kl[1])


def test_the_base_is_where_it_starts_and_the_last_step_what_others_are_compared_with(found):
    starts = pick(found.table, condition=RL, step=0)
    assert (starts.loc[starts["measure"].isin(["kl", "size"]), "estimate"] == 0).all()
    last = pick(found.table, condition=RL, step=10).dropna(subset="estimate")
    assert (last["last_minus"] == 0).all()
    control = pick(found.table, condition="control", measure="size", stratum=0, kind="visual").iloc[0]
    of_rl = pick(found.table, condition=RL, step=10, measure="size", stratum=0, kind="visual").iloc[0]
    assert control["last_minus"] == pytest.approx(of_rl["estimate"] - control["estimate"])
    assert control["last_over"] == pytest.approx(of_rl["estimate"] / control["estimate"])


def test_the_order_is_the_difference_of_half_times(found):
    rows = pick(found.order, measure="size", kind="visual", scope="without last layer")
    assert set(rows["other"]) == {
        "greedy",
        "Pass@1",
        "Pass@2",
        "the shift at high entropy",
    }
    timed = pick(found.timing, measure="size", kind="visual", scope="without last layer").set_index("stratum")
    high = pick(rows, other="the shift at high entropy").iloc[0]
    assert high["gap"] == pytest.approx(timed.loc[0, "half_time"] - timed.loc[1, "half_time"])
    assert high["gap_low"] <= high["gap"] <= high["gap_high"]
    asked = pick(found.order, measure="kl", group="written", kind="visual", scope="without last layer")
    assert asked["other"].tolist() == ["by layer 0", "kl"]
    whole = pick(found.timing, measure="by layer 0").iloc[0]
    assert (whole["half_time"], whole["stratum"], whole["scope"]) == (2.5, WHOLE, "written")
    first, kl = asked.iloc[0], pick(found.timing, measure="kl", kind="visual", stratum=0)
    kl = pick(kl, scope="without last layer").iloc[0]
    assert first["gap"] == pytest.approx(kl["half_time"] - 2.5)
    assert first["state"] == "follows"
    greedy = pick(rows, other="greedy").iloc[0]  # random models answer nothing
    assert (greedy["state"], "is undecided" in greedy["obstacle"]) == ("cannot be told", True)


def test_it_tells_what_it_found(found):
    assert "KL) follows by layer 0 (written)" in repr(found)
    assert "cannot be told, whether greedy changes" in repr(found)
    page = found._repr_html_()
    assert "half-times of all curves" in page
    assert set(found.tables()) == {"emergence", "half_times", "order"}
    assert found.to_dataframe() is not found.table


def test_claims_name_what_stands_in_their_way(found):
    claims = emergence_claims(found.order, found.table)
    assert {claim.place for claim in claims} == {"emergence"}
    by = {claim.claim: claim for claim in claims}
    assert by["the low-entropy shift precedes the loss of coverage"].verdict == "cannot be tested"
    assert by["the low-entropy shift is RLVR's own"].bound == 1.0
    gaining = found.order.assign(obstacle="", other_change=0.2, other_change_low=0.1, other_change_high=0.3)
    alone = emergence_claims(found.order, found.table, controls=[])
    assert not [c for c in alone if "control" in c.measured]
    lost = [c for c in emergence_claims(gaining, found.table) if "loss" in c.claim]
    assert all("there is no loss: Pass@2 changes by 0.20 [0.10, 0.30]" in str(claim) for claim in lost)


def test_what_is_kept_is_not_measured_again(problems, checkpoints, tmp_path, monkeypatch):
    first = follow_training(problems, checkpoints, keep=tmp_path, **SETTINGS)
    monkeypatch.setattr(module, "measure_checkpoint", lambda *_: pytest.fail("measured again"))
    again = follow_training(problems, checkpoints, keep=tmp_path, **SETTINGS)
    pd.testing.assert_frame_equal(first.table, again.table)
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        follow_training(problems[:3], checkpoints, keep=tmp_path, **SETTINGS)


def test_the_figure_has_a_panel_for_each_and_controls_beside_the_steps(found):
    figure = found.plot()
    titles = [note.text for note in figure.layout.annotations]
    assert titles[0] == "answers"
    assert titles[-1] == "written"
    assert len(titles) == 5
    assert list(figure.layout.xaxis.ticktext) == ["0", "5", "10", "control"]
    named = [(trace.legend, trace.name) for trace in figure.data if trace.showlegend]
    assert len({legend for legend, _ in named}) == len(titles)  # every panel has a legend of its own
    assert len(named) == len(set(named)) >= 6
    assert emergence_curves(found.table, kind="text").layout.title.subtitle.text.startswith("text tokens")
    with pytest.raises(NothingToDraw, match="'special'"):
        emergence_curves(found.table, kind="special")
    with pytest.raises(InputError, match=r"lacks .*stratum"):
        emergence_curves(found.table.drop(columns="stratum"))


def test_what_was_asked_further_has_a_heat_map(found):
    heat = found.plot_further("written").data[0]
    assert list(heat.x) == ["step 0", "step 5", "step 10", "control"]
    assert list(heat.y) == ["by layer 0", "kl"]
    assert heat.z.tolist() == [[0, 1, 1, 1], [0, 0, 0, 0]]
    for group in ("nothing", ""):
        with pytest.raises(NothingToDraw, match="has no group"):
            further_heatmap(found.table, group)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problems": []}, "`problems` is empty"),
        ({"bins": 1}, "`bins`"),
        ({"drop": 0}, r"`checkpoints` has the steps \[5, 10\]"),
        ({"drop": 5}, r"`checkpoints` has the steps \[0, 10\]"),
        ({"further": {"written": None}}, r"`further` has 'written': None"),
        ({"further": len}, r"`further` is <built-in function len>; expected what measures"),
        ({"twice": True}, "`problems` holds .* twice"),
        ({"checkpoints": "shapes"}, "`checkpoints` is a str; expected what loads each"),
        (
            {"checkpoints": {0: 1, 5: 2, 10: 3}},
            "`checkpoints` has 0: 1; expected a step or a name, and what loads",
        ),
    ],
)
def test_bad_input(problems, checkpoints, change, message):
    kept = {name: load for name, load in checkpoints.items() if name != change.get("drop", "none")}
    kept = change.get("checkpoints", kept)
    problems = [*problems, problems[0]] if "twice" in change else problems
    settings = SETTINGS | {key: change[key] for key in ("bins", "further") if key in change}
    with pytest.raises(InputError, match=message):
        follow_training(change.get("problems", problems), kept, **settings)


def test_a_further_measure_has_a_value_a_problem(problems, checkpoints):
    with pytest.raises(
        InputError, match=r"`further\['short'\]` gives 'one' shape \(1,\); expected .*\(16,\)"
    ):
        follow_training(problems, checkpoints, further={"short": lambda *_: {"one": [1.0]}}, **SETTINGS)


def test_one_problem_has_no_interval_and_no_warning(problems, checkpoints, recwarn):
    found = follow_training(problems[:1], checkpoints, **SETTINGS)
    assert {*found.order["obstacle"]} == {"one problem, so no interval"}
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_only_a_bundled_pair_brings_checkpoints(tiny_pair):
    with pytest.raises(
        InputError, match=r"brings no checkpoints; name your own by steps .*follow_training\("
    ):
        checkpoints_of(tiny_pair)


def test_a_bundled_pair_names_its_checkpoints():
    pair = load_pair("shapes", device="cpu")
    found = checkpoints_of(pair)
    assert [name for name in found if isinstance(name, int)] == [0, 25, 50, 75, 100]
    assert {"first 10", "first 25", "sft"} <= {*found}
    start = found[0]()
    assert start.rlvr is start.base
    assert start.provenance["rlvr"]["weights"] == pair.provenance["base"]["weights"]
    assert found[100]().provenance["checkpoint"] == 125
    assert found["first 25"]().provenance["checkpoint"] == 25
