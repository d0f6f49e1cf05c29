"""Guides and reference as pages: `python .ci/build_site.py [FOLDER]`, by default `site/`; open `site/index.html`.

Made by pdoc from the docstrings of the package, which has to be installed with the extra `dev`. Four things are done beside:

1. Public names are imported on first use, so that pdoc sees none of them: they are looked up first, and every room and file
   is listed in its package.
2. A name in single backticks becomes a link. In a guide (a room's `__init__`) every such name has to resolve; elsewhere those
   that say where they are, `workbench.lens.strata` or `lens.strata`, in double backticks too.
3. Notebooks that were executed (`--notebooks FOLDER`) become pages too, listed on the first.
4. Every link is followed. The build fails, and says why, where one leads nowhere.
"""

import argparse
import ast
import importlib
import inspect
import pkgutil
import re
import shutil
import sys
import types
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import executed  # beside this file
import pdoc
from jinja2 import ChoiceLoader, DictLoader, pass_context
from markupsafe import Markup

import workbench as wb

HOME = Path(wb.__file__).parents[1]
PACKAGE = "workbench"
NAME = r"[A-Za-z_][\w.]*\w"
SINGLE = re.compile(rf"(?<!`)`({NAME})(\([^`\n]*\))?`(?!`)")
DOUBLE = re.compile(rf"``({NAME})(?:\([^`\n]*\))?``")
FILES = re.compile(r"\.(py|yaml|json|jsonl|tsv|csv|html|md|safetensors|parquet|png|jinja|mp4)$")
STANDINS = (
    "lmms_eval",
    "lmms_eval.api",
    "lmms_eval.api.instance",
    "lmms_eval.api.model",
    "lmms_eval.api.registry",
)
"""What one file imports from lmms-eval, which wants an environment of its own."""


def modules() -> list[str]:
    """Every module of the package; names are looked up, so that pdoc sees what is imported on first use."""
    _stand_in()
    found = [PACKAGE, *(m.name for m in pkgutil.walk_packages(wb.__path__, f"{PACKAGE}."))]
    for name in found:
        module = importlib.import_module(name)
        if not hasattr(module, "__path__"):
            continue
        inside = [m.name for m in pkgutil.iter_modules(module.__path__)]
        if hasattr(module, "__all__"):
            for public in module.__all__:
                setattr(module, public, getattr(module, public))
            module.__all__ = [*dict.fromkeys([*module.__all__, *inside])]
    return found


def _stand_in() -> None:
    """Modules without content for lmms-eval where it is not installed, so that the file which imports it can be read."""
    if find_spec(STANDINS[0]) is None:
        sys.modules |= {name: _Anything(name) for name in STANDINS}


STYLE = "nav.pdoc h2 { font-size: 1.25rem; overflow-wrap: normal; }"
HARMLESS = "Cannot determine where"
"""What pdoc says of classes that are made of others at import, such as the grids of a sweep."""


class _Anything(types.ModuleType):
    """A module in which every name is a class."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__module__": self.__name__})


class References:
    """Where names lead, and which lead nowhere."""

    def __init__(self, known: dict[str, pdoc.doc.Module], notebooks: dict[str, str]) -> None:
        self.known = known
        self.listed = "".join(f"\n* [{title}]({page})" for page, title in notebooks.items())
        self.written = {
            doc.docstring: doc.taken_from[0]
            for module in known.values()
            for doc in _all(module)
            if doc.docstring
        }
        """Docstring -> the module that it was written in; public names are shown in their packages too."""
        self.lost: dict[str, None] = {}

    def target(self, name: str, module: str) -> str | None:
        """Page and anchor of a name as `module` would write it, relative to the site; None if there is none."""
        room = module if self.known[module].is_package else module.rpartition(".")[0]
        for base in dict.fromkeys((module, room, PACKAGE)):
            full = re.sub(rf"^(wb|{PACKAGE})\.", "", name)
            full = f"{PACKAGE}.{full}" if full != name else f"{base}.{name}"
            page, parts = full, []
            while page not in self.known:
                page, _, part = page.rpartition(".")
                parts.insert(0, part)
            if not parts:
                return f"{page.replace('.', '/')}.html"
            if self.known[page].get(".".join(parts)):
                return f"{page.replace('.', '/')}.html#{'.'.join(parts)}"
        return None

    def linked(self, text: str, page: str) -> str:
        """A docstring on a module's page, with links for its references; what it names is near where it was written."""
        module = self.written.get(text, page)
        guide = self.known[module].is_package and text == self.known[module].docstring
        arguments = _arguments(self.known[module])
        up = "../" * page.count(".")

        def link(match: re.Match[str]) -> str:
            name = match[1]
            if not guide and "." not in name and (name in arguments or name in wb._MODULES):
                return match[0]
            target = self.target(name, module)
            if target is not None:
                return f"[{match[0]}]({up}{target})"
            if guide or self._says_where(name, module):
                self.lost[f"{module}: `{name}` is nowhere"] = None
            return match[0]

        for match in DOUBLE.finditer(text):
            if self._says_where(match[1], module) and self.target(match[1], module) is None:
                self.lost[f"{module}: ``{match[1]}`` is nowhere"] = None
        more = f"\n\n**Notebooks**, as they ran:\n{self.listed}" * bool(
            self.listed and guide and page == PACKAGE
        )
        return SINGLE.sub(link, text) + more

    def _says_where(self, name: str, module: str) -> bool:
        """Whether a name begins with the package, a room, or a file of this room."""
        first, dot, _ = name.partition(".")
        room = module if self.known[module].is_package else module.rpartition(".")[0]
        if not dot or FILES.search(name):
            return False
        places = (f"{PACKAGE}.{first}", f"{room}.{first}")
        return first in ("wb", PACKAGE) or (
            any(place in self.known for place in places) and first not in _arguments(self.known[module])
        )


def _all(within: pdoc.doc.Namespace) -> Iterator[pdoc.doc.Doc]:
    """Everything documented in a module or class."""
    for doc in within.members.values():
        if isinstance(doc, pdoc.doc.Module) or not doc.taken_from[0].startswith(PACKAGE):
            continue
        yield doc
        if isinstance(doc, pdoc.doc.Class):
            yield from _all(doc)


@cache
def _arguments(module: pdoc.doc.Module) -> set[str]:
    """Names of all parameters and fields in a module's source: these, in backticks, are what they say."""
    tree = ast.parse(inspect.getsource(module.obj) or "")
    found = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return found | {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


@contextmanager
def our_ways(references: References) -> Iterator[None]:
    """Within this context pdoc renders docstrings with our links, and leaves what is a link already alone."""
    known, environment = references.known, pdoc.render.env
    before = {name: environment.filters[name] for name in ("to_markdown", "linkify")}

    @pass_context
    def to_markdown(context: Any, docstring: str) -> str:
        page = context[
            "module"
        ].modulename  # pdoc also renders a module without a name, to see what is public
        return before["to_markdown"](
            context, references.linked(docstring, page) if page in known else docstring
        )

    @pass_context
    def linkify(context: Any, code: str, namespace: str = "", shorten: bool = True) -> Markup:
        parts = re.split(r"(<a href=.*?</a>)", code)
        parts[::2] = [before["linkify"](context, part, namespace, shorten) for part in parts[::2]]
        return Markup("".join(parts))

    pdoc.render.configure(docformat="google", footer_text=f"replay workbench {wb.__version__}")
    loader = environment.loader
    environment.loader = ChoiceLoader([DictLoader({"custom.css": STYLE}), loader])
    environment.filters |= {"to_markdown": to_markdown, "linkify": linkify}
    try:
        yield
    finally:
        environment.filters |= before
        environment.loader = loader


def render(out: Path, notebooks: dict[str, str] | None = None) -> list[str]:
    """Write the pages into a folder; returns what is wrong with them. `notebooks`: pages that are there, and their titles."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        references = References(
            {name: pdoc.doc.Module.from_name(name) for name in modules()}, notebooks or {}
        )
        with our_ways(references):
            pdoc.pdoc(PACKAGE, output_directory=out)
    doubts = [f"pdoc: {w.message}" for w in warned if "pdoc" in w.filename and HARMLESS not in str(w.message)]
    return [*references.lost, *doubts, *unwritten(references.known, out)]


def unwritten(known: Iterable[str], out: Path) -> Iterator[str]:
    """Modules without a page, and public names that have no place on one."""
    for name in known:
        if not (out / f"{name.replace('.', '/')}.html").is_file():
            yield f"{name} has no page"
    anchors = Page.of(out / f"{PACKAGE}.html").anchors
    yield from (
        f"wb.{name} has no place on a page"
        for name in wb._HOME
        if name not in anchors and name != "__version__"
    )


class Page(HTMLParser):
    """The links and anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()

    @classmethod
    def of(cls, file: Path) -> "Page":
        """Of a file."""
        page = cls()
        page.feed(file.read_text(encoding="utf-8"))
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag names and where it leads."""
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


def broken_links(out: Path) -> list[str]:
    """Links of the pages in a folder that lead to no file of it, or to no anchor on a page; those outward are not followed."""
    pages = {file.resolve(): Page.of(file) for file in sorted(out.rglob("*.html"))}
    found = []
    for file, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            lost = not target.is_file()
            if not lost and parts.fragment and target in pages:
                lost = unquote(parts.fragment) not in pages[target].anchors
            if lost:
                found.append(f"{file.relative_to(out.resolve())}: {link} leads nowhere")
    return found


def main() -> int:
    """Build the site; 1 if anything leads nowhere."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "out", nargs="?", type=Path, default=HOME / "site", help="the folder, which is replaced"
    )
    parser.add_argument("--notebooks", type=Path, help="a folder of executed notebooks")
    given = parser.parse_args()
    out = given.out
    if out.exists() and not (out / "workbench.html").exists() and any(out.iterdir()):
        parser.error(f"{out} is no site: name another folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    notebooks = executed.pages(given.notebooks, out) if given.notebooks else {}
    wrong = [*render(out, notebooks), *broken_links(out)]
    print(*wrong, sep="\n", end="\n" * bool(wrong))
    print(f"{out}: {len([*out.rglob('*.html')])} pages, {len(wrong)} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
