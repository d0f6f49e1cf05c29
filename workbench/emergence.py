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
and by ``kl`` itself beside it. KL is in nats.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from workbench import markup
from workbench.cells import columns, interval_in
from workbench.errors import InputError
from workbench.estimates import Array, Interval, bootstrap, divide
from workbench.folders import kept
from workbench.measuring import measure
from workbench.nulls import groups_of
from workbench.outcomes import PASS_AT, scores
from workbench.pairs import ModelPair
from workbench.problems import Problem
from workbench.strata import check_bins
from workbench.tables import ends
from workbench.traces import trace

RL = "rl"
"""The condition of RL's own checkpoints; a control goes by its name."""
KEYS = ["measure", "kind", "scope", "stratum"]
WHOLE = -1
"""The stratum of what is measured on a whole response, and of a contrast of strata."""
Checkpoints = Mapping[int | str, Callable[[], ModelPair]]
"""What loads a checkpoint as the RLVR model of a pair: by step of RL (0: the base itself), and controls by name."""
Further = Mapping[str, Callable[[ModelPair, Sequence[Problem]], Array]]
"""More to measure at every checkpoint, by name: a value a problem, such as what a component contributes to the shift."""


@dataclass(frozen=True, eq=False, repr=False)
class Emergence:
    """Curves over the checkpoints of a training, when each has made half of its change, and what comes first."""

    table: pd.DataFrame
    """One row a condition ("rl" or a control, whose step is NaN), step, measure, kind, scope and stratum: estimate and interval;
    last_minus and last_over, RL's last step minus and over this one; problems. Measures: greedy, Pass@K, size, kl, ratio (KL
    over matched noise); contrast and contrast_ratio, lowest over highest stratum of kl and of ratio; what was asked further."""
    timing: pd.DataFrame
    """One row a curve: change, what it makes up to the last step, and half_time, the step at which half is made."""
    order: pd.DataFrame
    """One row a shift of the lowest stratum and another curve (``other``): gap, the shift's half-time minus the other's, in
    steps, with interval; state ("precedes", "follows", "undecided"); obstacle, where the two can't be timed; and what the
    other changes in all."""
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
        """What comes first, a line for each other curve: visual tokens and layers below the last, if there are, by root KL."""
        rows = self.order.loc[self.order["measure"] == "size"]
        for column, wanted in (("kind", "visual"), ("scope", "without last layer")):
            held = set(rows[column])
            rows = rows.loc[rows[column] == (wanted if wanted in held else min(held))]
        return [_told(row) for row in rows.to_dict("records")]

    def _repr_html_(self) -> str:
        shown = ["measure", "kind", "scope", "other", *ends("gap"), "state", "obstacle"]
        return (
            markup.listing(self.verdicts)
            + markup.table(self.order.loc[:, shown])
            + markup.paragraph(
                "gap: half-time of the low-entropy shift minus that of the other, in steps of RL."
            )
            + markup.folded("half-times of all curves", markup.table(self.timing))
            + markup.folded(
                "all curves",
                markup.table(self.table.rename(columns={"low": "estimate_low", "high": "estimate_high"})),
            )
        )

    def to_dataframe(self) -> pd.DataFrame:
        """A copy of ``table``."""
        return self.table.copy()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Everything that was found, by the names that a run folder gives it."""
        return {"emergence": self.table, "half_times": self.timing, "order": self.order}

    def plot(self, kind: str | None = None) -> Any:
        """The curves as a plotly Figure, a panel each; ``kind`` is visual if there is any."""
        from workbench.emergence_figures import emergence_curves

        return emergence_curves(self.table, kind=kind)


def follow_training(
    problems: Sequence[Problem],
    checkpoints: Checkpoints,
    *,
    samples: int = 16,
    bins: int = 5,
    further: Further | None = None,
    seed: int = 0,
    max_new_tokens: int = 256,
    batch_size: int = 8,
    resamples: int = 1000,
    keep: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Emergence:
    """Measure every checkpoint and time what changes; the module's text tells how.

    Args:
        problems: problems with answers.
        checkpoints: what loads each, such as `presets.checkpoints_of(pair)`; one is in memory at a time.
        samples: sampled responses a problem and checkpoint at temperature 1, beside the greedy one.
        bins: strata of base entropy per layer and token kind.
        further: more to measure.
        seed: of samples, noise and bootstrap.
        max_new_tokens: where a response is cut off.
        batch_size: prompts per forward.
        resamples: of the bootstrap over problems.
        keep: a folder for finished checkpoints; the same call with the same folder goes on from there.
        progress: told what is going on: (checkpoint, checkpoints done, checkpoints in all).

    Raises:
        InputError: no problems, no step 0, or fewer than two steps after it.
    """
    further = dict(further or {})
    steps = _check(problems, checkpoints, bins, further)
    settings = {"samples": samples, "temperature": 1.0, "seed": seed, "bins": bins}
    settings |= {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    found, told = {}, {}
    for number, (name, load) in enumerate(checkpoints.items()):
        if progress:
            progress(str(name), number, len(checkpoints))
        pair = load()
        told[str(name)] = {role: pair.provenance[role]["weights"] for role in ("base", "rlvr")}
        spec = {
            "pair": {**pair.provenance},
            "problems": [p.fingerprint for p in problems],
            "further": [*further],
        }
        (found[name],) = kept(
            Path(keep) if keep is not None else None,
            spec | settings,
            ["emergence"],
            lambda pair=pair: [measure_checkpoint(pair, problems, settings, further)],
        )
    names = [*steps, *(name for name in checkpoints if isinstance(name, str))]
    curves = _Curves.of([found[name] for name in names], bins)
    table, timing, order = _compared(curves, names, len(steps), resamples, seed)
    return Emergence(table, timing, order, tuple(steps), {"checkpoints": told, "settings": settings})


def measure_checkpoint(
    pair: ModelPair, problems: Sequence[Problem], settings: Mapping[str, Any], further: Further
) -> pd.DataFrame:
    """What one checkpoint, the pair's RLVR model, does on each problem.

    One row a problem and KEYS; a mean over problems is the sum of ``amount`` over the sum of ``weight``.
    """
    samples, bins = settings["samples"], settings["bins"]
    responses, _ = measure(pair, "rlvr", problems, settings)
    right = scores(
        responses.assign(intervention=RL), samples=samples, pass_at=[k for k in PASS_AT if k <= samples]
    )
    ids = [problem.id for problem in problems]
    whole = {"kind": "", "scope": "", "stratum": WHOLE, "weight": 1.0}
    values = right[RL] | {name: np.asarray(of(pair, problems), float) for name, of in further.items()}
    parts = [
        pd.DataFrame({"problem": ids, "measure": name, "amount": value} | whole)
        for name, value in values.items()
    ]
    traced = trace(
        pair, problems, top_k=1, null_draws=1, seed=settings["seed"], batch_size=settings["batch_size"]
    )
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


def half_times(curves: Array, steps: ArrayLike) -> Array:
    """The first step at which a curve (..., steps) has made half of its final change, by linear interpolation: (...).

    NaN where it ends where it began.
    """
    at = np.asarray(steps, float)
    gone = divide(curves - curves[..., :1], curves[..., -1:] - curves[..., :1])
    after = np.maximum(np.argmax(gone >= 0.5, axis=-1), 1)[..., None]
    (g0, g1), (s0, s1) = (
        [np.take_along_axis(values, index, -1)[..., 0] for index in (after - 1, after)]
        for values in (gone, np.broadcast_to(at, gone.shape))
    )
    return s0 + divide(0.5 - g0, g1 - g0) * (s1 - s0)


@dataclass(frozen=True, eq=False)
class _Curves:
    """Sums by problem of every measure at every checkpoint, and the values that follow from them."""

    keys: pd.DataFrame
    """KEYS of the curves."""
    amount: Array
    """(problems, summed curves, checkpoints)."""
    weight: Array
    bins: int

    @classmethod
    def of(cls, measured: Sequence[pd.DataFrame], bins: int) -> "_Curves":
        index = ["problem", *KEYS]
        wide = [
            pd.concat([frame.set_index(index)[part] for frame in measured], axis=1).sort_index()
            for part in ("amount", "weight")
        ]
        shared = wide[0].index.droplevel("problem")
        first = shared[: len(shared.unique())]
        amount, weight = (part.to_numpy(float).reshape(-1, len(first), len(measured)) for part in wide)
        keys = first.to_frame(index=False)
        size = keys.loc[keys["measure"] == "kl"].assign(measure="size")
        contrasts = [
            keys.loc[(keys["measure"] == name) & (keys["stratum"] == 0)].assign(measure=called, stratum=WHOLE)
            for name, called in (("kl", "contrast"), ("ratio", "contrast_ratio"))
        ]
        return cls(pd.concat([keys, size, *contrasts], ignore_index=True), amount, weight, bins)

    def values(self, counts: Array) -> Array:
        """(resamples, curves, checkpoints), in the order of ``keys``."""
        amount, weight = (np.tensordot(counts, sums, axes=1) for sums in (self.amount, self.weight))
        plain = divide(amount, weight)
        keys = self.keys.iloc[: plain.shape[1]]
        places = {name: np.flatnonzero(keys["measure"] == name) for name in ("kl", "ratio")}
        parts = [plain, np.sqrt(plain[:, places["kl"]])]
        for rows in places.values():
            stratum = keys["stratum"].to_numpy()[rows]
            lowest, highest = rows[stratum == 0], rows[stratum == self.bins - 1]
            parts.append(divide(plain[:, lowest], plain[:, highest]))
        return np.concatenate(parts, axis=1)

    def timed(self) -> list[int]:
        """Rows of ``keys`` whose half-times are of interest: answers, what was asked for further, and the outermost strata."""
        outermost = self.keys["measure"].isin(["size", "kl"]) & self.keys["stratum"].isin([0, self.bins - 1])
        return np.flatnonzero((self.keys["kind"] == "") | outermost).tolist()


def _compared(
    curves: _Curves, names: Sequence[int | str], steps: int, resamples: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The three tables of an Emergence, all from the same resamples."""
    keys, timed, last = curves.keys, curves.timed(), steps - 1
    keyed: list[dict[str, Any]] = keys.iloc[timed].to_dict("records")
    at = np.asarray(names[:steps], float)
    pairs = _pairs(keyed, curves.bins)

    def statistic(counts: Array) -> Array:
        values = curves.values(counts)
        final = values[..., last : last + 1]
        half = half_times(values[:, timed, :steps], at)
        change = (values[..., last] - values[..., 0])[:, timed]
        gaps = half[:, [a for a, _ in pairs]] - half[:, [b for _, b in pairs]]
        blocks = (values, final - values, divide(final, values), change, half, gaps)
        return np.concatenate([block.reshape(len(counts), -1) for block in blocks], axis=1)

    problems, count, held = len(curves.amount), len(keys) * len(names), len(timed)
    found = bootstrap(statistic, problems, resamples=resamples, seed=seed)
    rows = []
    for place, key in enumerate(keys.to_dict("records")):
        for number, name in enumerate(names):
            index = place * len(names) + number
            value, minus, over = (found[index + block * count] for block in range(3))
            row = {
                "condition": RL if number <= last else name,
                "step": float(name) if number <= last else np.nan,
            }
            row |= {**key, "estimate": value.estimate, "low": value.low, "high": value.high}
            rows.append(
                row | columns("last_minus", minus) | columns("last_over", over) | {"problems": problems}
            )
    table = pd.DataFrame(rows)
    change, half = ([found[3 * count + block * held + i] for i in range(held)] for block in range(2))
    timing = pd.DataFrame(
        key | columns("change", change[i]) | columns("half_time", half[i]) | {"problems": problems}
        for i, key in enumerate(keyed)
    )
    order = []
    for number, (a, b) in enumerate(pairs):
        gap, obstacle = found[3 * count + 2 * held + number], _obstacle(change[a], change[b], timing, a, b)
        first = keyed[a]
        order.append(
            {key: first[key] for key in ("measure", "kind", "scope")}
            | {"other": name_of(keyed[b]), **columns("gap", gap), "problems": problems}
            | {"state": "cannot be told" if obstacle else state_of(gap), "obstacle": obstacle}
            | columns("other_change", change[b])
        )
    return table, timing, pd.DataFrame(order)


def _pairs(rows: Sequence[Mapping[str, Any]], bins: int) -> list[tuple[int, int]]:
    """Each shift of the lowest stratum, beside everything that is timed of whole responses, and the highest stratum."""
    found = []
    for a, shift in enumerate(rows):
        if shift["kind"] and shift["stratum"] == 0:
            beside = {**shift, "stratum": bins - 1}
            found += [(a, b) for b, other in enumerate(rows) if other["kind"] == "" or other == beside]
    return found


def name_of(curve: Mapping[str, Any]) -> str:
    """What a curve is called."""
    if not curve["kind"]:
        return str(curve["measure"])
    return "the shift at low entropy" if curve["stratum"] == 0 else "the shift at high entropy"


def state_of(gap: Interval) -> str:
    """What a difference of half-times says: "precedes", "follows", or "undecided" where the interval holds 0."""
    return {True: "follows", False: "precedes", None: "undecided"}[gap.above(0.0)]


def _obstacle(one: Interval, two: Interval, timing: pd.DataFrame, a: int, b: int) -> str:
    for change, row in ((one, a), (two, b)):
        if change.above(0.0) is None:
            measured = timing["measure"].iloc[row]
            return f"whether {measured} changes at all is undecided: {change.estimate:.3g} [{change.low:.3g}, {change.high:.3g}]"
    return ""


def _told(row: Mapping[str, Any]) -> str:
    shift = f"The low-entropy shift ({row['kind']} tokens, {row['scope']}, root KL)"
    if row["obstacle"]:
        return f"{shift} beside {row['other']}: {row['state']}, {row['obstacle']}."
    gap = interval_in(row, "gap")
    said = "is undecided beside" if row["state"] == "undecided" else row["state"]
    return f"{shift} {said} {row['other']}: {gap} steps between the two half-times."


def _check(problems: Sequence[Problem], checkpoints: Checkpoints, bins: int, further: Further) -> list[int]:
    call = "follow_training(problems, checkpoints_of(load_pair('shapes')))"
    check_bins(bins)
    if not problems:
        raise InputError(f"`problems` is empty; give at least one: {call}")
    steps = sorted(name for name in checkpoints if isinstance(name, int))
    if 0 not in steps or len(steps) < 3:
        raise InputError(
            f"`checkpoints` has the steps {steps}; expected 0, the base in both places, and at least two later ones: "
            f"{call}"
        )
    taken = {"greedy", "size", "kl", "ratio", "contrast", "contrast_ratio", *(f"Pass@{k}" for k in PASS_AT)}
    if clash := sorted(taken & {*further}):
        raise InputError(f"`further` names {clash}, which stand for something else; name them otherwise")
    return steps
