"""The tidy tables that figures and reports show: what they must hold, and how their entries read as text."""

from collections.abc import Iterable, Sequence
from math import isnan

import numpy as np
import pandas as pd

from workbench.errors import InputError
from workbench.estimates import Array, Interval
from workbench.selection import Strata, low_note

SHIFT_COLUMNS = (
    "scope",
    "layer",
    "kind",
    "stratum",
    "strata_by",
    "cells",
    "problems",
    "entropy_low",
    "entropy_high",
)
SOURCES = {
    "table": "`stratified_shift(trace).table`",
    "correlations": "`stratified_shift(trace).correlations`",
    "agreement": "`agreement_by_layer(trace)`",
    "followed": "`follow(pair, problems, trace).to_dataframe()`",
    "predictions": "`top_prediction_shift(trace, prompt=0)`",
}


class NothingToDraw(InputError):
    """A table with the right columns, but without one finite value to show."""


def rows_where(frame: pd.DataFrame, name: str, columns: Iterable[str], **where: object) -> pd.DataFrame:
    """The rows of ``frame`` where every column named in ``where`` has that value, or one of that list.

    ``name`` is a key of ``SOURCES``. InputError for a missing column, NothingToDraw when no row is left.
    """
    if not isinstance(frame, pd.DataFrame):
        raise InputError(
            f"`{name}` is a {type(frame).__name__}, not a pandas DataFrame: pass {SOURCES[name]}"
        )
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(
            f"`{name}` lacks the columns {missing}; it has {list(frame.columns)}: pass {SOURCES[name]}"
        )
    rows = frame
    for column, value in where.items():
        rows = rows.loc[rows[column].isin(value if isinstance(value, list) else [value])]
    if len(rows) == 0:
        sought = ", ".join(f"{column}={value!r}" for column, value in where.items())
        values = "; ".join(f"{column}: {sorted(frame[column].unique().tolist())}" for column in where)
        raise NothingToDraw(
            f"`{name}` has no rows{' with ' * bool(sought)}{sought}"
            + (
                f" (it holds {values})"
                if len(frame)
                else f": pass {SOURCES[name]} of a trace that is not empty"
            )
        )
    return rows


def drawable(rows: pd.DataFrame, name: str, measure: str) -> pd.DataFrame:
    """``rows``, or NothingToDraw when no value of the measure is finite."""
    if not np.isfinite(rows[measure].to_numpy(float)).any():
        hint = "; trace with null_draws=3 to have a null" if measure in ("kl_null", "ratio") else ""
        raise NothingToDraw(f"`{name}` holds no finite value of {measure!r} in the rows asked for{hint}")
    return rows


def last_layer(layers: Iterable[int], depth: int | None) -> int:
    """The decoder's last layer: from its depth, or the highest layer present when that is not given."""
    return max(layers) if depth is None else depth - 1


def first_kind(table: pd.DataFrame) -> str:
    """The token kind to show when none is asked for: visual, or the first there is."""
    kinds = rows_where(table, "table", SHIFT_COLUMNS)["kind"].tolist()
    return "visual" if "visual" in kinds else kinds[0]


def strata_rows(
    table: pd.DataFrame, measures: Sequence[str], *, scope: str, kind: str, depth: int | None = None
) -> pd.DataFrame:
    """The rows of one scope and token kind of ``ShiftTable.table``; ``"last layer"`` is a scope, too.

    Raises InputError for missing columns or two stratifications in one table, NothingToDraw without a value.
    """
    needed = [*SHIFT_COLUMNS, *(column for measure in measures for column in Interval.names(measure))]
    if scope == "last layer":
        rows = rows_where(table, "table", needed, scope="layer", kind=kind)
        rows = rows_where(rows, "table", needed, layer=last_layer(rows["layer"], depth))
    else:
        rows = rows_where(table, "table", needed, scope=scope, kind=kind)
    if rows.duplicated(["layer", "stratum"]).any():
        raise InputError(
            f"`table` joins several tables (strata_by: {sorted(set(rows['strata_by']))}): pass one, "
            "`table[table['strata_by'] == 'quantile']`"
        )
    return drawable(rows, "table", measures[0]).sort_values(["layer", "stratum"])


def caption(rows: pd.DataFrame, *, each: Sequence[str] = ()) -> str:
    """How many problems and cells stand behind ``rows``, cells summed over what ``each`` does not tell apart.

    "64 problems, 2,304 cells in each layer; ...", or for strata "2,304 cells in each layer, 50 to 64 problems in
    each stratum; ...".
    """
    cells = (
        rows.pivot_table(index=list(each), values="cells", aggfunc="sum") if each else rows[["cells"]].sum()
    )
    parts = [f"{_span(cells)} cells{' in each layer' * ('layer' in each)}"]
    if "stratum" in rows:
        parts.append(f"{_span(rows['problems'])} problems in each stratum")
    elif "problems" in rows:
        parts.insert(0, f"{_span(rows['problems'])} problems")
    return f"{', '.join(parts)}; 95% intervals clustered by problem"


def _span(counts: pd.DataFrame | pd.Series) -> str:
    low, high = counts.to_numpy().min(), counts.to_numpy().max()
    return f"{high:,}" if low == high else f"{low:,} to {high:,}"


def bucket(stratum: int, strata: Iterable[int]) -> str:
    """ "0 lowest", "1", ... "4 highest": strata count from 0, as in tables."""
    strata = list(strata)
    end = {min(strata): " lowest", max(strata): " highest"}.get(stratum, "")
    return f"{stratum}{end}"


def strata_of(table: pd.DataFrame) -> Strata:
    """How a table's cells are cut by base entropy, from its columns ``stratum`` and, if it has it, ``strata_by``."""
    by = str(table["strata_by"].iloc[0]) if "strata_by" in table else "quantile"
    return Strata(int(table["stratum"].to_numpy().max()) + 1, by)


def strata_note(table: pd.DataFrame) -> str:
    """Which cells the lowest stratum of such a table holds, for captions."""
    return low_note(strata_of(table))


def kind_name(kind: str) -> str:
    """ "visual tokens", "all tokens", ..."""
    return f"{kind} tokens"


def number(value: float, digits: int = 3) -> str:
    """So many significant digits; an en dash for NaN, and 0 for what is below 1e-12: a difference of equal floats."""
    if not np.isfinite(value):
        return "–"
    if abs(value) < 1e-12:
        return "0"
    power = int(np.floor(np.log10(abs(value))))
    if power < -4 or power > 5:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.{max(0, digits - 1 - power)}f}"


def duration(seconds: float) -> str:
    """ "40 s", "3.5 min", "2.1 h"."""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 2 else f"{minutes:.1f} min" if minutes >= 2 else f"{seconds:.0f} s"


def visible(token: str) -> str:
    """A token with its outer white space made visible, so that no cell looks empty."""
    marked = token.replace("\r\n", "⏎").replace("\n", "⏎").replace("\r", "⏎").replace("\t", "⇥")
    body = marked.strip(" ")
    if not body:
        return "␣" * len(marked) or "∅"
    lead, tail = len(marked) - len(marked.lstrip(" ")), len(marked) - len(marked.rstrip(" "))
    return "␣" * lead + body + "␣" * tail


def outcome_of(table: pd.DataFrame, outcome: str) -> Array:
    """Nats per token of the right or the wrong response, or the margin: wrong minus right."""
    if outcome == "margin":
        return outcome_of(table, "incorrect") - outcome_of(table, "correct")
    return table[f"nats_{outcome}"].to_numpy(float)


def slope_text(interval: Interval) -> str:
    """A slope with its interval, such as "+0.41 [0.35, 0.48]"."""
    bounds = "" if isnan(interval.low) else f" [{number(interval.low, 2)}, {number(interval.high, 2)}]"
    sign = "+" if interval.estimate > 0 else ""
    return f"{sign}{number(interval.estimate, 2)}{bounds}"
