"""Configs of published models whose own are not on this machine, for forecasts alone (``published.yaml``)."""

from pathlib import Path
from typing import Any

import yaml

PUBLISHED = Path(__file__).with_suffix(".yaml")


def is_published(model: str | Path) -> bool:
    """Whether a hub id is listed."""
    return str(model) in yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def published_config(model: str | Path) -> Any | None:
    """The config of a hub id with the published numbers that sizes depend on; None for a model that is not listed."""
    from transformers import AutoConfig

    table = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8")).get(str(model))
    return None if table is None else AutoConfig.for_model(**table["config"], dtype=table["dtype"])
