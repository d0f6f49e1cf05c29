"""A JSON file with one value changed in place, as somebody edits it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def edit(file: Path, keys: Sequence[str | int], value: Any) -> None:
    """Set the value that lies at `keys`, which must have been another."""
    entries = json.loads(file.read_text())
    place = entries
    for key in keys[:-1]:
        place = place[key]
    assert place[keys[-1]] != value
    place[keys[-1]] = value
    file.write_text(json.dumps(entries))
