"""Digests: what a kept result is named by, so that it is found again only where nothing changed that could change it.

One rule for sweeps, every ``keep=`` folder, figures and work folders of runs: the weights, all of a checkpoint's folder that can
change a number (config, generation config, chat template, tokenizer, processor), the problems, the settings, and the code and
libraries that compute. Words and pictures do not count.
"""

import ast
import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from workbench import __version__

SHOWING = ("views", "studies", "interfaces", "machine", "organism", "columns.py")
"""Rooms, and a file, whose code changes no number that is kept."""
LIBRARIES = ("torch", "torchvision", "transformers", "tokenizers", "nnsight", "numpy", "pillow")
"""Those whose version can change a number or a token."""


def digest_of(spec: Any, digits: int = 16) -> str:
    """Hexadecimal digits that stand for a specification."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True, default=str).encode()).hexdigest()[:digits]


def file_digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_digest(home: Path) -> str:
    """A digest of the code in `home` that can change a number; comments, docstrings and rooms that only show are left out."""
    rooms = ((file.relative_to(home), file) for file in sorted(home.rglob("*.py")))
    return digest_of(
        [(str(name), _stripped(file)) for name, file in rooms if name.parts[0] not in SHOWING], 32
    )


def _stripped(file: Path) -> str:
    """A file's syntax without its docstrings, comments and line breaks."""
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [line for line in node.body if not _is_text(line)]
    return ast.dump(tree)


def _is_text(line: ast.stmt) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )


@cache
def versions() -> dict[str, str]:
    """Of the workbench, with a digest of the code that computes, and of the libraries that do."""
    code = code_digest(Path(__file__).parent)
    by_library = {"workbench": f"{__version__} {code[:16]}"}
    for name in LIBRARIES:
        try:
            by_library[name] = version(name)
        except PackageNotFoundError:
            by_library[name] = "none"
    return by_library
