"""Recipes: YAML files of settings, of which a changed copy can be given."""

from pathlib import Path
from typing import Any

import yaml

from workbench.errors import InputError


def read_recipe(path: Path | None, packaged: Path) -> dict[str, Any]:
    """The settings of a recipe, by default the packaged one; a changed copy has all its sections.

    Raises:
        InputError: the file is missing, not YAML, or lacks a section.
    """
    path = path or packaged
    try:
        recipe = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(
            f"`recipe` {path} can't be read ({error}); start from a copy of {packaged.name}"
        ) from error
    expected = yaml.safe_load(packaged.read_text())
    missing = [key for key in expected if key not in (recipe or {})]
    if missing:
        raise InputError(f"`recipe` {path} lacks {', '.join(missing)}; start from a copy of {packaged.name}")
    return recipe
