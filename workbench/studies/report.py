"""A run as one self-contained HTML page: verdicts, figures, tables, and the lens explorer.

Everything the page shows is inside it (plotly.js once, pictures as data URIs, numbers as base64 arrays), so
it opens offline (``pages``).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.verdicts import adjusted, adjusted_verdict, by_chance, seen
from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.experiments.outcomes import accuracy_rows
from workbench.names import MARKS, short
from workbench.selection import LOW, low_note
from workbench.studies.answers_changed import (
    ON_BASE,
    changed_answer,
    conditions_in,
    greedy_answers,
    greedy_changes,
    reverse_conditions,
)
from workbench.studies.explore import check_followed
from workbench.studies.provenance import provenance
from workbench.tracing.cells import TOKENS
from workbench.views.explorer import SCRIPTS, embed
from workbench.views.explorer_data import place_name, token_texts, word
from workbench.views.null_figures import null_figures
from workbench.views.outcome_figures import ablation_figures
from workbench.views.page_figures import bare, placed, plotly_js, templates
from workbench.views.pages import inline_json, render, source, write_page
from workbench.views.panels import layer_label
from workbench.views.perturbation_figures import perturbation_figures
from workbench.views.shift_figures import KINDS, study_figures
from workbench.views.tables import bucket, last_layer, number, rows_where, strata_note, strata_rows

if TYPE_CHECKING:
    from workbench.analysis.shift import ShiftTable
    from workbench.analysis.verdicts import Claim
    from workbench.studies.read_through import ReadThrough
    from workbench.tracing.follow import Followed
    from workbench.tracing.lens_trace import LensTrace

COLUMNS = (4, 8)
"""Visual tokens and closing positions in a table of top predictions."""


def _kinds(shift: "ShiftTable") -> list[str]:
    """Kinds of token that the table has, in their order."""
    return [kind for kind in KINDS if kind in set(rows_where(shift.table, "table", ["kind"])["kind"])]


def write_report(
    path: str | Path,
    *,
    trace: "LensTrace",
    shift: "ShiftTable",
    agreement: pd.DataFrame,
    followed: "Followed | None" = None,
    claims: Sequence["Claim"] = (),
    outcomes: tuple[pd.DataFrame, pd.DataFrame] | None = None,
    responses: pd.DataFrame | None = None,
    perturbation: tuple[pd.DataFrame, pd.DataFrame] | None = None,
    nulls: pd.DataFrame | None = None,
    reading: "ReadThrough | None" = None,
    left_out: Mapping[str, str] | None = None,
    spec: Mapping[str, Any] | None = None,
    title: str | None = None,
    problems: int = 6,
    top_k: int = 5,
) -> Path:
    """Write the page and return its path; an old page is replaced only once the new one is whole.

    Args:
        path: the file, such as ``"run/report.html"``; missing folders are made.
        trace: what ``workbench.trace`` returned; its first ``problems`` prompts are in the explorer.
        shift: ``stratified_shift(trace)``.
        agreement: ``agreement_by_layer(trace)``.
        followed: ``follow(pair, problems[:6], trace)``: exact probabilities for the tokens that a reader pins.
        claims: the paper's claims, for a table of what this pair shows; none leaves it out.
        outcomes: ``summary`` and ``drift`` of an ablation, for a section on interventions; None leaves it out.
        responses: of the same ablation, for one changed answer and counts of changed texts; None leaves them out.
        perturbation: ``table`` and ``slopes`` of a perturbation study, for a section on it; None leaves it out.
        nulls: ``table`` of a ``NullShift``, for a section on null models; None leaves it out.
        reading: another reading than the logit lens, for a section and, of a `LatentLens`, the explorer; None leaves it out.
        left_out: parts of the study that could not be made, and why; named at the top of the page.
        spec: what else to print at the foot, beside ``shift.provenance``.
        title: of the page.
        problems: how many problems to show.
        top_k: top predictions per token in the page, at most those traced.

    Raises:
        InputError: empty tables, missing columns, ``followed`` of another trace, a number below 1, unwritable ``path``.
    """
    _check(problems, top_k, trace, followed)
    low = low_note(conditions_in(spec))
    figures = study_figures(shift.table, shift.correlations, agreement, depth=trace.depth)
    interventions: dict[str, go.Figure] = ablation_figures(*outcomes, low=low) if outcomes else {}
    disturbed = perturbation_figures(*perturbation) if perturbation else {}
    kinds, beside = _kinds(shift), {} if nulls is None else null_figures(nulls)
    read: dict[str, go.Figure] = {} if reading is None else reading.figures()
    answered = _answered(trace, outcomes)
    every = figures | interventions | disturbed | beside | read
    traces = [trace.select(prompt=index) for index in range(min(problems, len(trace.prompts)))]
    html = render(
        "report.html.j2",
        title=title or f"What RLVR changed in {trace.provenance.get('pair') or 'this pair'}",
        trace=trace,
        shift=shift,
        level=f"{shift.level:.0%}",
        kinds=kinds,
        tiles=list(_tiles(trace, shift, agreement, answered)),
        answered=answered,
        verdicts=_verdict_rows(shift),
        strata={kind: list(_strata_rows(shift.table, kind, trace.depth)) for kind in kinds},
        plot=lambda name, wide=False: placed(name, every, wide),
        left_out=dict(left_out or {}),
        **_claims(claims),
        answers=_accuracies(outcomes[0]) if outcomes else {},
        changed=changed_answer(trace, responses) if responses is not None else None,
        interventions=list(interventions),
        disturbed=list(disturbed),
        beside=list(beside),
        read=list(read),
        reading=reading,
        low=low,
        lowest=strata_note(shift.table),
        drift_low=low_note(LOW),
        accuracies=_intervention_rows(outcomes[0], responses, spec) if outcomes else [],
        predictions=[_predictions(one) for one in traces],
        shown=len(traces),
        pictured=any(info.grids for info in trace.prompts),
        several_views=any(len(one.prompts[0].grids) > 1 for one in traces),
        provenance=provenance(shift.provenance, spec or {}),
        figures_json=inline_json({"templates": templates(), "figures": bare(every)}),
        explorer=embed(
            traces,
            top_k,
            followed,
            None if responses is None else greedy_answers(responses),
            reading and reading.found,
        ),
        **_assets(),
    )
    return write_page(path, html)


def _claims(claims: Sequence["Claim"]) -> dict[str, Any]:
    """What the page says of claims: the table's parts, a count, and how many would come out so by chance."""
    counted = {"claim_count": _claim_count(claims), "by_chance": by_chance(claims) if claims else ""}
    return {"claims": _claim_parts(claims), **counted}


def _assets() -> dict[str, str]:
    """Scripts and styles, written into the page."""
    scripts = {"plotly_js": plotly_js(), "js": source("report.js", *SCRIPTS)}
    return {**scripts, "css": source("report.css", "explorer.css")}


def _check(problems: int, top_k: int, trace: "LensTrace", followed: "Followed | None") -> None:
    for name, value in (("problems", problems), ("top_k", top_k)):
        if value < 1:
            raise InputError(f"`{name}` is {value}, expected at least 1: write_report(path, ..., {name}=5)")
    check_followed(trace, followed)


def _accuracies(summary: pd.DataFrame) -> dict[str, str]:
    """Greedy accuracy of the plain models in percent with its interval, by name."""
    rows = {row["name"]: row["cells"][0] for row in accuracy_rows(summary)}
    return {name: rows[name] for name in ("base", "rlvr") if name in rows}


def _intervention_rows(
    summary: pd.DataFrame, responses: pd.DataFrame | None, spec: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """``accuracy_rows`` with ``note``, on which model it acts, and a cell first: greedy texts that it changed."""
    reverse = reverse_conditions(spec)
    counts = {} if responses is None else greedy_changes(responses, reverse)
    return [
        {
            "name": row["name"],
            "note": ON_BASE if row["name"] in reverse else "",
            "cells": [counts.get(row["name"], "–"), *row["cells"]],
        }
        for row in accuracy_rows(summary)
    ]


def _claim_count(claims: Sequence["Claim"]) -> str:
    """How many claims hold and so on, in words."""
    counts = Counter(short(claim.verdict) for claim in claims)
    words = {
        "holds": "hold",
        "does not": "do not hold",
        "undecided": "are undecided",
        "too few": "have too few problems",
        "untestable": "cannot be tested",
    }
    return ", ".join(f"{counts[verdict]} {text}" for verdict, text in words.items() if counts[verdict])


def _claim_parts(claims: Sequence["Claim"]) -> list[dict[str, Any]]:
    """The claims in two parts: those shown, and the ablations, which are folded; a part without claims is left out."""
    judged = list(zip(claims, adjusted(claims), strict=True))
    folded = [(claim, p) for claim, p in judged if claim.place == "ablations"]
    main = [(claim, p) for claim, p in judged if claim.place != "ablations"]
    parts = {"": main, f"Ablations: {_claim_count([claim for claim, _ in folded])}": folded}
    return [{"title": title, "rows": list(_claim_rows(part))} for title, part in parts.items() if part]


def _claim_rows(claims: Sequence[tuple["Claim", float]]) -> Iterator[dict[str, Any]]:
    """Claims and adjusted p values as text, those of one wording together: ``rows`` is how many, on the first, else 0."""
    wordings = dict.fromkeys((claim.claim, claim.place) for claim, _ in claims)
    for wording in wordings:
        together = [(claim, p) for claim, p in claims if (claim.claim, claim.place) == wording]
        for index, (claim, p) in enumerate(together):
            interval, after = claim.interval, adjusted_verdict(claim, p)
            sides = [f"{n:,}" for n in claim.cells or ()]
            yield {
                "claim": claim.claim,
                "place": claim.place,
                "rows": 0 if index else len(together),
                "measured": claim.measured,
                "behind": f"{claim.problems} {claim.unit}"
                + (f"; {claim.kind} cells: {sides[0]} against {sides[1]}" if sides else ""),
                "why": claim.why,
                "figure": claim.obstacle
                or f"{number(interval.estimate)} {_interval(interval.low, interval.high)}".strip(),
                "expected": f"{'>' if claim.above else '<'} {claim.bound:g}",
                "state": (MARKS.get(claim.verdict, "open"), short(claim.verdict)),
                "p": "–" if np.isnan(p) else f"{p:.2g}" if p >= 0.001 else "< 0.001",
                "adjusted": (MARKS.get(after, "open"), short(after)),
                "seen": seen(claim.detectable, (claim.verdict, after), factor=claim.factor),
            }


def _interval(low: float, high: float) -> str:
    return "" if np.isnan(low) or np.isnan(high) else f"[{number(low)}, {number(high)}]"


def _answered(trace: "LensTrace", outcomes: tuple[pd.DataFrame, pd.DataFrame] | None) -> int | None:
    """How many problems were answered, where those are fewer than were traced."""
    count = max(map(int, outcomes[0]["problems"])) if outcomes else len(trace.prompts)
    return count if count < len(trace.prompts) else None


def _tiles(
    trace: "LensTrace", shift: "ShiftTable", agreement: pd.DataFrame, answered: int | None
) -> Iterator[dict[str, str]]:
    """The key numbers, for visual tokens and without the last layer where there are such."""
    traced = f"{len(trace.prompts):,}"
    yield _tile("Problems", traced, f"{answered:,} of them answered" if answered else "")
    yield _tile("Positions × layers", f"{len(trace.prompt):,} × {len(trace.layers)}")
    ends = [verdict for verdict in shift.verdicts if verdict.key["test"] == "ends"]
    first = min(ends, key=_place)
    kind, scope = first.kind, first.key["scope"]
    where = f"({kind} tokens, {scope})"
    for verdict in ends:
        if (verdict.kind, verdict.key["scope"]) == (kind, scope):
            name = {"kl": "KL", "ratio": "KL over noise"}[verdict.key["measure"]]
            factor = verdict.interval
            yield _tile(
                f"{name}, lowest over highest stratum {where}",
                f"{number(factor.estimate)}×",
                _interval(factor.low, factor.high),
            )
    for row in shift.correlations.to_dict("records"):
        if (row["kind"], row["scope"], row["measure"]) == (kind, scope, "kl"):
            low, high = row["rho_low"], row["rho_high"]
            interval = "" if np.isnan(low) else f"[{low:.2f}, {high:.2f}]"
            yield _tile(f"Rank correlation of entropy and KL {where}", f"{row['rho']:.2f}", interval)
    last = last_layer(trace.layers, None)
    for row in agreement.to_dict("records"):
        if row["layer"] == last and row["kind"] in TOKENS:
            share, low, high = (row[column] for column in Interval.names("top1_agreement"))
            interval = "" if np.isnan(low) else f"[{low:.0%}, {high:.0%}]"
            layer = layer_label(last, trace.depth - 1)
            yield _tile(f"Same top token at layer {layer}, {row['kind']} tokens", f"{share:.0%}", interval)


def _place(verdict: "Claim") -> tuple[int, int]:
    """Sorts verdicts: visual tokens first, the layers below the last first."""
    kinds, scopes = (*KINDS, "all"), ("without last layer", "last layer", "all layers")
    return kinds.index(verdict.kind), scopes.index(verdict.key["scope"])


def _tile(label: str, value: str, interval: str = "") -> dict[str, str]:
    return {"label": label, "value": value, "interval": interval}


def _verdict_rows(shift: "ShiftTable") -> list[dict[str, Any]]:
    """One row per token kind and scope: the verdicts for raw KL and for the ratio."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for verdict in sorted(shift.verdicts, key=_place):
        place = verdict.kind, verdict.key["scope"]
        cells = rows.setdefault(place, {"kind": place[0], "scope": place[1]})
        factor = f"{number(verdict.interval.estimate)}×"
        cells[f"{verdict.key['measure']}_{verdict.key['test']}"] = {
            "state": (MARKS.get(verdict.verdict, "open"), short(verdict.verdict)),
            "factor": f"{factor} {_interval(verdict.interval.low, verdict.interval.high)}",
            "text": verdict.text,
        }
    return list(rows.values())


def _strata_rows(table: pd.DataFrame, kind: str, depth: int) -> Iterator[dict[str, Any]]:
    rows = strata_rows(table, ["kl", "kl_null", "ratio"], scope="layer", kind=kind)
    strata = rows["stratum"].unique().tolist()
    for row in rows.to_dict("records"):
        cells = [
            bucket(row["stratum"], strata),
            f"{number(row['entropy_low'])} – {number(row['entropy_high'])}",
            f"{row['cells']:,}",
        ]
        for measure in ("kl", "kl_null", "ratio"):
            estimate, low, high = (row[column] for column in Interval.names(measure))
            cells.append(f"{number(estimate)} {_interval(low, high)}")
        yield {"layer": layer_label(row["layer"], depth - 1), "cells": cells}


def _predictions(one: "LensTrace") -> dict[str, Any]:
    """The table of top predictions of one prompt: its most shifted visual tokens and its end."""
    info, kl = one.prompts[0], one.kl.numpy()
    visual = (one.grid[:, 0] >= 0).numpy().nonzero()[0]
    loudest = visual[np.argsort(-kl[:, visual].mean(axis=0), kind="stable")[: COLUMNS[0]]]
    positions = [*sorted(loudest.tolist()), *range(max(0, kl.shape[1] - COLUMNS[1]), kl.shape[1])]
    tokens = token_texts(one)
    columns = [{"token": "▦" if p in loudest else tokens[p], "place": place_name(one, p)} for p in positions]
    most = max(float(kl[:, positions].max()), 1e-12)
    rows = []
    for index, layer in enumerate(one.layers):
        cells = []
        for p in positions:
            base, rlvr = int(one.top_ids_base[index, p, 0]), int(one.top_ids_rlvr[index, p, 0])
            cells.append(
                {
                    "base": word(one, base),
                    "rlvr": word(one, rlvr) if rlvr != base else None,
                    "kl": number(float(kl[index, p])),
                    "shade": f"{(kl[index, p] / most) ** 0.5:.3f}",
                }
            )
        rows.append({"layer": layer, "last": layer == one.depth - 1, "cells": cells})
    return {"problem": info.problem_id, "question": info.question, "columns": columns, "rows": rows}
