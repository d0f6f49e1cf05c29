"""Both models over prompts, and over prompts with responses: their residual streams meet layer by layer.

1. The base runs, and its residual stream after every layer is kept, real positions only.
2. The RLVR model runs on the same inputs; as each layer's residual stream appears, the two meet, and the base's is dropped.
3. Of several responses to one prompt the prompt runs once: each response continues from its keys and values
   (`models.prefix_cache`), with the same numbers but for rounding. Where a family cannot, each runs with its prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.models.batches import batches, collate
from workbench.models.finite import NotFiniteError, naming
from workbench.models.pairs import ModelPair
from workbench.models.prefix_cache import continuation, new_cache, shares_prefix
from workbench.models.prompts import EncodedPrompt
from workbench.tracing.conversations import Conversation
from workbench.tracing.edits import Intervention, batch_edits
from workbench.tracing.residuals import Edit, read_residuals


class Stretch(NamedTuple):
    """Positions that follow one another: those of a prompt, or those of the response that ends it."""

    problem_id: str
    said: bool
    """Whether it is the response."""
    kinds: Tensor
    """`TokenKind` of each position that is read: of all of them, or of the last few."""

    @property
    def length(self) -> int:
        """How many positions are read."""
        return len(self.kinds)


Values: TypeAlias = dict[str, Tensor]
Measure: TypeAlias = Callable[[int, Sequence[Stretch], Tensor, Tensor], Values]
"""(layer, stretches, h_base, h_rlvr) -> values at the N positions of the stretches; residuals are (N, hidden)."""


def stretches_of(prompt: EncodedPrompt) -> list[Stretch]:
    """The prompt, and the response that ends it, if there is one."""
    start = prompt.response_start
    name, kinds = prompt.problem_id, prompt.kinds
    parts = [Stretch(name, False, kinds[:start]), Stretch(name, True, kinds[start:])]
    return [part for part in parts if part.length]


def compare_residuals(
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    reduce: Callable[[int, Tensor, Tensor], Any],
    *,
    layers: Sequence[int] | None = None,
    write: Mapping[int, Edit] | None = None,
    write_base: Mapping[int, Edit] | None = None,
    caches: Sequence[Mapping[str, Any]] = (),
) -> dict[int, Any]:
    """Run both models on one batch; ``reduce(layer, h_base, h_rlvr)`` runs inside the RLVR model's forward.

    ``write`` changes what the RLVR model's layers receive, ``write_base`` what the base's do; ``caches`` keep both models' keys
    and values.

    It sees residuals (N, hidden) of the N real positions, one prompt after another, on the device
    of the RLVR model's unembedding. Returns layer -> what ``reduce`` returned.
    """
    inputs = collate(prompts, pair.pad_id)
    each = [{**inputs, **cache} for cache in caches or ({}, {})]
    names = [prompt.problem_id for prompt in prompts]
    real, edits = inputs["attention_mask"].bool(), {"write": write, "write_base": write_base}
    return _meet(pair, each, real, names, reduce, layers=layers, **edits)


def over_conversations(
    pair: ModelPair,
    groups: Sequence[Sequence[Conversation]],
    measure: Measure,
    *,
    axis: Callable[[str], int],
    made: Sequence[Intervention | None],
    layers: Sequence[int] | None = None,
    rows: int = 8,
    share: bool = True,
    whole_prompt: bool = True,
) -> list[dict[int, Values]]:
    """What ``measure`` makes of every conversation, layer by layer; the positions of the prompt, then those of the response.

    Args:
        pair: both models.
        groups: per prompt its conversations; prompts that go into one batch.
        measure: of a batch's positions.
        axis: of positions, by the name of a value.
        made: per prompt what is written in the RLVR model.
        layers: decoder layers, all when None.
        rows: prompts, or responses, per forward.
        share: False computes the prompt anew for every response.
        whole_prompt: False reads of the prompt the last position alone, where the response's first token is predicted.
    """
    run = _shared if share and shared_prompts(pair, groups) else _apart
    return run(pair, groups, _Reading(measure, axis, None if whole_prompt else 1, layers, rows), made)


def shared_prompts(pair: ModelPair, groups: Sequence[Sequence[Conversation]]) -> bool:
    """Whether prompts of these conversations run once for all their responses."""
    return any(len(group) > 1 for group in groups) and all(map(shares_prefix, (pair.base, pair.rlvr)))


@dataclass(frozen=True)
class _Reading:
    """What is made of which positions."""

    measure: Measure
    axis: Callable[[str], int]
    last: int | None
    """How many of a prompt's positions are read, its last; None: all."""
    layers: Sequence[int] | None
    """Of the decoder; None: all."""
    rows: int
    """Prompts, or responses, per forward."""

    def of(self, parts: Sequence[Stretch]) -> Callable[[int, Tensor, Tensor], Values]:
        """What meets the residuals of these stretches."""
        kept, start = list[Tensor](), 0
        for part in parts:
            kept.append(torch.arange(start + part.length - self._kept(part), start + part.length))
            start += part.length
        index = torch.cat(kept)
        short = [part._replace(kinds=part.kinds[part.length - self._kept(part) :]) for part in parts]

        def reduce(layer: int, h_base: Tensor, h_rlvr: Tensor) -> Values:
            if len(index) < len(h_base):
                h_base, h_rlvr = (hidden[index.to(hidden.device)] for hidden in (h_base, h_rlvr))
            return self.measure(layer, short, h_base, h_rlvr)

        return reduce

    def split(self, read: Mapping[int, Values], rows: Sequence[Sequence[Stretch]]) -> list[dict[int, Values]]:
        """Row by row, each of some stretches: layer -> values at its positions."""
        lengths = [sum(map(self._kept, row)) for row in rows]
        each: list[dict[int, Values]] = [{layer: {} for layer in read} for _ in rows]
        for layer, values in read.items():
            for name, value in values.items():
                for row, part in zip(each, value.split(lengths, self.axis(name)), strict=True):
                    row[layer][name] = part
        return each

    def _kept(self, part: Stretch) -> int:
        return part.length if part.said or self.last is None else min(self.last, part.length)


def _apart(
    pair: ModelPair,
    groups: Sequence[Sequence[Conversation]],
    reading: _Reading,
    made: Sequence[Intervention | None],
) -> list[dict[int, Values]]:
    wholes = [one.whole for group in groups for one in group]
    owned = [own for group, own in zip(groups, made, strict=True) for _ in group]
    done: list[dict[int, Values]] = []
    for batch in batches(wholes, reading.rows):
        write = batch_edits(batch, owned[len(done) : len(done) + len(batch)])
        parts = [stretches_of(whole) for whole in batch]
        reduce = reading.of([part for some in parts for part in some])
        read = compare_residuals(pair, batch, reduce, layers=reading.layers, write=write)
        done += reading.split(read, parts)
    return done


def _shared(
    pair: ModelPair,
    groups: Sequence[Sequence[Conversation]],
    reading: _Reading,
    made: Sequence[Intervention | None],
) -> list[dict[int, Values]]:
    prompts = [group[0].prompt for group in groups]
    caches = new_cache(pair.base), new_cache(pair.rlvr)
    parts = [Stretch(prompt.problem_id, False, prompt.kinds) for prompt in prompts]
    reduce, write = reading.of(parts), batch_edits(prompts, made)
    read = compare_residuals(pair, prompts, reduce, layers=reading.layers, write=write, caches=caches)
    before = reading.split(read, [[part] for part in parts])
    inputs = pair.base.placed(collate(prompts, pair.pad_id))
    mask, positions = inputs["attention_mask"], inputs["position_ids"]
    flat = [(row, one) for row, group in enumerate(groups) for one in group]
    after: list[dict[int, Values]] = []
    for start in range(0, len(flat), reading.rows):
        chunk = flat[start : start + reading.rows]
        ids = [one.ids for _, one in chunk]
        each = [
            continuation(cache, mask, positions, [row for row, _ in chunk], ids, pair.pad_id)
            for cache in caches
        ]
        real = each[0]["attention_mask"][:, -max(map(len, ids)) :].bool()
        names = [one.prompt.problem_id for _, one in chunk]
        parts = [Stretch(one.prompt.problem_id, True, one.whole.kinds[len(one.prompt) :]) for _, one in chunk]
        try:
            read = _meet(pair, each, real, names, reading.of(parts), layers=reading.layers, write=None)
        except NotFiniteError:
            # Look for the place where it began, which a continuation cannot tell.
            owned = [made[row] for row, _ in chunk]
            _apart(pair, [[one] for _, one in chunk], replace(reading, rows=1), owned)
            raise
        after += reading.split(read, [[part] for part in parts])
    return [
        {
            layer: {
                name: torch.cat([value, rest[layer][name]], reading.axis(name))
                for name, value in cells.items()
            }
            for layer, cells in before[row].items()
        }
        for (row, _), rest in zip(flat, after, strict=True)
    ]


def _meet(
    pair: ModelPair,
    inputs: Sequence[Mapping[str, Any]],
    real: Bool[Tensor, "batch positions"],
    names: Sequence[str],
    reduce: Callable[[int, Tensor, Tensor], Any],
    *,
    layers: Sequence[int] | None,
    write: Mapping[int, Edit] | None,
    write_base: Mapping[int, Edit] | None = None,
) -> dict[int, Any]:
    """Both models, each on its own inputs; ``names`` are the problems of the rows."""
    device = pair.rlvr.unembedding.weight.device

    def keep(layer: int, hidden: Tensor) -> Tensor:
        return hidden[real.to(hidden.device)].to(device)

    def meet(layer: int, hidden: Tensor) -> Any:
        return reduce(layer, base.pop(layer), keep(layer, hidden))

    with naming(names):
        base = read_residuals(pair.base, inputs[0], layers=layers, reduce=keep, write=write_base)
        return read_residuals(pair.rlvr, inputs[1], layers=layers, reduce=meet, write=write)
