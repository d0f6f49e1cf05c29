"""What can be seen of options without loading anything: refused here, in the words of the library."""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import InputError, install, nearest

if TYPE_CHECKING:
    from workbench.interfaces.options import ModelsHere
    from workbench.problems.problem import Problem


def unanswerable(problems: "Sequence[Problem]") -> str | None:
    """Why interventions can't be compared on problems, if they can't: whose answers could not be judged."""
    absent = [problem.id for problem in problems if problem.answer is None]
    return None if not absent else f"{_named(absent, problems)} no answer to judge responses by"


def blind(problems: "Sequence[Problem]") -> str | None:
    """Why nothing can be done at visual tokens, if none of the problems has a picture."""
    lacking = [problem.id for problem in problems if not (problem.images or problem.video)]
    return f"{_named(lacking, problems)} no picture" if len(lacking) == len(problems) else None


def undisturbable(problems: "Sequence[Problem]") -> str | None:
    """Why problems can't be disturbed, if they can't."""
    blind = [problem.id for problem in problems if not (problem.images or problem.video)]
    if blind:
        return f"{_named(blind, problems)} no picture to disturb"
    brought = all({"chain", "wrong"} <= {*problem.metadata} for problem in problems)
    return None if brought else unanswerable(problems)


def check_zoomable(problems: "Sequence[Problem]") -> None:
    """Refuse problems that the zoom tool has nothing to look into.

    Raises:
        InputError: names the first.
    """
    lacking = [problem.id for problem in problems if not problem.images or problem.video]
    if lacking:
        raise InputError(
            f"of `problems` {_named(lacking, problems)} no image (or a movie), and the zoom tool needs images: "
            "load_problems('shapes-agent', limit=8)"
        )


def check_sees(models: "ModelsHere") -> None:
    """Refuse models that read no pictures, where their files say so.

    Raises:
        InputError: they don't.
    """
    from workbench.models.checkpoint_files import sees_in_files

    preset = models.preset
    named = {"base": models.base, "rlvr": models.rlvr}
    sources = named if preset is None else {role: preset.source(role) for role in named}
    known = {role: source for role, source in sources.items() if source is not None}
    if "rlvr" in known and sees_in_files(known, {} if preset is None else preset.revision) is False:
        raise InputError(
            f"`pair` {models.name or known['rlvr']!r} reads no pictures, and the zoom tool needs a model that does: "
            "load_pair('shapes')"
        )


def _named(ids: Sequence[str], problems: Sequence[Any]) -> str:
    return f"{len(ids)} of {len(problems)} problems, such as {ids[0]!r}, have"


def check_device(device: str | None) -> None:
    """Refuse what is no name of a device; whether there is one like it here, only torch knows.

    Raises:
        InputError: with what was expected.
    """
    kinds = ("cpu", "cuda", "mps", "xpu", "hpu", "auto")
    if device is not None and not re.fullmatch(rf"({'|'.join(kinds)})(:\d+)?", device):
        raise InputError(
            f"`device` is {device!r}{nearest(device, kinds)}; expected cpu, cuda, cuda:1, or auto for all GPUs: device='cpu'"
        )


def check_processor_name(processor: str | None) -> None:
    """Refuse what is neither a folder nor could be a hub id.

    Raises:
        InputError: with what was expected.
    """
    if processor is None or Path(processor).expanduser().is_dir():
        return
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", processor):
        raise InputError(
            f"`processor` {processor!r} is not a folder; give a folder with a processor's files, or a hub id like 'owner/name'"
        )


def check_folder(name: str, folder: Path) -> None:
    """Refuse a file where a folder will be written.

    Raises:
        InputError: it is one, or lies under one.
    """
    above = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not above.is_dir():
        raise InputError(f"`{name}` {folder}: {above} is a file; expected a folder: {name}='{folder.name}-2'")


def check_tool(relative_to: str | None) -> None:
    """Refuse a ``--relative-to`` that is neither a word nor a number.

    Raises:
        InputError: with what was expected.
    """
    if relative_to not in (None, "pixels", "seen"):
        try:
            valid = 0 < float(relative_to) < float("inf")
        except ValueError:
            valid = False
        if not valid:
            raise InputError(
                f"`relative_to` is {relative_to!r}; expected pixels, seen or a number: relative_to='1000'"
            )


def size_of(text: str) -> tuple[int, int] | None:
    """Width and height that an option gives as 1000x800; None for 0x0."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise InputError(
            f"`image` is {text!r}; expected width and height in pixels: forecast_pair('shapes', image='1000x800')"
        )
    width, height = int(match[1]), int(match[2])
    if (width == 0) != (height == 0):
        raise InputError(
            f"`image` is {text!r}; expected at least 1 pixel each way, or 0x0 for no picture: "
            "forecast_pair('shapes', image='1000x800')"
        )
    return (width, height) if width else None


def needs(extra: str, *modules: str) -> None:
    """Refuse to go on without what an extra installs.

    Raises:
        InputError: names what is missing.
    """
    if absent := [module for module in modules if find_spec(module) is None]:
        raise InputError(f"{absent[0]} is not installed; this needs {install(extra)}")
