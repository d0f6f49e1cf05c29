"""The public names: each resolves, to the same thing every time, whatever was imported before."""

from importlib import import_module
from pathlib import Path

import pytest

import workbench as wb
from workbench.errors import install

MODULES = {path.stem for path in Path(wb.__file__).parent.glob("*.py")}


@pytest.mark.parametrize("name", [name for name in wb.__all__ if name != "__version__"])
def test_a_public_name_resolves_and_stays(name):
    first = getattr(wb, name)
    if name in wb._HOME:
        home = import_module(f"workbench.{wb._HOME[name]}")
        assert first is getattr(home, name)
        assert name not in MODULES, "importing the module would hide the name"
    assert getattr(wb, name) is first


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'stduy'"):
        _ = wb.stduy


def test_extras_are_installed_in_one_way_since_nothing_is_on_an_index():
    told = [
        path for path in Path(wb.__file__).parent.rglob("*.py") if "replay-workbench[" in path.read_text()
    ]
    assert told == []
    assert install("gpu") == '`pip install -e ".[gpu]"` in the folder of pyproject.toml'
