"""One condition on some problems: its interventions made, the responses drawn and verified, the drift measured.

A condition is ``"base"``, ``"rlvr"``, or any `Condition`. What several of them need on the same problems is made once, where a
`Reuse` is handed from one to the next.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from workbench.backoff import piecewise
from workbench.cache import Reuse
from workbench.conditions import Named, condition_of, needs_pictures
from workbench.decoding.decode import draw
from workbench.experiments.drift import Reference, by_stratum, drift, drifting, low_cells
from workbench.interventions import Replay
from workbench.models.batches import batches
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.problems.answers import verify
from workbench.problems.problem import Problem
from workbench.replay.nothing_selected import BLIND, check_selected, unselected
from workbench.replay.prepared import prepare_seeing
from workbench.sampling import Sampling
from workbench.tracing.edits import Intervention, batch_edits

_DRIFT = ("problem", "kind", "scope", "stratum", "before", "kl", "cells")
"""Columns of the drift of one condition."""


def measure(
    pair: ModelPair,
    condition: Named,
    problems: Sequence[Problem],
    sampling: Sampling,
    reuse: Reuse | None = None,
    *,
    whole: bool = True,
    tell: Callable[[int], None] | None = None,
    drifts: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All responses of one condition to some problems, and the drift there.

    Args:
        pair: what `load_pair` returned.
        condition: what is done.
        problems: with answers.
        sampling: how its responses are drawn, beside the greedy one.
        reuse: where what other conditions need too is kept, for this pair and problems with ids of their own.
        whole: whether these are all problems, rather than a part of which nothing may be selected.
        tell: called with how many of the problems have been answered, samples and all.
        drifts: whether the drift is measured; else its table has no rows.

    Raises:
        InputError: what the condition refuses; of the whole, also that nothing is selected of any problem.
    """
    reuse = reuse or Reuse()
    ids = tuple(problem.id for problem in problems)
    seed, batch_size = sampling.seed, sampling.batch_size
    prompts = reuse.of(("prompts", ids), lambda: [pair.encode(problem) for problem in problems])
    begun = time.perf_counter()
    how = {"seed": seed, "batch_size": batch_size, "reuse": reuse}
    edits = prepare_seeing(condition, pair, prompts, problems=problems, **how)
    seeing = len(edits) - edits.count(None)
    if whole and isinstance(condition, Replay) and len(empty := unselected(edits)) == seeing:
        check_selected(empty, seeing, condition)
    making = (time.perf_counter() - begun) / len(problems)
    model = condition_of(condition).answered_by
    responses = draw(
        pair,
        prompts,
        sampling,
        model=model,
        interventions=edits,
        progress=None if tell is None else lambda done, _: tell(done),
        greedy=True,
    )
    rows = []
    for problem, prompt, intervention, (*sampled, greedy) in zip(
        problems, prompts, edits, responses, strict=True
    ):
        cells, visual = _touched(intervention, prompt)
        for sample, response in enumerate([greedy, *sampled], start=-1):
            outcome = verify(response.text, problem.answer or "", problem.verifier, choices=problem.choices)
            rows.append(
                {
                    "problem": problem.id,
                    "family": problem.family,
                    "sample": sample,
                    "text": response.text,
                    "answer": outcome.answer or "",
                    "correct": outcome.correct,
                    "how": outcome.how,
                    "tokens": response.tokens,
                    "seconds": response.seconds,
                    "making_seconds": making,
                    "seed": seed,
                    "stopped": getattr(intervention, "stopped", None)
                    or (BLIND if intervention is None and needs_pictures(condition) else ""),
                    "cells": cells + response.cells,
                    "cells_visual": visual,
                    "replaced": len(response.replaced),
                    "replaced_share": len(response.replaced) / response.tokens,
                }
            )
    if not drifts:
        return pd.DataFrame(rows), pd.DataFrame({column: [] for column in _DRIFT})
    return pd.DataFrame(rows), _drift(pair, condition, prompts, edits, batch_size, reuse)


def _touched(intervention: Intervention | None, prompt: EncodedPrompt) -> tuple[float, float]:
    """How many cells an intervention selects, and of visual tokens; NaN for one that does not tell by a ``mask``."""
    if intervention is None or not intervention.sites:
        return 0.0, 0.0
    mask = getattr(intervention, "mask", None)
    if mask is None:
        return math.nan, math.nan
    return float(mask.sum()), float(mask[:, prompt.kinds == TokenKind.VISUAL].sum())


def _drift(
    pair: ModelPair,
    condition: Named,
    prompts: Sequence[EncodedPrompt],
    made: Sequence[Intervention | None],
    batch_size: int,
    reuse: Reuse,
) -> pd.DataFrame:
    """Mean KL(target || learner), before and with the intervention, per problem, scope and stratum."""
    kind = "visual" if pair.reads_pictures else "text"
    if condition == "base":  # its distance from itself
        return pd.DataFrame({column: [] for column in _DRIFT})
    turned = condition_of(condition).answered_by == "base"
    if turned:
        pair = replace(pair, base=pair.rlvr, rlvr=pair.base)

    def measured(batch: Sequence[EncodedPrompt], here: slice) -> tuple[Any, ...]:
        if not any(drifting(pair, prompt).any() for prompt in batch):  # nothing visual
            return ()
        reference, before = reuse.of(
            ("drift", *(prompt.problem_id for prompt in batch), turned),
            lambda: (at := Reference.of(pair, batch), drift(pair, batch, at)),
        )
        write = batch_edits(batch, made[here])
        return before, drift(pair, batch, reference, write) if write else before

    rows = []
    for batch, both in piecewise(batches(prompts, batch_size), measured, model=pair.base, what="tracing"):
        for prompt, (old, entropy), (new, _) in zip(batch, *both, strict=True) if both else ():
            for scope, stratum, mask in by_stratum(low_cells(pair, prompt, entropy)):
                means = [kl[mask].mean().item() for kl in (old, new)]  # NaN where there is no cell
                rows.append((prompt.problem_id, kind, scope, stratum, *means, int(mask.sum())))
    return pd.DataFrame(rows, columns=pd.Index(_DRIFT))
