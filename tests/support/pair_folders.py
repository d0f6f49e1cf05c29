"""A tiny pair in two folders that tests may damage, and how it is loaded."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny

from workbench.errors import InputError
from workbench.models import loading
from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("pair")
    for seed, role in enumerate(("base", "rlvr")):
        tiny.model("qwen2_5_vl", seed).save_pretrained(home / role)
        tiny.processor("qwen2_5_vl").save_pretrained(home / role)
    return home


@pytest.fixture
def home(saved, tmp_path) -> Path:
    """Folders `base` and `rlvr` of a tiny pair, each with its processor, to be changed."""
    return shutil.copytree(saved, tmp_path / "pair")


@pytest.fixture
def no_forward(monkeypatch) -> None:
    """Whatever runs a model is a failure."""
    monkeypatch.setattr(loading, "probe", lambda anatomy: pytest.fail("a model ran"))


def load(home: Path, **more: Any) -> ModelPair:
    return load_pair(base=home / "base", rlvr=home / "rlvr", device="cpu", **more)


def refused(home: Path, message: str, **more: Any) -> None:
    with pytest.raises(InputError, match=message):
        load(home, **more)
