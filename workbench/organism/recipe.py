"""The recipe of the bundled pair: settings of every step, and where what it made lies, looked at without what trains."""

from pathlib import Path
from typing import Any

import yaml

from workbench.errors import InputError

RECIPE = Path(__file__).with_name("recipe.yaml")
"""The one that the bundled pair was made by."""
WEIGHTS = Path(__file__).with_name("weights")
"""What ships of it."""


def read_recipe(path: Path = RECIPE) -> dict[str, Any]:
    """The recipe's settings.

    Raises:
        InputError: the file is missing, not YAML, or lacks a section.
    """
    try:
        recipe = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"`recipe` {path} can't be read ({said}); start from a copy of {RECIPE}") from error
    expected = yaml.safe_load(RECIPE.read_text())
    if not isinstance(recipe, dict):
        raise InputError(
            f"`recipe` {path} holds a {type(recipe).__name__}; expected the sections {', '.join(expected)}: start from a copy of "
            f"{RECIPE}"
        )
    missing = [key for key in expected if key not in recipe]
    if missing:
        raise InputError(f"`recipe` {path} lacks {', '.join(missing)}; start from a copy of {RECIPE}")
    return recipe


def check_trained(folder: Path) -> None:
    """Refuse a folder without a trained pair.

    Raises:
        InputError: base or RLVR model is missing.
    """
    for model in ("base", "rlvr"):
        if not (folder / model / "model.safetensors").is_file():
            raise InputError(
                f"`folder` {folder} holds no model {model}/model.safetensors; train one: workbench organism train --out {folder}"
            )
