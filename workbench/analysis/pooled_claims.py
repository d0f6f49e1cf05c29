"""Claims of several pairs: which number of one is the same number of another, and what they show together.

A number is the same where claim, place, what was measured, the kind of tokens and what is expected are the same words; which
stratum turned out the largest (`verdicts` of the shape over strata) is left out of them. Factors, which have the bound 1, are
pooled in logarithms; the standard error of a pair is that of its interval's width (`estimates.standard_error`). An interval that
allows for several comparisons is wider, and so is what it is pooled with. As in one pair, fewer than
``estimates.ENOUGH`` problems decide nothing: such a number is listed, and not pooled.
"""

import re
from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import Any

import numpy as np
import pandas as pd

from workbench.estimates import ENOUGH, Interval, Pooled, pool, standard_error
from workbench.names import STATES, TOO_FEW, UNTESTED

NUMBER = ["claim", "place", "measured", "kind", "expected"]
"""What makes two pairs' numbers the same."""
NEEDED = ["claim", "measured", *Interval.names("estimate"), "expected", "problems", "verdict"]
"""Columns without which a table of claims can't be compared; others are empty where a run's version lacks them."""
WORDS = [*NUMBER, "verdict", "adjusted", "obstacle"]
"""Columns of text; what a table leaves empty in them is "", since grouping would drop a row of None."""
_ESTIMATE = Interval.names("estimate")
BY_PAIR = (
    *(
        "pair",
        *NUMBER[:3],
        *_ESTIMATE,
        "expected",
        "kind",
        "problems",
        "p",
        "detectable",
        "p_adjusted",
        "verdict",
        "adjusted",
    ),
    *("obstacle", "scale", "standard_error", "unpooled"),
)
TOGETHER = (
    *(
        *NUMBER[:3],
        *_ESTIMATE,
        "expected",
        "kind",
        "scale",
        "pairs",
        "pooled",
        "tau",
        "i2",
        "q",
        "p_alike",
        "p",
    ),
    *("p_adjusted", "detectable", "verdict", "adjusted", "holds", "fails", "undecided", "obstacle"),
)
"""Columns of the two tables, in order."""
_EMPTY = {
    "place": "",
    "kind": "",
    "p": nan,
    "detectable": nan,
    "p_adjusted": nan,
    "adjusted": "",
    "obstacle": "",
}
_CHOSEN = re.compile(r"(the largest of the others), stratum \d+")
_EXPECTED = re.compile(r"(above|below) (\S+)")


def claims_by_pair(claims: Mapping[str, pd.DataFrame], same: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One row a claim and pair, in the order of the first pair that has it, then of the pairs.

    Args:
        claims: tables of claims (`claim_table`) by pair, each with the columns `NEEDED`.
        same: pairs whose models are those of another, and which: of a number that several of them have, the first that
            can be is pooled.

    Columns: pair, those of a claim (with the effect that the pair's own study would have found), scale ("factor" or
    "difference"), standard_error (of the logarithm for a factor), unpooled (why a row is not in the pool; empty: it is). Of a
    number that a pair has in several rows the first is listed, and none pooled, since nothing tells which is right.
    """
    parts = []
    for pair, table in claims.items():
        part = table.assign(**{name: value for name, value in _EMPTY.items() if name not in table})
        part = part.assign(
            pair=pair, **{str(name): texts(cells) for name, cells in part.items() if name in WORDS}
        )
        part["measured"] = [_CHOSEN.sub(r"\1", text) for text in part["measured"]]
        part["times"] = part.groupby(NUMBER)["pair"].transform("size")
        parts.append(part.drop_duplicates(NUMBER))
    if not parts:
        return pd.DataFrame(columns=[*BY_PAIR])
    rows = pd.concat(parts, ignore_index=True)
    rows["scale"] = ["factor" if expected_side(text)[1] == 1 else "difference" for text in rows["expected"]]
    rows["standard_error"] = [
        standard_error(
            Interval.in_row(row, "estimate"), int(row["problems"]), factor=row["scale"] == "factor"
        )
        for row in rows.to_dict("records")
    ]
    rows["detectable"] = [
        row["detectable"]
        if not isnan(row["detectable"])
        else Interval.in_row(row, "estimate").detectable(
            units=int(row["problems"]), factor=row["scale"] == "factor"
        )
        for row in rows.to_dict("records")
    ]
    own: dict[tuple[Any, ...], str] = {}
    reasons = []
    for row, number in zip(rows.to_dict("records"), _numbers(rows), strict=True):
        pair, reason = str(row["pair"]), _unpooled(row)
        if not reason:
            other = own.setdefault(((same or {}).get(pair, pair), *number), pair)
            reason = "" if other == pair else f"the same models as {other}"
        reasons.append(reason)
    rows["unpooled"] = reasons
    first = {number: place for place, number in enumerate(dict.fromkeys(_numbers(rows)))}
    rows["order"] = [first[number] for number in _numbers(rows)]
    return rows.sort_values("order", kind="stable").loc[:, [*BY_PAIR]].reset_index(drop=True)


def pooled_claims(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a number: what the pairs show of it together; ``rows`` is `claims_by_pair`.

    Columns: those that name the number, scale, pairs (that have it), pooled (that are in the pool), the estimate with its
    random-effects interval, tau, i2, q, p_alike (`Pooled`), p and p_adjusted (Holm, over this table), detectable (effect that so
    many pairs would have found with a power of 80%), verdict and adjusted, holds, fails and undecided (how many pairs say so),
    obstacle.
    """
    lines = []
    for _, part in rows.groupby(NUMBER, sort=False, dropna=False):
        kept = part.loc[part["unpooled"] == ""]
        factor = part["scale"].iloc[0] == "factor"
        intervals = [Interval.in_row(row, "estimate") for row in kept.to_dict("records")]
        pooled = pool(intervals, [int(n) for n in kept["problems"]], factor=factor)
        lines.append(part.iloc[0][NUMBER].to_dict() | _row(part, pooled))
    if not lines:
        return pd.DataFrame(columns=[*TOGETHER])
    table = pd.DataFrame(lines)
    table["p_adjusted"] = _holm(table["p"].tolist())
    table["adjusted"] = [
        STATES[None]
        if row["verdict"] in (STATES[True], STATES[False]) and row["p_adjusted"] >= 0.05
        else row["verdict"]
        for row in table.to_dict("records")
    ]
    return table.loc[:, [*TOGETHER]]


def expected_side(text: str) -> tuple[bool, float]:
    """Of "above 1": True, 1.0; of a text of another form: True, NaN."""
    match = _EXPECTED.fullmatch(str(text))
    return (match[1] == "above", float(match[2])) if match else (True, nan)


def texts(column: pd.Series) -> pd.Series:
    """A column as text, empty where it has nothing."""
    return column.astype(object).where(column.notna(), "").map(str)


def _row(part: pd.DataFrame, pooled: Pooled) -> dict[str, Any]:
    """What the pairs show of one number."""
    above, bound = expected_side(part["expected"].iloc[0])
    alone = pooled.pairs < 2
    side = pooled.interval.above(bound)
    verdict, obstacle = STATES[side if side is None or above else not side], ""
    if alone and len(part) == 1:
        verdict, obstacle = UNTESTED, "one pair alone has it"
    elif alone and sum(problems >= ENOUGH for problems in part["problems"]) < 2:
        verdict, obstacle = TOO_FEW, f"fewer than two pairs have {ENOUGH} problems"
    elif alone:
        verdict, obstacle = UNTESTED, "fewer than two pairs have an interval to pool"
    verdicts = part["verdict"].tolist()
    counted = {name: verdicts.count(STATES[holds]) for name, holds in (("holds", True), ("fails", False))}
    return {
        "scale": part["scale"].iloc[0],
        "pairs": len(part),
        "pooled": pooled.pairs,
        **(Interval(nan, nan, nan) if alone else pooled.interval).columns("estimate"),
        **{name: getattr(pooled, name) for name in ("tau", "i2", "q", "p_alike")},
        "p": nan if alone else pooled.p_value(bound),
        "detectable": nan if alone else pooled.interval.detectable(units=pooled.pairs, factor=pooled.factor),
        "verdict": verdict,
        **counted,
        "undecided": len(part) - sum(counted.values()),
        "obstacle": obstacle,
    }


def _unpooled(row: Mapping[Any, Any]) -> str:
    """Why a row can't be pooled; empty: it can."""
    if row["obstacle"]:
        return str(row["obstacle"])
    if row["problems"] < ENOUGH:
        return f"{row['problems']} problems, fewer than {ENOUGH}"
    if row["times"] > 1:
        return f"the first of {row['times']} rows that this pair has of it"
    if isnan(expected_side(row["expected"])[1]):
        return f"what is expected is unknown: {row['expected']}"
    if isnan(row["standard_error"]):
        positive = row["scale"] != "factor" or not row["estimate_low"] <= 0
        return "no interval" if positive else "a factor whose interval reaches 0"
    return ""


def _numbers(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(rows[NUMBER].itertuples(index=False, name=None))


def _holm(ps: Sequence[float]) -> list[float]:
    """Holm's p values of those that there are."""
    from statsmodels.stats.multitest import multipletests  # a second to import

    values = np.array(ps, float)
    tested = ~np.isnan(values)
    if tested.any():
        values[tested] = multipletests(values[tested], method="holm")[1]
    return values.tolist()
