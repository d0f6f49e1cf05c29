"""Emergence: when in training the shift appears, beside the accuracy and the coverage of the same checkpoints.

1. Every checkpoint plays the RLVR model beside the same base, on the same problems with the same random streams. Per
   problem: greedy and sampled answers, and KL by stratum of base entropy, beside that of matched noise. The strata are the
   base's (``nulls``), hence the same for all.
2. A curve is one measure over the steps of RL; step 0 is the base itself. Its half-time is the first step at which it has
   made half of its final change, interpolated linearly between checkpoints.
3. All curves are resampled together, problem by problem, so the difference of two half-times is paired. A shift precedes
   a gain where the whole interval of that difference lies below 0, follows it where it lies above, else it is undecided.

KL grows with the square of a small change of logits: a shift that grows evenly over the steps has made half of its KL at
0.71 of them, but half of its root, which grows evenly, at 0.50. Shifts are therefore timed by the root of mean KL, ``size``,
and by ``kl`` itself beside it. Whatever else is followed, such as what each component contributes to the KL
(``workbench.contributions``), is set beside ``kl``. KL is in nats.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from workbench.columns import describe
from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.experiments.half_times import RL, SHIFTS, WHOLE, Curves, compare
from workbench.experiments.outcomes import PASS_AT, scores
from workbench.experiments.run_condition import measure
from workbench.lens.strata import check_bins
from workbench.models.pairs import ModelPair
from workbench.problems.problem import Problem, listed
from workbench.runs import kept
from workbench.sampling import Sampling
from workbench.tracing.cells import groups_of
from workbench.tracing.trace import trace
from workbench.views import markup

LARGEST = 5
"""Curves of a group that are told and drawn."""
_CALL = "follow_training(problems, checkpoints_of(load_pair('shapes')))"
Checkpoints = Mapping[int | str, Callable[[], ModelPair]]
"""What loads a checkpoint as the RLVR model of a pair: by step of RL (0: the base itself), and controls by name."""
Further = Mapping[str, Callable[[ModelPair, Sequence[Problem]], Mapping[str, ArrayLike]]]
"""More to measure at every checkpoint: by name of a group what returns, by measure, a value a problem."""


@dataclass(frozen=True, eq=False, repr=False)
class Emergence:
    """Curves over the checkpoints of a training, when each has made half of its change, and what comes first."""

    table: pd.DataFrame
    """One row a condition ("rl" or a control, whose step is NaN), step, measure, kind, scope and stratum: estimate and interval;
    last_minus and last_over, RL's last step minus and over this one; problems. Measures: greedy, Pass@K, size, kl, ratio (KL
    over matched noise); contrast and contrast_ratio, lowest over highest stratum of kl and of ratio; what was asked further,
    with its group as scope."""
    timing: pd.DataFrame
    """One row a curve: change, what it makes up to the last step, and half_time, the step at which half is made."""
    order: pd.DataFrame
    """One row a shift of the lowest stratum and another curve (``other``, and its ``group`` if it was asked further): gap, the
    shift's half-time minus the other's, in steps, with interval; state ("precedes", "follows", "undecided"); obstacle,
    where the two can't be timed; and what the other changes in all."""
    steps: tuple[int, ...]
    provenance: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        problems, controls = self.table["problems"].max(), sorted({*self.table["condition"]} - {RL})
        lines = [
            f"Emergence({problems} problems, steps {', '.join(map(str, self.steps))}; controls {controls})"
        ]
        return "\n".join([*lines, *self.verdicts])

    @property
    def verdicts(self) -> list[str]:
        """What comes first, a line for each other curve: visual tokens and layers below the last, if there are.

        By root KL; of what was asked further, the curves of each group that change most, by KL.
        """
        further, size = self.order["group"] != "", self.order["measure"] == "size"
        most = self.order.loc[further].sort_values("other_change", key=abs, ascending=False, kind="stable")
        most = most.groupby(["group", "kind", "scope"], sort=False).head(LARGEST)
        rows = pd.concat([self.order.loc[size], most])
        for column, preferred in (("kind", "visual"), ("scope", "without last layer")):
            present = set(rows[column])
            rows = rows.loc[rows[column] == (preferred if preferred in present else min(present))]
        return [_told(row) for row in rows.to_dict("records")]

    def _repr_html_(self) -> str:
        columns = ["measure", "kind", "scope", "group", "other", *Interval.names("gap"), "state", "obstacle"]
        own, others = (
            self.order.loc[rows, columns] for rows in (self.order["group"] == "", self.order["group"] != "")
        )
        note = "gap: half-time of the low-entropy shift minus that of the other, in steps of RL."
        further = markup.folded("beside what was asked further", markup.table(others)) if len(others) else ""
        return (
            markup.listing(self.verdicts)
            + markup.table(own)
            + markup.paragraph(note)
            + further
            + markup.folded("half-times of all curves", markup.table(self.timing))
            + markup.folded(
                "all curves",
                markup.table(self.table),
            )
        )

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of its tables."""
        return describe(self.tables())

    def to_dataframe(self) -> pd.DataFrame:
        """A copy of ``table``."""
        return self.table.copy()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Everything that was found, by the names that a run folder gives it."""
        return {"emergence": self.table, "half_times": self.timing, "order": self.order}

    def plot(self, kind: str | None = None) -> Any:
        """The curves as a plotly Figure, a panel each; ``kind`` is visual if there is any."""
        from workbench.views.emergence_figures import emergence_curves

        return emergence_curves(self.table, kind=kind)

    def plot_further(self, group: str = "contributions") -> Any:
        """What was asked further, by checkpoint, as a plotly Figure."""
        from workbench.views.emergence_figures import further_heatmap

        return further_heatmap(self.table, group)


def follow_training(
    problems: Sequence[Problem],
    checkpoints: Checkpoints,
    *,
    samples: int = 16,
    bins: int = 5,
    further: Further | None = None,
    seed: int = 0,
    max_new_tokens: int | None = None,
    batch_size: int | None = None,
    resamples: int = 1000,
    keep: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Emergence:
    """Measure every checkpoint of a training, and time what changes first.

    1. Every checkpoint plays the RLVR model beside the same base, on the same problems with the same random streams: greedy and
       sampled answers, and KL by stratum of the base's entropy beside that of matched noise.
    2. A curve is one measure over the steps; its half-time is the first step at which it has made half of its final change.
    3. Curves are resampled together, problem by problem: a shift precedes a gain where the whole interval of the difference of
       their half-times lies below 0.

    Args:
        problems: problems with answers.
        checkpoints: what loads each, such as `models.bundled.checkpoints_of(pair)`; one is in memory at a time.
        samples: sampled responses a problem and checkpoint at temperature 1, beside the greedy one.
        bins: strata of base entropy per layer and token kind.
        further: more to measure, such as ``{"contributions": workbench.contributions}``.
        seed: of samples, noise and bootstrap.
        max_new_tokens: where a response is cut off; None: what suits the pair, its preset's or 1024.
        batch_size: prompts per forward; changes speed and memory, results only by rounding. None: what suits the pair.
        resamples: of the bootstrap over problems.
        keep: a folder for finished checkpoints; the same call with the same folder goes on from there.
        progress: told what is going on: (checkpoint, checkpoints done, checkpoints in all).

    Raises:
        InputError: no problems, one twice, no step 0, fewer than two steps after it, or what can't be called.
    """
    problems = listed(problems, _CALL, distinct=True)
    steps, further = _check(checkpoints, bins, further or {})
    requested = {"samples": samples, "temperature": 1.0, "seed": seed}
    requested |= {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    measures, weights, settings = {}, {}, {}
    for number, (name, load) in enumerate(checkpoints.items()):
        if progress:
            progress(str(name), number, len(checkpoints))
        pair = load()
        sampling = pair.sampling(**requested)
        settings = sampling.settings | {"bins": bins}
        weights[str(name)] = {role: pair.provenance[role]["weights"] for role in ("base", "rlvr")}
        spec = {
            "pair": {**pair.provenance},
            "problems": [p.fingerprint for p in problems],
            "further": [*further],
        }
        (measures[name],) = kept(
            Path(keep) if keep is not None else None,
            spec | settings,
            ["emergence"],
            partial(_shard, pair, problems, sampling, bins, further),
        )
    names = [*steps, *(name for name in checkpoints if isinstance(name, str))]
    curves = Curves.of([measures[name] for name in names], bins)
    table, timing, order = compare(curves, names, len(steps), resamples, seed)
    return Emergence(table, timing, order, tuple(steps), {"checkpoints": weights, "settings": settings})


def _shard(*parts: Any) -> list[pd.DataFrame]:
    return [measure_checkpoint(*parts)]


def measure_checkpoint(
    pair: ModelPair, problems: Sequence[Problem], sampling: Sampling, bins: int, further: Further
) -> pd.DataFrame:
    """What one checkpoint, the pair's RLVR model, does on each problem.

    One row a problem and KEYS; a mean over problems is the sum of ``amount`` over the sum of ``weight``.
    """
    samples = sampling.samples
    responses, _ = measure(pair, "rlvr", problems, sampling)
    right = scores(
        responses.assign(intervention=RL), samples=samples, pass_at=[k for k in PASS_AT if k <= samples]
    )
    ids = [problem.id for problem in problems]
    whole = {"kind": "", "scope": "", "stratum": WHOLE, "weight": 1.0}
    values = {"": right[RL]} | {group: of(pair, problems) for group, of in further.items()}
    for group, measured in values.items():
        for name, value in measured.items():
            if np.shape(value) != (len(ids),):
                raise InputError(
                    f"`further[{group!r}]` gives {name!r} shape {np.shape(value)}; expected one a problem, ({len(ids)},): "
                    "lambda pair, problems: {'length': [len(p.question) for p in problems]}"
                )
    parts = [
        pd.DataFrame(
            {"problem": ids, "measure": name, "amount": np.asarray(value, float)} | whole | {"scope": group}
        )
        for group, measured in values.items()
        for name, value in measured.items()
    ]
    traced = trace(pair, problems, top_k=1, null_draws=1, seed=sampling.seed, batch_size=sampling.batch_size)
    ids = np.unique(ids)  # the order of the sums
    for group in groups_of(traced, bins):
        cells, kl, noise = (group.sums(traced, name) for name in ("cells", "kl", "kl_null"))
        for stratum in range(bins):
            place = {"problem": ids, "kind": group.kind, "scope": group.scope, "stratum": stratum}
            parts += [
                pd.DataFrame(place | {"measure": name, "amount": kl[:, stratum], "weight": of[:, stratum]})
                for name, of in (("kl", cells), ("ratio", noise))
            ]
    return pd.concat(parts, ignore_index=True)


def _told(row: Mapping[str, Any]) -> str:
    shift = f"The low-entropy shift ({row['kind']} tokens, {row['scope']}, {SHIFTS[row['measure']]})"
    other = f"{row['other']} ({row['group']})" if row["group"] else row["other"]
    if row["obstacle"]:
        return f"{shift} beside {other}: {row['state']}, {row['obstacle']}."
    gap = Interval.in_row(row, "gap")
    unsaid = {"undecided": "is undecided beside", "too few problems": "has too few problems beside"}
    relation = unsaid.get(row["state"], row["state"])
    return f"{shift} {relation} {other}: {gap} steps between the two half-times."


def _check(checkpoints: Any, bins: int, further: Any) -> tuple[list[int], dict[str, Any]]:
    check_bins(bins)
    if not isinstance(checkpoints, Mapping):
        raise InputError(
            f"`checkpoints` is a {type(checkpoints).__name__}; expected what loads each, by step: {_CALL}"
        )
    for name, load in checkpoints.items():
        if not isinstance(name, int | str) or not callable(load):
            raise InputError(
                f"`checkpoints` has {name!r}: {load!r}; expected a step or a name, and what loads a pair without arguments: "
                "follow_training(problems, {0: lambda: pair, ...})"
            )
    if not isinstance(further, Mapping):
        raise InputError(
            f"`further` is {further!r}; expected what measures, by name: "
            "follow_training(..., further={'contributions': workbench.contributions})"
        )
    steps = sorted(name for name in checkpoints if isinstance(name, int))
    if 0 not in steps or len(steps) < 3:
        raise InputError(
            f"`checkpoints` has the steps {steps}; expected 0, the base in both places, and at least two later ones: "
            f"{_CALL}"
        )
    for group, of in further.items():
        if not group or not callable(of):
            raise InputError(
                f"`further` has {group!r}: {of!r}; expected a name and what measures a pair on problems: "
                "follow_training(..., further={'contributions': workbench.contributions})"
            )
    return steps, {**further}
