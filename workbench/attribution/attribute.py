"""Attribution: which embeddings, heads and MLPs write the change from the base to the RLVR model.

For every problem, on both models behind TransformerLens (``attribution.bridge``), pictures included:

1. choose cells (layer, position) by the base's entropy, or name them;
2. split each metric's change over components of both models (``components``);
3. swap every component between the models, exactly and by two approximations (``swaps``), everywhere and at visual and text
   positions alone;
4. means over problems, and correlations of the approximations with the exact effects, with intervals clustered by problem.

Metrics: ``kl``, KL(base || rlvr) of the lens at the cells; ``logit_difference``, ``log_probability`` and
``probability`` of the next token where a right and a wrong response part, after what they share.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.attribution.bridge import check_family
from workbench.attribution.contributions import check_metrics
from workbench.attribution.effects import APPROXIMATIONS, GROUP, KEYS, correlate, summarise
from workbench.attribution.one_prompt import AttributedPrompt, Cells
from workbench.attribution.swaps import ROWS
from workbench.columns import describe
from workbench.errors import InputError
from workbench.estimates import (
    Array,
    Interval,
)
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.names import METRICS, Metric
from workbench.problems.problem import Problem, listed
from workbench.runs import kept
from workbench.views import markup

TABLES = ("direct", "effects", "totals")
SHOWN = 60
"""Components that Jupyter shows."""
_CALL = 'attribute(pair, problems, metrics=["kl"])'


@dataclass(frozen=True, eq=False)
class Attribution:
    """What components write of the change, and what swapping them does."""

    direct: pd.DataFrame = field(repr=False)
    """A row a problem, metric and component: ``base`` and ``rlvr``, both through the base's head with its norm scale frozen, and
    ``change``, the difference. Kinds ``norm scale`` and ``unembedding`` hold the other terms of the exact sum."""
    effects: pd.DataFrame = field(repr=False)
    """A row a problem, metric, direction, component and place (``where``): ``exact``, and the approximations."""
    totals: pd.DataFrame = field(repr=False)
    """A row a problem and metric: ``cells``, the measured change ``total``, the sum ``explained`` of all terms, and
    ``scale_error``, the absolute term of the norm scale over the absolute change."""
    summary: pd.DataFrame = field(repr=False)
    """Means over problems of ``change`` (direction ``direct``) and of ``exact``, with 95% intervals."""
    correlations: pd.DataFrame = field(repr=False)
    """Pearson and Spearman correlation of each approximation with the exact effects, with intervals."""
    provenance: Mapping[str, Any] = field(repr=False)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics, in the order they were asked for."""
        return tuple(dict.fromkeys(self.totals["metric"]))

    @property
    def verdict(self) -> str:
        """One line a metric: the largest contributions, and the error of freezing the norm's scale."""
        return "\n".join(self._line(metric) for metric in self.metrics)

    def __repr__(self) -> str:
        problems, components = self.totals["problem"].nunique(), self.direct["component"].nunique()
        return (
            f"Attribution({', '.join(self.metrics)}; {problems} problems, {components} terms)\n{self.verdict}"
        )

    def _repr_html_(self) -> str:
        columns = [*KEYS[:2], *GROUP, *Interval.names("estimate"), "problems"]
        order = np.argsort(-self.summary["estimate"].abs().to_numpy(), kind="stable")[:SHOWN]
        html = markup.paragraph("No swaps, so no correlations.")
        if len(self.correlations):
            names = [*GROUP, "approximation", *Interval.names("pearson"), *Interval.names("spearman")]
            html = markup.table(self.correlations.loc[:, names])
            html += markup.paragraph("Correlations with exact swaps; 95% intervals over problems.")
        lines = "".join(markup.paragraph(self._line(metric), strong=True) for metric in self.metrics)
        largest = markup.folded("components, largest first", markup.table(self.summary[columns].iloc[order]))
        return lines + html + largest

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of its tables."""
        return describe(self.tables())

    def to_dataframe(self) -> pd.DataFrame:
        """A copy of ``summary``."""
        return self.summary.copy()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Everything that was found, by the names that a run folder gives it."""
        return {
            "attribution": self.summary,
            "attribution_direct": self.direct,
            "attribution_effects": self.effects,
            "attribution_totals": self.totals,
            "attribution_correlations": self.correlations,
        }

    def plot(self, metric: str | None = None, direction: str = "direct", where: str = "all") -> Any:
        """Mean contribution or effect by layer and component, as a plotly Figure; ``metric`` is the first."""
        from workbench.views.attribution_figures import component_heatmap

        return component_heatmap(
            self.summary, metric=metric or self.metrics[0], direction=direction, where=where
        )

    def plot_approximations(self, metric: str | None = None, where: str = "all") -> Any:
        """Exact against approximate effects, as a plotly Figure; ``metric`` is the first."""
        from workbench.views.attribution_figures import exact_scatter

        return exact_scatter(self.effects, self.correlations, metric=metric or self.metrics[0], where=where)

    def _line(self, metric: str) -> str:
        rows = self.summary.loc[(self.summary["metric"] == metric) & (self.summary["direction"] == "direct")]
        rows = rows.loc[rows["kind"] != "norm scale"]
        order = rows["estimate"].abs().sort_values(ascending=False, kind="stable").index[:3]
        named = [f"{row['component']} {_interval(row)}" for row in rows.loc[order].to_dict("records")]
        totals = self.totals.loc[self.totals["metric"] == metric]
        frozen = (self.direct["metric"] == metric) & (self.direct["kind"] == "norm scale")
        scale = self.direct.loc[frozen, "change"].mean()
        total = totals["total"].mean()
        return (
            f"{metric}: mean change {total:.3g} ({METRICS[metric]}); most is written by {', '.join(named)}; freezing the "
            f"norm's scale leaves out {scale:.3g}"
        )


def attribute(
    pair: ModelPair,
    problems: Sequence[Problem | EncodedPrompt],
    *,
    metrics: Sequence[Metric],
    cells: Cells | Sequence[tuple[int, int]] | None = None,
    responses: Sequence[tuple[str, str]] | None = None,
    swaps: bool = True,
    approximations: Sequence[str] = APPROXIMATIONS,
    rows: int = ROWS,
    resamples: int = 1000,
    seed: int = 0,
    keep: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Attribute the change between a pair's models to embeddings, heads and MLPs.

    1. Choose cells (layer, position) by the base's entropy, or name them.
    2. Split each metric's change over the components of both models, exactly.
    3. Swap every component between the models, exactly and by two approximations.
    4. Means over problems, and correlations of the approximations with the exact effects, with intervals.

    Args:
        pair: what `load_pair` returned.
        problems: problems, or prompts already encoded.
        metrics: of `names.METRICS`: ``kl``, ``logit_difference``, ``log_probability``, ``probability``; several at once.
        cells: where the KL is taken: `Cells`, or (layer, position) pairs for every prompt. None: `Cells()`.
        responses: for each problem a right and a wrong response, for metrics of the answer. None: those that the problems bring.
        swaps: False leaves out what swapping does.
        approximations: of swaps; may be empty.
        rows: swaps that run side by side; fewer take less memory.
        resamples: of the bootstrap over problems.
        seed: of the bootstrap.
        keep: a folder for finished problems; the same call with the same folder goes on from there.
        progress: called with (problems done, problems in all).

    Returns:
        Tables by problem and component, their means, and correlations; `Attribution.verdict` in words.

    Raises:
        InputError: a family that TransformerLens does not support, unknown metrics or approximations, a layer or position that
            does not exist, no responses for a metric of the answer, responses that do not differ, ``keep`` with encoded prompts,
            a problem twice.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> found = wb.attribute(pair, wb.load_problems("shapes", limit=2), metrics=["kl"], swaps=False, resamples=50)
        >>> bool(abs(found.totals["total"] - found.totals["explained"]).max() < 1e-3)  # the parts sum to the change
        True
    """
    measures = check_metrics(metrics)
    selection = Cells() if cells is None else cells
    problems = listed(problems, _CALL, Problem, EncodedPrompt, distinct=True)
    _check(pair, approximations, rows)
    _check_responses(problems, measures, responses)
    _check_kept(problems, keep)
    prompts, folder = _encoded(pair, problems, selection), None if keep is None else Path(keep)
    texts = responses or [_brought(item) for item in problems] if _of_answer(measures) else None
    settings, used = {"resamples": resamples, "seed": seed}, _used(measures, approximations, rows, selection)

    def measured(prompt: EncodedPrompt, said: tuple[str, str] | None) -> list[pd.DataFrame]:
        one, totals = AttributedPrompt.of(pair, prompt, selection, measures, said), []
        direct, effects = one.direct(totals), one.effects(approximations, rows) if swaps else []
        return [pd.DataFrame(part) for part in (direct, effects, totals)]

    parts = []
    for index, (item, prompt) in enumerate(zip(problems, prompts, strict=True)):
        text_pair = None if texts is None else texts[index]
        spec = {"pair": {**pair.provenance}, **used, "swaps": swaps, "responses": text_pair}
        spec["problem"] = item.fingerprint
        parts.append(kept(folder, spec, TABLES, lambda prompt=prompt, said=text_pair: measured(prompt, said)))
        if progress:
            progress(index + 1, len(prompts))
    tables = _joined(parts)
    return Attribution(
        **tables,
        summary=summarise(tables["direct"], tables["effects"], **settings),
        correlations=correlate(tables["effects"], approximations, **settings),
        provenance={**pair.provenance, "attribution": used | settings},
    )


def _used(wanted: Sequence[Any], approximations: Sequence[str], rows: int, chosen: Any) -> dict[str, Any]:
    """What a problem's tables depend on, as JSON's types."""
    cells = asdict(chosen) if isinstance(chosen, Cells) else [list(cell) for cell in chosen]
    return {"metrics": [*wanted], "approximations": [*approximations], "rows": rows, "cells": cells}


def _encoded(
    pair: ModelPair, problems: Sequence[Problem | EncodedPrompt], chosen: Any
) -> list[EncodedPrompt]:
    """The problems, encoded, once the cells are known to be there."""
    _check_cells(chosen, pair)
    prompts = [pair.encode(item) for item in problems]
    for prompt in prompts:
        _check_positions(chosen, prompt)
    return prompts


def _check_kept(problems: Sequence[Problem | EncodedPrompt], keep: str | Path | None) -> None:
    if keep is not None and not all(isinstance(item, Problem) for item in problems):
        raise InputError(
            "`keep` needs problems, found prompts already encoded: attribute(pair, problems, keep='runs/kept')"
        )


def _joined(parts: Sequence[Sequence[pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """The tables of all problems, by name."""
    return {
        name: pd.concat(part, ignore_index=True)
        for name, part in zip(TABLES, zip(*parts, strict=True), strict=True)
    }


def contributions(pair: ModelPair, problems: Sequence[Problem]) -> dict[str, Array]:
    """Direct contributions to the KL at low-entropy cells (`Cells()`), nats, a value a problem; their sum is that KL.

    By layer: "embedding", "L0 heads", "L0 MLP", ..., "norm scale", "unembedding". What `follow_training` follows over
    checkpoints with ``further={"contributions": contributions}``.

    Raises:
        InputError: as `attribute` does.
    """
    rows = attribute(pair, problems, metrics=["kl"], swaps=False, resamples=2).direct
    named = np.where(rows["kind"] == "head", "L" + rows["layer"].astype(str) + " heads", rows["component"])
    wide = rows.assign(component=named).pivot_table(
        index="problem", columns="component", values="change", aggfunc="sum", sort=False
    )
    wide = wide.loc[[problem.id for problem in problems]]
    return {str(name): wide[name].to_numpy(float) for name in dict.fromkeys(named)}


def _interval(row: Mapping[str, Any]) -> str:
    bounds = (
        "" if np.isnan(row["estimate_low"]) else f" [{row['estimate_low']:.2g}, {row['estimate_high']:.2g}]"
    )
    return f"{row['estimate']:.2g}{bounds}"


def _of_answer(metrics: Sequence[str]) -> bool:
    return any(metric != "kl" for metric in metrics)


def _brought(item: Problem | EncodedPrompt) -> tuple[str, str]:
    metadata = item.metadata if isinstance(item, Problem) else {}
    return metadata["chain"], metadata["wrong"]


def _check(pair: ModelPair, approximations: Any, rows: Any) -> None:
    if not _is_list(approximations) or set(approximations) - set(APPROXIMATIONS):
        raise InputError(
            f"`approximations` is {approximations!r}; expected some of {', '.join(APPROXIMATIONS)}: "
            "attribute(..., approximations=['relp'])"
        )
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise InputError(f"`rows` is {rows!r}; expected at least 1: attribute(..., rows={ROWS})")
    check_family(pair.base)


def _check_cells(chosen: Any, pair: ModelPair) -> None:
    if not isinstance(chosen, Cells):
        if not _is_list(chosen) or not all(_is_pair(cell, int) for cell in chosen):
            raise InputError(
                f"`cells` is {chosen!r}; expected Cells(...) or (layer, position) pairs: attribute(..., cells=[(3, 10)])"
            )
        if not chosen:
            raise InputError(
                "`cells` is empty; expected (layer, position) pairs: attribute(..., cells=[(3, 10)])"
            )
    layers = (chosen.layers or ()) if isinstance(chosen, Cells) else [layer for layer, _ in chosen]
    outside = [layer for layer in layers if not 0 <= layer < pair.depth]
    if outside:
        raise InputError(
            f"`cells` names layer {outside[0]}; expected 0 to {pair.depth - 1}: Cells(layers=({pair.depth - 1},))"
        )


def _check_positions(chosen: Any, prompt: EncodedPrompt) -> None:
    for layer, position in () if isinstance(chosen, Cells) else chosen:
        if not 0 <= position < len(prompt):
            raise InputError(
                f"`cells` names position {position} of {prompt.problem_id!r}; expected 0 to {len(prompt) - 1}: "
                f"attribute(..., cells=[({layer}, {len(prompt) - 1})])"
            )


def _check_responses(problems: Sequence[Any], metrics: Sequence[str], responses: Any) -> None:
    if not _of_answer(metrics):
        return
    call = "attribute(..., responses=[('<answer> 3</answer>', '<answer> 4</answer>')])"
    if responses is None:
        if not all({"chain", "wrong"} <= {*getattr(item, "metadata", {})} for item in problems):
            raise InputError(
                "`responses` is None and a problem brings no right and wrong response; expected a pair for each problem: "
                f"{call}"
            )
        return
    if not _is_list(responses) or not all(_is_pair(said, str) for said in responses):
        raise InputError(f"`responses` is {responses!r}; expected a right and a wrong text each: {call}")
    if len(responses) != len(problems):
        raise InputError(
            f"`responses` has {len(responses)} pairs for {len(problems)} problems; expected one each: {call}"
        )


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_pair(value: Any, kind: type) -> bool:
    return _is_list(value) and len(value) == 2 and all(isinstance(one, kind) for one in value)
