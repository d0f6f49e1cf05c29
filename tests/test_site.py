"""The guides: every name that a room's docstring mentions is real, and the site that is made of them leads nowhere wrong.

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
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pdoc
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


@pytest.fixture(scope="module")
def builder():
    spec = spec_from_file_location("build_site", ROOT.parent / ".ci" / "build_site.py")
    module = module_from_spec(spec)
    sys.path.insert(0, str(ROOT.parent / ".ci"))
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole site, built as CI builds it, in a process of its own."""
    out = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run(
        [sys.executable, ROOT.parent / ".ci" / "build_site.py", out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return out


def test_every_public_name_has_its_place_and_every_file_a_page(site, builder):
    anchors = builder.Page.of(site / "workbench.html").anchors
    assert [name for name in wb._HOME if name not in anchors] == []
    pages = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    files = [path.relative_to(ROOT.parent) for path in ROOT.rglob("*.py")]
    known = [(path.parent if path.stem == "__init__" else path).with_suffix("") for path in files]
    assert [path for path in known if path not in pages] == []


def test_guides_link_to_what_they_name(site):
    guide = (site / "workbench" / "replay.html").read_text()
    assert "Interventions on the prompt" in guide
    assert (
        '<a href="../workbench/replay/replay.html#learn_tokens"><code>replay.learn_tokens</code></a>' in guide
    )
    front = (site / "workbench.html").read_text()
    assert 'href="#load_pair"' in front or 'href="workbench.html#load_pair"' in front
    assert "<a href=" not in re.sub(r"<a [^>]*>.*?</a>", "", front, flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore:Found:UserWarning")  # lazy names, which this test leaves alone
def test_names_that_lead_nowhere_are_reported(builder):
    modules = {
        name: pdoc.doc.Module.from_name(name) for name in ("workbench", "workbench.lens", "workbench.lens.kl")
    }
    references = builder.References(modules, {})
    text = references.linked(
        "See `kl_divergence`, ``workbench.lens.kl.nothing``, `lens.no`, `free`.", "workbench.lens.kl"
    )
    assert "[`kl_divergence`](../../workbench/lens/kl.html#kl_divergence)" in text
    assert [*references.lost] == [
        "workbench.lens.kl: ``workbench.lens.kl.nothing`` is nowhere",
        "workbench.lens.kl: `lens.no` is nowhere",
    ]


def test_links_that_lead_nowhere_are_reported(builder, tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="x"><a href="b.html#y">1</a><a href="#x">2</a><a href="c.html">3</a>'
    )
    (tmp_path / "b.html").write_text('<a href="https://example.org/away">4</a><a href="a.html#x">5</a>')
    assert builder.broken_links(tmp_path) == [
        "a.html: b.html#y leads nowhere",
        "a.html: c.html leads nowhere",
    ]


README = ROOT.parent / "README.md"
LINK = re.compile(r"\]\(([^)#]+)\)")


def test_the_readme_is_short_and_its_links_exist():
    text = README.read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert len(text.splitlines()) <= 150
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
