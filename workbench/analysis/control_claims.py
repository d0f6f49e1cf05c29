"""What RLVR shifts beyond a control: every claim on the shift as RLVR minus a model of the same base that RL did not train.

All models are traced on the same prompts, so that cells, strata (of the base's entropy) and problems are the same ones. Percents
are subtracted, factors divided; intervals resample problems, each with both models.

``predictions``  percent of positions whose top token differs from the base's at the last layer, RLVR's less the control's;
``ends``         lowest over highest stratum, RLVR's factor over the control's, by raw KL and over the null;
``trend``        the factor from one stratum to the next, RLVR's over the control's.

The raw ``ends`` below the last layer are those of `weight_nulls`, whose random weights stand beside, and are left to it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from workbench.analysis.low_entropy import MEASURED, part_name
from workbench.analysis.verdicts import Claim
from workbench.errors import InputError
from workbench.estimates import Array, Interval, Settings, bootstrap, divide, paired_difference
from workbench.names import NULLS, SCOPES
from workbench.tracing.cells import TOKENS, Cells, Group, groups_of
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.readings import labelled
from workbench.tracing.same_prompts import check_same_models, check_same_prompts, weights_in

_CALL = "control_claims(trace(pair, problems), {'sft': trace(controls_of(pair)['sft'], problems)})"
BESIDE = "beside controls"
"""Where such claims are made."""


def control_claims(
    real: LensTrace,
    controls: Mapping[str, LensTrace],
    *,
    bins: int = 5,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Claim]:
    """Claims on the shift as RLVR minus each control.

    Args:
        real: trace of the pair.
        controls: traces of the same prompts, with the same draws of the null, by the control's name.
        bins: strata of base entropy per layer and token kind.
        resamples: of the bootstrap over problems.
        level: of the intervals.
        seed: of the bootstrap.

    Raises:
        InputError: a control of other prompts, layers or another base, read otherwise, or held against another null.
    """
    _check(real, controls)
    settings = Settings(resamples=resamples, level=level, seed=seed)
    claims: list[Claim] = []
    groups = groups_of(real, bins)
    null = NULLS[real.provenance.get("against", "noise")]
    for name, control in controls.items():
        for group in groups:
            if group.scope == "last layer" and group.kind in TOKENS:
                claims.append(_predictions(name, group, real, control, settings))
        for group in groups:
            claims += _shapes(name, group, real, control, null, settings)
    return labelled(claims, real.reading)


def _check(real: LensTrace, controls: Mapping[str, LensTrace]) -> None:
    """Refuse traces whose cells are not those of the real one; most have its shape, and would give numbers."""
    for name, control in controls.items():
        whose = f"`controls`: {name!r}"
        check_same_prompts(whose, control, real, _CALL)
        base = {model: weights for model, weights in weights_in(real).items() if model == "base"}
        check_same_models(whose, weights_in(control), base, _CALL)
        for what, theirs, own in (
            ("has layers", control.layers, real.layers),
            ("was read through the", control.reading, real.reading),
            ("was held against", *(traced.provenance.get("against", "noise") for traced in (control, real))),
        ):
            if theirs != own:
                raise InputError(f"{whose} {what} {theirs}, expected {own}, as the pair: {_CALL}")


def _predictions(name: str, group: Group, real: LensTrace, control: LensTrace, settings: Settings) -> Claim:
    """How many more positions RLVR's last layer predicts otherwise than the base."""
    sides = [Cells.of(traced, group.kind).layers(group.layers) for traced in (control, real)]
    before, after = (1 - cells.values["top1_agreement"][-1] for cells in sides)
    problem = sides[0].problem
    interval = paired_difference(before, after, problem, **settings).times(100)
    what = f"percent of {group.kind} positions whose top token differs, last layer, RLVR minus {name}"
    problems = len({*problem.tolist()})
    claim = "RLVR changes what the lens predicts more than a control"
    return _claim(claim, what, interval, problems, kind=group.kind, level=settings.get("level", 0.95))


def _shapes(
    name: str, group: Group, real: LensTrace, control: LensTrace, null: str, settings: Settings
) -> list[Claim]:
    """Ends and trend by both measures, RLVR's over the control's."""
    cells = group.sums(real, "cells")
    sums = [(group.sums(traced), group.sums(traced, "kl_null")) for traced in (real, control)]
    steps = np.arange(group.bins) - (group.bins - 1) / 2

    def statistic(counts: Array) -> Array:
        weights, values = counts @ cells, []
        for over in (False, True):
            ends, trends = [], []
            for kl, noise in sums:
                means = divide(counts @ kl, counts @ noise if over else weights)
                ends.append(divide(means[:, 0], means[:, -1]))
                with np.errstate(divide="ignore", invalid="ignore"):
                    trends.append(np.exp(np.log(means) @ steps / (steps**2).sum()))
            values += [divide(*ends), divide(*trends)]
        return np.stack(values, 1)

    intervals = bootstrap(statistic, len(cells), bounds=(0.0, np.inf), **settings)
    where, stratum = f"{group.kind} tokens, {SCOPES[group.scope]}", part_name(group.bins, "quantile")
    problems = int((cells[:, [0, -1]] > 0).all(1).sum())
    claims = []
    for index, (measure, test) in enumerate((m, t) for m in MEASURED for t in ("ends", "trend")):
        if (measure, test, group.scope) == ("kl", "ends", "without last layer"):
            continue
        words = f"{MEASURED[measure].format(null=null)}, " + (
            f"lowest over highest {stratum}" if test == "ends" else f"factor from one {stratum} to the next"
        )
        what = f"{words}, RLVR's over that of {name} (a factor), {where}"
        falls = "the shift falls with entropy more steeply than a control's"
        claim = "the low-entropy shift is RLVR's own" if test == "ends" else falls
        about: dict[str, Any] = {"bound": 1.0, "above": test == "ends", "factor": True, "kind": group.kind}
        undrawn = measure == "ratio" and not (real.kl_null.shape[0] and control.kl_null.shape[0])
        obstacle = "no null was drawn" if undrawn else None
        about |= {"level": settings.get("level", 0.95), "obstacle": obstacle}
        claims.append(_claim(claim, what, intervals[index], problems, **about))
    return claims


def _claim(claim: str, what: str, interval: Interval, problems: int, **about: Any) -> Claim:
    few = "too few problems for an interval" if np.isnan(interval.low) else None
    about["obstacle"] = about.get("obstacle") or few
    return Claim(claim, BESIDE, what, interval, problems, **about)
