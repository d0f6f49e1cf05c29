"""Figures as files: pages that share plotly, pictures where there is a browser, one line where there is none."""

import sys

import numpy as np
import pytest
from browser import chromium
from PIL import Image
from synthetic import synthetic_trace

from workbench.analysis.shift import stratified_shift
from workbench.errors import InputError, install
from workbench.views import shift_figures as figures
from workbench.views.figure_files import UNSEEN, pack_png, write_figures


@pytest.fixture(scope="module")
def shift():
    return stratified_shift(synthetic_trace(), resamples=20)


def test_write_makes_pages_that_share_plotly_and_pictures_where_there_is_a_browser(tmp_path, shift):
    drawn = {"kl": figures.shift_bars(shift.table)}
    hint = write_figures(drawn, tmp_path / "new" / "figures")
    page = (tmp_path / "new" / "figures" / "kl.html").read_text()
    assert 'src="plotly.min.js"' in page
    assert "cdn" not in page
    assert (tmp_path / "new" / "figures" / "plotly.min.js").stat().st_size > 1e6
    picture = tmp_path / "new" / "figures" / "kl.png"
    assert picture.exists() == (hint is None) == (chromium() is not None)


def test_pictures_come_as_svg_and_on_dark_paper(tmp_path, shift):
    drawn = {"kl": figures.shift_bars(shift.table)}
    hint = write_figures(drawn, tmp_path, images=("svg",), dark=True)
    assert not (tmp_path / "kl.png").exists()
    assert "prefers-color-scheme: dark" in (tmp_path / "kl.html").read_text()
    assert (hint is None) == (chromium() is not None)
    if hint is None:
        text = (tmp_path / "kl.svg").read_text()
        assert text.startswith("<svg")
        assert "rgb(20, 24, 29)" in text


def test_write_says_in_one_line_why_there_are_no_pictures(tmp_path, shift, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("Kaleido requires Google Chrome to be installed.\n\nEither download ...")

    monkeypatch.setattr("kaleido.write_fig_from_object_sync", fail)
    hint = write_figures({"kl": figures.shift_bars(shift.table)}, tmp_path)
    assert hint is not None
    assert hint.startswith("No PNG files: no working Chrome or Chromium (Kaleido requires Google Chrome")
    assert "\n" not in hint
    assert "BROWSER_PATH" in hint
    monkeypatch.setitem(sys.modules, "kaleido", None)
    hint = write_figures({"kl": figures.shift_bars(shift.table)}, tmp_path)
    assert hint == f"No PNG files: kaleido is not installed; {install('export')} adds it."
    with pytest.raises(InputError, match="`figures` is empty"):
        write_figures({}, tmp_path)


@pytest.mark.parametrize(("colours", "mode"), [(3, "P"), (2000, "RGB")])
def test_a_packed_picture_looks_the_same(tmp_path, colours, mode):
    """Few colours become a palette; a long colour scale stays as it is."""
    draw = np.random.default_rng(0)
    scale = draw.integers(0, 256, (colours, 4), dtype=np.uint8) | np.array([0, 0, 0, 255], np.uint8)
    pixels = scale[draw.integers(0, colours, (80, 90))]
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    before = (tmp_path / "a.png").stat().st_size
    pack_png(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as packed:
        assert packed.mode == mode
        after = np.asarray(packed.convert("RGB")).astype(int)
    assert np.abs(after - pixels[..., :3]).max() <= UNSEEN
    assert (tmp_path / "a.png").stat().st_size < before
