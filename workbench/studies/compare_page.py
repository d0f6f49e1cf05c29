"""The page of a comparison: one file with everything in it, as a study's report is."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.analysis.pooled_claims import NUMBER, expected_side
from workbench.analysis.verdicts import seen
from workbench.estimates import ENOUGH, Interval
from workbench.names import MARKS, SCOPES, short
from workbench.studies.compare_answers import PLAIN
from workbench.views.compare_figures import by_depth, forest, same_total
from workbench.views.page_figures import bare, placed, plotly_js, templates
from workbench.views.pages import inline_json, render, source, write_page
from workbench.views.tables import NothingToDraw, bucket, number

if TYPE_CHECKING:
    from workbench.studies.compare import Comparison

KINDS = ("visual", "text", "special", "all")


def write_comparison(path: str | Path, comparison: "Comparison") -> Path:
    """Write the page and return its path; an old page is replaced only once the new one is whole.

    Raises:
        InputError: the path can't be written.
    """
    figures: dict[str, Any] = {}
    claims = list(_claims(comparison.claims, comparison.pooled, figures, "number"))
    answers = list(_claims(comparison.answers, comparison.pooled_answers, figures, "answer"))
    kinds = _by_depth(comparison, figures)
    shares, apart = _shares(comparison, figures)
    pairs = comparison.pairs
    html = render(
        "compare.html.j2",
        title=f"{comparison.counted} side by side",
        verdict=comparison.verdict,
        notes=comparison.notes,
        pairs=_pairs(pairs),
        claims=claims,
        answers=answers,
        plain=_plain(comparison.answers),
        enough=ENOUGH,
        kinds=kinds,
        shares=shares,
        apart=apart,
        plot=lambda name, title=None: placed(name, figures, title=title),
        folders=[(row["pair"], row["folder"]) for row in pairs.to_dict("records")],
        figures_json=inline_json({"templates": templates(), "figures": bare(figures)}),
        plotly_js=plotly_js(),
        css=source("report.css", "compare.css"),
        js=source("report.js"),
    )
    return write_page(path, html)


def _pairs(pairs: pd.DataFrame) -> dict[str, Any]:
    """What differs as a table with a column a pair, and what is alike as a line."""
    facts = [column for column in pairs if column not in ("pair", "folder")]
    texts = {column: [_fact(value) for value in pairs[column]] for column in facts}
    differ = [column for column in facts if len({*texts[column]}) > 1]
    return {
        "names": [*pairs["pair"]],
        "rows": [{"fact": column.replace("_", " "), "cells": texts[column]} for column in differ],
        "alike": [
            (column.replace("_", " "), texts[column][0])
            for column in facts
            if column not in differ and texts[column][0] != "–"
        ],
    }


def _claims(
    by_pair: pd.DataFrame, pooled: pd.DataFrame, figures: dict[str, Any], begin: str
) -> Iterator[dict[str, Any]]:
    """Claims, each with its numbers: what the pairs show together, a row a pair, and a figure where two have it.

    Names of figures begin with ``begin``.
    """
    by_number = {key: part for key, part in by_pair.groupby(NUMBER, sort=False, dropna=False)}
    together = pooled.to_dict("records")
    for claim, place in dict.fromkeys((row["claim"], row["place"]) for row in together):
        numbers = []
        for index, row in enumerate(together):
            if (row["claim"], row["place"]) != (claim, place):
                continue
            rows, name = by_number[tuple(row[column] for column in NUMBER)], f"{begin}-{index}"
            if len(rows) > 1:
                with suppress(NothingToDraw):
                    figures[name] = forest(rows, row, bound=expected_side(row["expected"])[1])
            numbers.append(_number(name, row, rows))
        yield {
            "claim": claim,
            "place": place,
            "numbers": numbers,
            "counted": _counted(n["state"][1] for n in numbers if n["several"]),
        }


def _plain(answers: pd.DataFrame) -> list[dict[str, Any]]:
    """The plain RLVR models' accuracies, a row a pair, a cell a measure."""
    rows = answers.loc[answers["claim"] == PLAIN]
    measures = list(dict.fromkeys(str(text).partition(",")[0] for text in rows["measured"]))
    by_pair: dict[str, dict[str, str]] = {}
    for row in rows.to_dict("records"):
        cells = by_pair.setdefault(str(row["pair"]), dict.fromkeys(measures, "–"))
        cells[str(row["measured"]).partition(",")[0]] = _bracketed(Interval.in_row(row, "accuracy"))
    return [{"pair": pair, "cells": cells} for pair, cells in by_pair.items()]


def _number(name: str, row: Mapping[Any, Any], rows: pd.DataFrame) -> dict[str, Any]:
    several = row["pooled"] >= 2
    counts = [("holds", row["holds"]), ("does not", row["fails"]), ("open", row["undecided"])]
    return {
        "name": name,
        "measured": row["measured"],
        "several": several,
        "figure": _figure(row) if several else row["obstacle"],
        "i2": f"{row['i2']:.0%}" if several else "–",
        "pairs": f"{row['pooled']} of {row['pairs']}",
        "expected": row["expected"],
        "state": _state(row["verdict"]),
        "adjusted": _state(row["adjusted"]),
        "p": _p(row["p_adjusted"]),
        "seen": _seen(row, row["adjusted"]),
        "in_pairs": ", ".join(f"{word} in {count}" for word, count in counts if count),
        "rows": [
            {
                "pair": one["pair"],
                "figure": one["obstacle"] or _figure(one),
                "problems": one["problems"],
                "state": _state(one["verdict"]),
                "seen": _seen(one),
                "accuracy": _bracketed(Interval.in_row(one, "accuracy")) if "accuracy" in one else "",
                "unpooled": one["unpooled"],
            }
            for one in rows.to_dict("records")
        ],
    }


def _by_depth(comparison: "Comparison", figures: dict[str, Any]) -> list[str]:
    """Kinds of tokens that a figure by relative depth could be drawn of."""
    drawable = []
    for kind in KINDS:
        try:
            figures[f"depth-{kind}"] = by_depth(comparison.depths, kind=kind)
        except NothingToDraw:
            continue
        drawable.append(kind)
    return drawable


def _shares(comparison: "Comparison", figures: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Kinds of tokens with their figures and a table; and which pairs have other strata, so that their bars would not compare."""
    table = comparison.shares
    if table.empty:
        return [], []
    cuts = table.groupby("pair", sort=False)[["strata_by", "strata"]].first()
    common = Counter(cuts.itertuples(index=False, name=None)).most_common(1)[0][0]
    like = [
        str(pair)
        for pair, cut in zip(cuts.index, cuts.itertuples(index=False, name=None), strict=True)
        if cut == common
    ]
    apart = [str(pair) for pair in cuts.index if pair not in like]
    words = [f"{pair}: {cuts.loc[pair, 'strata']} strata by {cuts.loc[pair, 'strata_by']}" for pair in apart]
    kept, parts = table.loc[table["pair"].isin(like)], []
    for kind in KINDS:
        names = []
        for scope in ("all layers", *SCOPES):
            name = f"shares-{kind}-{scope.replace(' ', '-')}"
            try:
                figures[name] = same_total(kept, kind=kind, scope=scope)
            except NothingToDraw:
                continue
            names.append(name)
        if names:
            parts.append({"kind": kind, "names": names, **_share_table(kept, kind)})
    return parts, words


def _share_table(shares: pd.DataFrame, kind: str) -> dict[str, Any]:
    """Shares in percent with their intervals, a row a pair and scope, a column a stratum."""
    part = shares.loc[shares["kind"] == kind]
    strata = sorted(set(part["stratum"]))
    rows = []
    for (pair, scope), one in part.groupby(["pair", "scope"], sort=False):
        by_stratum = {
            row["stratum"]: Interval.in_row(row, "share").times(100) for row in one.to_dict("records")
        }
        cells = [_bracketed(by_stratum[stratum]) if stratum in by_stratum else "–" for stratum in strata]
        rows.append({"pair": pair, "scope": scope, "cells": cells})
    return {"strata": [bucket(stratum, strata) for stratum in strata], "rows": rows}


def _figure(row: Mapping[Any, Any]) -> str:
    return _bracketed(Interval.in_row(row, "estimate"))


def _bracketed(interval: Interval) -> str:
    ends = "" if np.isnan(interval.low) else f" [{number(interval.low)}, {number(interval.high)}]"
    return f"{number(interval.estimate)}{ends}"


def _seen(row: Mapping[Any, Any], *verdicts: str) -> str:
    return seen(row["detectable"], (row["verdict"], *verdicts), factor=row["scale"] == "factor")


def _state(verdict: str) -> tuple[str, str]:
    return MARKS.get(verdict, "open"), short(verdict)


def _counted(words: Iterator[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in Counter(words).items())


def _p(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2g}" if value >= 0.001 else "< 0.001"


def _fact(value: Any) -> str:
    if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
        return "–"
    return f"{value:,.0f}" if isinstance(value, int | float | np.number) else str(value)
