"""Where the scripts of ``analyses/`` are; none of them is imported here, nor what they need."""

from collections.abc import Sequence
from pathlib import Path

from workbench.errors import InputError, nearest


def find_scripts(folder: Path | None = None, *, names: Sequence[str] | None = None) -> list[Path]:
    """The scripts of a folder, or those named; the default is ``analyses/`` here or beside the package.

    Raises:
        InputError: there is no such folder, or no such analysis in it.
    """
    beside = Path(__file__).resolve().parents[2] / "analyses"
    places = [folder] if folder else [Path("analyses").resolve(), beside]
    home = next((place for place in places if (place / "__init__.py").is_file()), None)
    if home is None:
        raise InputError(
            f"`analyses` not found in {' or '.join(map(str, places))}; run this in a checkout of the project, or copy its "
            "folder analyses/ here"
        )
    stems = sorted(path.stem for path in home.glob("*.py") if not path.stem.startswith("_"))
    for name in names or []:
        if name not in stems:
            raise InputError(
                f"`names`: there is no analysis {name!r}{nearest(name, stems)}; there are {', '.join(stems)}: "
                f"workbench figures {stems[0]}"
            )
    return [home / f"{name}.py" for name in names or stems]
