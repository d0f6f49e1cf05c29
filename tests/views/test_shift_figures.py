"""Figures say what their tables say, with units, intervals and counts, and are never empty pictures."""

import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from synthetic import synthetic_trace

from workbench.analysis.shift import stratified_shift, top_prediction_shift
from workbench.errors import InputError
from workbench.tracing.agreement import agreement_by_layer
from workbench.views import shift_figures as figures
from workbench.views.panels import CAPTION, COLOURS, LINE, MEASURES, SOFT, broken, finish, template
from workbench.views.tables import NothingToDraw, bucket, number, visible


@pytest.fixture(scope="module")
def trace():
    return synthetic_trace(problems=20, tilt=1.0, depth=4)


@pytest.fixture(scope="module")
def shift(trace):
    return stratified_shift(trace, resamples=50)


@pytest.fixture(scope="module")
def agreement(trace):
    return agreement_by_layer(trace, resamples=50)


def layout(figure) -> dict:
    return figure.to_plotly_json()["layout"]


def named(figure, name) -> list:
    return [trace for trace in figure.data if trace.name == name]


def test_every_figure_of_a_study_has_title_counts_units_and_height(shift, agreement):
    drawn = figures.study_figures(shift.table, shift.correlations, agreement, depth=4)
    kinds = {"visual", "text", "special"} & set(shift.table["kind"])
    assert len(drawn) == 3 + len(kinds) * 8
    for name, figure in drawn.items():
        title = layout(figure)["title"]
        assert 5 < len(title["text"]) < 70, name
        assert re.search(r"\d cells.*; 95% intervals", title["subtitle"]["text"].replace(SOFT, " ")), name
        assert re.search(r"20 problems,|\d problems in each stratum;", title["subtitle"]["text"]), name
        assert layout(figure)["height"] >= 300, name
        axes = [axis for key, axis in layout(figure).items() if re.fullmatch(r"[xy]axis\d*", key)]
        axes = [axis["title"]["text"] for axis in axes if "title" in axis]
        assert len(axes) == 2, name
        assert all(axes), name
    assert layout(drawn["kl_by_layer"])["yaxis"]["title"]["text"].startswith("KL(base‖RLVR), nats")
    assert layout(drawn["entropy_by_layer_visual"])["yaxis"]["title"]["text"] == "lens entropy, nats"
    assert "nats" in layout(drawn["kl_by_layer_and_entropy_visual"])["title"]["subtitle"]["text"]


@pytest.mark.parametrize(
    ("by", "bins", "rule"),
    [
        ("quantile", 5, "lowest fifth of base entropy, by layer and kind"),
        ("fraction", 4, "base entropy at most 1/4 of the prompt's largest, by layer and kind"),
    ],
)
def test_captions_say_what_the_lowest_stratum_is(trace, by, bins, rule):
    table = stratified_shift(trace, bins, by=by, resamples=20).table
    for draw in (figures.shift_bars, figures.shift_ratio):
        assert layout(draw(table))["title"]["subtitle"]["text"].endswith(f"<br>stratum 0: {rule}")
    heatmap = layout(figures.shift_heatmap(table, kind="visual"))
    assert heatmap["title"]["subtitle"]["text"].endswith(f"<br>stratum 0: {rule}")


def test_heatmap_shows_every_value_with_its_interval_and_the_last_layer_apart(shift):
    figure = figures.shift_heatmap(shift.table, kind="text")
    top, _, below, words = figure.data
    assert list(top.y) == ["3 (last)"]
    assert list(below.y) == ["0", "1", "2"]
    assert list(below.x) == ["0<br>lowest", "1", "2", "3", "4<br>highest"]
    gap = layout(figure)["yaxis"]["domain"][0] - layout(figure)["yaxis2"]["domain"][1]
    assert gap > 0.01
    where = (shift.table["scope"] == "layer") & (shift.table["kind"] == "text") & (shift.table["layer"] == 1)
    row = shift.table[where].sort_values("stratum")
    assert np.allclose(10 ** below.z[1], row["kl"])
    assert np.allclose(below.customdata[1][:, :3], row[["kl", "kl_low", "kl_high"]])
    assert words.text[5].startswith(f"{number(row['kl'].iloc[0])}<br>")
    assert number(row["kl_low"].iloc[0], 2) in words.text[5]
    assert set(words.textfont.color) <= {"#000000", "#ffffff"}


def test_a_deep_model_has_no_room_for_intervals_but_keeps_them_on_hover(shift):
    layer = shift.table[(shift.table["scope"] == "layer") & (shift.table["kind"] == "visual")]
    deep = pd.concat([layer[layer["layer"] == 0].assign(layer=i) for i in range(28)])
    figure = figures.shift_heatmap(deep)
    assert "<br>" not in figure.data[3].text[0]
    assert "customdata[1]" in figure.data[2].hovertemplate
    assert layout(figure)["height"] < 1000


def test_a_table_without_the_last_layer_has_one_strip(shift):
    table = shift.table[shift.table["layer"] < 3]
    assert len(figures.shift_heatmap(table, depth=4).data) == 2
    with pytest.raises(
        NothingToDraw, match=r"`table` has no rows with layer=3 \(it holds layer: \[0, 1, 2\]\)"
    ):
        figures.shift_bars(table, scope="last layer", depth=4)


def test_ratio_diverges_from_one(shift):
    axis = layout(figures.shift_heatmap(shift.table, measure="ratio"))["coloraxis"]
    assert axis["cmin"] == -axis["cmax"]
    assert axis["colorbar"]["ticktext"][2] == "1.00"


def test_bars_carry_intervals_beside_the_null(shift):
    figure = figures.shift_bars(shift.table, kind="visual", scope="last layer")
    (observed,), (null,) = named(figure, "observed"), named(figure, "matched noise")
    rows = shift.table.query("scope == 'layer' and layer == 3 and kind == 'visual'").sort_values("stratum")
    assert np.allclose(observed["y"], rows["kl"])
    assert np.allclose(observed["y"] + observed["error_y"]["array"], rows["kl_high"])
    assert np.allclose(null["y"] - null["error_y"]["arrayminus"], rows["kl_null_low"])
    assert observed["marker"]["color"] == COLOURS["rlvr"]
    assert null["marker"]["color"] == COLOURS["null"]
    assert null["marker"]["pattern"]["shape"]  # told apart without colour


def test_without_null_draws_what_needs_them_is_left_out(agreement):
    bare = synthetic_trace(problems=6, draws=0)
    shift = stratified_shift(bare, resamples=20)
    assert [trace.name for trace in figures.shift_bars(shift.table).data] == ["observed"]
    with pytest.raises(NothingToDraw, match=r"no finite value of 'ratio'.*trace with null_draws=3"):
        figures.shift_ratio(shift.table)
    drawn = figures.study_figures(shift.table, shift.correlations, agreement_by_layer(bare, resamples=20))
    assert "kl_by_layer_and_entropy_visual" in drawn
    assert not [name for name in drawn if name.startswith("ratio")]


def test_curves_are_told_apart_without_colour_and_stop_before_the_last_layer(agreement):
    figure = figures.layer_curves(agreement, "kl")
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [line.name for line in lines] == ["visual", "text", "special"]
    assert len({line.line.dash for line in lines}) == len({line.marker.symbol for line in lines}) == 3
    assert all(list(line.x) == [0, 1, 2] for line in lines)
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert all(list(point.x) == [3] and point.error_y.array is not None for point in points)
    assert sum(bool(trace.showlegend) for trace in figure.data) == 3
    assert layout(figure)["xaxis"]["ticktext"][-1] == "3<br>last"
    band = figure.data[0]
    rows = agreement[(agreement["kind"] == "visual") & (agreement["layer"] < 3)]
    assert np.allclose(band.y, [*rows["kl_high"], *rows["kl_low"][::-1]])


def test_one_traced_layer_is_a_point(agreement):
    figure = figures.entropy_curves(agreement[agreement["layer"] == 3], "text", depth=4)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["base", "RLVR"]


def test_base_rlvr_and_null_keep_their_colours(shift, agreement):
    entropy = figures.entropy_curves(agreement, "visual")
    assert {trace["line"]["color"] for trace in named(entropy, "base")} == {COLOURS["base"]}
    assert {trace["line"]["color"] for trace in named(entropy, "RLVR")} == {COLOURS["rlvr"]}
    rho = figures.correlation_curves(shift.correlations, "visual")
    assert {trace["line"]["color"] for trace in named(rho, "matched noise")} == {COLOURS["null"]}


def test_kl_over_decades_goes_on_a_log_axis_with_round_ticks(agreement):
    steep = agreement.copy()
    for end in ("kl", "kl_low", "kl_high"):
        steep[end] *= 10.0 ** steep["layer"]
    axis = layout(figures.layer_curves(steep, "kl"))["yaxis"]
    assert axis["type"] == "log"
    assert {"0.1", "1", "10"} <= set(axis["ticktext"])
    assert "type" not in layout(figures.layer_curves(agreement, "kl"))["yaxis"]


def test_no_shift_at_all_is_still_a_picture(shift, agreement):
    none = shift.table.copy()
    none[["kl", "kl_low", "kl_high"]] = 0.0
    heatmap = figures.shift_heatmap(none)
    assert np.isfinite(np.array(heatmap.data[0].z)).all()
    assert (
        "type" not in layout(figures.layer_curves(agreement.assign(kl=0.0, kl_low=0.0, kl_high=0.0)))["yaxis"]
    )


def test_an_empty_stratum_leaves_a_gap(shift):
    holed = shift.table.copy()
    gap = (holed["stratum"] == 2) & (holed["layer"] == 3) & (holed["kind"] == "visual")
    holed.loc[gap, [*[f"kl{end}" for end in ("", "_low", "_high")], "entropy_low", "entropy_high"]] = np.nan
    holed.loc[gap, ["cells", "problems"]] = 0
    top, words, *_ = figures.shift_heatmap(holed).data
    assert np.isnan(np.array(top.z, float)[0, 2])
    assert len(words.text) == 4


def test_prediction_grid_shows_both_models_and_escapes_tokens(trace):
    table = top_prediction_shift(trace, prompt=1)
    table["base_top1"] = table["base_top1"].mask((table["layer"] == 0) & (table["position"] == 25), "<b>&\n")
    figure = figures.prediction_grid(table)
    heatmap, words = figure.data
    assert len(heatmap.x) == figures.GRID
    assert layout(figure)["title"]["text"] == "Top predictions at positions 2 to 25"
    assert heatmap.x[-1].startswith("25<br>w")
    assert words.text[figures.GRID - 1].startswith("&lt;b&gt;&amp;⏎<br>→ w")
    same = table["base_top1"] == table["rlvr_top1"]
    shown = table["position"] >= 2
    assert sum("→" in text for text in words.text) == (~same & shown).sum()
    with pytest.raises(InputError, match="`predictions` joins several prompts"):
        figures.prediction_grid(pd.concat([table, table]))


DRAW = {
    "table": figures.shift_heatmap,
    "agreement": figures.layer_curves,
    "correlations": figures.correlation_curves,
    "predictions": figures.prediction_grid,
}


@pytest.mark.parametrize("name", DRAW)
def test_bad_tables_are_refused(trace, shift, agreement, name):
    good = {"table": shift.table, "agreement": agreement, "correlations": shift.correlations}.get(name)
    good = top_prediction_shift(trace) if good is None else good
    with pytest.raises(InputError, match=f"`{name}` is a dict, not a pandas DataFrame: pass `"):
        DRAW[name](good.to_dict())
    with pytest.raises(InputError, match=f"`{name}` lacks the columns .*'layer'.*; it has .*: pass `"):
        DRAW[name](good.drop(columns="layer"))
    with pytest.raises(InputError, match=f"`{name}` has no rows"):
        DRAW[name](good.iloc[:0])


def test_missing_measure_unknown_measure_and_mixed_tables_are_refused(shift, agreement):
    with pytest.raises(InputError, match=r"`table` lacks the columns \['ratio_low'\]"):
        figures.shift_ratio(shift.table.drop(columns="ratio_low"))
    with pytest.raises(InputError, match="`measure` is 'entropy', not one of"):
        figures.layer_curves(agreement, "entropy")
    with pytest.raises(InputError, match=r"no rows with kind='audio'.*'special', 'text', 'visual'"):
        figures.entropy_curves(agreement, "audio")
    mixed = pd.concat([shift.table, shift.table.assign(strata_by="fraction")])
    with pytest.raises(InputError, match=r"`table` joins several tables .*'fraction', 'quantile'.*pass one"):
        figures.shift_heatmap(mixed)
    with pytest.raises(InputError, match="`agreement` has no rows"):
        figures.study_figures(shift.table, shift.correlations, agreement.iloc[:0])


def test_every_measure_of_a_shift_table_can_be_drawn(shift):
    held = [measure for measure in MEASURES if measure in shift.table]
    assert len(held) == 9
    for measure in held:
        assert figures.shift_heatmap(shift.table, measure=measure).data


def test_templates_differ_in_ink_only():
    light, dark = (template(dark=dark).to_plotly_json()["layout"] for dark in (False, True))
    assert light["font"]["color"] != dark["font"]["color"]
    assert light["margin"] == dark["margin"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.123456, "0.123"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
        (0.00123, "0.00123"),
        (-0.5, "-0.500"),
        (1.5e-7, "1.50e-7"),
        (-7.4e-15, "0"),
        (2.5e6, "2.50e6"),
        (float("nan"), "–"),
    ],
)
def test_numbers_read_well(value, text):
    assert number(value) == text


def test_tokens_and_buckets_read_well():
    assert [visible(token) for token in (" the", "\n", "  ", "", "a b ", "\t")] == [
        "␣the",
        "⏎",
        "␣␣",
        "∅",
        "a b␣",
        "⇥",
    ]
    assert [bucket(stratum, range(3)) for stratum in range(3)] == ["0 lowest", "1", "2 highest"]


def test_long_captions_are_broken_and_get_their_room():
    figure = go.Figure().update_layout(height=300, margin={"t": 100})
    long = "shapes, at temperature 1, 300 problems; " * 4 + "the end"
    done = finish(figure, "Title", f"{long}<br>short")
    text = done.layout.title.subtitle.text
    assert text.replace(SOFT, " ") == f"{long}<br>short"
    lines = text.replace(SOFT, "<br>").split("<br>")
    assert max(map(len, lines)) <= CAPTION
    assert all(line.endswith(";") for line in lines[:-2])
    assert done.layout.height == 300 + LINE * (len(lines) - 2)
    assert done.layout.margin.t == 100 + LINE * (len(lines) - 2)
    assert broken("x" * 300) == ["x" * CAPTION, "x" * CAPTION, "x" * (300 - 2 * CAPTION)]
