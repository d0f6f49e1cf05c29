"""A sweep on stand-ins, and what it left behind."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from workbench.sweeps import engines
from workbench.sweeps.export import export_sweep
from workbench.sweeps.ledger import Ledger

STANDIN = str(Path(__file__).with_name("sweep_standin.py"))
EXACT = ("cells", "responses", "drift", "interventions")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A pair that is planned but never loaded, five problems, and workers that compute nothing."""
    monkeypatch.setattr(engines, "WORKER", (sys.executable, STANDIN))
    return furnish(tmp_path)


def furnish(home: Path) -> Path:
    """What `spec` names: a pair that is planned but never loaded, and five problems."""
    for role in ("base", "rlvr"):
        (home / role).mkdir()
        (home / role / "config.json").write_text(json.dumps({"num_hidden_layers": 8}))
        (home / role / "model.safetensors").write_bytes(role.encode() * 100)
    rows = [json.dumps({"id": f"q{i}", "question": f"How many? {i}", "answer": "3"}) for i in range(5)]
    (home / "mine.jsonl").write_text("\n".join(rows))
    return home


def spec(
    home: Path,
    interventions: str = "{t: {replay: {tau: [0.2, 0.4]}}}",
    rlvr: Sequence[str] = ("rlvr",),
    **keys: object,
) -> Path:
    """The file of a sweep over pairs of one base; ``rlvr`` names the folders of their other models."""
    pairs = ", ".join(f"{{base: {home}/base, rlvr: {home}/{name}}}" for name in rlvr)
    lines = [
        f"pairs: [{pairs}]",
        f"problems: [{home}/mine.jsonl]",
        "device: cpu",
        f"interventions: {interventions}",
        *(f"{key}: {value}" for key, value in keys.items()),
    ]
    (home / "s.yaml").write_text("\n".join(lines))
    return home / "s.yaml"


def contents(folder: Path) -> dict[str, bytes]:
    tables = export_sweep(folder)
    return {
        f"{name}.{kind}": (tables / f"{name}.{kind}").read_bytes()
        for name in EXACT
        for kind in ("parquet", "csv")
    }


def recorded(folder: Path) -> dict[str, str]:
    with Ledger(folder) as book:
        return {cell.key: told["status"] for cell, told, _ in book.outcomes()}
