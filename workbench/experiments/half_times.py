"""Curves over checkpoints: values, when each has made half of its change, and which of two comes first.

Everything is resampled together, problem by problem; `emergence` tells what is measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from workbench.estimates import (
    ENOUGH,
    FEWEST,
    Array,
    Interval,
    Settings,
    bootstrap,
    divide,
    share_change,
    shares,
)

RL = "rl"
"""The condition of RL's own checkpoints; a control goes by its name."""
SHIFTS = {"size": "root KL", "kl": "KL"}
"""What the measures of a shift are called."""
KEYS = ["measure", "kind", "scope", "stratum"]
WHOLE = -1
"""The stratum of what is measured on a whole response, and of a contrast of strata."""


def half_times(curves: Array, steps: ArrayLike) -> Array:
    """The first step at which a curve (..., steps) has made half of its final change, by linear interpolation: (...).

    NaN where it ends where it began.
    """
    at = np.asarray(steps, float)
    shares = divide(curves - curves[..., :1], curves[..., -1:] - curves[..., :1])
    after = np.maximum(np.argmax(shares >= 0.5, axis=-1), 1)[..., None]
    (g0, g1), (s0, s1) = (
        [np.take_along_axis(values, index, -1)[..., 0] for index in (after - 1, after)]
        for values in (shares, np.broadcast_to(at, shares.shape))
    )
    return s0 + divide(0.5 - g0, g1 - g0) * (s1 - s0)


@dataclass(frozen=True, eq=False)
class Curves:
    """Sums by problem of every measure at every checkpoint, and the values that follow from them."""

    keys: pd.DataFrame
    """KEYS of the curves."""
    amount: Array
    """(problems, summed curves, checkpoints)."""
    weight: Array
    bins: int

    @classmethod
    def of(cls, measured: Sequence[pd.DataFrame], bins: int) -> "Curves":
        """From what each checkpoint did on the same problems, rows of `emergence.measure_checkpoint`."""
        index = ["problem", *KEYS]
        wide = [
            pd.concat([frame.set_index(index)[part] for frame in measured], axis=1).sort_index()
            for part in ("amount", "weight")
        ]
        keys = measured[0].loc[:, KEYS].drop_duplicates(ignore_index=True)
        entries = wide[0].index.droplevel("problem")[: len(keys)]
        order = entries.get_indexer(pd.MultiIndex.from_frame(keys))
        amount, weight = (
            part.to_numpy(float).reshape(-1, len(keys), len(measured))[:, order] for part in wide
        )
        cells = keys.loc[keys["kind"] != ""]
        size = cells.loc[cells["measure"] == "kl"].assign(measure="size")
        contrasts = [
            cells.loc[(cells["measure"] == name) & (cells["stratum"] == 0)].assign(
                measure=called, stratum=WHOLE
            )
            for name, called in (("kl", "contrast"), ("ratio", "contrast_ratio"))
        ]
        return cls(pd.concat([keys, size, *contrasts], ignore_index=True), amount, weight, bins)

    def values(self, counts: Array) -> Array:
        """(resamples, curves, checkpoints), in the order of ``keys``."""
        amount, weight = (np.tensordot(counts, sums, axes=1) for sums in (self.amount, self.weight))
        plain = divide(amount, weight)
        keys = self.keys.iloc[: plain.shape[1]]
        places = {
            name: np.flatnonzero((keys["measure"] == name) & (keys["kind"] != "")) for name in ("kl", "ratio")
        }
        parts = [plain, np.sqrt(plain[:, places["kl"]])]
        for rows in places.values():
            stratum = keys["stratum"].to_numpy()[rows]
            lowest, highest = rows[stratum == 0], rows[stratum == self.bins - 1]
            parts.append(divide(plain[:, lowest], plain[:, highest]))
        return np.concatenate(parts, axis=1)

    def shares(self, last: int) -> dict[tuple[int, int], tuple[Interval, Interval]]:
        """(curve, checkpoint) of answers -> the share that is right, and what the one at ``last`` has more."""
        plain = self.amount.shape[1]
        answers = [
            place
            for place, key in enumerate(self.keys.iloc[:plain].to_dict("records"))
            if key["scope"] == "" and (key["measure"] == "greedy" or key["measure"].startswith("Pass@"))
        ]
        gains = {}
        for place in answers:
            amount, weight = self.amount[:, place], self.weight[:, place]
            levels = shares(amount, weight)
            for number in range(amount.shape[1]):
                gain = share_change(amount[:, last] - amount[:, number], weight[:, number])
                own = Interval(0.0, np.nan, np.nan)  # of the last one over itself
                gains[place, number] = (levels[number], own if number == last else gain)
        return gains

    def timed(self) -> list[int]:
        """Rows of ``keys`` whose half-times are of interest: answers, what was asked for further, and the outermost strata."""
        outermost = self.keys["measure"].isin(["size", "kl"]) & self.keys["stratum"].isin([0, self.bins - 1])
        return np.flatnonzero((self.keys["kind"] == "") | outermost).tolist()


def compare(
    curves: Curves, names: Sequence[int | str], steps: int, resamples: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The three tables of an Emergence, all from the same resamples."""
    keys, timed, last = curves.keys, curves.timed(), steps - 1
    keyed: list[dict[str, Any]] = keys.iloc[timed].to_dict("records")
    at = np.asarray(names[:steps], float)
    pairs = _pairs(keyed, curves.bins)

    def smooth(counts: Array) -> Array:
        values = curves.values(counts)
        final = values[..., last : last + 1]
        over = divide(final, np.where(values == 0, np.nan, values))
        blocks = (values, final - values, over, (values[..., last] - values[..., 0])[:, timed])
        return np.concatenate([block.reshape(len(counts), -1) for block in blocks], axis=1)

    def timing_of(counts: Array) -> Array:
        half = half_times(curves.values(counts)[:, timed, :steps], at)
        gaps = half[:, [a for a, _ in pairs]] - half[:, [b for _, b in pairs]]
        return np.concatenate([half, gaps], axis=1)

    problems, count, number_timed = len(curves.amount), len(keys) * len(names), len(timed)
    settings = Settings(resamples=resamples, seed=seed)
    intervals = bootstrap(smooth, problems, **settings)
    when = bootstrap(timing_of, problems, method="order", **settings)
    answers = curves.shares(last)
    rows = []
    for place, key in enumerate(keys.to_dict("records")):
        for number, name in enumerate(names):
            index = place * len(names) + number
            value, minus, over = (intervals[index + block * count] for block in range(3))
            value, minus = answers.get((place, number), (value, minus))
            row = {
                "condition": RL if number <= last else name,
                "step": float(name) if number <= last else np.nan,
            }
            row |= key | value.columns("estimate")
            rows.append(
                row | minus.columns("last_minus") | over.columns("last_over") | {"problems": problems}
            )
    table = pd.DataFrame(rows)
    change = [intervals[3 * count + i] for i in range(number_timed)]
    for i, place in enumerate(timed):
        if (place, 0) in answers:
            change[i] = answers[place, 0][1]  # the last step minus the first
    half = [when[i] for i in range(number_timed)]
    timing = pd.DataFrame(
        key | change[i].columns("change") | half[i].columns("half_time") | {"problems": problems}
        for i, key in enumerate(keyed)
    )
    order = []
    for number, (a, b) in enumerate(pairs):
        gap, obstacle = when[number_timed + number], _obstacle(change[a], change[b], timing, a, b)
        first = keyed[a]
        order.append(
            {key: first[key] for key in ("measure", "kind", "scope")}
            | {"other": name_of(keyed[b]), "group": "" if keyed[b]["kind"] else keyed[b]["scope"]}
            | {**gap.columns("gap"), "problems": problems}
            | {"state": "cannot be told" if obstacle else state_of(gap, problems), "obstacle": obstacle}
            | change[b].columns("other_change")
        )
    return table, timing, pd.DataFrame(order)


def _pairs(rows: Sequence[Mapping[str, Any]], bins: int) -> list[tuple[int, int]]:
    """Each shift of the lowest stratum, beside the answers, the highest stratum, and the KL beside what was asked further."""
    pairs = []
    for a, shift in enumerate(rows):
        if shift["kind"] and shift["stratum"] == 0:
            beside = {**shift, "stratum": bins - 1}
            groups = (
                ("",) if shift["measure"] == "size" else ("", *{r["scope"] for r in rows if not r["kind"]})
            )
            pairs += [
                (a, b)
                for b, other in enumerate(rows)
                if other == beside or (other["kind"] == "" and other["scope"] in groups)
            ]
    return pairs


def name_of(curve: Mapping[str, Any]) -> str:
    """What a curve is called."""
    if not curve["kind"]:
        return str(curve["measure"])
    return "the shift at low entropy" if curve["stratum"] == 0 else "the shift at high entropy"


def state_of(gap: Interval, problems: int) -> str:
    """What a difference of half-times says: "precedes", "follows", "undecided" (the interval holds 0), "too few problems"."""
    if problems < ENOUGH:
        return "too few problems"
    return {True: "follows", False: "precedes", None: "undecided"}[gap.above(0.0)]


def _obstacle(one: Interval, two: Interval, timing: pd.DataFrame, a: int, b: int) -> str:
    for change, row in ((one, a), (two, b)):
        if change.above(0.0) is None:
            measured = SHIFTS.get(name := timing["measure"].iloc[row], name)
            problems = timing["problems"].iloc[row]
            if problems < FEWEST:
                return (
                    "one problem, so no interval" if problems < 2 else f"{problems} problems, so no interval"
                )
            return f"whether {measured} changes at all is undecided: {change.estimate:.3g} [{change.low:.3g}, {change.high:.3g}]"
    return ""
