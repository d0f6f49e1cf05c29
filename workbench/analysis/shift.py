"""What shifted between base and RLVR model: tables of a trace, with intervals clustered by problem.

``stratified_shift`` (after arXiv 2511.19972, with a null and intervals):

1. Cut the cells of each layer and token kind into strata of base entropy, over the whole split.
2. Per stratum, average what changed: per layer, over all layers, and without the last layer, whose lens is
   the model's own output and behaves unlike the others. A pooled stratum joins the layers' own strata.
3. Beside each number stands that of the null which the trace drew, matched noise or another (`tracing.nulls`).
   KL depends on entropy by construction (a small logit change d gives half the variance of d under p), so the
   ratio of observed to null KL speaks about RLVR.
4. Intervals resample problems; the strata stay those of the whole split.

KL and entropies are in nats throughout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.analysis.low_entropy import headline, judged, part_name
from workbench.analysis.verdicts import Claim
from workbench.columns import describe
from workbench.errors import InputError
from workbench.estimates import Settings
from workbench.lens.strata import check_bins, fraction_strata, quantile_strata
from workbench.models.prompts import TokenKind
from workbench.names import NULLS
from workbench.tracing.cells import MEASURES, Cells, choose_kinds, positions_of
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.readings import in_words, labelled
from workbench.views import markup
from workbench.views.tables import bucket, first_kind

BY = ("quantile", "fraction")
KEYS = ("scope", "layer", "kind", "stratum", "strata_by", "entropy_low", "entropy_high", "cells", "problems")


@dataclass(frozen=True, eq=False, repr=False)
class ShiftTable:
    """Entropy-stratified shift of a pair, by scope, layer, kind and stratum, and what follows from it."""

    table: pd.DataFrame
    """KEYS, then of each of ``tracing.cells.MEASURES`` the estimate m and its interval m_low, m_high (NaN: none)."""
    correlations: pd.DataFrame
    """Per scope, layer, kind and measure (kl, kl_null, ratio): its Spearman rho with base entropy."""
    verdicts: tuple[Claim, ...]
    """Whether low-entropy cells shift more than high-entropy ones: `key` tells test (ends, trend, peak), measure, scope, kind."""
    verdict: str
    """The one line to remember."""
    depth: int
    """Decoder layers of the models; the last layer is ``depth - 1``."""
    bins: int
    level: float
    resamples: int
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        expected = [*KEYS, *(f"{measure}{end}" for measure in MEASURES for end in ("", "_low", "_high"))]
        if list(self.table.columns) != expected:
            raise InputError(
                f"`table` must hold the columns {expected}, found {list(self.table.columns)}; "
                "build it with stratified_shift(trace)."
            )
        if set(self.table["stratum"]) != set(range(self.bins)):
            raise InputError(f"`table` must hold the strata 0 to {self.bins - 1}, as `bins` says.")
        if not self.verdicts:
            raise InputError("`verdicts` is empty; build a ShiftTable with stratified_shift(trace).")

    @property
    def reading(self) -> str:
        """What the shift was read through, such as ``"logit lens"``."""
        return str((self.provenance.get("reading") or {}).get("name", "logit lens"))

    @property
    def stratum(self) -> str:
        """What a stratum is called, such as "fifth"."""
        return part_name(self.bins, str(self.table["strata_by"].iloc[0]))

    def __repr__(self) -> str:
        layers = self.table.loc[self.table["scope"] == "layer", "layer"].nunique()
        by, problems = self.table["strata_by"].iloc[0], self.table["problems"].max()
        kinds = ", ".join(self.table["kind"].unique())
        described = f"{self.bins} strata by {by}, {layers} layers, {problems} problems, tokens: {kinds}"
        return f"ShiftTable({described})\n{self.verdict}"

    def _repr_html_(self) -> str:
        pooled = self.table.loc[self.table["scope"] != "layer"]
        kind, scope = first_kind(self.table), str(pooled["scope"].iloc[-1])
        first = _readable(pooled.loc[(pooled["kind"] == kind) & (pooled["scope"] == scope)])
        return (
            markup.paragraph(self.verdict, strong=True)
            + markup.folded(f"{len(self.verdicts)} verdicts", markup.listing(v.text for v in self.verdicts))
            + markup.table(first.drop(columns=["scope", "kind"]))
            + markup.paragraph(
                f"Strata of {kind} tokens, {scope}. KL and entropy in nats; {self.level:.0%} intervals from "
                f"{self.resamples} resamples of problems. `.table` has {len(self.table)} rows, `.plot()` a figure."
            )
            + markup.folded(f"every token kind: {len(pooled)} pooled rows", markup.table(_readable(pooled)))
        )

    @property
    def null(self) -> str:
        """What the shift is held against, in words, such as "matched noise"."""
        return NULLS[self.provenance.get("against", "noise")]

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of its tables."""
        return describe({"shift": self.table, "correlations": self.correlations})

    def to_dataframe(self) -> pd.DataFrame:
        """A copy of ``table``."""
        return self.table.copy()

    def plot(self, kind: str | None = None, measure: str = "kl") -> Any:
        """Plotly figure of one measure by layer and stratum; ``kind`` is visual if there is any, else all."""
        from workbench.views.shift_figures import shift_heatmap

        return shift_heatmap(self.table, kind=kind, measure=measure, depth=self.depth)


def stratified_shift(
    trace: LensTrace,
    bins: int = 5,
    *,
    by: str = "quantile",
    kinds: Sequence[str] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> ShiftTable:
    """Shift by stratum of base entropy, and whether low-entropy cells shift more than high-entropy ones.

    1. Cut the cells of each layer and token kind into strata of base entropy, over the whole split.
    2. Per stratum, average what changed: per layer, over all layers, and without the last one.
    3. Set the trace's null beside it; intervals resample problems.

    Args:
        trace: what ``workbench.trace`` returned, with ``null_draws`` of at least 1 for the null columns.
        bins: strata per layer and kind.
        by: ``"quantile"``: equally full strata of each layer and kind over the whole split. ``"fraction"``:
            strata of equal width up to the largest base entropy of that layer and kind in each prompt (the
            paper's ``e <= tau * max``); these can be empty, and are NaN then.
        kinds: of ``cells.KINDS``, "visual" or "all" among them; by default every kind with enough positions.
        resamples: bootstrap resamples of the problems.
        level: coverage of the intervals.
        seed: of the resamples.

    Returns:
        The table, rank correlations with entropy, and verdicts; `ShiftTable.columns` says what every column means.

    Raises:
        InputError: an empty trace, ``bins`` below 2 or above the number of cells, unknown ``by``, ``kinds``.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> table = wb.stratified_shift(wb.trace(pair, wb.load_problems("shapes", limit=8)), bins=5)
        >>> sorted(table.table["stratum"].unique().tolist())
        [0, 1, 2, 3, 4]
        >>> table.verdict.startswith("Low-entropy")
        True
    """
    check_bins(bins)
    if by not in BY:
        raise InputError(
            f"`by` must be one of {BY}, found {by!r}; e.g. stratified_shift(trace, by='fraction')."
        )
    names = choose_kinds(trace, kinds, bins)
    if not {"visual", "all"} & {*names}:
        raise InputError(
            "`kinds` must hold 'visual' or 'all', which the one-line verdict is about; found "
            f"{kinds!r}: stratified_shift(trace, kinds=['all', {names[0]!r}])."
        )
    settings = Settings(resamples=resamples, level=level, seed=seed)
    if not isinstance(held := trace.provenance.get("against", "noise"), str):
        raise InputError(
            f"`trace` holds the nulls {', '.join(held)}, and a shift is held against one: stratified_shift(against(trace, "
            f"{held[0]!r})), with against of workbench.tracing.trace."
        )
    null = NULLS[trace.provenance.get("against", "noise")]
    rows, correlations, verdicts = [], [], []
    for kind in names:
        cells, strata = Cells.of(trace, kind), _strata(trace, kind, bins, by)
        for scope, layer, members in _scopes(trace):
            part, part_strata = cells.layers(members), strata[members]
            measured, contrasts = part.stratified(part_strata, bins, settings)
            key = {"scope": scope, "layer": layer, "kind": kind}
            rows += [key | {"stratum": i, "strata_by": by} | row for i, row in enumerate(measured)]
            correlations += [key | row for row in part.correlations(settings)]
            if scope != "layer" or layer == trace.depth - 1:
                name = "last layer" if scope == "layer" else scope
                shapes = part.shape(part_strata, bins, settings)
                called = part_name(bins, by)
                words = {"stratum": called, "level": level, "null": null}
                verdicts += judged(name, kind, part, measured, contrasts, shapes, **words)
    verdicts = labelled(verdicts, trace.reading)
    used = {"by": by, "bins": bins, "resamples": resamples, "level": level, "seed": seed}
    return ShiftTable(
        table=pd.DataFrame(rows),
        correlations=pd.DataFrame(correlations),
        verdicts=tuple(verdicts),
        verdict=in_words(headline(verdicts, null).removesuffix("."), trace.reading) + ".",
        depth=trace.depth,
        bins=bins,
        level=level,
        resamples=resamples,
        provenance=trace.provenance | {"shift": used},
    )


def top_prediction_shift(
    trace: LensTrace,
    *,
    prompt: int = 0,
    positions: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
) -> pd.DataFrame:
    """The top tokens of both models at the same cells of one prompt, side by side, as text.

    One row per (layer, position). Columns: problem, layer, position, kind, token; base_top1, base_probability,
    rlvr_top1, rlvr_probability; top1_agreement, topk_overlap, kl, entropy_base, entropy_rlvr (nats);
    base_top, rlvr_top: all top tokens with their probabilities, ``"three 0.41 · four 0.22"``.

    Raises:
        InputError: a prompt, position or layer that was not traced.
    """
    one = trace.select(prompt=prompt)
    words = one.vocabulary
    places = _index(one.position.tolist(), positions, "positions")
    rows = []
    for layer in _index(list(one.layers), layers, "layers"):
        for place in places:
            row: dict[str, Any] = {
                "problem": one.prompts[0].problem_id,
                "layer": one.layers[layer],
                "position": int(one.position[place]),
                "kind": TokenKind(int(one.kind[place])).name.lower(),
                "token": words[int(one.token_id[place])],
            }
            tops = {}
            for model in ("base", "rlvr"):
                ids, chances = (
                    getattr(one, f"top_{what}_{model}")[layer, place].tolist() for what in ("ids", "probs")
                )
                tops[f"{model}_top"] = " · ".join(
                    f"{words[i]} {p:.2f}" for i, p in zip(ids, chances, strict=True)
                )
                row |= {f"{model}_top1": words[ids[0]], f"{model}_probability": chances[0]}
            row["top1_agreement"] = bool(one.top1_agreement[layer, place])
            for name in ("topk_overlap", "kl", "entropy_base", "entropy_rlvr"):
                row[name] = float(getattr(one, name)[layer, place])
            rows.append(row | tops)
    return pd.DataFrame(rows)


def _readable(pooled: pd.DataFrame) -> pd.DataFrame:
    """The columns to read first, under their names in words."""
    ranges = zip(pooled["entropy_low"], pooled["entropy_high"], strict=True)
    table = pd.DataFrame({name: pooled[name] for name in ("scope", "kind")})
    table["stratum"] = [bucket(stratum, pooled["stratum"]) for stratum in pooled["stratum"]]
    table["base entropy"] = [f"{markup.shown(low)} to {markup.shown(high)}" for low, high in ranges]
    table["cells"] = pooled["cells"]
    for measure, name in (("kl", "KL"), ("kl_null", "KL of null"), ("ratio", "KL / null")):
        for end in ("", "_low", "_high"):
            table[f"{name}{end}"] = pooled[f"{measure}{end}"]
    return table


def _strata(trace: LensTrace, kind: str, bins: int, by: str) -> NDArray[np.int64]:
    here = positions_of(trace, kind)
    entropy = trace.entropy_base[:, here]
    if by == "quantile":
        return quantile_strata(entropy, bins).numpy()
    return fraction_strata(entropy, [edge / bins for edge in range(1, bins)], trace.prompt[here]).numpy()


def _scopes(trace: LensTrace) -> list[tuple[str, int, list[int]]]:
    """Scope, layer (-1: several) and rows of the layer axis of every group of cells that is looked at."""
    rows = list(range(len(trace.layers)))
    scopes = [("layer", layer, [row]) for row, layer in enumerate(trace.layers)]
    scopes.append(("all layers", -1, rows))
    others = [row for row in rows if trace.layers[row] != trace.depth - 1]
    return [*scopes, ("without last layer", -1, others)] if others else scopes


def _index(known: list[int], wanted: Sequence[int] | None, name: str) -> list[int]:
    """Where each wanted layer or position lies among those traced."""
    absent = sorted(set(wanted or ()) - set(known))
    if absent:
        raise InputError(
            f"`{name}` asks for {absent}, but the trace holds {min(known)} to {max(known)}; "
            f"for example top_prediction_shift(trace, {name}=[{known[0]}])."
        )
    return [known.index(value) for value in (known if wanted is None else wanted)]
