"""What is kept is named by the code that made it: a change of a number makes it anew, a change of words or pictures does not."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from workbench import digests, runs


class TestCode:
    @pytest.fixture
    def package(self, tmp_path, monkeypatch) -> Path:
        """A copy of the package's code, which `versions` is made to read."""
        home = tmp_path / "workbench"
        real = Path(digests.__file__).parent
        shutil.copytree(
            real, home, ignore=lambda _, names: [n for n in names if n in ("weights", "__pycache__")]
        )
        monkeypatch.setattr(digests, "__file__", str(home / "digests.py"))
        return home

    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            ("replay/descent.py", "_DIVERGED = 1e3", "_DIVERGED = 1e4"),
            ("lens/blocks.py", "STRETCH = 64", "STRETCH = 32"),
            ("selection.py", "tau=0.4", "tau=0.5"),
        ],
    )
    def test_other_numbers_make_other_results(self, package, file, old, new):
        first = digests.versions.__wrapped__()
        assert digests.versions.__wrapped__() == first
        code = (package / file).read_text()
        assert old in code
        (package / file).write_text(code.replace(old, new))
        changed = digests.versions.__wrapped__()
        assert {name for name in first if changed[name] != first[name]} == {"workbench"}

    @pytest.mark.parametrize(
        ("file", "line"),
        [
            ("views/markup.py", "WIDTH = 3"),
            ("studies/report.py", "x = 1"),
            ("replay/descent.py", "# a comment"),
        ],
    )
    def test_what_changes_no_number_keeps_them(self, package, file, line):
        first = digests.versions.__wrapped__()
        code = (package / file).read_text()
        (package / file).write_text(f"{code}\n{line}\n")
        assert digests.versions.__wrapped__() == first

    def test_a_docstring_keeps_them(self, package):
        first = digests.versions.__wrapped__()
        file = package / "replay" / "descent.py"
        code = file.read_text()
        assert code.startswith('"""')
        file.write_text('"""Other words. ' + code[3:])
        assert digests.versions.__wrapped__() == first


def test_a_kept_table_is_made_again_when_the_code_changed(tmp_path, monkeypatch):
    made = []

    def make():
        made.append(1)
        return [pd.DataFrame({"x": [len(made)]})]

    for expected in (1, 1):
        assert runs.kept(tmp_path, {"a": 1}, ["t"], make)[0]["x"].item() == expected
    monkeypatch.setattr(runs, "versions", lambda: {"workbench": "other code"})
    assert runs.kept(tmp_path, {"a": 1}, ["t"], make)[0]["x"].item() == 2
