"""A patch while decoding: the base reads every token that RLVR draws, and its activations go into RLVR as that reads it.

1. Both models read the prompt, RLVR with what `Patch` writes there if it is of ``both``. The first token is drawn from that.
2. Each token drawn is read by the base first, up to the last patched layer, with a key-value cache of its own in which nothing
   is patched. Its residual stream at the input of each patched layer is what is written, its lens entropy at their output is what
   cells are chosen by.
3. RLVR reads the token with its chosen layers' inputs overwritten, and keeps keys and values of what it became.

What is low among the response's cells of a layer is decided by those so far, this one included: nothing is known of later ones.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.decoding.stops import Stops
from workbench.decoding.streams import Stream
from workbench.interventions import Patch
from workbench.lens.fused import summarise
from workbench.lens.strata import mask
from workbench.models.anatomy import Anatomy
from workbench.models.batches import problem_seed
from workbench.models.finite import naming
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.replay.patching import PreparedPatch
from workbench.selection import Selection
from workbench.tracing.edits import Intervention
from workbench.tracing.model_heads import lens_head
from workbench.tracing.residuals import prefill, read_calls


def stream_of(
    anatomy: Anatomy,
    prompts: Sequence[EncodedPrompt],
    interventions: Sequence[Intervention | None],
    stops: Stops,
    **sizes: int,
) -> Stream:
    """A model over the rows of a batch, patched while it decodes where the interventions say so; arguments of `Stream`."""
    patched = any(getattr(one, "while_decoding", False) for one in interventions)
    kind = PatchedStream if patched else Stream
    return kind(anatomy, prompts, interventions, stops, **sizes)


class PatchedStream(Stream):
    """RLVR with the base's activations at the tokens that it reads; all that is patched in a batch is so by one `Patch`."""

    shares = False  # random cells are drawn for every response

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
        sizes = {"samples": samples, "longest": longest}
        super().__init__(anatomy, prompts, interventions, stops, **sizes)
        made = [one if isinstance(one, PreparedPatch) else None for one in interventions]
        first = next(one for one in made if one is not None)
        pair, self.patch, device = first.pair, first.patch, self.logits.device
        assert pair is not None
        roles = (pair.base, pair.rlvr) if self.patch.only_where_base_lower else (pair.base,)
        self._beside = [Beside(model, prompts, stops, pair, self.patch, **sizes) for model in roles]
        names = [f"{prompt.problem_id}/{sample}" for prompt in prompts for sample in range(samples)]
        self._names = [prompt.problem_id for prompt in prompts for _ in range(samples)]
        self._rows = torch.arange(len(names), device=device)
        self._patched = torch.tensor([one is not None for one in made], device=device)
        self._patched = self._patched.repeat_interleave(samples)
        self._cells = Running(self.patch, names, longest, len(roles), device)
        self._counts = torch.zeros(len(names), longest, dtype=torch.int64, device=device)

    def keep(self, kept: Int[Tensor, " fewer"]) -> None:
        """Go on with these of the rows alone, in all models."""
        super().keep(kept)
        self._rows = self._rows[kept.to(self._rows.device)]
        for beside in self._beside:
            beside.keep(kept)

    def advance(self, token: Int[Tensor, " rows"], step: int) -> None:
        """Read each row's token, with what the base makes of it written where the patch says so."""
        with naming([self._names[row] for row in self._rows.tolist()]):
            for beside in self._beside:
                beside.advance(token, step)
            entropies = [beside.entropy for beside in self._beside]
            chosen = self._cells.chosen(step, self._rows, entropies) & self._patched[self._rows, None]
            self._counts[self._rows, step] = chosen.sum(1)

            def written(hidden: Tensor, layer: int, column: int) -> Tensor:
                here = chosen[:, column].to(hidden.device)[:, None, None]
                return torch.where(
                    here, self._beside[0].hidden[layer].to(hidden.device, hidden.dtype), hidden
                )

            write = {
                layer: (lambda hidden, layer=layer, column=column: written(hidden, layer, column))
                for column, layer in enumerate(self.patch.patched)
            }
            output = prefill(self.anatomy, self.arguments(token, step), write=write)
        self.logits = output.logits[:, -1].float()

    def cells(self, row: int, tokens: int) -> int:
        """How many cells were overwritten in a response of so many tokens, of which the last was drawn and not read."""
        return int(self._counts[row, : max(0, tokens - 1)].sum())


class Beside(Stream):
    """A model that reads along, unpatched, as far as the last layer of a patch."""

    shares = False  # rows are those of the patched model

    hidden: dict[int, Float[Tensor, "rows 1 hidden"]]
    """Of the token read last: the residual stream at the input of each patched layer."""
    entropy: Float[Tensor, "rows layers"]
    """Of the lens there, at each patched layer's output, in nats; empty where no cell is chosen by it."""

    def __init__(
        self,
        anatomy: Anatomy,
        prompts: Sequence[EncodedPrompt],
        stops: Stops,
        pair: ModelPair,
        patch: Patch,
        **sizes: int,
    ) -> None:
        super().__init__(anatomy, prompts, [None] * len(prompts), stops, **sizes)
        self._head, self._patch = lens_head(anatomy, pair.vocab_size), patch

    def advance(self, token: Int[Tensor, " rows"], step: int) -> None:
        """Read each row's token; `logits` stay those of the prompt."""
        layers = self._patch.patched
        calls = read_calls(self.anatomy, self.arguments(token, step), layers[-1] + 1)
        self.hidden = {layer: calls[layer].hidden for layer in layers}
        device = self._head.weight.device
        rows = [
            summarise(calls[layer].output[:, -1].to(device), self._head, top_k=1).entropy
            for layer in (() if self._patch.select == "all" else layers)
        ]
        self.entropy = torch.stack(rows, 1) if rows else torch.empty(len(token), 0)


class Running:
    """Which cells of a token are chosen, by the entropies of its response so far.

    Args:
        patch: what is chosen.
        names: of the rows, each with random numbers of its own.
        longest: tokens of a response at most.
        models: 2 where cells count as low only if the other model's entropy is larger.
        device: of what is chosen.
    """

    def __init__(
        self, patch: Patch, names: Sequence[str], longest: int, models: int, device: torch.device
    ) -> None:
        self.patch, self.device, self.layers = patch, device, len(patch.patched)
        self._seen = torch.zeros(models, len(names), self.layers, longest, device=device)
        self._uniforms: Any = None
        if patch.select == "random":
            seeds = [problem_seed(patch.seed, f"{name}/patched") for name in names]
            draws = [
                torch.rand(longest, self.layers, generator=torch.Generator().manual_seed(seed))
                for seed in seeds
            ]
            self._uniforms = torch.stack(draws).to(device)

    def chosen(
        self, step: int, rows: Int[Tensor, " rows"], entropies: Sequence[Float[Tensor, "rows layers"]]
    ) -> Bool[Tensor, "rows layers"]:
        """The cells of token number ``step``; ``entropies``: of the base, and of RLVR where that counts."""
        if self.patch.select == "all":
            return torch.ones(len(rows), self.layers, dtype=torch.bool, device=self.device)
        for seen, entropy in zip(self._seen, entropies, strict=True):
            seen[rows, :, step] = entropy.to(seen)
        so_far = self._seen[:, rows, :, : step + 1].flatten(1, 2)
        levels = None if self.patch.levels is None else self.patch.levels * len(rows)
        rule = replace(Selection.of(self.patch), select="low", levels=levels)
        low = mask(so_far[0], rule, below=so_far[1] if len(so_far) > 1 else None)
        low = low.unflatten(0, (len(rows), self.layers))
        if self.patch.select == "random":
            return self._uniforms[rows, step] < low.float().mean(-1)
        now = low[..., -1]
        return now if self.patch.select == "low" else ~now
