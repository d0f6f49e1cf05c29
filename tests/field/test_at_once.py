"""Two that want one folder at the same time share it or are refused; nothing of either is gutted."""

import json
import sqlite3
from typing import Any

import pandas as pd
import pytest
import tiny

import workbench as wb
from workbench.errors import InputError
from workbench.studies.study import study
from workbench.sweeps.ledger import Ledger

HOW: dict[str, Any] = {"top_k": 3, "null_draws": 1, "bins": 2, "resamples": 20}


pytestmark = pytest.mark.usefixtures("no_pictures")


def whole(run) -> bool:
    """Whether every file that the manifest names is there."""
    return all((run / name).is_file() for name in json.loads((run / "manifest.json").read_text()))


def test_an_equal_study_into_another_folder_is_refused_while_one_is_at_work(tiny_pair, tmp_path):
    """Protects from two that share one hidden folder, both say they are done, and one has lost its files."""
    problems, refusals = [tiny.problem(seed=seed) for seed in range(2)], []

    def meanwhile(*_: object) -> None:
        if not refusals:
            with pytest.raises(InputError, match="another run is at work on the same settings") as refused:
                study(tiny_pair, problems, tmp_path / "second", **HOW)
            refusals.append(refused)

    study(tiny_pair, problems, tmp_path / "first", **HOW, progress=meanwhile)
    assert refusals
    assert whole(tmp_path / "first")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first"]
    study(tiny_pair, problems, tmp_path / "second", **HOW)
    assert whole(tmp_path / "second")


def test_two_ablations_that_keep_in_one_folder_find_the_same(tiny_pair, tmp_path):
    """Protects from a kept table that one writes while the other reads it."""
    problems, inner = [tiny.problem(seed=seed) for seed in range(3)], []
    how: dict[str, Any] = {"samples": 1, "max_new_tokens": 3, "resamples": 20, "keep": tmp_path / "keep"}

    def meanwhile(*_: object) -> None:
        if not inner:
            inner.append(None)
            inner[0] = wb.ablate(tiny_pair, problems, [wb.Patch(layers=2)], **how).responses

    outer = wb.ablate(tiny_pair, problems, [wb.Patch(layers=2)], **how, progress=meanwhile).responses
    timed = [name for name in outer if name.endswith("seconds")]
    pd.testing.assert_frame_equal(outer.drop(columns=timed), inner[0].drop(columns=timed))
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".partial")]


def test_a_ledger_that_another_holds_is_said_to_be_held(tmp_path):
    """Protects from half a minute of silence and then the advice to name a folder one may write to."""
    Ledger(tmp_path, write=True).close()
    holder = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    holder.execute("PRAGMA journal_mode=DELETE")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(
            InputError, match=r"database is locked\); another process holds it, or .* network drive"
        ) as refused:
            Ledger(tmp_path, write=True)
        assert "may write to" not in str(refused.value)
    finally:
        holder.close()
    Ledger(tmp_path, write=True).close()
