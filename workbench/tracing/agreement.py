"""How far the two models' lens distributions agree, layer by layer."""

from collections.abc import Sequence

import pandas as pd

from workbench.estimates import Settings
from workbench.tracing.cells import Cells, choose_kinds
from workbench.tracing.lens_trace import LensTrace

AGREEMENT = ("top1_agreement", "topk_overlap", "kl", "kl_null", "entropy_base", "entropy_rlvr", "cosine")


def agreement_by_layer(
    trace: LensTrace,
    *,
    kinds: Sequence[str] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Per layer and token kind, how far the lens distributions of the two models agree.

    Columns: layer, kind, cells, problems; then m, m_low, m_high for m in AGREEMENT: fractions, nats, and the
    cosine of the residuals.

    Raises:
        InputError: an empty trace or unknown ``kinds``.
    """
    settings = Settings(resamples=resamples, level=level, seed=seed)
    rows = []
    for kind in choose_kinds(trace, kinds):
        cells = Cells.of(trace, kind)
        means = cells.means(AGREEMENT, settings)
        counted = {"cells": len(cells.problem), "problems": len(set(cells.problem.tolist()))}
        for row, layer in enumerate(trace.layers):
            rows.append({"layer": layer, "kind": kind} | counted)
            for name in AGREEMENT:
                rows[-1] |= means[name][row].columns(name)
    return pd.DataFrame(rows)
