"""The page in a real browser: it is whole, silent, offline, and its controls show what the trace says."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from browser import open_page, wait_until
from playwright.sync_api import Browser, Page
from synthetic import SCRIPT, pictured_trace, synthetic_followed, synthetic_trace

from workbench.analysis.shift import stratified_shift
from workbench.analysis.verdicts import Claim
from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.experiments.outcomes import drift_table, summarise_responses
from workbench.interventions import Patch, Replay
from workbench.selection import LOW
from workbench.studies.report import write_report
from workbench.tracing.agreement import agreement_by_layer
from workbench.tracing.follow import Followed
from workbench.tracing.lens_trace import LensTrace


@pytest.fixture(scope="module")
def trace() -> LensTrace:
    return pictured_trace()


@pytest.fixture(scope="module")
def tables(trace) -> dict:
    shift = stratified_shift(trace, resamples=50)
    return {"trace": trace, "shift": shift, "agreement": agreement_by_layer(trace, resamples=50)}


@pytest.fixture(scope="module")
def followed(trace) -> Followed:
    return synthetic_followed(trace, problems=4, tokens=8)


@pytest.fixture(scope="module")
def file(tables, followed, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    spec = {"command": "study --limit 6", "machine": {"cores": 2}}
    return write_report(path, **tables, followed=followed, spec=spec, problems=4)


@pytest.fixture(scope="module")
def opened(browser: Browser, file: Path) -> Iterator[tuple[Page, list[str]]]:
    page, trouble = open_page(browser, file)
    yield page, trouble
    page.context.close()


@pytest.fixture
def page(opened) -> Iterator[Page]:
    """Whatever a test does in the page must happen silently."""
    page, trouble = opened
    yield page
    assert trouble == []


# ---- in a browser


@pytest.mark.browser
def test_the_verdict_comes_first_and_prompts_are_text(page, tables):
    assert page.locator("h1").inner_text() == "What RLVR changed in a <pair>"
    assert page.locator("header .lead").inner_text() == tables["shift"].verdict
    question = page.locator("#predictions summary .muted").first
    assert question.inner_text() == f"{SCRIPT} How many <b>squares</b>?"
    assert question.locator("b").count() == 0
    assert page.locator("#verdicts tbody tr").count() == len(
        {(v.kind, v.key["scope"]) for v in tables["shift"].verdicts}
    )
    assert page.locator("footer > dl dd").all_inner_texts()[-1] == "study --limit 6"
    assert page.locator("footer details dd").all_text_contents()[-1] == "2"


@pytest.mark.browser
def test_the_explorer_is_in_the_page(page):
    explorer = page.locator("#explorer .lens")
    assert explorer.locator(".picker option").all_inner_texts() == [f"{i + 1} of 4 · p{i}" for i in range(4)]
    assert page.locator("#explorer .note").inner_text().startswith("The first 4 of 6 problems, not picked.")
    explorer.locator('.overlay [data-position="9"]').click()
    page.keyboard.press("ArrowRight")  # keys work where the focus is, in a page of many parts
    assert "image, row 2, column 4" in explorer.locator(".where").inner_text()
    assert explorer.locator(".pin").count() > 0
    assert "Exact at every layer." in explorer.locator(".charts .about").inner_text()
    before = explorer.locator(".where").inner_text()
    page.locator("#provenance-title").click()
    page.keyboard.press("n")
    assert explorer.locator(".where").inner_text() == before
    for part in ("jumps", "pins"):  # the page's own style for sections stays outside
        assert explorer.locator(f".{part}").evaluate("e => getComputedStyle(e).paddingTop") == "0px"


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
    assert not page.locator(".lens .toolbar").is_visible()
    page.emulate_media(media="screen", color_scheme="light")


# ---- the file


def test_the_first_screen_tells_a_changed_answer_and_claims_start_with_counts(tables, tmp_path):
    greedy = [(f"p{i}", name, -1) for name in ("base", "rlvr", "back") for i in range(6)]
    responses = pd.DataFrame(greedy, columns=["problem", "intervention", "sample"])
    gained = (responses["problem"] == "p2") & (responses["intervention"] == "rlvr")
    responses = responses.assign(text="3", answer="3", correct=False)
    responses.loc[gained, ["text", "answer", "correct"]] = ["4 & more", "4", True]
    summary = summarise_responses(responses, samples=0, pass_at=[])
    found = Interval(1.0, 0.5, 1.5)
    claims = [
        Claim("one thing", "Table 1", "points", found, 64),
        Claim("another thing", "ablations", "points", found, 64, above=False),
        Claim("an open thing", "Table 2", "points", Interval(0.2, -0.9, 1.1), 64),
        Claim("an open factor", "Table 2", "times", Interval(1.1, 0.8, 1.4), 64, bound=1, factor=True),
    ]
    drift = [
        {"intervention": "back", "scope": "last layer", "stratum": s, "before": 2.0, "kl": 1.0, "problem": i}
        for s in ("low", "high")
        for i in range(6)
    ]
    spec = {"settings": {"interventions": {"back": {"direction": "reverse"}}}}
    outcomes = (summary, drift_table(pd.DataFrame(drift), resamples=20))
    path = write_report(
        tmp_path / "r.html", **tables, claims=claims, outcomes=outcomes, responses=responses, spec=spec
    )
    text = path.read_text()
    assert "Base: <b>3</b> (wrong), RLVR: <b>4</b> (right)" in text
    assert "1 hold, 1 do not hold, 2 are undecided." in text
    # 2 / 2 * (1 + t(0.8) / t(0.975)) at 63 degrees of freedom, and likewise of logarithms
    assert text.count("power 80% from") == 2
    assert "power 80% from 1.42" in text
    assert "power 80% from a factor of 1.49" in text
    assert "<summary>Ablations: 1 do not hold" in text
    assert '<th scope="row">back <small>on the base model</small></th><td>0 of 6</td>' in text
    assert '<th scope="row">base</th><td>1 of 6</td>' in text
    titles = re.findall(r"<figure><h3>(.*?)</h3>", text)
    assert len(titles) == len(set(titles)) > 10


def test_the_page_says_which_cells_are_low(tables, tmp_path):
    rows = [(f"p{i}", name, -1) for name in ("base", "rlvr", "tokens, low", "patch, low") for i in range(6)]
    responses = pd.DataFrame(rows, columns=["problem", "intervention", "sample"])
    responses = responses.assign(text="3", answer="3", correct=True)
    drift = [
        {
            "intervention": "tokens, low",
            "scope": "last layer",
            "stratum": s,
            "before": 2.0,
            "kl": 1.0,
            "problem": i,
        }
        for s in ("low", "high")
        for i in range(6)
    ]
    conditions = {"tokens, low": Replay(), "patch, low": Patch(threshold="quantile", tau=0.2)}
    spec = {"settings": {"interventions": {name: c.described for name, c in conditions.items()}}}
    outcomes = (
        summarise_responses(responses, samples=0, pass_at=[]),
        drift_table(pd.DataFrame(drift), resamples=20),
    )
    claims = [Claim("one thing", "Table 1", "points", Interval(1.0, 0.5, 1.5), 64)]
    page = write_report(
        tmp_path / "r.html", **tables, claims=claims, outcomes=outcomes, responses=responses, spec=spec
    )
    text = html.unescape(page.read_text())
    low = (
        "entropy at most 0.4 of the layer's largest; but the 20% of a layer's cells that are lowest in entropy "
        "(patch, low)"
    )
    drifted, lowest = LOW.rule, "stratum 0: lowest fifth of base entropy, by layer and kind"
    captions = "".join(re.findall(r"<caption>.*?</caption>", text, re.DOTALL))
    assert captions.count(lowest) == 3 + 1  # a table for each kind of token, and the claims
    assert f"of drift, low: {drifted}; in names of interventions, low: {low}." in captions
    assert f"the plain model's (RLVR; base for what acts on the base model). Low: {low}." in captions
    figures = re.findall(r"<figure><h3>(.*?)</h3>.*?<figcaption>(.*?)</figcaption>", text, re.DOTALL)
    notes = dict(figures)
    assert notes["Drift with each intervention in place, last layer"].endswith(
        f"low entropy: {drifted}, whatever an intervention selects; high: the others"
    )
    assert notes["Accuracy of each intervention minus plain RLVR"].endswith(f"low: {low}")
    assert not any("<br>" in note for note in notes.values())
    assert (
        sum(note.endswith(lowest) for note in notes.values()) == 3 * 6
    )  # two heat maps, four by stratum, a kind


def test_the_page_is_one_file_that_fetches_nothing(file):
    text = file.read_text()
    assert [p.name for p in file.parent.iterdir()] == ["report.html"]
    assert SCRIPT not in text
    assert text.count("<script") == text.count("</script>") == 4
    assert "default-src 'none'" in text
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:)", text)


def test_the_default_study_stays_under_ten_megabytes(tmp_path):
    trace = synthetic_trace(problems=64, visual=36, text=40, special=6, depth=8, top_k=8)
    followed = synthetic_followed(trace, problems=6, tokens=24)
    shift = stratified_shift(trace, resamples=5)
    agreement = agreement_by_layer(trace, resamples=5)
    path = write_report(
        tmp_path / "report.html", trace=trace, followed=followed, shift=shift, agreement=agreement
    )
    assert path.stat().st_size < 10e6


def test_a_run_of_text_alone_has_a_page_too(tmp_path):
    trace = synthetic_trace(problems=4, visual=0, special=0)
    shift, agreement = stratified_shift(trace, resamples=5), agreement_by_layer(trace, resamples=5)
    path = write_report(
        tmp_path / "r.html", trace=trace, shift=shift, agreement=agreement, title="Text & <more>"
    )
    text = path.read_text()
    assert "<title>Text &amp; &lt;more&gt;</title>" in text
    assert 'data-tab="visual"' not in text


def test_bad_arguments_are_refused(tables, tmp_path):
    with pytest.raises(InputError, match=r"`problems` is 0, expected at least 1: write_report\(path"):
        write_report(tmp_path / "r.html", **tables, problems=0)
    with pytest.raises(InputError, match="`top_k` is 0"):
        write_report(tmp_path / "r.html", **tables, top_k=0)
    other = synthetic_followed(tables["trace"].select(prompt=1), problems=1, tokens=3)
    with pytest.raises(InputError, match=r"`followed` is of \['p1'\], the trace of \['p0', 'p1', 'p2'\]"):
        write_report(tmp_path / "r.html", **tables, followed=other)
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
