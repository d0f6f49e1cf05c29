"""The twelve main functions: each has an example in its docstring, which is run here, and help that stands on its own."""

import doctest
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import workbench as wb

MAIN = (
    *("load_pair", "load_problems", "trace", "stratified_shift", "learn_tokens", "prepare_patch"),
    *("decode", "ablate", "perturb", "attribute", "explore", "study"),
)
FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE
SOURCES = sorted(Path(wb.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("name", MAIN)
def test_the_example_does_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(getattr(wb, name))
    example = doctest.DocTestParser().get_doctest(text, {"wb": wb}, f"wb.{name}", None, None)
    assert len(example.examples) >= 2, "an example shows a call and what comes of it"
    told = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=told.append)
    assert result.failed == 0, "".join(told)


@pytest.mark.parametrize("name", MAIN)
def test_help_names_every_parameter_and_what_comes_back(name):
    function = getattr(wb, name)
    text = inspect.getdoc(function)
    assert re.search(r"^Returns:$", text, re.MULTILINE)
    told = set(re.findall(r"^    (\w+): ", text, re.MULTILINE))
    assert [parameter for parameter in inspect.signature(function).parameters if parameter not in told] == []


@pytest.mark.parametrize("settings", [wb.Replay, wb.Patch], ids=["Replay", "Patch"])
def test_help_explains_every_field_of_settings(settings):
    told = re.findall(r"^    (\w+): ", inspect.getdoc(settings), re.MULTILINE)
    assert [field.name for field in fields(settings)] == [name for name in told if name != "InputError"]


def test_no_docstring_sends_the_reader_elsewhere():
    assert [path.name for path in SOURCES if re.search(r"module's\s+text", path.read_text())] == []
