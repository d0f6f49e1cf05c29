"""The command line, run in this process."""

import sys

import pytest

from workbench.interfaces import cli


@pytest.fixture
def workbench(monkeypatch, capfd, tmp_path):
    """Runs a command line in this process, in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["workbench", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, *capfd.readouterr()

    return run
