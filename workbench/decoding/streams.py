"""One loop that draws responses, token by token, from one model or from several that read the same tokens.

A `Stream` is a model over the rows of a batch: its key-value cache and its logits of the next token. `generate` asks a function
which token each row goes on with, hands it to every stream, and drops the rows that are done. Samples of a prompt that have drawn
the same so far are one row of the model, which they leave as they part: what is equal is computed once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.decoding.stops import Stops
from workbench.lens.precision import has_float64
from workbench.models.anatomy import Anatomy
from workbench.models.batches import collate
from workbench.models.finite import NotFiniteError, naming
from workbench.models.positions import next_positions
from workbench.models.prompts import EncodedPrompt
from workbench.models.rope_memory import check_together
from workbench.stopping import still_wanted
from workbench.tracing.edits import Intervention, batch_edits
from workbench.tracing.residuals import prefill, refuse_not_finite


class Stream:
    """One model, prefilled with a batch of prompts, each of them followed by ``samples`` responses, one after another."""

    shares: bool = True
    """Whether responses that are the same so far are one row; not where something tells them apart besides their tokens."""
    logits: Float[Tensor, "rows vocabulary"]
    """Of the next token, float32 or wider; a row for all responses that are the same so far."""
    of: Int[Tensor, " responses"]
    """The row of each response that is still there."""

    def __init__(
        self,
        anatomy: Anatomy,
        prompts: Sequence[EncodedPrompt],
        interventions: Sequence[Intervention | None],
        stops: Stops,
        *,
        samples: int,
        longest: int,
    ) -> None:
        self.anatomy, self.prompts, self.interventions, self.stops = anatomy, prompts, interventions, stops
        self._samples = samples
        inputs = anatomy.placed(collate(prompts, stops.ends[0]))
        check_together(anatomy.model, inputs["attention_mask"], longest)
        with naming([prompt.problem_id for prompt in prompts]):
            output = prefill(anatomy, inputs, write=batch_edits(prompts, interventions))
        named = hasattr(output, "cache") and output.get("cache") is not None
        self._cache_name = "cache" if named else "past_key_values"
        self._cache: Any = output[self._cache_name]
        self._mask, self._position = inputs["attention_mask"], next_positions(inputs["position_ids"])
        self.logits = output.logits[:, -1].float()
        self.of = torch.arange(len(prompts), device=self._mask.device).repeat_interleave(samples)
        if not self.shares:
            self._part(self.of)

    @property
    def each(self) -> Float[Tensor, "responses vocabulary"]:
        """`logits` of each response."""
        return self.logits[self.of.to(self.logits.device)]

    def keep(self, kept: Int[Tensor, " fewer"]) -> None:
        """Go on with these of the responses alone; a row that none of them has is left by the next `advance`."""
        self.of = self.of[kept.to(self.of.device)]
        if not self.shares:
            self._part(self.of)

    def advance(self, token: Int[Tensor, " responses"], step: int) -> None:
        """Read each response's token, its number ``step`` from 0."""
        next_of_each = torch.stack([self.of, token.to(self.of.device)], 1)
        different, of = next_of_each.unique(dim=0, return_inverse=True)
        self._choose(different[:, 0])
        self.of = of
        output = self.anatomy.model(**self.arguments(different[:, 1], step), use_cache=True)
        self.logits = output.logits[:, -1].float()

    def _part(self, rows: Int[Tensor, " responses"]) -> None:
        """A row for each response, whether or not they are the same."""
        self._choose(rows)
        self.logits = self.logits[rows.to(self.logits.device)]
        self.of = torch.arange(len(rows), device=rows.device)

    def _choose(self, rows: Int[Tensor, " rows"]) -> None:
        """Of the cache these rows, in this order; `logits` are as they were until the next `advance`."""
        if len(rows) == len(self._mask) and bool((rows == torch.arange(len(rows), device=rows.device)).all()):
            return
        self._cache.batch_select_indices(rows)
        self._mask, self._position = self._mask[rows], self._position.index_select(-2, rows)

    def arguments(self, token: Int[Tensor, " rows"], step: int) -> dict[str, Any]:
        """What the forward is called with to read a token that follows; once a token."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        return {
            "input_ids": token.to(self._mask.device)[:, None],
            "attention_mask": self._mask,
            "position_ids": self._position + step,
            self._cache_name: self._cache,
        }

    def cells(self, row: int, tokens: int) -> int:
        """How many cells were overwritten as a row's response of so many tokens was read: none."""
        return 0

    def check(self, rows: Tensor, finished: Tensor, said: Tensor) -> None:
        """Refuse logits of an unfinished row that are NaN or infinite, with the place where that began.

        Raises:
            NotFiniteError: there are such.
        """
        wrong = ~self.logits.isfinite().all(-1)[self.of.to(self.logits.device)].to(rows.device) & ~finished
        if not bool(wrong.any()):
            return
        row = int(rows[wrong][0])
        made, whole = (
            self.interventions[row // self._samples],
            self.prompts[row // self._samples].continued(said[row].cpu()),
        )
        with naming([whole.problem_id]):
            padded = collate([whole], self.stops.ends[0])
            refuse_not_finite(self.anatomy, padded, write=batch_edits([whole], [made]))
            raise NotFiniteError.at(self.anatomy.model, 0, len(whole) - 1, None, self.anatomy.dtype)


Choose = Callable[[int, Tensor, Tensor], Tensor]
"""Called with (step, the rows still there, their uniform draws) -> the next token of each of these rows."""


def generate(
    streams: Sequence[Stream], uniforms: Float[Tensor, "rows tokens"], choose: Choose, *, drop_at: float
) -> Int[Tensor, "rows tokens"]:
    """Token ids of every row, -1 after its end; the rows are dropped once a share ``drop_at`` of them is done."""
    stops, device, longest = streams[0].stops, streams[0].logits.device, uniforms.shape[1]
    draws = uniforms.to(device) if has_float64(device) else uniforms
    ids = torch.full(uniforms.shape, -1, device=device)
    rows = torch.arange(len(ids), device=device)  # of `ids`, which the batch still holds
    finished = torch.zeros_like(rows, dtype=torch.bool)
    for step in range(longest):
        still_wanted()
        for stream in streams:
            stream.check(rows, finished, ids[:, :step])
        token = choose(step, rows, draws[:, step]).to(
            device
        )  # a spread model's logits come from where its head is
        ids[rows, step] = torch.where(finished, -1, token)
        finished = finished | stops.ended(ids[rows, max(0, step + 1 - stops.tail) : step + 1])
        done = int(finished.sum())
        if done == len(rows) or step == longest - 1:
            break
        if done >= drop_at * len(rows):
            kept = (~finished).nonzero()[:, 0]
            for stream in streams:
                stream.keep(kept)
            draws = draws[kept.to(draws.device)]
            rows, token, finished = rows[kept], token[kept], finished[kept]
        for stream in streams:
            stream.advance(token, step)
    return ids


def pick(
    logits: Float[Tensor, "rows v"],
    temperature: float,
    draws: Float[Tensor, " responses"],
    of: Int[Tensor, " responses"] | None = None,
) -> Int[Tensor, " responses"]:
    """The next token of each response: the most probable, or where a uniform draw falls in the cumulative distribution.

    That is taken in float64, where the draws are: on the CPU for a device that has none. ``of``: the row of each response; None:
    each has its own. A draw that is NaN stands for the most probable at any temperature.
    """
    best = logits.argmax(-1)
    best = best if of is None else best[of.to(best.device)]
    if temperature == 0:
        return best
    cumulative = (logits.to(draws.device).double() / temperature).softmax(-1).cumsum(-1)
    cumulative = cumulative if of is None else cumulative[of.to(cumulative.device)]
    token = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]
    token = token.clamp_max(logits.shape[-1] - 1).to(logits.device)
    return torch.where(draws.isnan().to(token.device), best, token)
