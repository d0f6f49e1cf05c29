"""Offline, one thread, the browser and the tiny pairs that many tests share."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from browser import browser  # noqa: F401  (a fixture: one browser for all modules)
from xdist.scheduler import LoadFileScheduling

from workbench.models.pairs import ModelPair

torch.set_num_threads(1)


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
