"""Figures of the paper's tables say what their tables hold, and refuse tables that hold nothing."""

import numpy as np
import pandas as pd
import pytest

from workbench.errors import InputError
from workbench.studies.published import published, published_changes
from workbench.views.paper_figures import (
    beside_published,
    cost_bars,
    coverage_bars,
    family_bars,
    plan_bars,
    settings_grid,
)


def measured(**columns) -> pd.DataFrame:
    row = {
        "source": "measured",
        "row": "mine",
        "setting": "replay",
        "benchmark": "all",
        "change": 1.0,
        "change_low": 0.5,
    }
    return pd.DataFrame([{**row, "change_high": 2.0, **columns}])


def test_published_changes_are_against_the_same_table():
    settings = {name: name for name in ("patch low-entropy", "rlvr+replay")}
    apart = [published_changes([table], settings) for table in ("Table 1", "Table 2")]
    both = published_changes(["Table 1", "Table 2"], settings)
    assert both["change"].dtype == float
    assert sorted(both["change"]) == sorted([*apart[0]["change"], *apart[1]["change"]])


def test_published_changes_are_against_the_plain_rlvr_model_of_the_same_benchmark():
    told = published_changes(["Table 2"], {"rlvr+replay": "replay"})
    table = published()
    for row in told.to_dict("records"):
        here = table[
            (table["model"] == row["row"].removesuffix(" (Table 2)"))
            & (table["benchmark"] == row["benchmark"])
        ]
        values = here.set_index("setting")["accuracy_percent"]
        assert row["change"] == pytest.approx(values["rlvr+replay"] - values["rlvr"])
    assert len(told) == 4 * 8
    assert told["change_low"].isna().all()


def test_measured_and_published_stand_apart():
    table = pd.concat(
        [measured(), published_changes(["Table 3"], {"rlvr+replay": "replay"})], ignore_index=True
    )
    figure = beside_published(table, title="t", subtitle="s")
    solid, hollow = figure.data
    assert (solid.name, hollow.name) == ("replay, measured", "replay, published")
    assert min(solid.y) > max(hollow.y)
    assert not solid.marker.symbol.endswith("open")
    assert hollow.marker.symbol.endswith("open")
    assert (solid.error_x.array[0], solid.error_x.arrayminus[0]) == (1.0, 0.5)
    assert len(hollow.x) == 4


def test_hostile_names_stay_text():
    figure = beside_published(measured(row="<b>x</b>", benchmark="<i>y"), title="t", subtitle="s")
    assert "&lt;b&gt;" in figure.layout.yaxis.ticktext[0]
    assert figure.data[0].text[0] == "&lt;i&gt;y"


def grid() -> pd.DataFrame:
    rows = [
        {"tau": t, "alpha": a, "layers": 5, "iterations": 25, "varied": "tau x alpha", "change": 10 * t + a}
        for t in (0.2, 0.4)
        for a in (1, 3)
    ]
    rows += [
        {"tau": 0.4, "alpha": 1, "layers": k, "iterations": 25, "varied": "layers", "change": k}
        for k in (3, 5)
    ]
    return pd.DataFrame(rows).assign(change_low=-1.0, change_high=9.0)


def test_a_grid_has_a_cell_for_each_setting():
    figure = settings_grid(grid(), measure="Pass@1", subtitle="s")
    heat = next(trace for trace in figure.data if trace.type == "heatmap")
    assert (list(heat.y), list(heat.x)) == (["0.2", "0.4"], ["1", "3"])
    assert np.asarray(heat.z).tolist() == [[3, 5], [5, 7]]
    assert np.isfinite(
        np.asarray(figure.data[1].z, float)
    ).all()  # every interval holds 0: all cells are grey
    decided = settings_grid(grid().assign(change_low=1.0), measure="Pass@1", subtitle="s")
    assert np.isnan(np.asarray(decided.data[1].z, float)).all()
    points = [trace for trace in figure.data if trace.type == "scatter" and trace.mode == "markers"]
    assert [list(trace.x) for trace in points] == [["3", "5"]]


def test_families_are_bars_with_intervals_and_counts():
    table = pd.DataFrame(
        {
            "condition": ["base"] * 2 + ["rlvr"] * 2,
            "style": ["base"] * 2 + ["rlvr"] * 2,
            "axis": ["a", "b"] * 2,
            "problems": [7, 8] * 2,
            "accuracy": [10.0, 20.0, 30.0, 40.0],
            "accuracy_low": [5.0, 15.0, 25.0, 30.0],
            "accuracy_high": [20.0, 30.0, 40.0, 60.0],
        }
    )
    base, rlvr = family_bars(table, subtitle="s").data
    assert list(base.x) == ["a<br>7 problems", "b<br>8 problems"]
    assert list(rlvr.y) == [30, 40]
    assert list(rlvr.error_y.array) == [10, 20]
    assert list(rlvr.error_y.arrayminus) == [5, 10]
    grouped = family_bars(table.assign(group="pictures"), subtitle="s").data[0]
    assert [list(level) for level in grouped.x] == [["pictures"] * 2, ["a<br>7 problems", "b<br>8 problems"]]


def test_bars_hold_their_numbers():
    cost = pd.DataFrame({"condition": ["rlvr"], "what": ["greedy"], "making": [0.5], "decoding": [0.25]})
    assert [bar.x[0] for bar in cost_bars(cost, subtitle="s").data] == [0.5, 0.25]
    plan = pd.DataFrame(
        {"pair": ["a", "b"] * 2, "what": ["here"] * 2 + ["loop"] * 2, "seconds": [1.0, 2, 30, 40]}
    )
    figure = plan_bars(plan, subtitle="s")
    assert ([list(t.x) for t in figure.data], figure.layout.xaxis.type) == ([[1, 2], [30, 40]], "log")
    assert len({t.marker.color for t in figure.data}) == 2
    parts = ["both", "only the first", "only the second", "neither"]
    coverage = pd.DataFrame({"comparison": ["x"] * 4, "part": parts, "share": [40.0, 30.0, 20.0, 10.0]})
    assert [bar.x[0] for bar in coverage_bars(coverage, subtitle="s").data] == [40, 30, 20, 10]


@pytest.mark.parametrize(
    ("draw", "table"),
    [
        (lambda t: beside_published(t, title="t", subtitle="s"), measured().drop(columns="change_low")),
        (lambda t: beside_published(t, title="t", subtitle="s"), measured().iloc[:0]),
        (lambda t: beside_published(t, title="t", subtitle="s"), measured(change=np.nan)),
        (lambda t: settings_grid(t, measure="m", subtitle="s"), grid().drop(columns="varied")),
        (lambda t: cost_bars(t, subtitle="s"), pd.DataFrame({"condition": []})),
    ],
)
def test_a_table_that_holds_nothing_is_refused(draw, table):
    with pytest.raises(InputError, match=r"`table` lacks .* it needs the columns"):
        draw(table)
