"""A trace as a notebook shows it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from workbench.views import markup

if TYPE_CHECKING:
    from workbench.tracing.lens_trace import LensTrace


def trace_html(trace: "LensTrace", kinds: Mapping[str, Tensor]) -> str:
    """How many cells there are, and by layer and token kind how uncertain the base is and how far the two are apart."""
    columns: dict[Any, Any] = {("", "layer"): [*trace.layers]}
    for kind, here in kinds.items():
        if not here.any():
            continue
        head = f"{kind}: {int(here.sum()):,} positions"
        kl, null = trace.kl[:, here].double().mean(1), trace.kl_null[:, :, here].double().mean((0, 2))
        columns[head, "entropy"] = trace.entropy_base[:, here].mean(1).tolist()
        columns[head, "KL"] = kl.tolist()
        if len(trace.kl_null):
            columns[head, "× noise"] = (kl / null).tolist()
        columns[head, "agree"] = trace.top1_agreement[:, here].float().mean(1).tolist()
    return (
        markup.paragraph(repr(trace))
        + markup.table(pd.DataFrame({name: pd.Series(values) for name, values in columns.items()}))
        + markup.paragraph(
            "Means over positions. Entropy of the base's lens and KL(base‖RLVR) in nats; × noise: KL as a multiple of that "
            "of random changes of the same norm; agree: share of positions with the same top token."
        )
    )
