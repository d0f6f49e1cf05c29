"""Pieces of HTML: what they say, that hostile text stays text, and that they are well-formed."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from synthetic import SCRIPT

from workbench.views import markup


def parsed(html: str) -> ET.Element:
    return ET.fromstring(f"<div>{html}</div>")


def rows(html: str) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in parsed(html).iter("tr")]


def test_a_table_shows_numbers_short_and_estimates_with_their_intervals():
    frame = pd.DataFrame(
        {
            "name": ["a", "b"],
            "cells": [1234, 5],
            "kl": [0.012345, math.nan],
            "kl_low": [0.01, math.nan],
            "kl_high": [0.02, math.nan],
            "ok": [True, False],
            "entropy_low": [1.0, 2.0],
        }
    )
    assert rows(markup.table(frame)) == [
        ["name", "cells", "kl", "ok", "entropy_low"],
        ["a", "1,234", "0.0123 [0.0100, 0.0200]", "yes", "1.00"],
        ["b", "5", "–", "no", "2.00"],
    ]


def test_an_estimate_without_an_interval_stands_alone():
    frame = pd.DataFrame({"m": [2.0], "m_low": [math.nan], "m_high": [math.nan]})
    assert rows(markup.table(frame))[1] == ["2.00"]
    assert list(frame) == ["m", "m_low", "m_high"]  # the caller's table stays as it was


def test_columns_named_by_pairs_share_a_head():
    frame = pd.DataFrame([[1, 2, 3]])
    frame.columns = pd.MultiIndex.from_tuples([("", "layer"), ("visual", "KL"), ("visual", "agree")])
    page = markup.table(frame)
    assert rows(page) == [["", "visual"], ["layer", "KL", "agree"], ["1", "2", "3"]]
    assert [head.get("colspan") for head in parsed(page).iter("th")][:2] == ["1", "2"]


@pytest.mark.parametrize(
    "html",
    [
        markup.table(pd.DataFrame({SCRIPT: [SCRIPT]})),
        markup.facts({SCRIPT: SCRIPT}),
        markup.paragraph(SCRIPT, strong=True),
        markup.folded(SCRIPT, markup.listing([SCRIPT])),
        markup.chip(SCRIPT, "visual", '"><script>'),
        markup.side_by_side({SCRIPT: ""}),
        markup.curve([1.0, 2.0], name='"><script>'),
        markup.columns({SCRIPT: 0.5}, name='"><script>'),
        markup.picture('"><script>', (10, 10), (1, 1)),
    ],
)
def test_hostile_text_stays_text(html):
    assert "<script" not in html
    assert "&lt;script" in html
    parsed(html)


def test_a_curve_goes_through_every_finite_value():
    line = next(parsed(markup.curve([4.0, math.nan, 1.0, 0.0], name="loss")).iter("polyline"))
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert len(points) == 3
    assert points[0][1] < points[1][1] < points[2][1]  # downwards on the screen
    assert points[1][0] - points[0][0] == pytest.approx(2 * (points[2][0] - points[1][0]), rel=0.01)
    assert markup.curve([math.nan], name="loss") == "<span>–</span>"


def test_a_grid_shades_by_value_and_leaves_gaps():
    shades = [*parsed(markup.cells([[0.0, 2.0], [math.nan, 1.0]], name="x")).iter("rect")]
    assert [cell.attrib["fill-opacity"] for cell in shades] == ["0.00", "1.00", "0.50"]
    assert shades[2].attrib["y"] > shades[0].attrib["y"]
    parsed(markup.cells([[0.0]], name="nothing but zeros"))


def test_columns_are_as_tall_as_their_shares():
    drawn = [*parsed(markup.columns({0: 0.25, 7: 1.0}, name="x")).iter("rect")]
    assert float(drawn[1].attrib["height"]) == pytest.approx(4 * float(drawn[0].attrib["height"]), rel=0.02)
    assert [text.text for text in parsed(markup.columns({0: 0.25, 7: 1.0}, name="x")).iter("text")] == [
        "0",
        "7",
    ]


def test_stripes_draw_one_mark_for_each_run():
    paths = [*parsed(markup.stripes([[True, True, False, True], [False] * 4], name="x")).iter("path")]
    assert paths[1].attrib["d"].count("z") == 2
    wide = markup.stripes(np.ones((3, 5000), bool).tolist(), name="x")
    assert len(wide) < 1000
