"""Run folders: one process at a time, nothing deleted that is no run, nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.errors import InputError
from workbench.runs import check_output, kept, run_folder

AT_WORK = """
import sys
from pathlib import Path
from workbench.runs import run_folder

out, seed, home = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
with run_folder(out, "study", {"seed": seed}) as work:
    (work / "shard").write_text("half")
    (home / "started").write_text("")
    sys.stdin.readline()
    (work / "run" / "spec.json").write_text("{}")
    (work / "run" / "table.csv").write_text("whole")
"""


def a_run(out, seed=0, **how):
    with run_folder(out, "study", {"seed": seed}, **how) as work:
        (work / "run" / "spec.json").write_text("{}")
        (work / "run" / "table.csv").write_text(str(seed))


@pytest.fixture
def at_work(tmp_path):
    """Another process in the middle of a run of seed 0 at tmp_path/first."""
    command = [sys.executable, "-c", AT_WORK, str(tmp_path / "first"), "0", str(tmp_path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    until = time.time() + 60
    while not (tmp_path / "started").exists() and time.time() < until:
        time.sleep(0.05)
    (tmp_path / "started").unlink()
    yield child
    child.kill()
    child.wait()


def test_equal_runs_at_once_are_refused_and_nothing_is_gutted(at_work, tmp_path):
    with pytest.raises(InputError, match=r"another run is at work on the same settings.*wait for it"):
        a_run(tmp_path / "second")
    with pytest.raises(InputError, match=r"another run is being made at `out` .*first; wait for it"):
        a_run(tmp_path / "first", seed=1)
    a_run(tmp_path / "other", seed=1)  # other settings, another place: nobody's business
    at_work.communicate("\n", timeout=60)
    assert at_work.returncode == 0
    assert (tmp_path / "first" / "table.csv").read_text() == "whole"
    assert (tmp_path / "other" / "table.csv").read_text() == "1"
    a_run(tmp_path / "second")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "other", "second"]


def test_a_killed_run_lets_go_and_leaves_what_it_had(at_work, tmp_path):
    os.kill(at_work.pid, signal.SIGKILL)
    at_work.wait()
    with run_folder(tmp_path / "first", "study", {"seed": 0}) as work:
        assert (work / "shard").read_text() == "half"
        (work / "run" / "spec.json").write_text("{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first"]


def test_two_runs_in_one_process(tmp_path):
    with run_folder(tmp_path / "first", "study", {}) as work:
        with pytest.raises(InputError, match="at work on the same settings"):
            a_run_of_nothing(tmp_path / "second")
        assert work.is_dir()


def a_run_of_nothing(out):
    with run_folder(out, "study", {}):
        pass


def test_what_is_no_run_is_never_replaced(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"no run of the workbench \(it holds notes.txt\)") as caught:
            check_output(mine, overwrite=overwrite)
        assert "overwrite" not in str(caught.value)
        assert "mine-2" in str(caught.value)
    (mine / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(InputError, match="no run of the workbench"):
        check_output(mine, overwrite=True)
    assert (mine / "notes.txt").read_text() == "precious"


def test_a_run_is_replaced_only_when_told_and_says_what_goes(tmp_path):
    out = tmp_path / "run"
    a_run(out)
    with pytest.raises(InputError, match=r"a run of 3 files, 0.0 MB. .* deletes them .* overwrite=True"):
        a_run(out, seed=1)
    (out / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match=r"files that are none of it \(notes.txt\)"):
        a_run(out, seed=1, overwrite=True)
    (out / "notes.txt").unlink()
    (out / ".DS_Store").write_text("litter")
    a_run(out, seed=1, overwrite=True)
    assert (out / "table.csv").read_text() == "1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_an_empty_folder_is_as_good_as_none(tmp_path):
    (tmp_path / "run").mkdir()
    a_run(tmp_path / "run")
    assert (tmp_path / "run" / "table.csv").exists()


def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    a_run(tmp_path / "link")
    assert (tmp_path / "there" / "table.csv").exists()
    assert (tmp_path / "link").is_symlink()


def test_files_and_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; expected a folder"):
        check_output(tmp_path / "file", overwrite=True)
    with pytest.raises(InputError, match="can't be written"):
        check_output(Path("/dev/null/run"))


def test_checking_needs_no_tables_and_no_torch():
    program = (
        "import sys; import workbench.runs; heavy = {'torch', 'pandas', 'numpy'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_kept_tables_are_made_once(tmp_path):
    import pandas as pd

    calls = []

    def make():
        calls.append(1)
        return [pd.DataFrame({"a": [1]})]

    for _ in range(2):
        assert kept(tmp_path, {"x": 1}, ["table"], make)[0]["a"].tolist() == [1]
    assert len(calls) == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"]
