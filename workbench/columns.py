"""What every column of every table means: name, unit and meaning, kept in one place, ``columns.yaml`` beside this file.

``result.columns`` of a result and ``columns.json`` beside the CSV files of a run are read from there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import pandas as pd

FILE = Path(__file__).with_name("columns.yaml")
ENDS = {"_low": "lower", "_high": "upper"}
"""What an interval's two columns are called after its estimate's, and which end each is."""


@dataclass(frozen=True)
class Column:
    """A column: its name, its unit (empty for names and plain numbers), and what it means."""

    name: str
    unit: str
    meaning: str


@cache
def _known() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def tables_known() -> tuple[str, ...]:
    """The names of all tables whose columns are described."""
    return tuple(_known()["tables"])


def described(table: str, *, optional: bool = True) -> Iterator[Column]:
    """The columns of a table, in order; without those that are not always there if not `optional`; of others nothing."""
    about = _known()["tables"].get(table, {"columns": ""})
    for entry in about["columns"].split():
        name = entry.lstrip("~?")
        if entry.startswith("?") and not optional:
            continue
        unit, meaning = about.get("own", {}).get(name) or _known()["shared"][name]
        yield Column(name, unit, meaning)
        if entry.startswith("~"):
            for end, which in ENDS.items():
                yield Column(name + end, unit, f"{which} end of its 95% interval: {meaning}")


def describe(tables: Mapping[str, "pd.DataFrame | None"]) -> "pd.DataFrame":
    """One row a column of these tables, by name (None: of any such table): table, column, unit, meaning."""
    import pandas as pd

    rows = []
    for table, frame in tables.items():
        by_name = {column.name: column for column in described(table)}
        names = by_name if frame is None else map(str, frame.columns)
        columns = [by_name.get(name, Column(name, "", "")) for name in names]
        rows += [(table, column.name, column.unit, column.meaning) for column in columns]
    return pd.DataFrame(rows, columns=["table", "column", "unit", "meaning"])
