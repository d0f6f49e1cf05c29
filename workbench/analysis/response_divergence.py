"""Where along responses two models diverge, and what follows: numbers from a table of positions.

A position is the place where one token of a response was drawn; cells are positions, and problems are what intervals resample.
Published beside it (arXiv 2603.22446): RLVR leaves the next-token distribution nearly alone at most positions, acts at the start
and the end of responses, and where the two models differ mostly takes one of the base's own first choices.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.analysis.low_entropy import ROUNDING
from workbench.analysis.verdicts import Claim
from workbench.estimates import (
    FEWEST,
    Array,
    Interval,
    Settings,
    bootstrap,
    divide,
    mean,
    number_problems,
    paired_difference,
    share,
    sums_by_problem,
)

RLVR = "rlvr"
THRESHOLDS = (1e-4, 1e-3, 1e-2, 0.1)
"""Of the Jensen-Shannon divergence, nats."""
NEAR = 1e-3
"""Nats, below which a position counts as left alone: 0.1% of what the divergence can be."""
FAR = 0.1
"""Nats, from which on a position counts as divergent."""
RANKS = (1, 3, 5, 10)
PUBLISHED = 0.83
PLACES = ("start", "middle", "end")
PLACE = "arXiv 2603.22446"
_NOTHING = Interval(np.nan, np.nan, np.nan)
_SPARSE = "RLVR leaves most positions of a response nearly alone"
_SPARSER = (
    "RLVR leaves more positions of a response nearly alone than training without RL, or a random change"
)
_RERANKING = "where the models diverge, RLVR mostly takes one of the base's first choices"
_ENDS = "the models diverge most at the start and the end of a response"


def place_of(position: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.str_]:
    """ "start" and "end" are the first and the last tenth of a response, rounded up to whole tokens; "middle" is the rest."""
    tenth = -(-length // 10)
    return np.where(position < tenth, "start", np.where(position >= length - tenth, "end", "middle"))


def summarise(positions: pd.DataFrame, **settings: Any) -> pd.DataFrame:
    """One row a condition and measure, with intervals clustered by problem.

    Measures: ``below`` (share of positions whose divergence is below ``at`` nats), ``jensen_shannon``, ``kl``, ``kl_reverse``,
    ``entropy_change`` and ``dlogp`` (means, nats), ``within`` (share of drawn tokens that are among the base's first ``at``);
    ``where``: all positions, the start, middle or end of responses, or those that diverge (``FAR`` nats or more).

    Columns: condition, measure, at (NaN: none), where, estimate with ends, positions, problems.
    """
    rows = []
    for condition, part in positions.groupby("condition", sort=False):
        js = part["jensen_shannon"].to_numpy()
        wheres: dict[str, Any] = {"all": np.ones(len(part), bool)}
        wheres |= {place: (part["place"] == place).to_numpy() for place in PLACES} | {"divergent": js >= FAR}
        for where, here in wheres.items():
            for measure, at, values, estimate in _measures(part, condition == RLVR):
                if (where, measure) == ("divergent", "below"):  # none is
                    continue
                problem = part["problem"].to_numpy()[here]
                found = estimate(values[here], problem, **settings) if here.any() else _NOTHING
                rows.append(
                    {"condition": condition, "measure": measure, "at": at, "where": where}
                    | found.columns("estimate")
                    | {"positions": int(here.sum()), "problems": len({*problem})}
                )
    return pd.DataFrame(rows)


def _measures(
    part: pd.DataFrame, ranked: bool
) -> Iterable[tuple[str, float, Array, Callable[..., Interval]]]:
    js = part["jensen_shannon"].to_numpy()
    for threshold in THRESHOLDS:
        yield "below", threshold, (js < threshold).astype(float), share
    part = part.assign(entropy_change=part["entropy_rlvr"] - part["entropy_base"])
    for name in ("jensen_shannon", "kl", "kl_reverse", "entropy_change", "dlogp"):
        yield name, np.nan, part[name].to_numpy(), mean
    for rank in RANKS if ranked else ():  # the base's, so the same for every condition
        yield "within", float(rank), (part["rank_base"].to_numpy() <= rank).astype(float), share


def heaviest_tokens(positions: pd.DataFrame, most: int = 50) -> pd.DataFrame:
    """The tokens, as text, whose positions hold most of the divergence of a condition, largest first.

    Columns: condition, token, positions, problems, jensen_shannon (mean), share (of the condition's sum), dlogp (mean).
    """
    tables = []
    for condition, part in positions.groupby("condition", sort=False):
        grouped = part.groupby("token", sort=True)
        table = grouped.agg(
            positions=("token", "size"),
            problems=("problem", "nunique"),
            jensen_shannon=("jensen_shannon", "mean"),
            share=("jensen_shannon", "sum"),
            dlogp=("dlogp", "mean"),
        ).reset_index()
        total = float(part["jensen_shannon"].to_numpy().sum())
        table["share"] = table["share"] / total if total > 0 else np.nan
        table = table.sort_values("share", ascending=False, kind="stable").head(most)
        table.insert(0, "condition", condition)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def claims_of(positions: pd.DataFrame, drawn_by: str, **settings: Any) -> list[Claim]:
    """Sparse, reranking, start and end: what the positions say of them, RLVR's against the controls' where there are any."""
    own = positions.loc[positions["condition"] == RLVR]
    controls = [name for name in dict.fromkeys(positions["condition"]) if name != RLVR]
    level = settings.get("level", 0.95)
    largest = own["jensen_shannon"].max()
    same = (
        f"the two models agree to within rounding (largest divergence {largest:.1g} nats), so nothing diverges"
        if largest <= ROUNDING
        else None
    )
    found = [
        _of(
            (own["jensen_shannon"].to_numpy() < NEAR).astype(float),
            own["problem"],
            _SPARSE,
            f"share of positions below {NEAR:g} nats",
            {"test": "sparse"},
            bound=PUBLISHED,
            why="published for a DAPO model of Qwen2.5-32B; there, 'near zero' is not defined",
            obstacle=same,
            settings=settings,
        )
    ]
    for name in controls:
        other = positions.loc[positions["condition"] == name]
        theirs, ours = ((part["jensen_shannon"].to_numpy() < NEAR).astype(float) for part in (other, own))
        interval = paired_difference(theirs, ours, own["problem"], **settings)
        what = f"share of positions below {NEAR:g} nats, RLVR less {name}"
        about: dict[str, Any] = {"key": {"test": "sparse", "control": name}, "obstacle": same, "level": level}
        found.append(Claim(_SPARSER, PLACE, what, interval, own["problem"].nunique(), **about))
    return found + _reranking(own, drawn_by, same, settings) + _ends(own, same, settings)


def _reranking(
    own: pd.DataFrame, drawn_by: str, same: str | None, settings: Mapping[str, Any]
) -> list[Claim]:
    apart = own.loc[own["jensen_shannon"] >= FAR]
    obstacle = same
    if drawn_by != RLVR:
        obstacle = f"the tokens were drawn by {drawn_by}, and it is about RLVR's"
    elif not same and apart.empty:
        obstacle = f"no position diverges by {FAR:g} nats or more"
    return [
        _of(
            (apart["rank_base"].to_numpy() <= rank).astype(float),
            apart["problem"],
            _RERANKING,
            f"share of RLVR's draws within the base's top {rank}, at positions of {FAR:g} nats or more",
            {"test": "reranking", "rank": str(rank)},
            bound=0.5,
            why="'mostly'",
            obstacle=obstacle,
            settings=settings,
        )
        for rank in RANKS
    ]


def _of(
    values: Array,
    problem: pd.Series,
    claim: str,
    measured: str,
    key: dict[str, str],
    *,
    settings: Mapping[str, Any],
    obstacle: str | None,
    **about: Any,
) -> Claim:
    """A claim about a share."""
    interval = share(values, problem, **settings) if len(values) else _NOTHING
    level = settings.get("level", 0.95)
    problems = int(problem.nunique())
    return Claim(claim, PLACE, measured, interval, problems, obstacle=obstacle, key=key, level=level, **about)


def _ends(own: pd.DataFrame, same: str | None, settings: Mapping[str, Any]) -> list[Claim]:
    """Mean divergence of the first and of the last tenth over that of the middle."""
    ids, problems = number_problems(own["problem"], len(own))
    inside = [(own["place"] == place).to_numpy(float) for place in ("start", "end", "middle")]
    js = own["jensen_shannon"].to_numpy()
    sums = sums_by_problem(np.stack([*inside, *(here * js for here in inside)]), ids, problems)

    def statistic(counts: Array) -> Array:
        totals = counts @ sums
        means = divide(totals[:, 3:], totals[:, :3])
        return divide(means[:, :2], means[:, 2:])

    given = Settings(**{name: value for name, value in settings.items() if value is not None})
    found = bootstrap(statistic, problems, bounds=(0.0, np.inf), **given)
    claims = []
    for index, (place, tenth) in enumerate((("start", "first"), ("end", "last"))):
        speaking = int((np.minimum(sums[:, index], sums[:, 2]) > 0).sum())
        short = f"fewer than {FEWEST} problems have responses of three tokens or more"
        claims.append(
            Claim(
                _ENDS,
                PLACE,
                f"mean divergence in the {tenth} tenth over the middle (a factor)",
                found[index],
                problems,
                bound=1.0,
                obstacle=same or (short if speaking < min(FEWEST, problems) else None),
                factor=True,
                level=settings.get("level", 0.95),
                key={"test": place},
            )
        )
    return claims


def headline(claims: Sequence[Claim]) -> str:
    """The line to remember."""
    by = {(claim.key["test"], claim.key.get("rank", claim.key.get("control", ""))): claim for claim in claims}
    sparse, third = by["sparse", ""], by["reranking", "3"]
    if sparse.obstacle:
        return f"{sparse.obstacle[0].upper()}{sparse.obstacle[1:]}."
    line = f"{sparse.interval.estimate:.1%} of positions are below {NEAR:g} nats"
    for (test, control), claim in by.items():
        if test == "sparse" and control:
            line += f", {100 * claim.interval.estimate:+.1f} points beside {control} ({claim.verdict})"
    if not third.obstacle:
        line += f"; where the models diverge, {third.interval.estimate:.0%} of RLVR's draws are among the base's top 3"
        line += f" ({third.verdict})"
    start, end = by["start", ""], by["end", ""]
    line += f"; divergence at the start is {start.interval.estimate:.2g}x the middle's ({start.verdict})"
    return f"{line}, at the end {end.interval.estimate:.2g}x ({end.verdict})."
