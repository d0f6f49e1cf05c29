"""Where the other model's draw is taken: what a criterion is worth at a token, and which values count, row by row.

A rule is asked once a step for the rows still there, and remembers what it saw of each: it knows nothing of what comes later.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.lens.kl import jensen_shannon
from workbench.mixtures import Criterion, Where

Rule = Callable[[int, Int[Tensor, " rows"], Float[Tensor, " rows"]], Bool[Tensor, " rows"]]
"""Called with (step, rows, the criterion's values) -> where the other model's draw is taken."""

_SLACK = 1e-9
"""Of products of a share and a number of tokens: 0.1 of 30 is 3."""


def values_of(
    criterion: Criterion | Where,
    host: Float[Tensor, "rows v"],
    guest: Float[Tensor, "rows v"],
    drawn: Int[Tensor, " rows"],
) -> Float[Tensor, " rows"]:
    """What a criterion is worth at the next token, in nats, at temperature 1; NaN for one without values.

    Args:
        criterion: of `CrossSample`, or where an `Extrapolate` acts.
        host: logits over the whole vocabulary.
        guest: the other model's.
        drawn: the guest's draw.
    """
    if criterion in ("divergence", "low_divergence"):
        return jensen_shannon(host.log_softmax(-1), guest.log_softmax(-1))
    if criterion == "entropy":
        log_p = host.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1).clamp_max(0)
    if criterion == "dlogp":
        parts = (logits.gather(1, drawn[:, None])[:, 0] - logits.logsumexp(-1) for logits in (guest, host))
        return torch.sub(*parts)
    return host.new_full((len(host),), math.nan)


def everywhere(step: int, rows: Tensor, values: Tensor) -> Bool[Tensor, " rows"]:
    """All of them."""
    return torch.ones_like(rows, dtype=torch.bool)


def at_least(threshold: float) -> Rule:
    """Values of at least a threshold."""
    return lambda step, rows, values: values >= threshold


def below(threshold: float) -> Rule:
    """Values below a threshold: all others."""
    return lambda step, rows, values: values < threshold


class Largest:
    """The largest as they come: at most a share of each row's tokens, without knowing those to come.

    Of a row's first t values the last one counts if fewer than ``share t`` of those before are as large, and if with it at most
    ``ceil(share t)`` count. The very first has nothing to be compared with, and counts only where all do. So in the first
    1 / share tokens it is the first that exceeds all before: early rather than large, and one even of few tokens.
    """

    def __init__(self, share: float, rows: int, tokens: int, device: torch.device) -> None:
        self.share = share
        self._seen = torch.full((rows, tokens), -math.inf, device=device)
        self._count = torch.zeros(rows, dtype=torch.int64, device=device)

    def __call__(
        self, step: int, rows: Int[Tensor, " rows"], values: Float[Tensor, " rows"]
    ) -> Bool[Tensor, " rows"]:
        """Which rows' values count."""
        due = self.share * (step + 1) - _SLACK
        as_large = (self._seen[rows, :step] >= values[:, None]).sum(1)
        counts = (as_large < due) & (self._count[rows] < math.ceil(due))
        counts &= step > 0 or self.share == 1
        self._seen[rows, step] = values
        self._count[rows] += counts
        return counts


class Placed:
    """Places that were drawn beforehand."""

    def __init__(self, places: Bool[Tensor, "rows tokens"]) -> None:
        self.places = places

    def __call__(
        self, step: int, rows: Int[Tensor, " rows"], values: Float[Tensor, " rows"]
    ) -> Bool[Tensor, " rows"]:
        """Which rows have one at this step."""
        return self.places[rows, step]


def random_places(share: float, uniforms: Float[Tensor, " tokens"]) -> Bool[Tensor, " tokens"]:
    """A share of the tokens by chance: of every first n tokens as many as the share asks for, to within one.

    One in each stretch of 1 / share tokens, anywhere in it; above a half, the tokens left out are drawn so.
    """
    tokens = len(uniforms)
    if share > 0.5:
        return ~random_places(1 - share, uniforms)
    places = torch.zeros(tokens, dtype=torch.bool)
    if share <= 0:
        return places
    stretches = math.floor(tokens * share + _SLACK) + 1
    begins = [math.ceil(number / share - _SLACK) for number in range(stretches + 1)]
    for begin, end, uniform in zip(begins, begins[1:], uniforms.tolist(), strict=False):
        place = begin + math.floor(uniform * (end - begin))
        if place < tokens:
            places[place] = True
    return places
