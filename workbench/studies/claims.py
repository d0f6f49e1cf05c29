"""The paper's claims, each beside what was measured on a pair: an interval, and whether the claim holds.

A claim (arXiv 2511.19972) names a number and on which side of a bound it has to lie (`Claim`). Like is compared with like:
the same kind of cell on both sides, and how many cells each side touched. Tables of a study in, claims out.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.analysis.control_claims import BESIDE
from workbench.analysis.verdicts import Claim
from workbench.estimates import Interval, Settings, paired_difference, share_difference
from workbench.experiments.outcomes import PASS_AT, scores
from workbench.experiments.slopes import judge
from workbench.interventions import EVERYWHERE
from workbench.tracing.cells import TOKENS
from workbench.tracing.readings import in_words

if TYPE_CHECKING:
    from workbench.analysis.shift import ShiftTable

MARGIN, LASTING = -1.5, -0.8
"""Points of accuracy that a patch, and one pass, may lose and still count as keeping it."""
WHY = {
    MARGIN: "half of the 3.1 points that patching high entropy costs more than low in the paper's Table 1",
    LASTING: "half of the 1.6 points that replay gains on average in the paper's Tables 2 to 4",
}
"""Why: a loss that big could not be told from the effect that the claim is about."""
REPLAY, HIGH = "tokens, low", "tokens, high"
PATCH_LOW, PATCH_HIGH = "patch, low", "patch, high"
ONE_PASS, ONE_VECTOR = "one pass", "one vector"
"""Tokens that an adapter predicts, and an adapter that predicts the same for every token."""
ALTERNATIVES = (
    "tokens, high",
    "tokens, random",
    "tokens, all",
    "mid tokens, low",
    "self-smoothing",
    "patch, low",
)


def shift_claims(shift: "ShiftTable", agreement: pd.DataFrame) -> list[Claim]:
    """What a stratified shift and the agreement by layer say: observations 1 and 2 of the paper."""
    claims = []
    last = agreement.loc[(agreement["layer"] == shift.depth - 1) & agreement["kind"].isin(TOKENS)]
    for row in last.to_dict("records"):
        differ = Interval(*(100 * (1 - float(row[f"top1_agreement{end}"])) for end in ("", "_high", "_low")))
        what = f"percent of {row['kind']} positions whose top token differs, last layer"
        claims.append(
            Claim(
                "RLVR changes what the lens predicts",
                "section 3, top predictions",
                in_words(what, shift.reading),
                differ,
                int(row["problems"]),
                kind=str(row["kind"]),
                cells=(int(row["cells"]), int(row["cells"])),
            )
        )
    return claims + [
        claim for claim in shift.verdicts if claim.kind in TOKENS and claim.key["scope"] != "all layers"
    ]


def outcome_claims(responses: pd.DataFrame, drift: pd.DataFrame, controls: Sequence[str] = ()) -> list[Claim]:
    """What an ablation says of Tables 1 to 5 and of Pass@K; claims whose conditions were not run are left out.

    Args:
        responses: of `ablate`, with the names of `default_matrix`.
        drift: of `ablate`.
        controls: conditions in which a model answered that RL did not train; RLVR's gain and its loss of coverage are set beside
            each.
    """
    samples = len(set(responses["sample"])) - 1
    ks = [k for k in PASS_AT if k <= samples]
    by_condition, touched = scores(responses, samples=samples, pass_at=ks), touched_cells(responses)
    problems = len(set(responses["problem"]))
    obstacle = "one problem, so no interval" if problems < 2 else None
    claims: list[Claim] = []

    def compare(
        name: str,
        other: str,
        measure: str,
        claim: str,
        place: str,
        *,
        bound: float = 0.0,
        above: bool = True,
    ) -> None:
        if name in by_condition and other in by_condition:
            difference = points(by_condition[other][measure], by_condition[name][measure])
            what, why = f"{measure}, {name} − {other}, points", WHY.get(bound, "")
            if bound == MARGIN and not np.isnan(difference.low):
                why += f"; a loss beyond {max(0.0, -difference.low):.1f} points is excluded"
            kind, cells = _sides(touched, name, other)
            about: dict[str, Any] = {"bound": bound, "above": above, "why": why, "obstacle": obstacle}
            claims.append(Claim(claim, place, what, difference, problems, kind=kind, cells=cells, **about))

    for measure in ("greedy", "Pass@1"):
        compare("rlvr", "base", measure, "RLVR makes the model reason better", "Table 2")
    for end in ("", EVERYWHERE):
        low, high = f"{PATCH_LOW}{end}", f"{PATCH_HIGH}{end}"
        for measure in ("greedy", "Pass@1"):
            harmless = "low-entropy activations can be the base's without harm"
            compare(low, "rlvr", measure, harmless, "Table 1", bound=MARGIN)
            harm = "putting in the base's high-entropy activations does harm"
            compare(high, "rlvr", measure, harm, "Table 1", above=False)
            compare(low, high, measure, "low is better than high, by patch", "Table 1")
    for measure in ("greedy", "Pass@1"):
        compare(REPLAY, "rlvr", measure, "replay improves the RLVR model", "Tables 2 to 4")
    for other in ALTERNATIVES:
        for measure in ("greedy", "Pass@1"):
            compare(REPLAY, other, measure, f"replay at low entropy is better than {other}", "ablations")
    most = f"Pass@{ks[-1]}"
    compare(REPLAY, "rlvr", most, "replay raises Pass@K", "Figure 6")
    compare("base", "rlvr", most, "RLVR narrows coverage", "Figure 6")
    for control in controls:
        for measure in ("greedy", "Pass@1"):
            compare("rlvr", control, measure, "RLVR makes the model reason better than a control", BESIDE)
        compare(control, "rlvr", most, "RLVR narrows coverage more than a control", BESIDE)
    claim = "replay pulls activations back to the base's"
    return claims + _pulled_back(drift, REPLAY, claim, "section 4", obstacle)


def touched_cells(responses: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Condition -> cells that it selects over all problems, and how many of these are of visual tokens.

    Nothing for tables that don't tell.
    """
    if not {"cells", "cells_visual"} <= {*responses.columns}:
        return {}
    rows = responses.loc[responses["sample"] == -1].dropna(subset=["cells", "cells_visual"])
    sums = rows.groupby("intervention", sort=False)[["cells", "cells_visual"]].sum()
    return {str(name): (int(row["cells"]), int(row["cells_visual"])) for name, row in sums.iterrows()}


def _sides(
    touched: Mapping[str, tuple[int, int]], name: str, other: str
) -> tuple[str, tuple[int, int] | None]:
    """The kind of cells that two conditions touch, and how many each; where that is known."""
    if name not in touched or other not in touched or touched[name][0] + touched[other][0] == 0:
        return "", None
    (one, visual), (two, also) = touched[name], touched[other]
    return "visual" if (one, two) == (visual, also) else "all", (one, two)


def amortised_claims(
    responses: pd.DataFrame,
    drift: pd.DataFrame,
    losses: pd.DataFrame,
    *,
    iterations: int,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Claim]:
    """What tokens predicted in one pass are worth beside optimised ones; the paper leaves them to future work.

    Args:
        responses: of `ablate`, with the conditions ``REPLAY``, ``ONE_PASS`` and ``ONE_VECTOR``.
        drift: of `ablate`.
        losses: of ``amortised.losses_beside``, with an adapter of each of these names.
        iterations: of the optimised replay that answered.
        resamples: of the bootstrap over problems.
        seed: of the bootstrap.
    """
    samples = len(set(responses["sample"])) - 1
    measures = ["greedy", *dict.fromkeys(f"Pass@{k}" for k in (1, max(k for k in PASS_AT if k <= samples)))]
    by_condition = scores(responses, samples=samples, pass_at=[int(m[5:]) for m in measures[1:]])
    settings, place = Settings(resamples=resamples, seed=seed), "future work"
    reached = losses.pivot(index="problem", columns=["name", "iteration"], values="loss")
    problems = len(set(responses["problem"]))
    obstacle = "one problem, so no interval" if problems < 2 else None
    claims, last = [], losses["iteration"].max()
    for other, named, claim in (
        (
            ("optimised", iterations),
            f"{iterations} iterations",
            "one pass lowers replay's loss more than replay",
        ),
        (("optimised", last), f"{last} iterations", "one pass lowers replay's loss more than long replay"),
        ((ONE_VECTOR, 0), ONE_VECTOR, "what one pass predicts depends on the picture"),
    ):
        before, after = (1000 * reached[name].to_numpy(float) for name in (other, (ONE_PASS, 0)))
        interval = paired_difference(before, after, np.arange(len(reached)), **settings)
        what = f"replay's loss, {ONE_PASS} − {named}, thousandths of a nat"
        claims.append(Claim(claim, place, what, interval, len(reached), above=False, obstacle=obstacle))
    for measure in measures:
        for other, bound, claim in (
            (REPLAY, LASTING, "one pass keeps the accuracy of optimised replay"),
            ("rlvr", 0.0, "one pass improves the RLVR model"),
        ):
            difference = points(by_condition[other][measure], by_condition[ONE_PASS][measure])
            what = f"{measure}, {ONE_PASS} − {other}, points"
            why = WHY.get(bound, "")
            claims.append(
                Claim(claim, place, what, difference, problems, bound=bound, why=why, obstacle=obstacle)
            )
    claim = "one pass pulls activations back to the base's"
    return claims + _pulled_back(drift, ONE_PASS, claim, place, obstacle)


def points(before: np.ndarray, after: np.ndarray) -> Interval:
    """The paired difference of two conditions' scores (shares of 1), in points."""
    difference = share_difference(before, after, np.arange(len(after)))
    return Interval(
        *(round(100 * end, 9) + 0.0 for end in (difference.estimate, difference.low, difference.high))
    )


def gain_claim(
    held: Mapping[str, Mapping[str, np.ndarray]],
    claim: str,
    place: str,
    measure: str,
    name: str,
    other: str,
    **about: Any,
) -> Claim:
    """That condition ``name`` beats ``other``, paired over problems; ``held``: of `scores`, ``about``: more of the claim."""
    before, after = held[other][measure], held[name][measure]
    what = f"{measure}, {name} − {other}, points"
    return Claim(claim, place, what, points(before, after), len(after), **about)


def _pulled_back(drift: pd.DataFrame, name: str, claim: str, place: str, obstacle: str | None) -> list[Claim]:
    claims = []
    rows = drift.loc[(drift["intervention"] == name) & (drift["scope"] == "without last layer")]
    for row in rows.to_dict("records"):
        interval = Interval.in_row(row, "change")
        kind = str(row.get("kind", "visual"))
        what = f"change of KL to the base at {row['stratum']}-entropy {kind} cells, nats"
        problems = int(row["problems"])
        claims.append(
            Claim(claim, place, what, interval, problems, above=False, obstacle=obstacle, kind=kind)
        )
    return claims


def perturbation_claims(slopes: pd.DataFrame) -> list[Claim]:
    """What a perturbation study says of both halves of the paper's claim, and of the margin between them.

    ``slopes`` is ``Perturbation.slopes``; within problems, all disturbances pooled, below the last layer.
    """
    about = {"scope": "without last layer", "method": "within"}
    return [claim for claim in judge(slopes) if about.items() <= claim.key.items()]


def null_claims(contrasts: pd.DataFrame) -> list[Claim]:
    """Whether low-entropy cells shift more than a random change of weights, or training without RL, would shift them.

    ``contrasts`` is ``NullShift.contrasts``; the last layer is left to that table.
    """
    claims = []
    rows = contrasts.loc[(contrasts["condition"] != "rlvr") & (contrasts["scope"] == "without last layer")]
    for row in rows.to_dict("records"):
        interval = Interval.in_row(row, "beyond")
        where = f"{row['kind']} tokens, {row['scope']}"
        what = (
            f"lowest over highest stratum, RLVR's over that of {row['condition']} weights (a factor), {where}"
        )
        few = "too few problems for an interval" if np.isnan(interval.low) else None
        claim, problems = "the low-entropy shift is RLVR's own", int(row["problems"])
        about: dict[str, Any] = {"bound": 1.0, "obstacle": few, "factor": True, "kind": str(row["kind"])}
        claims.append(Claim(claim, "null models", what, interval, problems, **about))
    return claims


def emergence_claims(
    order: pd.DataFrame, table: pd.DataFrame, *, controls: Sequence[str] | None = None
) -> list[Claim]:
    """What a training says: what comes first, and what of it controls show too; below the last layer.

    ``order`` and ``table`` are those of ``Emergence``; shifts are timed by root KL and by KL. ``controls`` are the
    conditions that RLVR is compared with; None: all but RL's own steps.
    """
    most = max((m for m in set(table["measure"]) if m.startswith("Pass@")), key=lambda m: int(m[5:]))
    sentences = {
        "greedy": "the low-entropy shift precedes the gain in accuracy",
        "Pass@1": "the low-entropy shift precedes the gain in accuracy",
        most: "the low-entropy shift precedes the loss of coverage",
        "the shift at high entropy": "low-entropy cells shift before high-entropy ones",
    }
    below = "without last layer"
    timed = {"size": "root KL", "kl": "KL"}
    rows = order.loc[
        order["measure"].isin([*timed]) & (order["scope"] == below) & order["other"].isin([*sentences])
    ]
    claims = []
    for row in rows.to_dict("records"):
        other, obstacle = str(row["other"]), row["obstacle"] or None
        change = Interval.in_row(row, "other_change")
        if other == most and not obstacle and change.above(0.0) is not False:
            obstacle = f"there is no loss: {other} changes by {change}"
        where = f"{row['kind']} tokens, {below}"
        what = f"half-time of {timed[row['measure']]} at low entropy minus that of {other}, steps, {where}"
        gap, problems = Interval.in_row(row, "gap"), int(row["problems"])
        claims.append(
            Claim(
                sentences[other],
                "emergence",
                what,
                gap,
                problems,
                above=False,
                obstacle=obstacle,
                kind=row["kind"],
            )
        )
    others = set(table["condition"]) - {"rl"} if controls is None else controls
    rows = table.loc[table["condition"].isin([*others])]
    for row in rows.loc[rows["measure"].isin(["greedy", "Pass@1"])].to_dict("records"):
        gain = Interval.in_row(row, "last_minus").times(100)
        what = f"{row['measure']}, RLVR minus the control {row['condition']}, points"
        problems = int(row["problems"])
        claims.append(Claim("RLVR gains more than any further training", "emergence", what, gain, problems))
    contrasts = rows.loc[(rows["measure"] == "contrast") & (rows["scope"] == below)]
    for row in contrasts.to_dict("records"):
        where = f"{row['kind']} tokens, {below}"
        what = f"lowest over highest stratum, RLVR's over that of the control {row['condition']} (a factor), {where}"
        over = Interval.in_row(row, "last_over")
        claim, about = (
            "the low-entropy shift is RLVR's own",
            {"bound": 1.0, "factor": True, "kind": row["kind"]},
        )
        claims.append(Claim(claim, "emergence", what, over, int(row["problems"]), **about))
    return claims


def weight_claims(prediction: pd.DataFrame) -> list[Claim]:
    """Whether relative weight changes tell changes of output; ``prediction`` is ``WeightChanges.prediction``."""
    return [
        Claim(
            "where weights change more, outputs change more",
            "weight view",
            f"Spearman of relative weight change and {row['change']} change of output, {row['n']} {row['modules']}",
            Interval.in_row(row, "rho"),
            int(row["layers"]),
            unit="layers",
        )
        for row in prediction.to_dict("records")
    ]
