"""The bench as a page of its own: what ``workbench bench`` leaves for the notebook that voila serves, and what that opens."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.errors import InputError

NOTEBOOK = Path(__file__).with_name("bench.ipynb")
"""Served by voila."""
ASKED = "WORKBENCH_BENCH"
"""The variable of the environment by which the notebook is told what to open."""


def opened(settings: Mapping[str, Any] | None = None) -> Any:
    """The bench that was asked for; what is wrong in words where it can't be opened.

    Args:
        settings: ``models`` (arguments of `load_pair`), ``problems`` (of `load_problems`) and ``number``, the problem's; None:
            those in the environment.
    """
    from workbench.live.session import Bench
    from workbench.models.loading import load_pair
    from workbench.problems.problem import load_problems

    asked: Mapping[str, Any] = json.loads(os.environ.get(ASKED, "{}")) if settings is None else settings
    models: dict[str, Any] = dict(asked.get("models") or {"name": "shapes"})
    problems: dict[str, Any] = dict(asked.get("problems") or {"source": "shapes"})
    number = int(asked.get("number", 0))
    try:
        pair = load_pair(models.pop("name", None), **models)
        listed = load_problems(problems.pop("source"), **problems, limit=number + 1)
        return Bench(pair, listed[number])
    except InputError as error:
        return _Words(str(error))


class _Words:
    """A sentence on the page."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text
