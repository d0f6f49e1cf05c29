"""Offline, one thread, the browser and the tiny pairs that many tests share."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from browser import browser  # noqa: F401  (a fixture: one browser for all modules)
from xdist.scheduler import LoadFileScheduling

from workbench.models.pairs import ModelPair

torch.set_num_threads(1)


QUICK = (
    "lens/",
    "analysis/test_partial",
    "problems/test_answers",
    "problems/test_zoom",
    "problems/test_shapes.py",
)
QUICK += (
    "views/test_markup",
    "test_estimates",
    "test_package",
    "sweeps/test_spec",
    "models/test_weight_deltas",
)
"""Files of tests, by how their path begins, that load no model: ``pytest -m quick``."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is quick."""
    home = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(home) and str(item.path.relative_to(home)).startswith(QUICK):
            item.add_marker("quick")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """With ``-n``, files go to processes whole and in order, since their fixtures are costly."""
    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture(scope="session")
def pair_of() -> Callable[[str], ModelPair]:
    """Family -> its tiny random pair, built once a session: do not change its weights."""
    return cache(tiny.pair)


@pytest.fixture(scope="session")
def tiny_pair(pair_of: Callable[[str], ModelPair]) -> ModelPair:
    """A tiny random Qwen2.5-VL pair with its processor."""
    return pair_of("qwen2_5_vl")


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """No PNG is drawn: the figures' own tests draw them."""
    monkeypatch.setattr("kaleido.write_fig_from_object_sync", lambda *a, **k: None)
