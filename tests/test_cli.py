"""The commands, as typed: they exit with the right code, say what is wrong, and never print a traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

PARITY = Path(__file__).parent / "parity"


def workbench(*arguments: str, **options):
    command = [sys.executable, "-m", "workbench.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, **options)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny pair on disk."""
    pair, home = tiny.pair("qwen2_5_vl"), tmp_path_factory.mktemp("pair")
    for name, anatomy in (("base", pair.base), ("rlvr", pair.rlvr)):
        anatomy.model.save_pretrained(home / name)
    pair.processor.save_pretrained(home / "base")
    return home


def test_importing_is_instant_and_loads_nothing_heavy():
    program = (
        "import sys; import workbench; heavy = {'torch', 'transformers', 'nnsight', 'plotly', 'pandas', 'numpy'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); print(workbench.__version__)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout


def test_help_loads_nothing_heavy():
    program = (
        "import sys; from workbench import cli; sys.argv = ['workbench', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'nnsight', 'plotly', 'pandas', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    for command in ("study", "conform", "doctor", "organism"):
        assert command in done.stdout


def test_study_on_own_models(folders, tmp_path):
    (tmp_path / "mine").mkdir()
    for i in range(3):
        tiny.image(seed=i).save(tmp_path / "mine" / f"{i}.png")
    out = tmp_path / "run"
    models = ("--base", str(folders / "base"), "--rlvr", str(folders / "rlvr"))
    done = workbench("study", *models, "--problems", str(tmp_path / "mine"), "--out", str(out), "--bins", "2")
    assert done.returncode == 0, done.stderr
    assert "claim" in done.stdout
    assert str(out / "report.html") in done.stdout.replace("\n", "")
    again = workbench("study", *models, "--problems", str(tmp_path / "mine"), "--out", str(out))
    assert again.returncode == 2
    assert "exists; name another folder" in again.stderr
    assert "Traceback" not in again.stderr + done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("study", "--pair", "shaps"), "did you mean 'shapes'"),
        (("study", "--problems", "shpes"), "shapes"),
        (("study", "--split", "tset"), "`split` is 'tset'"),
        (("study", "--limit", "0"), "`limit` is 0"),
        (("study", "--base", "nowhere/none"), "`rlvr` missing"),
        (("study", "--dtype", "float8"), "float8"),
        (("study", "--out", "/dev/null/run"), "can't be written"),
        (("conform", "nowhere"), "nowhere"),
        (("organism", "train", "--recipe", "none.yaml"), "can't be read"),
        (("organism", "evaluate", "--folder", "nowhere"), "holds no model"),
        (("stud",), "No such command"),
    ],
)
def test_bad_input(arguments, message, tmp_path):
    done = workbench(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr.replace("\n", " "), done.stderr
    assert "Traceback" not in done.stderr


def test_conform_exits_by_what_it_found():
    assert workbench("conform", str(PARITY / "lens")).returncode == 0
    assert workbench("conform", str(PARITY / "lens"), "--tolerance", "1e-30").returncode == 1
    other = workbench("conform", str(PARITY / "token_replay"))
    assert other.returncode == 2
    assert "not supported yet" in other.stdout


def test_doctor_says_what_works():
    done = workbench("doctor")
    assert done.returncode in (0, 1)
    assert "torch" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a child process")
def test_ctrl_c_leaves_no_traceback_and_no_run(folders, tmp_path):
    (tmp_path / "mine").mkdir()
    for i in range(300):
        tiny.image(seed=i).save(tmp_path / "mine" / f"{i}.png")
    models = ("--base", str(folders / "base"), "--rlvr", str(folders / "rlvr"))
    arguments = (
        "study",
        *models,
        "--problems",
        str(tmp_path / "mine"),
        "--limit",
        "300",
        "--out",
        str(tmp_path / "run"),
    )
    command = [sys.executable, "-m", "workbench.cli", *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    until = time.time() + 120
    while not list(tmp_path.glob(".study-*/trace-*")) and time.time() < until:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, out + err
    assert "Traceback" not in out + err
    assert "the same command goes on from there" in err
    assert not (tmp_path / "run").exists()
