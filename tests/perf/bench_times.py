"""How long the live bench takes in a real Chromium in JupyterLab, beside what is asked of it.

    python tests/perf/bench_times.py              # both pairs, some minutes
    python tests/perf/bench_times.py --only shapes

Per pair one row each: ``panel``, from a click on a cell of the picture (a word of the prompt where there is no picture) to the
painted panel of predictions; ``answer``, from a click on "Patch base → RLVR" to the painted answer; ``lens``, until the answer's
tokens are coloured and the lens after the action is there too, of which nothing is asked. The clock is the page's own.
The median of five, after one that is not counted; numbers of a machine that does other work besides say little.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from bench_pages import in_lab
from browser import ARGUMENTS, chromium
from playwright.sync_api import Page, sync_playwright

REPEATS = 5
CELLS = {
    # Pictures are resized, so what makes a prompt long is its text: the question, said again and again.
    "shapes": """from dataclasses import replace
import workbench as wb
pair = wb.load_pair('shapes')
problem = wb.load_problems('shapes', limit=1)[0]
times = 1
while len(pair.encode(replace(problem, question=' '.join([problem.question] * times)))) < 300:
    times += 1
bench = wb.bench(pair, replace(problem, question=' '.join([problem.question] * times)))
bench.select(kind='visual')
bench""",
    "smol": """import workbench as wb
pair = wb.load_pair('smol')
bench = wb.bench(pair, wb.load_problems('sums', limit=1)[0])
bench.select(kind='text')
bench""",
}
BOUNDS = {
    ("shapes", "panel"): 0.150,
    ("shapes", "answer"): 2.0,
    ("smol", "panel"): 0.150,
    ("smol", "answer"): 6.0,
}
"""Seconds."""
# Resolves with milliseconds once ``until`` holds and the browser has painted it.
TIMED = """([target, until]) => new Promise((resolve) => {
  const node = [...document.querySelectorAll(target.selector)][target.index];
  const before = document.querySelector(until)?.textContent ?? "";
  const begun = performance.now();
  const painted = () => requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - begun)));
  const changed = () => {
    if ((document.querySelector(until)?.textContent ?? "") === before) return;
    watch.disconnect();
    painted();
  };
  const watch = new MutationObserver(changed);
  watch.observe(document.querySelector(".lens.bench"), { childList: true, subtree: true, characterData: true });
  node.dispatchEvent(new MouseEvent("click", { bubbles: true }));
})"""


def timed(page: Page, selector: str, index: int, until: str) -> float:
    """Seconds from a click until the text of ``until`` is another, and painted."""
    return page.evaluate(TIMED, [{"selector": selector, "index": index}, until]) / 1000


def times_of(page: Page) -> dict[str, list[float]]:
    """All measurements at one bench."""
    picture = page.locator(".bench .overlay [data-position]").count() > 0
    cells = ".bench .overlay [data-position]" if picture else ".bench .words [data-position]"
    page.locator(".bench input[value=look]").check(force=True)
    clicks = [timed(page, cells, index, ".bench .readout") for index in range(1, REPEATS + 2)]
    answers, wholes = [], []
    for number in range(2 * REPEATS + 2):
        name = ("back", "patch")[number % 2]  # by turns, so that nothing is kept of the last one
        begun = time.perf_counter()
        seconds = timed(page, f".bench button[name={name}]", 0, ".bench .answers .title")
        page.wait_for_function("!document.querySelector('.bench').classList.contains('busy')")
        if number % 2:
            answers.append(seconds)
            wholes.append(time.perf_counter() - begun)
    return {"panel": clicks[1:], "answer": answers[1:], "lens": wholes[1:]}


def main(only: str | None = None) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        print(f"{'pair':8}{'what':8}{'tokens':>8}{'median':>10}{'most':>10}{'bound':>10}")
        for pair, cell in CELLS.items():
            if only not in (None, pair):
                continue
            with in_lab(browser, Path(tempfile.mkdtemp()), cell) as (page, trouble):
                page.set_default_timeout(120_000)
                tokens = page.locator(".bench .words button, .bench .overlay [data-position]").count()
                for what, seconds in times_of(page).items():
                    middle, bound = statistics.median(seconds), BOUNDS.get((pair, what))
                    limit = "none" if bound is None else f"{bound:.3g}s"
                    numbers = f"{middle:>9.3f}s{max(seconds):>9.3f}s{limit:>10}"
                    verdict = "" if bound is None else "within" if middle <= bound else "OVER"
                    print(f"{pair:8}{what:8}{tokens:>8}{numbers}  {verdict}", flush=True)
                assert trouble == [], trouble
        browser.close()


if __name__ == "__main__":
    main(sys.argv[2] if sys.argv[1:2] == ["--only"] else None)
