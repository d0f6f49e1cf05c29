"""Recipes of the bundled pairs: YAML files of settings, of which a changed copy can be given; and where what they made lies.

Looked at without what trains.
"""

from pathlib import Path
from typing import Any

import yaml

from workbench.digests import file_digest
from workbench.errors import InputError

SHAPES, SMOL, SMOLVL = (
    Path(__file__).with_name(name) for name in ("recipe.yaml", "smol.yaml", "smolvl.yaml")
)
RECIPES = {"shapes": SHAPES, "smol": SMOL, "smolvl": SMOLVL}
"""By pair, those that the bundled ones were made by."""
WEIGHTS = Path(__file__).with_name("weights")
"""What ships of `shapes`."""


def read_recipe(path: Path | None, packaged: Path) -> dict[str, Any]:
    """The settings of a recipe, by default the packaged one; a changed copy has all its sections.

    Raises:
        InputError: the file is missing, not YAML, or lacks a section.
    """
    path = path or packaged
    try:
        recipe = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"`recipe` {path} can't be read ({reason}); start from a copy of {packaged}"
        ) from error
    expected = yaml.safe_load(packaged.read_text())
    if not isinstance(recipe, dict):
        raise InputError(
            f"`recipe` {path} holds a {type(recipe).__name__}; expected the sections {', '.join(expected)}: start from a copy of "
            f"{packaged}"
        )
    missing = [key for key in expected if key not in recipe]
    if missing:
        raise InputError(f"`recipe` {path} lacks {', '.join(missing)}; start from a copy of {packaged}")
    return recipe


def check_trained(folder: Path, pair: str = "shapes") -> None:
    """Refuse a folder without a trained pair, made as the bundled ``pair`` was.

    Raises:
        InputError: base or RLVR model is missing.
    """
    needed = (
        ("base/model.safetensors", "rlvr/model.safetensors")
        if pair == "shapes"
        else ("base/adapter_config.json",)
    )
    for name in needed:
        if not (folder / name).is_file():
            named = "" if pair == "shapes" else f" --pair {pair}"
            raise InputError(
                f"`folder` {folder} holds no model, {name} is missing; train one: workbench organism train{named} --out {folder}"
            )


def write_digests(folder: Path) -> None:
    """``SHA256SUMS`` of every safetensors file in a folder of what ships."""
    shipped = sorted(folder.rglob("*.safetensors"))
    lines = [f"{file_digest(path)}  {path.relative_to(folder).as_posix()}" for path in shipped]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")
