"""Which cells are meant by low and high entropy: the words for it, and what they go together with."""

from collections.abc import Sequence
from typing import Literal, get_args

from workbench.errors import InputError

Select = Literal["low", "high", "all", "random"]
Threshold = Literal["max_fraction", "quantile", "fixed"]
SELECTS: tuple[str, ...] = get_args(Select)
THRESHOLDS: tuple[str, ...] = get_args(Threshold)


def check_selection(
    select: str, threshold: str, tau: float, levels: Sequence[float] | None, layers: int
) -> None:
    """Raise InputError unless these are arguments that `select_cells` takes."""
    for name, value, known in (("select", select, SELECTS), ("threshold", threshold, THRESHOLDS)):
        if value not in known:
            raise InputError(
                f"`{name}` is {value!r}; expected one of {', '.join(known)}: {name}={known[0]!r}"
            )
    if not 0 <= tau <= 1:
        raise InputError(f"`tau` is {tau}; expected a fraction from 0 to 1: tau=0.4")
    if threshold == "fixed" and (levels is None or len(levels) != layers):
        given = "none" if levels is None else len(levels)
        raise InputError(
            f"`levels` gives {given} entropies, expected {layers}, one for each layer, in nats: "
            f"threshold='fixed', levels=({', '.join(['2.0'] * min(layers, 3))}{', ...' * (layers > 3)})"
        )
    if threshold != "fixed" and levels is not None:
        raise InputError(f"`levels` belongs to threshold='fixed', not to {threshold!r}; leave it out")
