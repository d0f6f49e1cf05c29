"""A bench whose kernel is restarted, and one whose tab is closed while it works, in a real JupyterLab."""

import json
from pathlib import Path

import pytest
from bench_pages import drag, in_lab, run_cell, said
from jupyter_client.blocking.client import BlockingKernelClient
from playwright.sync_api import Browser

import workbench as wb
from workbench.views.tables import visible

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
CELL = """import workbench as wb
from workbench.models.identity import fingerprint
pair = wb.load_pair('shapes')
before = [fingerprint(anatomy.model) for anatomy in (pair.base, pair.rlvr)]
bench = wb.bench(pair, wb.load_problems('shapes', limit=1)[0])
bench"""
ASKED = """import json
error = bench.job.result() and bench.error
after = [fingerprint(anatomy.model) for anatomy in (pair.base, pair.rlvr)]
hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for a in (pair.base, pair.rlvr) for m in a.model.modules())
print(json.dumps([after == before, hooks, error, bench.trial.title, bench.trial.text]))"""


def test_a_kernel_that_is_restarted_is_told_in_words_and_the_cell_gives_a_bench_again(
    browser: Browser, tmp_path
):
    with in_lab(browser, tmp_path, CELL) as (page, trouble):
        page.locator("[data-jp-item-name=restart]").first.click()
        page.locator(".jp-Dialog .jp-mod-accept").click()
        page.locator(".bench .status.wrong", has_text="Run the cell again").wait_for()
        assert page.locator(".bench button[name=draw]").is_disabled()
        words = page.locator(".bench .words button").last
        words.click()  # what is read stays readable
        assert words.get_attribute("aria-current") == "true"
        run_cell(page)
        page.locator(".bench .status.wrong").wait_for(state="detached")
        page.locator(".lens.bench .strip button").first.wait_for()
        drag(page, (0.1, 0.1), (0.9, 0.9))
        page.locator(".bench button[name=zero]").click()
        page.locator(".bench .answers .title", has_text="zeroed").wait_for()
        pair, problem = wb.load_pair("shapes"), wb.load_problems("shapes", limit=1)[0]
        prompt = pair.encode(problem)
        cells = wb.Mask.of((prompt.kinds == 1).expand(pair.depth, -1))
        (answer,) = wb.decode(
            pair, problem, intervention=wb.Scale(0.0, layers=tuple(range(pair.depth)), cells=cells)
        )
        assert said(page, "action") == "".join(visible(pair.decode_token(i)) for i in answer.ids)
        assert trouble == []


def test_a_tab_that_is_closed_while_it_works_leaves_the_models_as_they_were(browser: Browser, tmp_path: Path):
    with in_lab(browser, tmp_path, CELL) as (page, _):
        drag(page, (0.1, 0.1), (0.9, 0.9))
        page.locator(".bench button[name=replay]").click()
        page.locator(".bench .status", has_text="working").wait_for()
        page.close()
        (connection,) = (tmp_path / "runtime").glob("kernel-*.json")
        client = BlockingKernelClient(connection_file=str(connection))
        client.load_connection_file()
        client.start_channels()
        printed: list[str] = []
        try:
            client.wait_for_ready(60)
            client.execute_interactive(
                ASKED,
                timeout=120,
                output_hook=lambda message: printed.append(message["content"].get("text", "")),
            )
        finally:
            client.stop_channels()
        same, hooks, error, title, text = json.loads("".join(printed))
        assert (same, hooks, error) == (True, 0, None)
        assert title.startswith("tokens")
        assert text
