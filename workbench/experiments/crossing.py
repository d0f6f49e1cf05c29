"""Cross-sampling at chosen shares: thresholds of every criterion, taken from other problems than those answered with them.

1. The host alone answers some problems under each criterion, and the criterion's value is kept at every token.
2. The threshold of a share is the quantile of these values above (``low_divergence``: below) which that share lies.
3. Both directions, every criterion and every share make a grid of conditions for `ablate`; ``random`` takes a share as a budget.

How many tokens are replaced in the end is measured, since a response goes on differently after each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd

from workbench.conditions import Model
from workbench.decoding.decode import decode_many
from workbench.errors import InputError
from workbench.experiments.ablation import Ablation
from workbench.mixtures import Criterion, CrossSample
from workbench.models.pairs import ModelPair
from workbench.problems.problem import Problem

NEVER: Mapping[Criterion, float] = {"divergence": 1.0, "entropy": 1e6, "dlogp": 1e6, "low_divergence": -1.0}
"""Thresholds, in nats, that no token meets: Jensen-Shannon divergence is at most ln 2."""


def crossing_grid(
    pair: ModelPair,
    problems: Sequence[Problem],
    shares: Sequence[float],
    *,
    samples: int = 4,
    seed: int = 0,
    max_new_tokens: int | None = None,
) -> dict[str, CrossSample]:
    """Conditions by title: both hosts, all criteria, each at every share of replaced tokens.

    Args:
        pair: what `load_pair` returned.
        problems: what thresholds are taken from; others than those that the grid is measured on.
        shares: of the tokens, above 0 and at most 1.
        samples: responses to each problem at temperature 1, for the thresholds.
        seed: of these.
        max_new_tokens: where they are cut off; None: what suits the pair.

    Raises:
        InputError: no shares, or one outside its range.
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise InputError(
            f"`shares` is {tuple(shares)}; expected shares of the tokens above 0 and at most 1: "
            "crossing_grid(pair, problems, (0.02, 0.05, 0.1))"
        )
    grid: dict[str, CrossSample] = {}
    how = {"samples": samples, "seed": seed, "max_new_tokens": max_new_tokens}
    hosts: tuple[Model, ...] = get_args(Model)
    for host in hosts:
        values = {
            criterion: _values(pair, problems, CrossSample(host, criterion, threshold=never), how)
            for criterion, never in NEVER.items()
            if criterion != "low_divergence"
        }
        values["low_divergence"] = values["divergence"]
        for criterion in NEVER:
            for share in shares:
                place = share if criterion == "low_divergence" else 1 - share
                threshold = float(np.quantile(values[criterion], place))
                condition = CrossSample(host, criterion, threshold=threshold)
                grid[crossing_name(host, criterion, share)] = condition
        for share in shares:
            grid[crossing_name(host, "random", share)] = CrossSample(host, "random", budget=share, seed=seed)
    return grid


def crossing_name(host: Model, criterion: Criterion, share: float) -> str:
    """What a condition of the grid is called."""
    guest = "rlvr" if host == "base" else "base"
    return f"{guest} into {host}, {criterion.replace('_', ' ')}, {100 * share:g}%"


def crossing_table(found: Ablation, grid: dict[str, CrossSample], shares: Sequence[float]) -> pd.DataFrame:
    """One row a condition and measure: host, criterion, asked and replaced share of tokens, and what `Ablation.summary` says."""
    replaced = {}
    for name, part in found.responses.groupby("intervention"):
        replaced[str(name)] = part["replaced"].to_numpy().sum() / part["tokens"].to_numpy().sum()
    asked = {crossing_name(c.host, c.criterion, share): share for c in grid.values() for share in shares}
    rows = found.summary.to_dict("records")
    for row in rows:
        name = row["intervention"]
        condition = grid.get(name)
        row["host"] = condition.host if condition else name
        row["criterion"] = condition.criterion if condition else "none"
        row["asked"] = asked.get(name, 0.0)
        row["replaced"] = replaced[name]
    return pd.DataFrame(rows)


def _values(
    pair: ModelPair, problems: Sequence[Problem], condition: CrossSample, how: Mapping[str, Any]
) -> np.ndarray:
    """The criterion's values, in nats, at every token of the host's own responses."""
    answers = decode_many(
        pair,
        problems,
        model=condition.host,
        interventions=condition,
        temperature=1.0,
        **how,
    )
    return np.array([value for responses in answers for response in responses for value in response.values])
