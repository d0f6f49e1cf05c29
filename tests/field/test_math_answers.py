"""Protects from mathematical answers that are all judged wrong because the process that compares them is no longer there."""

import os
import subprocess
import sys

import pytest

from workbench.errors import InputError
from workbench.problems.math_client import MathWorker

SCRIPT = r"""
print("ran")
from workbench.problems.answers import verify
print(verify(r"\boxed{x+x}", "2x", "math"))
print(verify(r"\boxed{x^2}", "2x", "math").correct)
"""
SAID = "ran\nOutcome(correct=True, answer='x+x', how='boxed, expressions')\nFalse\n"


def run(*arguments: str, given: str | None = None) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_a_script_without_a_main_guard_runs_once_and_its_answers_are_right(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run(str(tmp_path / "script.py"))
    assert (done.returncode, done.stdout) == (0, SAID), done.stderr


def test_a_program_read_from_standard_input_runs_once_and_its_answers_are_right():
    done = run("-", given=SCRIPT)
    assert (done.returncode, done.stdout) == (0, SAID), done.stderr


def test_a_folder_with_modules_named_like_the_libraries_does_not_hide_them(tmp_path):
    (tmp_path / "sympy.py").write_text("raise ImportError('mine')")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-P", "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert (done.returncode, done.stdout) == (0, SAID), done.stderr


def test_a_process_that_cannot_start_is_an_error_and_not_a_wrong_answer():
    worker = MathWorker("workbench.problems.nowhere")
    with pytest.raises(
        InputError, match=r"could not be started \(.*No module named workbench.problems.nowhere"
    ):
        worker.ask("equal", "x", "x", seconds=5)
    assert worker.process is None


def test_after_a_question_that_ends_the_process_the_next_one_is_answered():
    worker = MathWorker()
    try:
        assert worker.ask("equal", "x+x", "2x", seconds=60) is True
        assert worker.process is not None
        worker.process.kill()
        worker.process.wait()
        assert worker.ask("equal", "x+x", "2x", seconds=60) is True
        with pytest.raises(TimeoutError):
            worker.ask("equal", "x+x", "2x", seconds=0)
        assert worker.ask("equal", "x+x", "3x", seconds=60) is False
        assert worker.ask("equal", "x +", "3x", seconds=60) is None
    finally:
        worker.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_program_asks_a_process_of_its_own():
    from workbench.problems.answers import verify

    assert verify(r"\boxed{x+x}", "2x", "math").correct
    child = os.fork()
    if child == 0:
        right = (
            verify(r"\boxed{y+y}", "2y", "math").correct and not verify(r"\boxed{y}", "2y", "math").correct
        )
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert verify(r"\boxed{z+z}", "2z", "math").correct
