"""The guides: every name that a room's docstring mentions is real, and the site that is made of them renders.

The rule. In ``workbench/<room>/__init__.py`` a name in *single* backticks is a reference, and must be one of
  * a file of the room, or something in it (`descent`, `replay.learn_tokens`);
  * a public name, ``wb.<name>``, or something in it (`LensTrace`, `ModelPair.encode`);
  * anything below ``workbench`` by its path (`workbench.names.METRICS`, `views.pages`).
Everything else (options, keywords, file names, code) stands in *double* backticks, which nobody checks.
"""

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import workbench as wb

ROOT = Path(wb.__file__).parent
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
REFERENCE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def references(docstring: str) -> list[str]:
    """The names in single backticks, once each, without calls' brackets."""
    return sorted({name.partition("(")[0] for name in REFERENCE.findall(docstring)})


def resolve(name: str, package: str) -> Any:
    """What a dotted name is, a module or an attribute, read from `package`; LookupError if nothing."""
    found, parts = import_module(package), name.split(".")
    for place, part in enumerate(parts, 1):
        if hasattr(found, "__path__") and (spec := find_spec(f"{found.__name__}.{part}")):
            if place == len(parts):  # some files need an extra: that it is there is enough
                return spec
            found = import_module(spec.name)
        elif hasattr(found, part):
            found = getattr(found, part)
        elif part in getattr(found, "__dataclass_fields__", {}):
            return part
        else:
            raise LookupError(f"{package} has no {name!r}")
    return found


def is_real(name: str, room: str) -> bool:
    for package in (f"workbench.{room}", "workbench"):
        try:
            resolve(name.removeprefix("workbench."), package)
        except LookupError:
            continue
        return True
    return False


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_in_a_guide_is_real(room):
    guide = import_module(f"workbench.{room}").__doc__ or ""
    names = references(guide)
    assert names, "a guide names its doors"
    assert [name for name in names if not is_real(name, room)] == []


@pytest.mark.parametrize("name", ["strata.chosen_cells", "studies.nowhere", "replay.learn_token", "nulls"])
def test_a_name_that_moved_is_found_out(name):
    assert not is_real(name, "replay")


def test_what_is_no_reference_is_not_checked():
    assert references("`a.b`, ``c.d``, `e(x=1)` and ``f`` and `a.b`") == ["a.b", "e"]


def test_the_site_shows_guides_and_reference(tmp_path):
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pdoc",
            "--docformat",
            "google",
            "-o",
            tmp_path,
            "workbench.lens",
            "workbench.errors",
        ],
        check=True,
        capture_output=True,
    )
    guide = (tmp_path / "workbench" / "lens.html").read_text()
    assert "The mathematics of the logit lens" in guide
    assert "InputError" in (tmp_path / "workbench" / "errors.html").read_text()


README = ROOT.parent / "README.md"
LINK = re.compile(r"\]\(([^)#]+)\)")


def test_the_readme_is_short_and_its_links_exist():
    text = README.read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert len(text.splitlines()) <= 150
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
