"""The page of findings: the committed one is what the committed tables say, every sentence with its interval."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t
from statsmodels.stats.meta_analysis import combine_effects

from workbench.analysis.verdicts import bracketed
from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.studies.findings import OPEN, findings, main, sentences

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "analyses" / "FINDINGS.md"


@pytest.fixture
def folders(monkeypatch):
    """Those that the page says it is made from."""
    monkeypatch.chdir(ROOT)
    call = re.search(r"FINDINGS\.md ([\w/@. -]+)`", PAGE.read_text(encoding="utf-8"))
    assert call
    return [Path(name) for name in call[1].split()]


def test_the_page_is_what_the_tables_say(folders, tmp_path):
    assert findings(folders) == PAGE.read_text(encoding="utf-8")
    assert main([str(tmp_path / "page.md"), *map(str, folders)]) == 0
    assert (tmp_path / "page.md").read_bytes() == PAGE.read_bytes()


def test_no_sentence_is_without_interval_problems_and_command():
    bullets = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("- ")]
    assert sum(not s.optional for s in sentences()) <= len(bullets) <= len(sentences())
    known = {script.stem for script in (ROOT / "analyses").glob("*.py")}
    for bullet in bullets:
        assert re.search(r"\[-?[\d.e-]+, -?[\d.e-]+\], (\d+ problems|I² \d+%)", bullet), bullet
        assert re.search(r"`(\w+)`$", bullet)[1] in known, bullet
        assert ("(finds " in bullet) == bool(re.search(r"undecided(\*\*)? on", bullet)), bullet


def changed(tmp_path, change):
    """A copy of the bundled pair's manifests, one of its claims another."""
    for file in (ROOT / "figures").glob("*.json"):
        shutil.copy(file, tmp_path)
    file = tmp_path / "replay_power.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    change(manifest)
    file.write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path


def test_a_sentence_follows_its_number(tmp_path):
    def better(manifest):
        row = next(
            row for row in manifest["claims"] if row["measured"] == "Pass@1, tokens, low − rlvr, points"
        )
        row |= {"estimate": 5.0, "estimate_low": 4.0, "estimate_high": 6.0, "adjusted": "holds"}

    page = findings([changed(tmp_path, better)])
    body, undecided = page.split(f"## {OPEN}")
    line = next(line for line in body.splitlines() if line.startswith("- Replay, set on validation problems"))
    assert ": **holds** on A, 5.00 [4.00, 6.00], 300 problems." in line
    assert "Replay, set on validation" not in undecided


def test_a_claim_that_cannot_be_tested_on_a_pair_is_not_undecided_there(tmp_path):
    def narrowed(manifest):
        row = next(row for row in manifest["claims"] if row["claim"] == "replay undoes narrowing")
        row |= {"estimate": 2.0, "estimate_low": -1.0, "estimate_high": 5.0, "adjusted": "is undecided"}

    (tmp_path / "tested").mkdir()
    pages = [findings([ROOT / "figures"]), findings([changed(tmp_path / "tested", narrowed)])]
    assert ["undoes at least half" in page for page in pages] == [False, True]
    assert "(Pass@16, points): **undecided** on A, 2.00 [-1.00, 5.00]" in pages[1]


def other_pair(folder, name, seed):
    """The bundled pair's manifests as those of another, every number moved; text alone, so that some are missing."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for file in (ROOT / "figures").glob("*.json"):
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not manifest.get("claims"):
            continue
        manifest["pair"]["pair"] = name
        manifest["pair"]["rlvr"]["weights"] = name
        for row in manifest["claims"]:
            factor = np.exp(rng.normal(0, 0.3)) if "(a factor)" in row["measured"] else 1.0
            shift = 0.0 if "(a factor)" in row["measured"] else rng.normal(0, 0.5)
            for end in ("estimate", "estimate_low", "estimate_high"):
                row[end] = None if row[end] is None else factor * row[end] + shift
        (folder / file.name).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def test_two_pairs_stand_one_by_one(tmp_path):
    second = other_pair(tmp_path / "smol", "smol", 1)
    (second / "entropy_shift.json").unlink()
    page = findings([ROOT / "figures", second])
    assert re.search(
        r"Measured on 2 small pairs \(problems\): A = `shapes` \(\d+ to 300\), B = `smol` \(\d+ to 300\); A",
        page,
    )
    assert "A and B have one base model." in page
    assert f"`--pair smol --out {second.as_posix()}`" in page
    for line in page.splitlines():
        if not line.startswith("- "):
            continue
        own = len(re.findall(r" on [AB],", line))
        assert own == (1 if "`entropy_shift`" in line else 2), line
        assert len(re.findall(r"\[-?[\d.e-]+, -?[\d.e-]+\], \d+ problems", line)) == own, line
        assert "together" not in line


def test_three_pairs_are_pooled_and_fill_two_pages_at_most(tmp_path):
    folders = [
        ROOT / "figures",
        *(other_pair(tmp_path / n, n, i) for i, n in enumerate(("smol", "third"), 1)),
    ]
    page = findings(folders)
    bullets = [line for line in page.splitlines() if line.startswith("- ")]
    assert all(re.search(r"\*\* on \d of 3", line) for line in bullets)
    assert all(re.search(r", of A [^ ]+, B [^ ]+, C [^ ]+(\.| )", line) for line in bullets)
    assert all(re.search(r"together .*\[-?[\d.e-]+, -?[\d.e-]+\], I² \d+%", line) for line in bullets)
    measured = "Pass@1, rlvr − sft, points"
    rows = []
    for folder in folders:
        claims = json.loads((folder / "coverage.json").read_text(encoding="utf-8"))["claims"]
        rows.append(next(row for row in claims if row["measured"] == measured))
    errors = [
        (row["estimate_high"] - row["estimate_low"]) / 2 / t.ppf(0.975, row["problems"] - 1) for row in rows
    ]
    theirs = combine_effects(
        np.array([row["estimate"] for row in rows]),
        np.array(errors) ** 2,
        method_re="iterated",
        use_t=True,
        maxiter=1000,
    )
    low, high = theirs.conf_int()[1]
    line = next(line for line in bullets if "as much training without RL does" in line)
    assert (
        f"together {bracketed(Interval(theirs.mean_effect_re, low, high))}, I² {max(0, theirs.i2):.0%}"
        in line
    )
    height = sum(math.ceil(len(line) / 110) if line else 1 for line in page.splitlines())
    assert height <= 2 * 66  # lines of a printed page in small type


def test_a_sentence_that_no_pair_has_yet_is_left_out_where_it_may_be(tmp_path):
    assert any(sentence.optional for sentence in sentences())
    words = next(s.says for s in sentences() if s.optional and s.of == "readings")
    assert words[1:] not in findings([ROOT / "figures"])
    manifest = json.loads((ROOT / "figures" / "readings.json").read_text(encoding="utf-8"))
    manifest["pair"]["pair"] = "smol"
    manifest["pair"]["rlvr"]["weights"] = "its own"
    for row in manifest["claims"]:
        row["measured"] = row["measured"].replace("visual tokens", "text tokens")
    (tmp_path / "readings.json").write_text(json.dumps(manifest), encoding="utf-8")
    page = findings([ROOT / "figures", tmp_path])
    line = next(line for line in page.splitlines() if words[1:] in line)
    assert " on B," in line
    assert " on A," not in line


def test_missing_numbers_and_mixed_pairs_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no manifests of figures; make some: workbench figures --out"):
        findings([tmp_path])
    changed(tmp_path, lambda manifest: manifest["claims"].clear())
    with pytest.raises(InputError, match="make it first: workbench figures replay_power"):
        findings([tmp_path])
    changed(tmp_path, lambda manifest: manifest["pair"].update(pair="mine"))
    with pytest.raises(InputError, match="holds figures of mine, shapes; give each pair a folder"):
        findings([tmp_path])


def test_a_pair_counts_once(tmp_path):
    twin = other_pair(tmp_path / "again", "shapes", 1)
    with pytest.raises(InputError, match="is of the pair 'shapes', as another is; it would count twice"):
        findings([ROOT / "figures", twin])
    with pytest.raises(InputError, match="would count twice"):
        findings([ROOT / "figures", ROOT / "figures"])


@pytest.mark.parametrize(
    ("text", "words"), [("{", "is no JSON"), ('{"claims": [1], "pair": "x"}', "names no pair")]
)
def test_a_broken_manifest_is_named(tmp_path, text, words):
    (tmp_path / "coverage.json").write_text(text, encoding="utf-8")
    with pytest.raises(
        InputError, match=rf"coverage\.json {words}.*workbench figures coverage makes it again"
    ):
        findings([tmp_path])
