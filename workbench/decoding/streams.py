"""One loop that draws responses, token by token, from one model or from several that read the same tokens.

A `Stream` is a model over the rows of a batch: its key-value cache and its logits of the next token. `generate` asks a function
which token each row goes on with, hands it to every stream, and drops the rows that are done.
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
    """One model, prefilled with a batch of prompts, each of them ``samples`` times, one after another."""

    logits: Float[Tensor, "rows vocabulary"]
    """Of the next token, float32 or wider."""

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
        self._cache.batch_repeat_interleave(samples)
        self.logits = output.logits[:, -1].float().repeat_interleave(samples, 0)
        self._mask = inputs["attention_mask"].repeat_interleave(samples, 0)
        self._position = next_positions(inputs["position_ids"]).repeat_interleave(samples, -2)

    def keep(self, kept: Int[Tensor, " fewer"]) -> None:
        """Go on with these of the rows alone; `logits` are as they were until the next `advance`."""
        kept = kept.to(self._mask.device)
        self._cache.batch_select_indices(kept)
        self._mask, self._position = self._mask[kept], self._position.index_select(-2, kept)

    def advance(self, token: Int[Tensor, " rows"], step: int) -> None:
        """Read each row's token, the response's number ``step`` from 0."""
        output = self.anatomy.model(**self.arguments(token, step), use_cache=True)
        self.logits = output.logits[:, -1].float()

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
        wrong = ~self.logits.isfinite().all(-1).to(rows.device) & ~finished
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


def pick(logits: Float[Tensor, "rows v"], temperature: float, draws: Float[Tensor, " rows"]) -> Tensor:
    """The next token of each row: the most probable, or where a uniform draw falls in the cumulative distribution.

    That is taken in float64, where the draws are: on the CPU for a device that has none.
    """
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = (logits.to(draws.device).double() / temperature).softmax(-1).cumsum(-1)
    token = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return token.clamp_max(logits.shape[-1] - 1).to(logits.device)
