"""Slopes of log-perplexity on drift within problems: does a response grow less probable as activations drift?

For each kind of disturbance (with the undisturbed draw; ``all`` pools the kinds), scope, stratum of drift and outcome:

* ``per problem``     least squares in every problem, then the mean over problems;
* ``within``          one slope for all problems, each problem's means taken out of drift and outcome;
* ``equal strength``  the same with the means of every problem, kind and strength taken out: what is left is chance
                      between draws, so that a strength which moves everything makes no slope;
* ``mixed``           statsmodels' MixedLM on drift less its problem's mean, random intercept and slope per problem, with
                      its own (Wald) interval, with t at problems - 1.

Each is fitted ``alone`` (one stratum's drift) and ``joint`` (low and high together: partial slopes), because the two
drifts rise and fall together; the joint mixed fit, the slowest, for ``all`` only. The first three have intervals by
bootstrap over problems. NaN where the data do not determine a slope, or a fit does not converge.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import isnan, nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from workbench.analysis.verdicts import Claim
from workbench.estimates import (
    FEWEST,
    Array,
    Interval,
    Settings,
    bootstrap,
    divide,
    number_problems,
    sums_by_problem,
    together,
)
from workbench.names import ALL, CLEAN, FITS, OUTCOMES, SCOPES, STRATA
from workbench.views.tables import outcome_of, slope_text

METHODS = ("per problem", "within", "equal strength", "mixed")
CLAIMS = {
    "correct": (1, "smaller low-entropy drift goes with lower perplexity of the right response"),
    "incorrect": (-1, "smaller low-entropy drift goes with higher perplexity of the wrong response"),
    "margin": (-1, "smaller low-entropy drift sets the right response further apart from the wrong one"),
}
"""Outcome -> the sign of its slope on low-entropy drift that the paper claims, and the claim in words.

The third follows from the first two, and may hold where the second does not: a wrong response shares most of its tokens
with the right one, and what makes all tokens less probable cancels in the margin."""
NAMES = {"correct": "right response", "incorrect": "wrong response", "margin": "margin"}
_FITTED = [(fit, stratum) for fit in FITS for stratum in STRATA]
_FLAT = 1e-9
"""Differences below this share of the largest value are rounding; determinants below it mean collinear drifts."""


def slope_table(
    table: pd.DataFrame, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Slopes of ``Perturbation.table``: pooled over problems with intervals, and problem by problem.

    Returns:
        Columns kind, scope, stratum, outcome, method, fit, slope, slope_low, slope_high (nats per token a nat of drift),
        problems, rows; and kind, scope, stratum, outcome, fit, problem, slope, rows.
    """
    settings, slopes, singles = Settings(resamples=resamples, level=level, seed=seed), [], []
    for kind, scope, outcome, sample in _samples(table):
        here = {"kind": kind, "scope": scope, "outcome": outcome}
        for method, fit, stratum, slope, problems in _fits(sample, kind, settings):
            slopes.append(
                here
                | {"stratum": stratum, "method": method, "fit": fit}
                | slope.columns("slope")
                | {"problems": problems, "rows": len(sample.y)}
            )
        rows = np.bincount(sample.problem, minlength=len(sample.names))
        for (fit, stratum), values in zip(_FITTED, sample.each().T, strict=True):
            key = here | {"stratum": stratum, "fit": fit}
            singles += [
                key | {"problem": name, "slope": value, "rows": n}
                for name, value, n in zip(sample.names, values, rows, strict=True)
            ]
    order = [
        "kind",
        "scope",
        "stratum",
        "outcome",
        "method",
        "fit",
        *Interval.names("slope"),
        "problems",
        "rows",
    ]
    return pd.DataFrame(slopes, columns=order), pd.DataFrame(singles)


@dataclass(frozen=True, eq=False)
class Sample:
    """Drift and one outcome of some draws."""

    x: Array
    """(rows, 2): drift at low- and at high-entropy cells, nats."""
    y: Array
    """(rows,): nats per token."""
    problem: NDArray[np.int64]
    names: list[str]
    """Per problem its id."""
    strength: NDArray[np.int64]
    """(rows,): equal numbers share problem, kind and strength."""

    def centred(self, groups: NDArray[np.int64]) -> tuple[Array, Array]:
        """Drift and outcome with the means of each group taken out."""
        counts = np.bincount(groups)
        out = []
        for values in (*self.x.T, self.y):
            gap = values - (np.bincount(groups, weights=values) / counts)[groups]
            out.append(np.where(np.abs(gap) <= _FLAT * np.abs(values).max(initial=0), 0.0, gap))
        return np.stack(out[:2], 1), out[2]

    def moments(self, groups: NDArray[np.int64]) -> Array:
        """Per problem the centred sums of squares and products: low², high², low·high, low·y, high·y."""
        x, y = self.centred(groups)
        low, high = x.T
        products = np.stack([low * low, high * high, low * high, low * y, high * y])
        return sums_by_problem(products, self.problem, len(self.names))

    def each(self) -> Array:
        """Per problem its own slopes, in the order of _FITTED."""
        return _solved(self.moments(self.problem))


def _samples(table: pd.DataFrame) -> Iterator[tuple[str, str, str, Sample]]:
    kinds = [str(kind) for kind in dict.fromkeys(table["kind"]) if kind != CLEAN]
    for kind in (ALL, *kinds):
        for scope in dict.fromkeys(table["scope"]):
            inside = (table["scope"] == scope) & ((kind == ALL) | table["kind"].isin([kind, CLEAN]))
            rows = table.loc[inside].dropna(subset=["drift_low", "drift_high"])
            if rows.empty:
                continue
            problem, _ = number_problems(rows["problem"], len(rows))
            names = sorted({str(name) for name in rows["problem"]})
            strength = rows.groupby(["problem", "kind", "strength"]).ngroup().to_numpy(np.int64)
            x = rows[["drift_low", "drift_high"]].to_numpy(float)
            for outcome in OUTCOMES:
                yield (
                    kind,
                    str(scope),
                    outcome,
                    Sample(x, outcome_of(rows, outcome), problem, names, strength),
                )


def _fits(sample: Sample, kind: str, settings: Settings) -> Iterator[tuple[str, str, str, Interval, int]]:
    """Method, fit, stratum, slope, and how many problems it rests on."""
    each = sample.each()
    within, equal = sample.moments(sample.problem), sample.moments(sample.strength)
    intervals = bootstrap(
        together(partial(_mean, each=each), partial(_pooled, sums=within), partial(_pooled, sums=equal)),
        len(sample.names),
        **settings,
    )
    moved = [np.isfinite(each).sum(0), *(np.tile((m[:, :2] > 0).sum(0), 2) for m in (within, equal))]
    for index, (method, counts) in enumerate(zip(METHODS, moved, strict=False)):
        for place, (fit, stratum) in enumerate(_FITTED):
            yield method, fit, stratum, intervals[4 * index + place], int(counts[place])
    level = settings.get("level", 0.95)
    for strata in ([0], [1], [0, 1]):
        if len(strata) == 1 or kind == ALL:
            fits = _mixed(sample, strata, level)
            for stratum, interval in zip(strata, fits, strict=True):
                yield "mixed", FITS[len(strata) - 1], STRATA[stratum], interval, int(moved[1][stratum])


def _mean(counts: Array, each: Array) -> Array:
    there = np.isfinite(each)
    return divide(counts @ np.where(there, each, 0.0), counts @ there.astype(float))


def _pooled(counts: Array, sums: Array) -> Array:
    return _solved(counts @ sums)


def _solved(moments: Array) -> Array:
    """Slopes in the order of _FITTED from sums as in `Sample.moments`, on the last axis."""
    ll, hh, lh, ly, hy = np.moveaxis(moments, -1, 0)
    determinant = ll * hh - lh**2
    determinant = np.where(determinant > _FLAT * ll * hh, determinant, 0.0)
    with np.errstate(invalid="ignore"):
        joint = [divide(hh * ly - lh * hy, determinant), divide(ll * hy - lh * ly, determinant)]
    slopes = np.stack([divide(ly, ll), divide(hy, hh), *joint], -1)
    return np.where(np.isfinite(slopes), slopes, nan)


def _mixed(sample: Sample, strata: list[int], level: float) -> list[Interval]:
    """Slopes with Wald intervals of a mixed model; NaN where it can't be fitted."""
    from statsmodels.regression.mixed_linear_model import MixedLM  # a second to import

    nothing = [Interval(nan, nan, nan)] * len(strata)
    # Centred in each problem, so that differences between problems are the intercept's and never the slope's.
    x, y = sample.centred(sample.problem)[0][:, strata], sample.y
    scale, spread = x.std(0), y.std()
    if len(sample.names) < FEWEST or not (scale > 0).all() or not spread > 0:
        return nothing
    design = np.column_stack([np.ones(len(y)), x / scale])
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            model = MixedLM((y - y.mean()) / spread, design, sample.problem, exog_re=design)
            result: Any = model.fit(method="lbfgs")
            slopes, errors = np.asarray(result.fe_params)[1:], np.asarray(result.bse_fe)[1:]
    except (np.linalg.LinAlgError, ValueError):  # a singular design or covariance
        return nothing
    if not result.converged or not np.isfinite([*slopes, *errors]).all():
        return nothing
    # Wald's errors know the spread of slopes no better than that many problems do.
    reach = stdtrit(len(sample.names) - 1, (1 + level) / 2) * errors
    ends = np.stack([slopes, slopes - reach, slopes + reach]) * spread / scale
    return [Interval(*map(float, column)) for column in ends.T]


def judge(slopes: pd.DataFrame, *, level: float = 0.95) -> tuple[Claim, ...]:
    """Claims on low-entropy drift, for all disturbances pooled, by every scope, method and fit.

    Their ``key`` tells outcome, scope, method and fit.
    """
    rows = slopes.loc[(slopes["kind"] == ALL) & (slopes["stratum"] == "low")]
    verdicts = []
    for row in rows.to_dict("records"):
        interval = Interval.in_row(row, "slope")
        obstacle = None
        if isnan(interval.estimate):
            obstacle = "the draws do not determine this slope"
        elif row["problems"] < 2:
            obstacle = "one problem, so no interval"
        elif isnan(interval.low):
            obstacle = "too few problems for an interval"
        sign, claim = CLAIMS[row["outcome"]]
        joint = "" if row["fit"] == "alone" else ", high-entropy drift held equal"
        where = f"visual tokens, {SCOPES.get(row['scope'], row['scope'])}"
        verdicts.append(
            Claim(
                claim,
                "section 3, perturbation",
                f"slope of the {NAMES[row['outcome']]}'s nats per token on drift, {row['method']}{joint}, {where}",
                interval,
                int(row["problems"]),
                above=sign > 0,
                obstacle=obstacle,
                kind="visual",
                level=level,
                key={name: str(row[name]) for name in ("outcome", "scope", "method", "fit")},
            )
        )
    return tuple(verdicts)


def headline(verdicts: Iterable[Claim]) -> str:
    """The line to remember: slopes within problems, without the last layer; alone, joint, and at equal strength."""
    by_key = {tuple(v.key[name] for name in ("outcome", "scope", "method", "fit")): v for v in verdicts}
    scope = next(iter(SCOPES))
    parts = []
    for outcome, name in NAMES.items():
        within, equal, joint = (
            by_key.get((outcome, scope, method, fit))
            for method, fit in (("within", "alone"), ("equal strength", "alone"), ("within", "joint"))
        )
        if within is None:
            continue
        part = f"for the {name} it {within.verdict} ({within.obstacle or slope_text(within.interval)}"
        for verdict, words in ((joint, "high-entropy drift held equal"), (equal, "at equal strength")):
            if verdict is not None and not verdict.obstacle:
                part += f"; {words} {slope_text(verdict.interval)}, {verdict.verdict.removeprefix('is ')}"
        parts.append(f"{part})")
    return (
        f"Perturbation claim, visual tokens {SCOPES[scope]}, slope of log-perplexity on low-entropy drift: "
        f"{', '.join(parts) or 'no draws to judge it by'}."
    )
