"""Experiments: many interventions on many problems, and what they change, as tidy tables.

`ablate` runs a matrix of conditions x problems x samples:

1. A condition is a value: ``"base"``, ``"rlvr"``, a `Replay`, a `Patch`, an `Adapter`, or one of your own
   (`conditions.Condition`, `replay.prepared`). Plain base and RLVR are always run.
2. Every problem is encoded once; the base's targets and the reference of drift are taken once, and shared by all conditions. For
   each its intervention is made (tokens learnt or predicted, cells recorded).
3. One greedy response and ``samples`` sampled ones per problem and condition, each from the problem's own random
   stream, so that conditions are compared on equal draws; each is verified (``answers``).
4. Drift: KL(target || learner) at visual positions with low and with high target entropy, with the intervention in
   place.

What is finished is kept, shard by shard, if a folder is given; the same call goes on from there.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from workbench.analysis.null_models import same_base
from workbench.cache import Reuse
from workbench.columns import describe
from workbench.conditions import Condition, Named, condition_of, needs_pictures, signature_of
from workbench.decoding.vllm_engine import engine_for
from workbench.errors import InputError
from workbench.experiments.outcomes import PASS_AT, accuracy_rows, drift_table, summarise_responses
from workbench.experiments.perturbation import Disturbance, Perturbation, perturb
from workbench.experiments.run_condition import measure
from workbench.interventions import Replay
from workbench.models.pairs import ModelPair
from workbench.problems.problem import Problem, listed
from workbench.replay.disturbances import jittered
from workbench.replay.nothing_selected import NOTHING, check_selected
from workbench.replay.prepared import check_fits
from workbench.runs import kept
from workbench.selection import low_note
from workbench.views import markup

__all__ = [
    "Ablation",
    "Disturbance",
    "Perturbation",
    "ablate",
    "jittered",
    "perturb",
]

SHARD = 32
"""Problems between two saves."""

CONTROL = "control"
"""What the column ``model`` says of the answers of a control."""
NAMES = ("responses", "drift")
"""The two tables of a shard."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, problems done, problems in all)."""


@dataclass(frozen=True, eq=False)
class Ablation:
    """What `ablate` found."""

    responses: pd.DataFrame = field(repr=False)
    """One row a response: problem, family, intervention, sample (-1: greedy), text, answer, correct, how, tokens,
    seconds (its share of its batch), making_seconds (of its problem's intervention), seed, stopped (why learning
    ended early, or that nothing was selected or there is no picture), replaced and replaced_share (tokens that the other
    model drew, where two decode together)."""
    summary: pd.DataFrame
    """Per intervention and measure (greedy, Pass@K): estimate, interval, and paired differences to RLVR and to base."""
    drift: pd.DataFrame
    """Per intervention, scope and stratum: mean KL to the target in nats before and after, the change, intervals."""
    settings: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        problems, conditions = self.responses["problem"].nunique(), self.responses["intervention"].nunique()
        return f"Ablation({conditions} conditions, {problems} problems, {len(self.responses)} responses)"

    def _repr_html_(self) -> str:
        heads = ("greedy, %", "greedy − RLVR", "Pass@1, %", "Pass@1 − RLVR", "McNemar's p")
        rows = [
            {"condition": row["name"]} | dict(zip(heads, row["cells"], strict=True))
            for row in accuracy_rows(self.summary)
        ]
        summary = self.summary.rename(columns={"low": "estimate_low", "high": "estimate_high"})
        return (
            markup.paragraph(repr(self))
            + markup.table(pd.DataFrame(rows))
            + markup.paragraph(
                "Percent right, and paired differences in points; 95% intervals over problems."
            )
            + markup.folded("every measure, as shares of 1", markup.table(summary))
            + markup.folded("drift: KL to the target in nats", markup.table(self.drift))
        )

    @property
    def low(self) -> str:
        """Which cells the conditions call low, in words; "" where none does, or where their settings are not known."""
        conditions = self.settings.get("interventions", {})
        names = dict.fromkeys(self.summary["intervention"])
        return low_note({str(name): conditions[name] for name in names if name in conditions})

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of its tables."""
        return describe(self.tables())

    def to_dataframe(self) -> pd.DataFrame:
        """A copy of ``summary``."""
        return self.summary.copy()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Everything that was found, by the names that a run folder gives it."""
        return {"responses": self.responses, "ablation": self.summary, "drift": self.drift}

    def plot(self) -> Any:
        """Accuracy differences to the plain RLVR model, with intervals, as a plotly Figure."""
        from workbench.views.outcome_figures import accuracy_differences

        return accuracy_differences(self.summary, low=self.low)


def ablate(
    pair: ModelPair,
    problems: Sequence[Problem],
    interventions: Mapping[str, Named] | Sequence[Named] | Named,
    *,
    samples: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
    max_new_tokens: int | None = None,
    batch_size: int | None = None,
    engine: Literal["vllm"] | None = None,
    pass_at: Sequence[int] | None = None,
    resamples: int = 1000,
    keep: str | Path | None = None,
    controls: Mapping[str, ModelPair] | None = None,
    progress: Progress | None = None,
    share: int = 2 * 10**9,
) -> Ablation:
    """Compare interventions on many problems: who answers better, and how far activations move.

    1. Plain base and RLVR are always run, beside the conditions that are named.
    2. For every condition and problem its intervention is made; one greedy response and ``samples`` sampled ones are drawn
       from the problem's own random stream, so that conditions are compared on equal draws, and verified.
    3. Drift: KL (target || learner) at visual positions of low and of high target entropy, with the intervention in place.

    Args:
        pair: what `load_pair` returned, with a processor.
        problems: problems with an answer and an image.
        interventions: conditions, names for them, or one condition; plain base and RLVR are added.
        samples: sampled responses per problem and condition, beside the greedy one.
        temperature: of the samples.
        seed: of samples, random selections, jitter and bootstrap.
        max_new_tokens: where a response is cut off; None: what suits the pair, its preset's or 1024.
        batch_size: prompts per forward; changes speed and memory, results only by rounding. None: what suits the pair.
        engine: what draws the responses, as in `decode_many`; ``"vllm"`` holds one of the two models at a time.
        pass_at: K of Pass@K; default: those of 1, 2, 4, ... that the samples allow.
        resamples: of the bootstrap over problems.
        keep: a folder for finished shards; the same call with the same folder goes on from there.
        controls: pairs with the same base in which another model plays the RLVR model (`controls_of`), by name: each answers
            as it is, too, under its name, on the same draws; no drift is measured there.
        progress: told what is going on.
        share: bytes of what conditions have in common that are kept from one to the next: encoded problems, the base's
            targets, the reference of drift. 0: all is made anew for every condition.

    Returns:
        Tables of responses, of outcomes by condition (differences to plain RLVR paired by problem, with intervals), and of drift.

    Raises:
        InputError: no problems, one twice, a problem without an answer, fewer samples than a K of `pass_at`, a condition that the
            engine can't draw, that no `Replay` selects anything of any problem, a control with a condition's name, or what the
            interventions themselves refuse.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> conditions = {"patch, low": wb.Patch(threshold="quantile", layers=5)}
        >>> found = wb.ablate(pair, wb.load_problems("shapes", limit=4), conditions, samples=2, max_new_tokens=48)
        >>> found.summary["intervention"].unique().tolist()
        ['base', 'rlvr', 'patch, low']
    """
    ks = tuple(k for k in PASS_AT if k <= samples) if pass_at is None else tuple(pass_at)
    conditions, controls = _named(interventions), dict(controls or {})
    problems = listed(problems, "ablate(pair, load_problems('shapes', limit=64), ...)", distinct=True)
    _check(pair, problems, conditions, samples, ks, engine)
    _check_controls(pair, controls, conditions)
    length = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    sampling = pair.sampling(samples=samples, temperature=temperature, seed=seed, engine=engine, **length)
    settings, folder = sampling.settings, _folder(keep)
    whole = sum(isinstance(value, Replay) for value in conditions.values()) == 1 and len(problems) <= SHARD
    groups = _groups(problems, [*conditions, *controls], by_condition=engine is not None)
    tables: dict[str, list[list[pd.DataFrame]]] = {name: [] for name in (*conditions, *controls)}
    for group in groups:
        reuse = Reuse(share)
        for part, name in group:
            condition, answering = conditions.get(name, "rlvr"), controls.get(name, pair)
            tell = partial(_tell, progress, name, SHARD * len(tables[name]), len(problems))
            tell(0)
            own = reuse if answering is pair else Reuse(0)  # what another model reads is not this one's
            how = {"whole": whole, "tell": tell, "drifts": name not in controls}
            compute = partial(measure, answering, condition, part, sampling, own, **how)
            spec = _spec(answering, condition, part, settings) | (
                {"control": name} if name in controls else {}
            )
            tables[name].append(kept(folder, spec, NAMES, compute))
            tell(len(part))
    responses, drifts = (_joined(tables, conditions, part) for part in range(len(NAMES)))
    drifts = drifts.loc[drifts["model"] != CONTROL]
    _check_replays(conditions, responses, len(problems))
    summary = summarise_responses(responses, samples=samples, pass_at=ks)
    moved = drift_table(drifts, resamples=resamples, seed=seed)
    settings |= {"interventions": {name: condition_of(value).described for name, value in conditions.items()}}
    settings |= (
        {"controls": {name: dict(one.provenance) for name, one in controls.items()}} if controls else {}
    )
    return Ablation(responses, summary, moved, settings | {"pair": dict(pair.provenance)})


def _folder(keep: str | Path | None) -> Path | None:
    folder = Path(keep) if keep is not None else None
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(f"`keep` {folder} is a file; expected a folder: ablate(..., keep='my-shards')")
    return folder


def _tell(progress: Progress | None, name: str, before: int, total: int, done: int) -> None:
    if progress:
        progress(name, before + done, total)


def _groups(
    problems: Sequence[Problem], names: Sequence[str], *, by_condition: bool
) -> list[list[tuple[Sequence[Problem], str]]]:
    """Parts of the problems under each condition, in groups that share their work.

    ``by_condition``: all problems of a condition first, for an engine that holds one model at a time.
    """
    parts = [problems[start : start + SHARD] for start in range(0, len(problems), SHARD)]
    if by_condition:
        return [[(part, name) for name in names for part in parts]]
    return [[(part, name) for name in names] for part in parts]


def _joined(
    tables: Mapping[str, Sequence[Sequence[pd.DataFrame]]], conditions: Mapping[str, Named], part: int
) -> pd.DataFrame:
    """One of the tables of all conditions and shards, with the condition's name and the model that answered."""
    rows = []
    for name, shards in tables.items():
        model = condition_of(conditions[name]).answered_by if name in conditions else CONTROL
        rows += [shard[part].assign(intervention=name, model=model) for shard in shards]
    return pd.concat(rows, ignore_index=True)


def _check_replays(conditions: Mapping[str, Named], responses: pd.DataFrame, total: int) -> None:
    """Warn of replays that select nothing somewhere; one of several that selects nothing at all must not cost the others."""
    idle, replays = 0, [(n, c) for n, c in conditions.items() if isinstance(c, Replay)]
    for name, condition in replays:
        rows = (responses["intervention"] == name) & (responses["stopped"] == NOTHING)
        empty = responses.loc[rows, "problem"].unique().tolist()
        idle += len(empty) == total
        check_selected(empty, total, condition, refuse=idle == len(replays))


def _named(interventions: Mapping[str, Named] | Sequence[Named] | Named) -> dict[str, Named]:
    if isinstance(interventions, Mapping):
        conditions = dict(interventions)
    else:
        conditions = {}
        alone = isinstance(interventions, str | Condition)
        for condition in [interventions] if alone else interventions:
            name = condition_of(condition).title
            conditions[name if name not in conditions else f"{name} ({len(conditions)})"] = condition
    for condition in conditions.values():
        condition_of(condition)
    plain: dict[str, Named] = {"base": "base", "rlvr": "rlvr"}
    return plain | {name: value for name, value in conditions.items() if not isinstance(value, str)}


def _spec(
    pair: ModelPair, condition: Named, problems: Sequence[Problem], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that can change a shard's two tables."""
    return {
        "pair": pair.provenance,
        "condition": signature_of(condition),
        "problems": [p.fingerprint for p in problems],
        "settings": settings,
    }


def _check_engine(pair: ModelPair, conditions: Mapping[str, Named], engine: str | None) -> None:
    if engine is None:
        return
    others = [name for name, condition in conditions.items() if not condition_of(condition).drawn_by_engine]
    if others:
        raise InputError(
            f"`engine` is {engine!r}, which takes tokens at layer 0 and no more, and `interventions` has {', '.join(others)}; "
            "leave these out, or decode in process: ablate(..., engine=None)"
        )
    engine_for(pair, "base", engine)
    engine_for(pair, "rlvr", engine)


def _check_controls(
    pair: ModelPair, controls: Mapping[str, ModelPair], conditions: Mapping[str, Named]
) -> None:
    for name, control in controls.items():
        if name in conditions or not same_base(pair, control):
            wrong = "is also a condition's name" if name in conditions else "has another base than `pair`"
            raise InputError(
                f"`controls`: {name!r} {wrong}; name controls otherwise, and load them with the same base: ablate(pair, "
                "problems, conditions, controls=controls_of(pair, {'sft': 'runs/sft'}))"
            )


def _check(
    pair: ModelPair,
    problems: Sequence[Problem],
    conditions: Mapping[str, Named],
    samples: int,
    ks: Sequence[int],
    engine: str | None,
) -> None:
    _check_engine(pair, conditions, engine)
    for problem in problems:
        if problem.answer is None:
            raise InputError(
                f"`problems`: {problem.id!r} has no answer to verify responses with; give one, or leave it out"
            )
    if samples < 1 or any(not 1 <= k <= samples for k in ks):
        raise InputError(
            f"`samples` is {samples} with `pass_at` {tuple(ks)}; Pass@K needs at least K samples: "
            f"ablate(..., samples={max([1, *ks])})"
        )
    blind = [problem.id for problem in problems if not (problem.images or problem.video)]
    for name, condition in conditions.items():
        check_fits(condition, pair)
        if blind and needs_pictures(condition) and len(blind) == len(problems):
            raise InputError(
                f"`problems`: none of {len(problems)} has a picture, and {name!r} has no visual tokens to replay in them; "
                "give problems with images, learn at text (Replay(positions='text')), or leave that condition out"
            )
        if blind and needs_pictures(condition):
            warnings.warn(
                f"{len(blind)} of {len(problems)} problems have no picture, {blind[0]!r} the first: {name!r} leaves the model "
                "as it is there",
                stacklevel=3,
            )
