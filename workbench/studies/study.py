"""The main job: trace a pair on a problem set, measure the shift, and write a run folder that a browser can open.

A run is built in a hidden work folder beside `out`, named after everything that can change its result, and moved into
place when it is whole. An interrupted run therefore leaves nothing half-written at `out`, and the same call goes on
where it stopped: traces are kept every `SHARD` problems.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from workbench.analysis.low_entropy import beside_controls
from workbench.analysis.null_models import NULLS
from workbench.analysis.shift import ShiftTable, stratified_shift, top_prediction_shift
from workbench.analysis.verdicts import Claim, claim_table, claims_html
from workbench.analysis.weight_nulls import NullShift, weight_nulls
from workbench.columns import describe
from workbench.conditions import Named, condition_of
from workbench.digests import digest_of
from workbench.experiments.ablation import Ablation, ablate
from workbench.experiments.perturbation import Perturbation, perturb, responses_for
from workbench.models.pairs import ModelPair
from workbench.problems.problem import Problem
from workbench.runs import made_with, run_folder, write_json, write_tables
from workbench.studies.claims import null_claims, outcome_claims, perturbation_claims, shift_claims
from workbench.studies.report import write_report
from workbench.tracing.agreement import agreement_by_layer
from workbench.tracing.follow import follow
from workbench.tracing.trace import LensTrace, trace
from workbench.views import markup
from workbench.views import shift_figures as figures
from workbench.views.figure_files import write_figures
from workbench.views.null_figures import null_figures
from workbench.views.outcome_figures import ablation_figures
from workbench.views.perturbation_figures import perturbation_figures

SHARD = 32
"""Problems traced between two saves."""
TABLED_PROBLEMS = 6
"""Problems whose top predictions are tabulated and pictured."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


@dataclass(frozen=True, eq=False)
class Study:
    """A finished run: where it lies and what it found."""

    folder: Path
    trace: LensTrace
    shift: ShiftTable
    agreement: pd.DataFrame
    ablation: Ablation | None
    """None where no interventions were asked for."""
    perturbation: Perturbation | None
    nulls: NullShift | None
    """None, like the perturbation, where these were not asked for."""
    claims: tuple[Claim, ...]
    """The paper's claims, as far as this study speaks about them."""
    hint: str | None
    """Why there are no PNG figures, in one line; None when there are."""

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of the tables in its folder."""
        return describe(
            {file.stem: pd.read_parquet(file) for file in sorted((self.folder / "tables").glob("*.parquet"))}
        )

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.folder / "report.html"

    def __repr__(self) -> str:
        return f"Study({self.folder}: {self.shift.verdict})"

    def _repr_html_(self) -> str:
        ablation = "" if self.ablation is None else self.ablation._repr_html_()
        return (
            markup.facts({"report": str(self.report)})
            + self.shift._repr_html_()
            + ablation
            + markup.folded(f"{len(self.claims)} claims of the paper", claims_html(self.claims))
        )


def study(
    pair: ModelPair,
    problems: Sequence[Problem],
    out: str | Path,
    *,
    seed: int = 0,
    top_k: int = 10,
    null_draws: int = 3,
    bins: int = 5,
    resamples: int = 1000,
    batch_size: int = 8,
    interventions: Mapping[str, Named] | None = None,
    samples: int = 16,
    max_new_tokens: int = 1024,
    engine: Literal["vllm"] | None = None,
    perturbed: bool = False,
    controls: Mapping[str, ModelPair] | None = None,
    notes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Study:
    """Trace a pair, measure the shift, let models answer if asked to, and write a report that a browser can open.

    A run is built in a hidden work folder beside `out`, named after everything that can change its result, and moved into place
    when it is whole: an interrupted run leaves nothing half-written, and the same call goes on where it stopped.

    Args:
        pair: what `load_pair` returned.
        problems: at least one; intervals need several.
        out: the run folder to make: spec.json, trace/, tables/, figures/, report.html, and manifest.json last.
        seed: of the null draws and of the bootstrap.
        top_k: top predictions kept per layer and position.
        null_draws: random directions per cell for the matched-noise null.
        bins: strata of base entropy.
        resamples: of the bootstrap over problems.
        batch_size: prompts per forward.
        interventions: what `ablate` compares, such as `default_matrix(pair.depth)`; None leaves that part out.
        samples: sampled responses per problem and intervention.
        max_new_tokens: where a response is cut off.
        engine: what draws the responses, as in `ablate`.
        perturbed: also disturb pictures (`perturb`) and weights (`weight_nulls`, which needs room for a third model).
        controls: for the latter, pairs of the same base that RL did not train, such as `controls_of(pair)`.
        notes: what else the spec should say, such as where the problems came from.
        overwrite: replace `out` once the new run is whole; otherwise an existing `out` is refused.
        progress: told what is going on.

    Returns:
        The finished run: its folder, trace, tables and claims; `Study.report` is the page.

    Raises:
        InputError: `out` exists or can't be written, the disk is full, or bad arguments of `trace` and `stratified_shift`.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> run = wb.study(pair, wb.load_problems("shapes", limit=4), out="runs/first", resamples=50)
        >>> run.report.name, (run.folder / "tables" / "shift.csv").is_file()
        ('report.html', True)
    """
    out, tell = Path(out), progress or (lambda what, done, total: None)
    settings = {
        "seed": seed,
        "top_k": top_k,
        "null_draws": null_draws,
        "bins": bins,
        "resamples": resamples,
        "batch_size": batch_size,
    }
    if interventions:
        made = {n: condition_of(c).described for n, c in interventions.items()}
        settings |= {"interventions": made, "samples": samples, "max_new_tokens": max_new_tokens}
        settings |= {} if engine is None else {"engine": engine}
    if perturbed:
        settings |= {
            "perturbed": True,
            "controls": {n: dict(c.provenance) for n, c in (controls or {}).items()},
        }
    spec = {
        "pair": dict(pair.provenance),
        "problems": _describe(problems),
        "settings": settings,
        **(notes or {}),
    }
    started = time.time()
    with run_folder(out, "study", spec, overwrite=overwrite) as work:
        built = work / "run"
        traced = _traced(pair, problems, work, settings, tell)
        tell("measuring the shift", 0, 1)
        shift = stratified_shift(traced, bins, resamples=resamples, seed=seed)
        agreement = agreement_by_layer(traced, resamples=resamples, seed=seed)
        tell("measuring the shift", 1, 1)
        found = None
        if interventions:
            found = ablate(
                pair,
                problems,
                interventions,
                samples=samples,
                max_new_tokens=max_new_tokens,
                seed=seed,
                resamples=resamples,
                batch_size=batch_size,
                engine=engine,
                keep=work / "ablation",
                progress=lambda what, done, total: tell(f"answering: {what}", done, total),
            )
        moved, nulls = None, None
        if perturbed:
            moved = perturb(
                pair,
                problems,
                responses=responses_for(problems),
                max_new_tokens=max_new_tokens,
                seed=seed,
                resamples=resamples,
                batch_size=batch_size,
                keep=work / "perturbation",
                progress=lambda done, total: tell("disturbing the pictures", done, total),
            )
            nulls = weight_nulls(
                pair,
                problems,
                others=controls,
                bins=bins,
                seed=seed,
                resamples=resamples,
                batch_size=batch_size,
                progress=lambda what, done, total: tell(f"null model: {what}", done, total),
            )
        contrasts = nulls.contrasts.to_dict("records") if nulls else None
        shift = replace(shift, verdict=beside_controls(shift.verdict, contrasts, NULLS))
        claims = _claims(shift, agreement, found, moved, nulls, resamples=resamples, seed=seed)
        traced.save(built / "trace")
        tables = _tables(traced, shift, agreement) | {"claims": claim_table(claims)}
        tell("drawing the figures", 0, 1)
        drawn = figures.study_figures(shift.table, shift.correlations, agreement, depth=traced.depth)
        drawn |= _grids(traced)
        if found:
            tables |= found.tables()
            drawn |= ablation_figures(found.summary, found.drift)
        if moved and nulls:
            tables |= moved.tables() | nulls.tables()
            drawn |= perturbation_figures(moved.table, moved.slopes) | null_figures(nulls.table)
        write_tables(built / "tables", tables, large=("cells", "responses"))
        hint = write_figures(drawn, built / "figures")
        tell("drawing the figures", 1, 1)
        spec |= {"made_with": made_with(), "seconds": round(time.time() - started, 1)}
        write_report(
            built / "report.html",
            trace=traced,
            shift=shift,
            agreement=agreement,
            followed=follow(pair, problems[:TABLED_PROBLEMS], traced, batch_size=batch_size),
            claims=claims,
            outcomes=(found.summary, found.drift) if found else None,
            responses=found.responses if found else None,
            perturbation=(moved.table, moved.slopes) if moved else None,
            nulls=nulls.table if nulls else None,
            spec=spec,
        )
        write_json(built / "spec.json", spec)
    return Study(out, traced, shift, agreement, found, moved, nulls, tuple(claims), hint)


def _traced(
    pair: ModelPair, problems: Sequence[Problem], work: Path, settings: Mapping[str, Any], tell: Progress
) -> LensTrace:
    """The trace of all problems, shard by shard; shards of an interrupted run are read, not computed again."""
    what = "tracing both models"
    wanted = {key: settings[key] for key in ("seed", "top_k", "null_draws", "batch_size")}
    total, shards = len(problems), []
    tell(what, 0, total)
    for start in range(0, total, SHARD):
        folder = work / f"trace-{start:06d}"
        if (folder / "manifest.json").exists():
            shards.append(LensTrace.load(folder))
        else:
            part = problems[start : start + SHARD]
            shards.append(
                trace(
                    pair,
                    part,
                    **wanted,
                    progress=lambda done, _, first=start: tell(what, first + done, total),
                )
            )
            if total > SHARD:
                shards[-1].save(folder)
        tell(what, min(start + SHARD, total), total)
    if not shards:
        trace(pair, problems)  # says what is wrong with no problems
    return LensTrace.join(shards)


def _claims(
    shift: ShiftTable,
    agreement: pd.DataFrame,
    found: Ablation | None,
    moved: Perturbation | None,
    nulls: NullShift | None,
    **settings: int,
) -> list[Claim]:
    claims = shift_claims(shift, agreement)
    if nulls:
        claims += null_claims(nulls.contrasts)
    if moved:
        claims += perturbation_claims(moved.slopes)
    if found:
        claims += outcome_claims(found.responses, found.drift, **settings)
    return claims


def _tables(traced: LensTrace, shift: ShiftTable, agreement: pd.DataFrame) -> dict[str, pd.DataFrame]:
    top = [top_prediction_shift(traced, prompt=i) for i in range(len(traced.prompts[:TABLED_PROBLEMS]))]
    keys = pd.DataFrame([dict(verdict.key) for verdict in shift.verdicts])
    return {
        "shift": shift.table,
        "correlations": shift.correlations,
        "agreement": agreement,
        "verdicts": pd.concat([keys.drop(columns="kind"), claim_table(shift.verdicts)], axis=1),
        "top_predictions": pd.concat(top),
        "cells": traced.to_dataframe(),
    }


def _grids(traced: LensTrace) -> dict[str, Any]:
    """The first problem's top predictions in its text, as a grid."""
    return {
        "top_predictions": figures.prediction_grid(top_prediction_shift(traced, prompt=0), depth=traced.depth)
    }


def _describe(problems: Sequence[Problem]) -> dict[str, Any]:
    return {"count": len(problems), "digest": digest_of([p.fingerprint for p in problems])}
