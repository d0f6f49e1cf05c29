"""The page in a real browser: it is whole, silent, offline, and its controls show what the trace says."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import browser, open_page, wait_until  # noqa: F401  (a fixture)
from PIL import Image
from playwright.sync_api import Browser, Page
from synthetic import synthetic_trace

from workbench.errors import InputError
from workbench.explorer import pack, picture_uri
from workbench.prompts import TokenKind
from workbench.records import LensTrace, PromptInfo
from workbench.report import write_report
from workbench.shift import agreement_by_layer, stratified_shift

SCRIPT = "<script>alert(1)</script>"
GRIDS = [((1, 3, 4),), ((1, 2, 3), (1, 3, 2)), ((3, 2, 2),), ((1, 2, 6),)]  # 12 visual tokens each


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def info(number: int) -> PromptInfo:
    """One image, two images, a video, and an encoding without its picture, in turn."""
    grids = GRIDS[number % 4]
    images = () if number % 4 == 3 else tuple(picture(28 * columns, 28 * rows) for _, rows, columns in grids)
    tokens = (" <think>", "</script><!--", *["<|image_pad|>"] * 12, *[f" word{i}" for i in range(6)])
    question = f"{SCRIPT} How many\n<b>squares</b>?" if number == 0 else f"Question {number}?"
    return PromptInfo(f"p{number}", question, SCRIPT if number == 0 else "7", tokens, grids, images)


def told(problems: int = 6, depth: int = 4) -> LensTrace:
    """A synthetic trace whose visual tokens lie in the grids above."""
    trace = synthetic_trace(problems=problems, visual=12, text=6, depth=depth, top_k=6, seed=3)
    grid, view = trace.grid.clone(), trace.visual_index.clone()
    for number in range(problems):
        places = [(v, *cell) for v, sizes in enumerate(GRIDS[number % 4]) for cell in np.ndindex(*sizes)]
        here = (trace.prompt == number) & (trace.kind == TokenKind.VISUAL)
        view[here] = torch.tensor([v for v, *_ in places], dtype=torch.int32)
        grid[here] = torch.tensor([cell for _, *cell in places], dtype=torch.int32)
    vocabulary = {**trace.vocabulary, 5: SCRIPT, 6: "</script>", 7: "\n"}
    return replace(
        trace,
        grid=grid,
        visual_index=view,
        vocabulary=vocabulary,
        prompts=tuple(info(number) for number in range(problems)),
        provenance={
            "pair": "a <pair>",
            "base": {"id": "b", "revision": "0a1"},
            "dtype": "float32",
            "seed": 3,
        },
    )


@pytest.fixture(scope="module")
def trace() -> LensTrace:
    return told()


@pytest.fixture(scope="module")
def tables(trace) -> dict:
    shift = stratified_shift(trace, resamples=50)
    return {"trace": trace, "shift": shift, "agreement": agreement_by_layer(trace, resamples=50)}


@pytest.fixture(scope="module")
def file(tables, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    return write_report(
        path, **tables, spec={"command": "study --limit 6", "machine": {"cores": 2}}, problems=4
    )


@pytest.fixture(scope="module")
def opened(browser: Browser, file: Path) -> Iterator[tuple[Page, list[str]]]:  # noqa: F811
    page, trouble = open_page(browser, file)
    yield page, trouble
    page.context.close()


@pytest.fixture
def page(opened) -> Iterator[Page]:
    """The page at layer 2, KL, scaled by layer; whatever a test does there must happen silently."""
    page, trouble = opened
    page.locator("#layer").fill("2")
    page.locator('input[value="kl"]').check(force=True)
    page.locator("#scale").select_option("layer")
    yield page
    assert trouble == []


def fills(page: Page, problem: int) -> list[str]:
    """The colours of a problem's overlays, in the order of positions."""
    read = "rects => rects.map(r => [Number(r.dataset.position), r.getAttribute('fill')])"
    found = page.locator(f'[data-problem="{problem}"] .overlay rect[data-position]').evaluate_all(read)
    return [fill for _, fill in sorted(found)]


def panel(page: Page, problem: int) -> str:
    return page.locator(f'[data-problem="{problem}"] .panel').inner_text()


def cells(trace: LensTrace, problem: int) -> LensTrace:
    return trace.select(prompt=problem)


# ---- in a browser


@pytest.mark.browser
def test_the_verdict_comes_first_and_prompts_are_text(page, tables):
    assert page.locator("h1").inner_text() == "What RLVR changed in a <pair>"
    assert page.locator("header .lead").inner_text() == tables["shift"].verdict
    assert page.locator('[data-problem="0"] .question').inner_text() == f"{SCRIPT} How many\n<b>squares</b>?"
    assert SCRIPT in page.locator('[data-problem="0"] .answer').inner_text()
    assert page.locator('[data-problem="0"] .tokens button').all_inner_texts()[:2] == [
        "␣<think>",
        "</script><!--",
    ]
    assert page.locator("article b, .question b").count() == page.locator(".panel b").count()
    assert page.locator("#verdicts tbody tr").count() == len(
        {(v.kind, v.scope) for v in tables["shift"].verdicts}
    )
    assert page.locator("footer dd").all_inner_texts()[-2:] == ["study --limit 6", "2"]


@pytest.mark.browser
def test_the_layer_slider_repaints_every_overlay(page, trace):
    before = [fills(page, problem) for problem in range(4)]
    assert [len(colours) for colours in before] == [12, 12, 4, 12]
    page.locator("#layer").fill("3")
    after = [fills(page, problem) for problem in range(4)]
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert page.locator("#layer-name").inner_text() == "3 (last)"
    page.locator("#layer").fill("2")
    assert [fills(page, problem) for problem in range(4)] == before
    order = cells(trace, 0).kl[2, 2:14].argsort()
    luminance = [sum(map(int, re.findall(r"\d+", before[0][i])[:3])) for i in order.tolist()]
    assert luminance[0] < luminance[-1]  # cividis: the larger the brighter


@pytest.mark.browser
def test_the_measure_selector_changes_colours_and_legend(page, trace):
    kl, legend = fills(page, 0), page.locator("#legend").inner_text()
    page.locator('input[value="entropy"]').check(force=True)
    assert fills(page, 0) != kl
    assert page.locator("#legend").inner_text() != legend
    page.locator('input[value="change"]').check(force=True)
    changed = ~cells(trace, 0).top1_agreement[2, 2:14]
    assert [fill == "#d55e00" for fill in fills(page, 0)] == changed.tolist()
    visual = (trace.kind == TokenKind.VISUAL) & (trace.prompt < 4)
    total = int((~trace.top1_agreement[2, visual]).sum())
    assert page.locator("#legend").inner_text() == f"changed: {total} of 48 visual tokens"


@pytest.mark.browser
def test_one_scale_for_all_layers_or_one_for_each(page):
    legends = []
    for scale in ("layer", "all"):
        page.locator("#scale").select_option(scale)
        for layer in ("1", "2"):
            page.locator("#layer").fill(layer)
            legends.append(page.locator("#legend").inner_text())
    assert legends[0] != legends[1]
    assert legends[2] == legends[3]
    assert "nats" in legends[0]


@pytest.mark.browser
def test_a_click_on_a_token_shows_both_predictions_there(page, trace):
    one = cells(trace, 0)
    for position in (4, 9):
        page.locator(f'[data-problem="0"] rect[data-position="{position}"]').click()
        shown = panel(page, 0)
        row, column = divmod(position - 2, 4)
        assert f"image, row {row + 1}, column {column + 1}" in shown
        assert f"position {position}, layer 2" in shown
        assert f"{one.kl[2, position]:.3g}" in shown
        top = page.locator('[data-problem="0"] .panel .top tbody tr').all_inner_texts()
        assert len(top) == 5
        base, rlvr = (
            one.vocabulary[int(ids[2, position, 0])] for ids in (one.top_ids_base, one.top_ids_rlvr)
        )
        words = top[0].split("\t")
        assert [words[0], words[2]] == [base.replace("\n", "⏎"), rlvr.replace("\n", "⏎")]
        assert abs(float(words[1]) - float(one.top_probs_base[2, position, 0])) < 0.006
    page.locator('[data-problem="0"] .tokens button').nth(3).click()
    assert "␣word1" in panel(page, 0)
    assert "text token" in panel(page, 0)


@pytest.mark.browser
def test_pointing_shows_a_token_for_as_long_as_one_points(page):
    page.locator('[data-problem="0"] rect[data-position="5"]').click()
    page.locator('[data-problem="0"] rect[data-position="12"]').hover()
    assert "position 12," in panel(page, 0)
    page.locator("#explorer-title").hover()
    assert "position 5," in panel(page, 0)


@pytest.mark.browser
def test_keys_move_layer_and_token(page):
    page.locator('[data-problem="1"] rect[data-position="2"]').click()
    page.locator('[data-problem="1"] .overlay').first.focus()
    for key in ("ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
    assert page.locator("#layer").input_value() == "1"
    assert "position 3, layer 1" in panel(page, 1)
    page.keyboard.press("ArrowUp")
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    assert "position 2, layer 3" in panel(page, 1)
    assert page.locator('[data-problem="1"] rect.chosen').get_attribute("data-position") == "2"


@pytest.mark.browser
def test_several_images_and_frames_have_their_own_overlays(page):
    two = page.locator('[data-problem="1"] .view')
    assert [view.locator("rect[data-position]").count() for view in two.all()] == [6, 6]
    assert two.nth(1).locator("figcaption").inner_text().startswith("view 2 · 3 × 2 visual tokens")
    page.locator('[data-problem="1"] rect[data-position="13"]').click()
    assert "view 2, row 3, column 2" in panel(page, 1)
    video = page.locator('[data-problem="2"] .view')
    assert video.count() == 1
    for frame in range(3):
        video.locator(".frame-slider").fill(str(frame))
        shown = video.locator("rect[data-position]").evaluate_all(
            "r => r.map(x => Number(x.dataset.position))"
        )
        assert sorted(shown) == list(range(2 + 4 * frame, 6 + 4 * frame))
        assert video.locator("output").inner_text() == str(frame + 1)
    video.locator('rect[data-position="10"]').click()
    assert "video, frame 3, row 1, column 1" in panel(page, 2)


@pytest.mark.browser
def test_a_prompt_without_its_picture_still_has_its_grid(page):
    article = page.locator('[data-problem="3"]')
    assert article.locator("img").count() == 0
    box = article.locator(".frame").bounding_box()
    assert box is not None
    assert abs(box["width"] / box["height"] - 3) < 0.05  # 2 rows of 6


@pytest.mark.browser
def test_every_image_has_a_text_and_small_ones_stay_sharp(page):
    images = page.locator('[data-problem="1"] img')
    assert images.evaluate_all("all => all.map(i => i.alt)") == ["view 1 of p1", "", "view 2 of p1", ""]
    assert images.evaluate_all("all => all.every(i => i.complete && i.naturalWidth > 0)")
    assert images.first.evaluate("i => getComputedStyle(i).imageRendering") == "pixelated"
    unnamed = "all => all.filter(e => !e.labels?.length && !e.ariaLabel).length"
    assert page.locator("input, select").evaluate_all(unnamed) == 0


CLIPPED = """all => all.filter(plot => {
  const room = plot.getBoundingClientRect();
  return [...plot.querySelectorAll("svg.main-svg text")].some(text => {
    const box = text.getBoundingClientRect();
    return box.width && (box.left < room.left - 2 || box.right > room.right + 2 ||
                         box.top < room.top - 2 || box.bottom > room.bottom + 2);
  });
}).map(plot => plot.dataset.figure)"""


@pytest.mark.browser
def test_figures_are_drawn_when_reached_and_no_label_is_clipped(page):
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        for plot in page.locator(".plot:visible").all():
            plot.scroll_into_view_if_needed()
            plot.locator(".main-svg").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.wait_for_timeout(300)  # plotly redraws a little after the window has changed
        assert page.locator(".plot:visible").evaluate_all(CLIPPED) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    drawn = page.locator('[data-tab="visual"] .main-svg').count()
    assert drawn > 0
    assert page.locator('[data-tab="text"] .main-svg').count() == 0
    page.locator('input[value="text"]').check(force=True)
    page.locator('[data-tab="text"] .main-svg').first.wait_for()
    assert not page.locator('[data-tab="visual"]').is_visible()
    page.locator('input[value="visual"]').check(force=True)


@pytest.mark.browser
def test_dark_paper_and_print(page):
    ink = "document.querySelector('.plot .main-svg .xtitle').style.fill"
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    page.locator(".plot .main-svg").first.wait_for(state="attached")
    light = page.evaluate(ink), page.evaluate(paper)
    page.emulate_media(color_scheme="dark")
    wait_until(page, f"{ink} !== {json.dumps(light[0])}")
    assert page.evaluate(paper) != light[1]
    page.emulate_media(media="print")
    assert page.evaluate(paper) == light[1]
    assert not page.locator(".toolbar").is_visible()
    page.emulate_media(media="screen", color_scheme="light")


# ---- the file


def test_the_page_is_one_file_that_fetches_nothing(file):
    text = file.read_text()
    assert [p.name for p in file.parent.iterdir()] == ["report.html"]
    assert SCRIPT not in text
    assert text.count("<script") == text.count("</script>") == 4
    assert "default-src 'none'" in text
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:)", text)


def test_the_default_study_stays_under_ten_megabytes(tmp_path):
    trace = synthetic_trace(problems=64, visual=36, text=40, special=6, depth=8, top_k=8)
    shift = stratified_shift(trace, resamples=5)
    agreement = agreement_by_layer(trace, resamples=5)
    path = write_report(tmp_path / "report.html", trace=trace, shift=shift, agreement=agreement)
    assert path.stat().st_size < 10e6
    assert path.read_text().count('<article class="problem"') == 6


def test_a_run_of_text_alone_has_no_overlays(tmp_path):
    trace = synthetic_trace(problems=4, visual=0, special=0)
    shift, agreement = stratified_shift(trace, resamples=5), agreement_by_layer(trace, resamples=5)
    path = write_report(
        tmp_path / "r.html", trace=trace, shift=shift, agreement=agreement, title="Text & <more>"
    )
    text = path.read_text()
    assert "No image in this prompt." in text
    assert "<title>Text &amp; &lt;more&gt;</title>" in text
    assert 'data-tab="visual"' not in text


def test_packed_predictions_shrink_with_deep_models(trace, monkeypatch):
    shown = [trace.select(prompt=i) for i in range(2)]
    whole = pack(shown, 5)
    assert whole["topK"] == 5
    words = np.frombuffer(base64.b64decode(whole["problems"][1]["rlvrWords"]), "<u2")
    texts = [whole["vocabulary"][word] for word in words.reshape(4, 20, 5)[2, 7]]
    expected = [shown[1].vocabulary[i] for i in shown[1].top_ids_rlvr[2, 7, :5].tolist()]
    assert texts == [text.replace("\n", "⏎") for text in expected]
    monkeypatch.setattr("workbench.explorer.PREDICTION_BYTES", 8 * 2 * 4 * 20 * 3)
    assert pack(shown, 5)["topK"] == 3
    assert pack(shown, 99)["topK"] == 3


def test_large_pictures_are_made_small():
    assert picture_uri(picture(100, 80)).startswith("data:image/png;base64,")
    large = picture_uri(picture(3000, 1000))
    assert large.startswith("data:image/jpeg;base64,")
    assert len(large) < 400_000


def test_bad_arguments_are_refused(tables, tmp_path):
    with pytest.raises(InputError, match=r"`problems` is 0, expected at least 1: write_report\(path"):
        write_report(tmp_path / "r.html", **tables, problems=0)
    with pytest.raises(InputError, match="`top_k` is 0"):
        write_report(tmp_path / "r.html", **tables, top_k=0)
    bare = tables["agreement"].drop(columns="kl_high")
    with pytest.raises(InputError, match=r"`agreement` lacks the columns \['kl_high'\]"):
        write_report(tmp_path / "r.html", **{**tables, "agreement": bare})
    with pytest.raises(InputError, match="`agreement` has no rows"):
        write_report(tmp_path / "r.html", **{**tables, "agreement": tables["agreement"].iloc[:0]})
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_refused_and_an_old_page_kept(tables, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"`path` .*r.html' cannot be written .*such as 'run/report.html'"):
        write_report(tmp_path / "taken" / "r.html", **tables)
    (tmp_path / "r.html").write_text("the old page")

    def full(*args) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_report(tmp_path / "r.html", **tables)
    assert (tmp_path / "r.html").read_text() == "the old page"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html", "taken"]
