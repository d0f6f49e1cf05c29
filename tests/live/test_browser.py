"""The bench in a real Chromium: in JupyterLab, in the served page, and as a page that needs no kernel."""

import contextlib
import io
import json
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from bench_pages import drag, in_lab, on_its_own, said
from browser import open_page, wait_until
from playwright.sync_api import Browser, Page

import workbench as wb

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
NUMBER = 2
"""Of the problem on the bench."""
CELL = f"""import workbench as wb
pair = wb.load_pair('shapes')
bench = wb.bench(pair, wb.load_problems('shapes', limit={NUMBER + 1})[{NUMBER}])
bench"""


@pytest.fixture(scope="module")
def problem():
    return wb.load_problems("shapes", limit=NUMBER + 1)[NUMBER]


@pytest.fixture(scope="module")
def pair():
    return wb.load_pair("shapes")


@pytest.fixture(scope="module", params=["lab", "served"])
def live(request, browser: Browser, tmp_path_factory) -> Iterator[tuple[Page, list[str]]]:
    """A bench with a kernel, in JupyterLab or served by ``workbench bench``."""
    home = tmp_path_factory.mktemp(request.param)
    if request.param == "lab":
        with in_lab(browser, home, CELL) as opened:
            yield opened
    else:
        with on_its_own(browser, home, ["--number", str(NUMBER)]) as opened:
            yield opened


@pytest.fixture
def page(live) -> Iterator[Page]:
    page, trouble = live
    clear = page.locator(".bench button[name=clear]")
    clear.click()
    page.locator(".bench .count", has_text="nothing selected").wait_for()
    yield page
    assert trouble == []


def expected(pair, problem, **how) -> str:
    """What `wb.decode` says, token by token as the page writes them."""
    from workbench.views.tables import visible

    (answer,) = wb.decode(pair, problem, **how)
    return "".join(visible(pair.decode_token(i)) for i in answer.ids)


def test_select_by_drag_patch_answer_undo_export_reopen(page, pair, problem, tmp_path):
    drag(page, (0.1, 0.1), (0.9, 0.4))  # the upper two of four rows
    page.locator(".bench .count", has_text="64 cells: 8 of").wait_for()
    prompt = pair.encode(problem)
    upper = (prompt.grid[:, 1] >= 0) & (prompt.grid[:, 1] < 2)
    depth = pair.depth
    cells = wb.Mask.of(upper.expand(depth, -1))
    every = {"layers": tuple(range(depth)), "cells": cells}
    conditions = {
        "patch": wb.Patch(select="all", positions="all", **every),
        "back": wb.Overwrite("rlvr", **every),
        "zero": wb.Scale(0.0, **every),
    }
    seconds = {}
    for number, (name, condition) in enumerate(conditions.items()):
        begun = time.monotonic()
        page.locator(f".bench button[name={name}]").click()
        page.locator(".bench .answers .title", has_text=condition.title).wait_for()
        seconds[name] = time.monotonic() - begun
        texts = {"base": {"model": "base"}, "rlvr": {}}
        texts["action"] = {"model": condition.answered_by, "intervention": condition}
        for who, how in texts.items():
            assert said(page, who) == expected(pair, problem, **how), (name, number)
    print(
        {name: round(value, 2) for name, value in seconds.items()},
        "seconds from click to answer",
        file=sys.stderr,
    )
    assert said(page, "action") != said(page, "rlvr")
    assert page.locator(".said.action .changed").count() > 0

    page.locator(".bench button[name=undo]").click()
    page.locator(".bench .answers .title", has_text="rlvr into base").wait_for()
    page.locator(".bench button[name=redo]").click()
    page.locator(".bench .answers .title", has_text="zeroed").wait_for()

    page.locator(".bench input[value=after]").check(force=True)
    assert page.locator(".bench .readout h4 .rlvr").text_content() == "◆ With action"
    (made,) = wb.prepare(conditions["zero"], pair, [prompt])
    lens = wb.trace(pair, [prompt], null_draws=0, top_k=1, interventions=[made])
    layer = int(page.locator(".bench input.layer").input_value())
    at = int(page.locator(".bench .readout .muted").first.text_content().split()[1])
    entropy = page.locator(".bench .readout .rlvr .entropy").text_content().split()[1]
    assert float(entropy) == pytest.approx(float(lens.entropy_rlvr[layer, at]), rel=0.01)
    page.locator(".bench input[value=before]").check(force=True)

    with page.expect_download() as download:
        page.locator(".bench button[name=json]").click()
    path = tmp_path / "bench.json"
    download.value.save_as(path)
    again = wb.bench(pair, reopen=path)
    assert again.mask == cells
    assert again.trial.condition == conditions["zero"]
    tried = page.locator(".bench .trials li").count()
    page.locator(".bench input[accept='.json']").set_input_files(path)
    page.locator(".bench .status", has_text="working").wait_for()
    page.locator(".bench .status", has_text="working").wait_for(state="detached")
    page.locator(".bench .answers .title", has_text="zeroed").wait_for()
    assert page.locator(".bench .trials li").count() == tried
    assert json.loads(path.read_text())["pair"] == "shapes"

    with page.expect_download() as download:
        page.locator(".bench button[name=page]").click()
    file = tmp_path / "bench.html"
    download.value.save_as(file)
    alone, trouble = open_page(page.context.browser, file)
    assert said(alone, "action") == said(page, "action")
    assert alone.locator(".bench button[name=patch]").is_disabled()
    assert trouble == []
    alone.context.close()


def test_a_token_opens_its_alternatives_and_one_is_taken(page, pair, problem):
    page.locator(".bench .trials button").first.click()
    page.locator(".bench .answers .title", has_text="The models as they are").wait_for()
    page.locator(".said.rlvr .strip button").nth(1).click()
    choice = page.locator(".bench .alternatives .base .top").nth(1)
    word = choice.locator(".text").text_content()
    choice.click()
    page.locator(".bench .answers .title", has_text="from token 2 on").wait_for()
    for who in ("base", "rlvr"):
        assert page.locator(f".said.{who} .strip button").nth(1).text_content() == word


def test_the_keyboard_reaches_everything(page):
    page.locator(".bench .overlay").first.focus()
    page.keyboard.press("x")
    page.locator(".bench .count", has_text="1 of").wait_for()
    page.keyboard.press("Shift+ArrowDown")
    page.locator(".bench .count", has_text="2 of").wait_for()
    page.keyboard.press("i")
    page.locator(".bench .count", has_text="53 of 55").wait_for()
    page.keyboard.press("Control+z")
    page.locator(".bench .count", has_text="2 of").wait_for()
    page.locator(".bench [name=zero]").focus()
    page.keyboard.press("Enter")
    page.locator(".bench .answers .title", has_text="zeroed").wait_for()
    page.locator(".said.action .strip button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.locator(".bench .alternatives strong", has_text="Token 2").wait_for()


def test_cells_are_painted_inverted_and_chosen_by_word_stratum_and_layers(page, pair, problem):
    prompt = pair.encode(problem)
    page.locator(".bench input[value=paint]").check(force=True)
    drag(page, (0.12, 0.12), (0.88, 0.12))  # along the upper row
    page.locator(".bench .count", has_text="32 cells: 4 of").wait_for()
    page.locator(".bench input[value=rectangle]").check(force=True)
    page.locator(".bench input[name=first]").fill("2")
    page.locator(".bench input[name=final]").fill("4")
    page.locator(".bench [name=word]").fill("the")
    page.locator(".bench [name=word]").press("Enter")
    word = wb.bench(pair, prompt).select(word="the", layers=range(2, 5))
    page.locator(".bench .count", has_text=f"{word.count} cells").wait_for()
    page.locator(".bench button[name=invert]").click()
    page.locator(".bench .count", has_text=f"{3 * len(prompt) - word.count} cells").wait_for()
    page.locator(".bench input[name=tau]").fill("0.9")
    page.locator(".bench button[name=take]").click()
    low = wb.prepare_patch(pair, prompt, wb.Patch(select="low", tau=0.9, layers=5)).mask[2:]
    page.locator(".bench .count", has_text=f"{int(low.sum())} cells").wait_for()
    page.locator(".bench button[name=asPatch]").click()
    code = page.locator(".bench .code")
    wait_until(page, "document.querySelector('.bench .code').value.includes('wb.Patch(')")
    namespace: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code.input_value(), namespace)
    cells = namespace["condition"].cells.cells(pair.depth, len(prompt))
    assert torch.equal(cells[2:5], low.cpu())
    page.locator(".bench input[name=first]").fill("0")
    page.locator(".bench input[name=final]").fill("7")


def test_samples_are_drawn_noise_is_beside_an_action_and_learnt_norms_are_an_overlay(page, pair, problem):
    drag(page, (0.1, 0.1), (0.9, 0.9))
    page.locator(".bench .count", has_text="128 cells").wait_for()
    page.locator(".bench button[name=replay]").click()
    page.locator(".said.action .strip button").first.wait_for()
    wait_until(page, "!document.querySelector('.bench').classList.contains('busy')")
    page.locator(".bench input[name=samples]").fill("3")
    page.locator(".bench button[name=draw]").click()
    page.locator(".said.action .drawn", has_text="3 samples").wait_for()
    drawn = [one.text for one in wb.decode(pair, problem, model="base", samples=3, temperature=1.0)]
    listed = page.locator(".said.base .samples li").all_text_contents()
    assert sorted(listed) == sorted(f"{drawn.count(text)} × {text}" for text in set(drawn))
    wait_until(page, "!document.querySelector('.bench').classList.contains('busy')")
    page.locator(".bench input[value=learnt]").check(force=True)
    assert page.locator(".bench .legend").text_content().endswith("norm")
    page.locator(".bench input[value=after]").check(force=True)
    page.locator(".bench input[value=ratio]").check(force=True)
    page.locator(".bench .readout .ratio", has_text="× noise").wait_for()
    wait_until(page, "!document.querySelector('.bench').classList.contains('busy')")
    page.locator(".bench input[value=before]").check(force=True)
    page.locator(".bench input[value=kl]").check(force=True)


def test_an_error_is_words(page):
    page.locator(".bench [name=word]").fill("elephant")
    page.locator(".bench [name=word]").press("Enter")
    page.locator(".bench .status.wrong", has_text="'elephant' does not stand in").wait_for()
    assert "Traceback" not in page.locator(".bench").text_content()


def test_a_click_fills_the_panel_at_once(page):
    """Measured, and printed: the clock is the page's own, from the click to the panel that shows it."""
    took = page.evaluate(
        """() => { const rects = [...document.querySelectorAll('.bench .overlay [data-position]')];
        const times = rects.slice(0, 8).map((rect) => { const begun = performance.now();
          rect.dispatchEvent(new MouseEvent('click', { bubbles: true })); document.querySelector('.bench .readout').offsetHeight;
          return performance.now() - begun; });
        return times.sort((a, b) => a - b)[4]; }"""
    )
    print(f"{took:.0f} ms from click to panel", file=sys.stderr)
    assert took < 1500  # loosely: 150 ms is what is asked of a machine that does nothing else


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [900, 1500])
def test_the_page_names_its_controls_and_fits(browser, pair, problem, tmp_path_factory, scheme, width):
    """By axe-core: no serious finding; nothing wider than the window."""
    home = tmp_path_factory.mktemp("page")
    bench = wb.bench(pair, problem)
    bench.select(rectangle=(0, 0, 1, 3))
    bench.scale(0.0)
    page, trouble = open_page(browser, bench.save(home / "b.html"), width=width, scheme=scheme)
    page.locator(".said.action .strip button").nth(2).click()
    page.screenshot(path=home / "page.png", full_page=True)
    assert trouble == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    serious(page)
    page.context.close()


def test_the_live_page_names_its_controls(page):
    serious(page, ".lens.bench")


def serious(page: Page, context: str | None = None) -> None:
    """No finding of axe-core that is serious or critical."""
    results = Axe().run(page, context=context).response
    assert [
        (one["id"], [node["html"][:160] for node in one["nodes"][:3]])
        for one in results["violations"]
        if one["impact"] in ("serious", "critical")
    ] == []


def test_the_served_page_wants_its_token(live, browser):
    page, _ = live
    where = page.url.split("?")[0]
    if "lab" in where:
        where = where.split("/lab")[0] + "/api/contents"
    context = browser.new_context()
    answer = context.request.get(where, max_redirects=0)
    assert answer.status in (302, 403)
    context.close()
