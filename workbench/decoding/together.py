"""Two models that decode together: one shared prefix, two key-value caches, one token at a time that both of them read.

1. Both models read the prompts, each with what is done to it meanwhile; the caches are repeated for every sample.
2. At each step both have a distribution of the next token, compared over the whole vocabulary in float32 at temperature 1, before
   anything is forbidden. A `CrossSample` takes the guest's draw where its rule says so; an `Extrapolate` has logits of its own.
3. Both draw by the same uniform numbers as `decode`, seeded by problem and sample. So what is never replaced is the host's own
   response bit for bit, and what is replaced everywhere the guest's.

Sources: arXiv 2603.22446 (cross-sampling), arXiv 2603.22117 (dlogp as the criterion, extrapolation).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.decoding.criteria import (
    Largest,
    Placed,
    Rule,
    at_least,
    below,
    everywhere,
    random_places,
    values_of,
)
from workbench.decoding.patched import stream_of
from workbench.decoding.responses import Written
from workbench.decoding.stops import Stops
from workbench.decoding.streams import Stream, generate, pick
from workbench.mixtures import Criterion, CrossSample, Extrapolate, Mixture, Where
from workbench.models.batches import problem_seed
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.models.rope_memory import rope_at_rest
from workbench.replay.prepared import Mixed


@torch.no_grad()
def together_ids(
    pair: ModelPair,
    mixture: Mixture,
    prompts: Sequence[EncodedPrompt],
    made: Sequence[Mixed],
    uniforms: Float[Tensor, "prompts samples tokens"],
    temperature: float,
    stops: Stops,
    *,
    drop_at: float,
) -> list[list[Written]]:
    """Every sample of every prompt, up to the end of the response.

    Args:
        pair: both models.
        mixture: whose draw is taken where.
        prompts: that go into one batch.
        made: what was made for them.
        uniforms: as `decode` draws by.
        temperature: 0 is greedy.
        stops: where a response ends, in both models.
        drop_at: share of finished rows at which a batch goes on without them.
    """
    count, samples, longest = uniforms.shape
    with rope_at_rest(pair.base.model), rope_at_rest(pair.rlvr.model):
        base, rlvr = (
            stream_of(
                anatomy, prompts, [one.of(role) for one in made], stops, samples=samples, longest=longest
            )
            for role, anatomy in (("base", pair.base), ("rlvr", pair.rlvr))
        )
        streams = [rlvr, base] if mixture.answered_by == "rlvr" else [base, rlvr]
        rule = _rule(mixture, [prompt.problem_id for prompt in prompts], samples, longest, base.logits.device)
        steps = _Steps(mixture, streams, rule, temperature, pair.vocab_size, (count * samples, longest))
        ids = generate(streams, uniforms.flatten(0, 1), steps.choose, drop_at=drop_at)
    written = [steps.written(number, [i for i in row if i >= 0]) for number, row in enumerate(ids.tolist())]
    return [written[i * samples : (i + 1) * samples] for i in range(count)]


class _Steps:
    """What is drawn at each step, and what is kept of it: where the mixture acted, and what its criterion was worth."""

    def __init__(
        self,
        mixture: Mixture,
        streams: Sequence[Stream],
        rule: Rule,
        temperature: float,
        vocabulary: int,
        shape: tuple[int, int],
    ) -> None:
        self.mixture, self.streams, self.rule, self.temperature = mixture, streams, rule, temperature
        self.vocabulary, device = vocabulary, streams[0].logits.device
        self.acted = torch.zeros(shape, dtype=torch.bool, device=device)
        self.values = torch.full(shape, torch.nan, device=device)
        forbidden = [token for token in streams[0].stops.forbidden if token < vocabulary]
        self.forbidden = torch.tensor(forbidden, dtype=torch.int64, device=device)

    def choose(
        self, step: int, rows: Int[Tensor, " rows"], draws: Float[Tensor, " rows"]
    ) -> Int[Tensor, " rows"]:
        """The next token of every row; the first stream is that of the model that answers."""
        own, other = (stream.each[:, : self.vocabulary].to(rows.device) for stream in self.streams)
        if isinstance(self.mixture, CrossSample):
            drawn = self._pick(other, draws)
            acted = self._acted(step, rows, self.mixture.criterion, own, other, drawn)
            return torch.where(acted, drawn, self._pick(own, draws))
        gamma, where = self.mixture.gamma, self.mixture.where
        drawn = self._pick(own, draws) if where == "dlogp" else rows
        acted = self._acted(step, rows, where, other, own, drawn)
        further = (1 + gamma) * own - gamma * other  # exactly one of them at 0 and at -1
        return self._pick(torch.where(acted[:, None], further, own), draws)

    def _pick(self, logits: Tensor, draws: Tensor) -> Tensor:
        return pick(logits.index_fill(-1, self.forbidden, -torch.inf), self.temperature, draws)

    def _acted(
        self,
        step: int,
        rows: Tensor,
        criterion: Criterion | Where,
        host: Tensor,
        guest: Tensor,
        drawn: Tensor,
    ) -> Bool[Tensor, " rows"]:
        values = values_of(criterion, host, guest, drawn)
        acted = self.rule(step, rows, values)
        self.values[rows, step], self.acted[rows, step] = values, acted
        return acted

    def written(self, row: int, ids: list[int]) -> Written:
        """One row as it was written."""
        acted = self.acted[row, : len(ids)].nonzero()[:, 0].tolist()
        valued = (
            getattr(self.mixture, "criterion", "") != "random" and getattr(self.mixture, "where", "") != "all"
        )
        values = tuple(self.values[row, : len(ids)].tolist()) if valued else ()
        return Written(ids, tuple(acted), values, sum(one.cells(row, len(ids)) for one in self.streams))


def _rule(mixture: Mixture, names: Sequence[str], samples: int, longest: int, device: torch.device) -> Rule:
    """Where the mixture acts."""
    low = isinstance(mixture, CrossSample) and mixture.criterion == "low_divergence"
    if mixture.threshold is not None:
        return below(mixture.threshold) if low else at_least(mixture.threshold)
    if isinstance(mixture, Extrapolate) or mixture.budget is None:
        return everywhere
    if mixture.criterion != "random":
        largest = Largest(mixture.budget, len(names) * samples, longest, device)
        return (lambda step, rows, values: largest(step, rows, -values)) if low else largest
    places = []
    for name in names:
        for sample in range(samples):
            seed = problem_seed(mixture.seed, f"{name}/{sample}/replaced")
            uniforms = torch.rand(longest, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            places.append(random_places(mixture.budget, uniforms))
    return Placed(torch.stack(places).to(device))
