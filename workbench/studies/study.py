"""The main job: trace a pair on a problem set, measure the shift, and write a run folder that a browser can open.

A run is built in a hidden work folder beside `out`, named after everything that can change its result, and moved into
place when it is whole. An interrupted run therefore leaves nothing half-written at `out`, and the same call goes on
where it stopped: traces are kept every `SHARD` problems.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from workbench.analysis.control_claims import control_claims
from workbench.analysis.low_entropy import beside_controls
from workbench.analysis.null_models import NULLS
from workbench.analysis.shift import ShiftTable, stratified_shift
from workbench.analysis.verdicts import Claim, claims_html
from workbench.analysis.weight_nulls import NullShift
from workbench.columns import describe
from workbench.conditions import Named
from workbench.digests import digest_of
from workbench.experiments.ablation import Ablation
from workbench.experiments.perturbation import Perturbation
from workbench.models.pairs import ModelPair
from workbench.problems.problem import Problem
from workbench.runs import run_folder
from workbench.studies.claims import null_claims, outcome_claims, perturbation_claims, shift_claims
from workbench.studies.parts import Answers, Attempts, Disturbances, Measures, Progress, check_problems, whole
from workbench.studies.plan import Plan
from workbench.studies.read_through import ReadThrough, read_through
from workbench.studies.written import TABLED_PROBLEMS, write_study
from workbench.tracing.agreement import agreement_by_layer
from workbench.tracing.follow import follow
from workbench.tracing.latent_lens import LatentLens
from workbench.tracing.readings import Reading, apart, check_shared
from workbench.tracing.trace import LensTrace, trace
from workbench.views import markup

NULL_MODELS = 3
"""Of each kind, where pictures are disturbed."""
SHARD = 32
"""Problems traced between two saves."""


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
    skipped: Mapping[str, str] = field(default_factory=dict)
    """What was asked for and could not be made, and why."""
    reading: ReadThrough | None = None
    """Fidelity of another reading than the logit lens; of a `LatentLens` also the nearest states and what changed of them."""

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
        skipped = f"; left out: {', '.join(self.skipped)}" * bool(self.skipped)
        return f"Study({self.folder}: {self.shift.verdict}{skipped})"

    def _repr_html_(self) -> str:
        ablation = "" if self.ablation is None else self.ablation._repr_html_()
        return (
            markup.facts(
                {"report": str(self.report), **{f"left out: {k}": v for k, v in self.skipped.items()}}
            )
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
    batch_size: int | None = None,
    interventions: Mapping[str, Named] | None = None,
    answers: int | None = None,
    samples: int = 16,
    max_new_tokens: int | None = None,
    engine: Literal["vllm"] | None = None,
    perturbed: bool = False,
    null_models: int | None = None,
    controls: Mapping[str, ModelPair] | None = None,
    reading: Reading | LatentLens | None = None,
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
        batch_size: prompts per forward; changes speed and memory, results only by rounding. None: what suits the pair.
        interventions: what `ablate` compares, such as `default_matrix(pair.depth)`; None leaves that part out.
        answers: how many of the problems are answered, the first of them; None: all. Traces are of all of them, and claims of
            accuracy, coverage and drift of these alone, with intervals over as many.
        samples: sampled responses per problem and intervention.
        max_new_tokens: where a response is cut off; None: what suits the pair, its preset's or 1024.
        engine: what draws the responses, as in `ablate`.
        perturbed: also disturb pictures (`perturb`).
        null_models: random changes of the weights of each kind (`weight_nulls`, which needs room for a third model); 0 leaves
            them out. None: 3 where pictures are disturbed.
        controls: pairs of the same base that RL did not train, such as `controls_of(pair)`: claims of shift and of answers are
            stated as RLVR minus each of them, too.
        reading: through what layers are read, as in `trace`; None: the logit lens. With null models, which have no translators of
            their own, one of the base's alone. With a `LatentLens` the trace is of the logit lens, and a part is added: nearest
            text states, what changed of them by stratum, and the low-entropy claim by them.
        notes: what else the spec should say, such as where the problems came from.
        overwrite: replace `out` once the new run is whole; otherwise an existing `out` is refused.
        progress: told what is going on, by part, and of the whole study in hundredths of what it costs (`plan`).

    Returns:
        The finished run: its folder, trace, tables and claims; `Study.report` is the page.

    Raises:
        InputError: before any work: `out` can't be made, a number out of range, problems that lack what is asked for; later: what
            `trace` and `stratified_shift` refuse, or a full disk. Another part that can't be made is left out (`Study.skipped`).

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> run = wb.study(pair, wb.load_problems("shapes", limit=4), out="runs/first", resamples=50)
        >>> run.report.name, (run.folder / "tables" / "shift.csv").is_file()
        ('report.html', True)
    """
    length = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    sampling = pair.sampling(samples=samples, temperature=1.0, seed=seed, engine=engine, **length)
    reading, states = apart(reading)
    how = Measures(seed, top_k, null_draws, bins, resamples, sampling.batch_size, reading, states)
    nulls = (NULL_MODELS if perturbed else 0) if null_models is None else null_models
    disturbances = Disturbances(perturbed, nulls, controls or {})
    problems = check_problems(problems)
    if answers is not None:
        whole("answers", answers, 1)
    fewer = None if answers is None or answers >= len(problems) else answers
    responding = Answers(interventions or {}, sampling, fewer)
    how.check(pair)
    if disturbances.weighed:
        check_shared(reading, "study(pair, problems, 'runs/mine'")
    responding.check(pair, problems, disturbances.controls)
    disturbances.check(pair, problems)
    settings = how.settings | responding.settings | disturbances.settings
    spec = {"pair": dict(pair.provenance), "problems": _describe(problems), "settings": settings}
    tell: Progress = progress or (lambda what, done, total: None)
    plan = Plan.of(pair, problems, how, responding, disturbances, tell)
    attempts, begun = Attempts(), time.time()
    with run_folder(Path(out), "study", spec | dict(notes or {}), overwrite=overwrite) as work:
        result = _measured(pair, problems, how, responding, disturbances, attempts, work, plan)
        again: dict[str, Any] = {"batch_size": how.batch_size, "reading": reading}
        follow_on = partial(follow, pair, problems[:TABLED_PROBLEMS], result.trace, **again)
        hint = write_study(result, work / "run", spec | dict(notes or {}), attempts, follow_on, begun, tell)
    return replace(result, folder=Path(out), hint=hint)


def _measured(
    pair: ModelPair,
    problems: Sequence[Problem],
    how: Measures,
    answers: Answers,
    disturbances: Disturbances,
    attempts: Attempts,
    work: Path,
    tell: Progress,
) -> Study:
    """Everything that is computed; only the trace and its shift are needed for the rest."""
    traced = _traced(pair, problems, how, work, tell)
    tell("measuring the shift", 0, 1)
    shift = stratified_shift(traced, how.bins, resamples=how.resamples, seed=how.seed)
    agreement = agreement_by_layer(traced, resamples=how.resamples, seed=how.seed)
    tell("measuring the shift", 1, 1)
    ablation, moved, nulls = None, None, None
    controls = disturbances.controls
    if answers.interventions:
        ablation = attempts.at(
            "interventions", lambda: answers.run(pair, problems, how, controls, work, tell)
        )
    if disturbances.pictured:
        longest = answers.sampling.max_new_tokens
        moved = attempts.at(
            "perturbation", lambda: disturbances.pictures(pair, problems, how, longest, work, tell)
        )
    besides = {
        name: other
        for name, control in controls.items()
        if (
            other := attempts.at(
                f"control {name}", partial(_traced, control, problems, how, work, tell, name)
            )
        )
    }
    if disturbances.null_models or besides:
        nulls = attempts.at(
            "null models", lambda: disturbances.weights(pair, problems, traced, besides, how, tell)
        )
    read = attempts.at("reading", lambda: read_through(pair, problems, traced, controls, how, work, tell))
    contrasts = nulls.contrasts.to_dict("records") if nulls else None
    shift = replace(shift, verdict=beside_controls(shift.verdict, contrasts, NULLS))
    ways: dict[str, Callable[[], list[Claim]]] = {"claims": lambda: shift_claims(shift, agreement)}
    if nulls:
        ways["claims of null models"] = lambda: null_claims(nulls.contrasts)
    if besides:
        judging = {"bins": how.bins, "resamples": how.resamples, "seed": how.seed}
        ways["claims beside controls"] = lambda: control_claims(traced, besides, **judging)
    if read and (near := read.shift):
        ways["claims of nearest text states"] = lambda: [*near.claims]
    if moved:
        ways["claims of perturbation"] = lambda: perturbation_claims(moved.slopes)
    if ablation:
        ways["claims of interventions"] = lambda: outcome_claims(
            ablation.responses, ablation.drift, [*controls]
        )
    claims = [claim for what, make in ways.items() for claim in attempts.at(what, make) or ()]
    parts = (traced, shift, agreement, ablation, moved, nulls, tuple(claims))
    return Study(work / "run", *parts, None, attempts.skipped, read)


def _traced(
    pair: ModelPair,
    problems: Sequence[Problem],
    how: Measures,
    work: Path,
    tell: Progress,
    control: str | None = None,
) -> LensTrace:
    """The trace of all problems, shard by shard; shards of an interrupted run are read, not computed again.

    Of a ``control``, by its name, one top prediction is enough.
    """
    what, total, shards = "tracing both models", len(problems), []
    settings, begin = how.tracing, "trace"
    if control is not None:
        what, begin = f"tracing the control {control}", f"control-{digest_of(control)}"
        settings = {**settings, "top_k": 1}
    tell(what, 0, total)
    for start in range(0, total, SHARD):
        folder = work / f"{begin}-{start:06d}"
        if (folder / "manifest.json").exists():
            shards.append(LensTrace.load(folder))
        else:
            part = problems[start : start + SHARD]
            note = partial(_note, tell, what, start, total)
            shards.append(trace(pair, part, **settings, progress=note))
            if total > SHARD:
                shards[-1].save(folder)
        tell(what, min(start + SHARD, total), total)
    return LensTrace.join(shards)


def _note(tell: Progress, what: str, first: int, total: int, done: int, _: int) -> None:
    tell(what, first + done, total)


def _describe(problems: Sequence[Problem]) -> dict[str, Any]:
    return {"count": len(problems), "digest": digest_of([p.fingerprint for p in problems])}
