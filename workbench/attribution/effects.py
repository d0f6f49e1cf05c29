"""What many prompts' effects say: means over problems, and how well the approximations agree with exact swaps."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.analysis.control_claims import BESIDE
from workbench.analysis.verdicts import Claim
from workbench.errors import InputError
from workbench.estimates import (
    Array,
    Correlation,
    Interval,
    bootstrap,
    number_problems,
    pearson,
    spearman,
)

APPROXIMATIONS = ("attribution_patching", "relp")
KEYS = ["component", "kind", "layer", "head"]
GROUP = ["metric", "direction", "where"]


def summarise(
    direct: pd.DataFrame, effects: pd.DataFrame, *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Means over problems with 95% intervals: `Attribution.summary` from its two long tables."""
    parts = [direct.assign(direction="direct", where="all", value=direct["change"])]
    if len(effects):
        parts.append(effects.assign(value=effects["exact"]))
    means = []
    for shared, rows in (group for part in parts for group in _groups(part)):
        wide = rows.pivot_table(index="problem", columns=KEYS, values="value", sort=False).fillna(0.0)
        values = wide.to_numpy(float)

        def mean(counts: Array, values: Array = values) -> Array:
            return counts @ values / counts.sum(1, keepdims=True)

        intervals = bootstrap(mean, len(values), resamples=resamples, seed=seed)
        for column, named in enumerate(wide.columns.to_frame(index=False).to_dict("records")):
            means.append(shared | named | intervals[column].columns("estimate") | {"problems": len(values)})
    return pd.DataFrame(means)


def correlate(
    effects: pd.DataFrame,
    approximations: Sequence[str] = APPROXIMATIONS,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlations of approximate with exact effects over components and problems: `Attribution.correlations`."""
    correlations = []
    for shared, rows in _groups(effects) if len(effects) else ():
        for name in approximations:
            settings = {"resamples": resamples, "seed": seed}
            exactly, roughly, problem = rows["exact"], rows[name], rows["problem"]
            correlations.append(
                shared
                | {"approximation": name}
                | pearson(exactly, roughly, problem, **settings).columns("pearson")
                | spearman(exactly, roughly, problem, **settings).columns("spearman")
                | {"problems": problem.nunique(), "swaps": len(rows)}
            )
    return pd.DataFrame(correlations)


def relp_gain(
    effects: pd.DataFrame, metric: str, direction: str, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Pearson's r of RelP with exact swaps everywhere, minus that of attribution patching."""
    shared = {"metric": metric, "direction": direction, "where": "all"}
    rows = next(rows for group, rows in _groups(effects) if group == shared)
    problem, problems = number_problems(rows["problem"], len(rows))
    exactly, *roughly = (rows[name].to_numpy(float) for name in ("exact", *APPROXIMATIONS))
    patching, relp = (Correlation(exactly, values, problem, problems) for values in roughly)
    intervals = bootstrap(
        lambda n: relp(n) - patching(n), problems, bounds=(-2.0, 2.0), resamples=resamples, seed=seed
    )
    return intervals[0]


def minus_control(
    direct: pd.DataFrame,
    control: pd.DataFrame,
    name: str,
    *,
    most: int = 5,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Claim]:
    """Whether what writes most of RLVR's change of KL writes less in a control: RLVR's contribution minus the control's.

    Args:
        direct: ``Attribution.direct`` of the pair.
        control: that of a pair with the same base in which the control plays the RLVR model, of the same problems and cells.
        name: of the control.
        most: components, those with RLVR's largest mean; being chosen for their size, they are rather too large than too small.
        resamples: of the bootstrap over problems.
        seed: of the bootstrap.

    Raises:
        InputError: other problems.
    """
    sides = []
    for table in (direct, control):
        rows = table.loc[(table["metric"] == "kl") & ~table["kind"].isin(["norm scale", "unembedding"])]
        sides.append(rows.pivot_table(index="problem", columns="component", values="change", sort=False))
    rlvr, other = sides
    if {*rlvr.index} != {*other.index}:
        raise InputError(
            f"`control` is of {len(other)} problems that are not the {len(rlvr)} of `direct`; attribute both on the same ones: "
            "minus_control(found.direct, attribute(control, problems, metrics=['kl']).direct, 'sft')"
        )
    components = rlvr.mean().nlargest(most).index.tolist()
    change = (rlvr[components] - other.reindex(rlvr.index)[components]).to_numpy(float)

    def mean(counts: Array) -> Array:
        return counts @ change / counts.sum(1, keepdims=True)

    intervals = bootstrap(mean, len(change), resamples=resamples, seed=seed)
    return [
        Claim(
            "a component writes more of RLVR's shift than of a control's",
            BESIDE,
            f"direct contribution of {component} to the KL at low-entropy cells, RLVR minus {name}, nats",
            intervals[place],
            len(change),
            obstacle="too few problems for an interval" if np.isnan(intervals[place].low) else None,
        )
        for place, component in enumerate(components)
    ]


def _groups(frame: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The rows of every metric, direction and place, with these."""
    keys = [tuple(map(str, key)) for key in frame[GROUP].to_numpy()]
    for key in dict.fromkeys(keys):
        yield dict(zip(GROUP, key, strict=True)), frame.loc[[other == key for other in keys]]
