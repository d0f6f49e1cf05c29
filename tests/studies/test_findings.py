"""The page of findings: the committed one is what the committed tables say, every sentence with its interval."""

import json
import re
import shutil
from pathlib import Path

import pytest

from workbench.errors import InputError
from workbench.studies.findings import OPEN, findings, main, sentences

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "analyses" / "FINDINGS.md"


@pytest.fixture
def folders(monkeypatch):
    """Those that the page says it is made from."""
    monkeypatch.chdir(ROOT)
    call = re.search(r"FINDINGS\.md ([\w/ ]+)`", PAGE.read_text(encoding="utf-8"))
    assert call
    return [Path(name) for name in call[1].split()]


def test_the_page_is_what_the_tables_say(folders, tmp_path):
    assert findings(folders) == PAGE.read_text(encoding="utf-8")
    assert main([str(tmp_path / "page.md"), *map(str, folders)]) == 0
    assert (tmp_path / "page.md").read_bytes() == PAGE.read_bytes()


def test_no_sentence_is_without_interval_problems_and_command():
    bullets = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("- ")]
    assert len(bullets) == len(sentences())
    for bullet in bullets:
        assert re.search(r"\[-?[\d.e-]+, -?[\d.e-]+\], \d+ problems", bullet), bullet
        assert re.search(r"`workbench figures \w+`$", bullet), bullet
        assert ("would find" in bullet) == ("**undecided**" in bullet), bullet


def changed(tmp_path, change):
    """A copy of the bundled pair's manifests, one of its claims another."""
    for file in (ROOT / "figures").glob("*.json"):
        shutil.copy(file, tmp_path)
    file = tmp_path / "tables2_4_replay.json"
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
    line = "- Replay improves the RLVR model (Pass@1, points): **holds** on `shapes`, 5.00 [4.00, 6.00], 300 problems."
    assert line in body
    assert "Replay improves" not in undecided


def test_missing_numbers_and_mixed_pairs_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no manifests of figures; make some: workbench figures --out"):
        findings([tmp_path])
    changed(tmp_path, lambda manifest: manifest["claims"].clear())
    with pytest.raises(InputError, match="make it first: workbench figures tables2_4_replay"):
        findings([tmp_path])
    changed(tmp_path, lambda manifest: manifest["pair"].update(pair="mine"))
    with pytest.raises(InputError, match="holds figures of mine, shapes; give each pair a folder"):
        findings([tmp_path])
