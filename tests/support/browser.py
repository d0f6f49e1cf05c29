"""A real Chromium: the fixture ``browser``, which conftest hands to every test.

Without a Chromium such tests are skipped; with WORKBENCH_REQUIRE_BROWSER=1 they fail instead, so that a
machine that must have one can't pass by lacking it.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Page, Request, sync_playwright

ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str | None:
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "chrome"))
    return os.environ.get("BROWSER_PATH") or next(filter(None, found), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        if os.environ.get("WORKBENCH_REQUIRE_BROWSER") == "1":
            pytest.fail("no Chromium found, and WORKBENCH_REQUIRE_BROWSER=1: install one or set BROWSER_PATH")
        pytest.skip("no Chromium found: install one or set BROWSER_PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def window(browser: Browser, scheme: str, width: int, height: int, **settings: Any) -> Page:
    """An empty page in a window of its own."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        **settings,
    )
    page = context.new_page()
    page.set_default_timeout(120_000)  # a loaded machine takes long over plotly.js
    return page


def open_page(
    browser: Browser, file: Path, *, width: int = 1280, scheme: str = "light"
) -> tuple[Page, list[str]]:
    """The file in an offline window, and the list that everything that goes wrong in it is written to."""
    trouble: list[str] = []
    page = window(browser, scheme, width, 900, offline=True)
    page.on("console", lambda message: trouble.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on("requestfailed", lambda request: trouble.append(f"failed: {request.url[:100]}"))

    def ask(dialog: Dialog) -> None:
        trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def fetch(request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            trouble.append(f"request: {request.url[:100]}")

    page.on("dialog", ask)
    page.on("request", fetch)
    page.goto(file.as_uri())
    return page, trouble


def wait_until(page: Page, expression: str, seconds: float = 120) -> None:
    """Poll from outside: the page's content security policy forbids Playwright's own waiting, which evaluates text."""
    until = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < until, f"never true: {expression}"
        page.wait_for_timeout(50)
