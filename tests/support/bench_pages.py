"""A bench in a real browser: in JupyterLab, and in the page that ``workbench bench`` serves."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from browser import window
from playwright.sync_api import Browser, Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from served import TOKEN, free_port, server

LAB = ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]


def page_at(browser: Browser, url: str, scheme: str = "light", width: int = 1500) -> tuple[Page, list[str]]:
    """A window at an address, and the list that its errors are written to."""
    trouble: list[str] = []
    page = window(browser, scheme, width, 1000, accept_downloads=True)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(url)
    return page, trouble


@contextmanager
def in_lab(
    browser: Browser, home: Path, cell: str, *, scheme: str = "light", width: int = 1500
) -> Iterator[tuple[Page, list[str]]]:
    """JupyterLab with a notebook of one cell, which has run and shows a bench."""
    port = free_port()
    where = f"http://127.0.0.1:{port}"
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(
        nbformat.v4.new_notebook(metadata=spec, cells=[nbformat.v4.new_code_cell(cell)]), home / "a.ipynb"
    )
    command = ["jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root", *LAB]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={home}"]
    with server(command, f"{where}/api/status?token={TOKEN}", home=home):
        page, trouble = page_at(browser, f"{where}/lab/tree/a.ipynb?token={TOKEN}", scheme, width)
        run_cell(page)
        page.locator(".lens.bench .strip button").first.wait_for()
        yield page, trouble
        page.context.close()


def run_cell(page: Page, attempts: int = 12) -> None:
    """Run the notebook's first cell, one that takes a second or more, once the kernel is idle.

    JupyterLab shows a kernel as idle before the notebook has it, and drops what is run in that moment without
    a word; such a cell never shows that it runs, so the keys are pressed again.
    """
    first = page.locator(".jp-CodeCell").first
    for attempt in range(1, attempts + 1):
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        first.locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        try:
            first.locator(".jp-InputPrompt", has_text="[*]").wait_for(timeout=5_000)
            return
        except PlaywrightTimeout:
            if attempt == attempts:
                raise


@contextmanager
def on_its_own(
    browser: Browser, home: Path, arguments: list[str], *, scheme: str = "light", width: int = 1500
) -> Iterator[tuple[Page, list[str]]]:
    """The page that ``workbench bench`` serves."""
    port = free_port()
    where = f"http://127.0.0.1:{port}"
    command = ["workbench.interfaces.cli", "bench", "--no-browser", "--port", str(port), *arguments]
    command += ["--theme", scheme]
    with server(command, f"{where}/static/favicon.ico", home=home):
        page, trouble = page_at(browser, f"{where}/?token={TOKEN}", scheme, width)
        page.locator(".lens.bench .strip button").first.wait_for()
        yield page, trouble
        page.context.close()


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Over the picture, in shares of its width and height."""
    overlay = page.locator(".bench .overlay").first
    overlay.scroll_into_view_if_needed()
    box = overlay.bounding_box()
    assert box
    for number, (x, y) in enumerate((start, end)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        page.mouse.down() if number == 0 else page.mouse.up()


def said(page: Page, who: str) -> str:
    """The tokens of an answer, as the page has them."""
    return "".join(page.locator(f".said.{who} .strip button").all_text_contents())
