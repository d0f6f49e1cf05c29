"""Tokens followed through the layers: their exact log-probability in both models, also where they lead neither.

A trace keeps each cell's top predictions only, so the curve of a token would have holes. ``follow`` fills them:

1. At each position of a trace, of all tokens that either model has among its top predictions at any layer, take
   those whose largest probability over layers and models is largest.
2. Run both models once more and read the log-probability of exactly these tokens at every layer, through each
   model's own norm and unembedding: the token's logit minus log(sum exp logits), summed over blocks of vocabulary
   rows relative to a running maximum (Milakov and Gimelshein, arXiv 1805.02867).

Numbers leave the device as (layers, positions, tokens); neither (positions, vocabulary) nor (positions, tokens,
hidden) ever exists.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from workbench.backoff import piecewise
from workbench.columns import describe
from workbench.errors import InputError
from workbench.lens.token_probabilities import log_probabilities
from workbench.models.batches import batches
from workbench.models.pairs import ModelPair, batch_of, weights_of
from workbench.models.prompts import EncodedPrompt
from workbench.problems.problem import Problem
from workbench.tracing.both_models import compare_residuals
from workbench.tracing.edits import Intervention, batch_edits, one_each
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.model_heads import lens_heads
from workbench.tracing.readings import Reading, same_reading
from workbench.tracing.same_prompts import check_same_models, check_same_prompts, weights_in
from workbench.views import markup

# Logits that exist at a time.


@dataclass(frozen=True, eq=False, repr=False)
class Followed:
    """Log-probabilities of a few tokens per position at every layer, in both models of a pair.

    Axes: L traced layers, P positions of the followed prompts, one prompt after another, m tokens.

    Raises:
        InputError: fields that do not fit together.
    """

    ids: Tensor
    """(P, m) int32: the followed tokens, the most probable (over layers and models) first; -1: no more."""
    log_probs_base: Tensor
    """(L, P, m) float32, nats: exact; NaN where there is no token."""
    log_probs_rlvr: Tensor
    """(L, P, m) float32, nats."""
    prompt: Tensor
    """(P,) int32: index of the prompt, as in the trace."""
    layers: tuple[int, ...]
    depth: int
    """Decoder layers of the models; the last layer is ``depth - 1``."""
    problem_ids: tuple[str, ...]
    vocabulary: dict[int, str]
    """Display text of every followed token."""
    fingerprints: tuple[str, ...] = ()
    """Of the prompts."""

    def __post_init__(self) -> None:
        shape = (len(self.layers), *self.ids.shape)
        for name in ("log_probs_base", "log_probs_rlvr"):
            if getattr(self, name).shape != shape:
                actual = tuple(getattr(self, name).shape)
                raise InputError(
                    f"`{name}` has shape {actual}; expected {shape}, (layers, positions, tokens)"
                )
        if self.ids.shape[:1] != self.prompt.shape:
            raise InputError(f"`prompt` has {len(self.prompt)} entries; expected {len(self.ids)}, as `ids`")

    def __repr__(self) -> str:
        positions, tokens = self.ids.shape
        return (
            f"Followed({len(self.problem_ids)} prompts, {positions} positions, {len(self.layers)} layers, "
            f"up to {tokens} tokens each)"
        )

    def _repr_html_(self) -> str:
        one = self._take([-1], slice(10))
        rows = []
        for slot, token in enumerate(one.ids[0].tolist()):
            for model in ("base", "rlvr") if token >= 0 else ():
                chances = getattr(one, f"log_probs_{model}")[:, 0, slot].exp().tolist()
                rows.append(
                    {"token": self.vocabulary[token], "model": model}
                    | dict(zip(one.layers, chances, strict=True))
                )
        caption = f"{self!r}; probabilities by layer at the end of {self.problem_ids[-1]}:"
        return markup.paragraph(caption) + markup.table(pd.DataFrame(rows))

    def select(self, *, prompt: int) -> "Followed":
        """One prompt alone, which becomes prompt 0.

        Raises:
            InputError: no such prompt.
        """
        if not 0 <= prompt < len(self.problem_ids):
            raise InputError(
                f"`prompt` is {prompt}, but prompts 0 to {len(self.problem_ids) - 1} were followed: "
                "`followed.select(prompt=0)`"
            )
        one = self._take((self.prompt == prompt).nonzero()[:, 0])
        return replace(
            one,
            prompt=torch.zeros_like(one.prompt),
            problem_ids=(self.problem_ids[prompt],),
            fingerprints=self.fingerprints[prompt : prompt + 1],
        )

    def _take(self, positions: Tensor | list[int], kept: slice = slice(None)) -> "Followed":
        ids = self.ids[positions][:, kept]
        used = set(ids.unique().tolist())
        return replace(
            self,
            ids=ids,
            log_probs_base=self.log_probs_base[:, positions][..., kept],
            log_probs_rlvr=self.log_probs_rlvr[:, positions][..., kept],
            prompt=self.prompt[positions],
            vocabulary={i: text for i, text in self.vocabulary.items() if i in used},
        )

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of `to_dataframe`."""
        return describe({"followed": None})

    def to_dataframe(self) -> pd.DataFrame:
        """One row per layer, position and token: probabilities p_base and p_rlvr, and their logarithms in nats."""
        count = torch.bincount(self.prompt.long(), minlength=len(self.problem_ids))
        position = torch.cat([torch.arange(int(length)) for length in count])
        place, slot = (self.ids >= 0).nonzero(as_tuple=True)
        layer = torch.tensor(self.layers).repeat_interleave(len(place))
        place, slot = place.repeat(len(self.layers)), slot.repeat(len(self.layers))
        row = torch.arange(len(self.layers)).repeat_interleave(len(place) // max(len(self.layers), 1))
        ids = self.ids[place, slot].tolist()
        columns: dict[str, Any] = {
            "layer": layer.numpy(),
            "problem": [self.problem_ids[i] for i in self.prompt[place].tolist()],
            "position": position[place].numpy(),
            "token": [self.vocabulary[i] for i in ids],
            "token_id": ids,
        }
        for model in ("base", "rlvr"):
            log_p = getattr(self, f"log_probs_{model}")[row, place, slot].double()
            columns |= {f"p_{model}": log_p.exp().numpy(), f"log_p_{model}": log_p.numpy()}
        return pd.DataFrame(columns)

    def plot(self, *, prompt: int = 0, position: int = -1, token: int = 0) -> Any:
        """Plotly figure: the probability by layer of one followed token, the likeliest unless told.

        Args:
            prompt: which of the followed prompts.
            position: within the prompt; -1 is its end.
            token: which of the tokens followed there, 0 being the likeliest.

        Raises:
            InputError: no such prompt, position or token.
        """
        from workbench.views.shift_figures import followed_curves

        one = self.select(prompt=prompt)
        if not -len(one.prompt) <= position < len(one.prompt):
            raise InputError(
                f"`position` is {position}, but prompt {prompt} has positions 0 to {len(one.prompt) - 1}: "
                "`followed.plot(position=-1)`"
            )
        count = int((one.ids[position] >= 0).sum())
        if not 0 <= token < count:
            raise InputError(f"`token` is {token}, expected 0 to {count - 1}: `followed.plot(token=0)`")
        frame = one._take([position], slice(token, token + 1)).to_dataframe()
        return followed_curves(frame.assign(position=position % len(one.prompt)), depth=self.depth)


def likeliest(trace: LensTrace, tokens: int) -> Int[Tensor, "positions tokens"]:
    """Per position, the tokens with the largest probability over a trace's layers and models; -1: no more.

    Of equal probabilities the lower id comes first.
    """
    ids = torch.cat([*trace.top_ids_base, *trace.top_ids_rlvr], 1).long()  # (P, 2 L k)
    probs = torch.cat([*trace.top_probs_base, *trace.top_probs_rlvr], 1)
    ids, order = ids.sort(dim=1, stable=True)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    number = first.cumsum(1) - 1  # equal ids now stand together: number them
    best = torch.full_like(probs, -1).scatter_reduce(1, number, probs.gather(1, order), "amax")
    different = torch.full_like(ids, -1).scatter(1, number, ids)
    return different.gather(1, best.argsort(dim=1, descending=True, stable=True))[:, :tokens]


def _these(pair: ModelPair, tokens: Sequence[int], positions: int) -> Int[Tensor, "positions tokens"]:
    """The same tokens at every position.

    Raises:
        InputError: one that the vocabulary does not have, or has twice.
    """
    wrong = [token for token in tokens if not 0 <= token < pair.vocab_size]
    if wrong or len(set(tokens)) < len(tokens):
        raise InputError(
            f"`tokens` is {[*tokens]}; expected different ids from 0 to {pair.vocab_size - 1}: "
            "follow(pair, problems, trace, tokens=[int(i) for i in pair.ids_of('3')])"
        )
    return torch.tensor([*tokens]).expand(positions, len(tokens)).clone()


def follow(
    pair: ModelPair,
    problems: Sequence[Problem | EncodedPrompt],
    trace: LensTrace,
    *,
    tokens: int | Sequence[int] = 24,
    batch_size: int | None = None,
    interventions: Sequence[Intervention | None] | None = None,
    reading: Reading | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Followed:
    """Exact probabilities, at every traced layer of both models, of the likeliest tokens at each position.

    Args:
        pair: the traced pair.
        problems: what was traced, in the same order; its first few will do, and only these are followed.
        trace: what `workbench.trace` returned for them.
        tokens: how many tokens to follow per position, at most; or the ids of those to follow, at every position.
        batch_size: prompts per forward; changes speed and memory, results only by rounding. None: what suits the pair.
        interventions: those of the trace.
        reading: that of the trace.
        progress: called with (prompts done, prompts in all), at the start and after every batch.

    Raises:
        InputError: no problems, problems or a reading that are not those of the trace, or numbers below 1.
    """
    batch_size = batch_of(pair, batch_size)
    number = tokens if isinstance(tokens, int) else len(tokens)
    for name, value in (("tokens", number), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(
                f"`{name}` is {value}, expected at least 1: `follow(pair, problems, trace, {name}=8)`"
            )
    if not 1 <= len(problems) <= len(trace.prompts):
        raise InputError(
            f"`problems` has {len(problems)} entries, but the trace has {len(trace.prompts)} prompts; give those "
            "that were traced, or the first few of them: `follow(pair, problems[:4], trace)`"
        )
    read_by = same_reading(reading, pair, trace.provenance, "follow(pair, problems, trace")
    prompts = [pair.encode(item) for item in problems]
    traces = [trace.select(prompt=number) for number in range(len(prompts))]
    call = "follow(pair, problems, trace(pair, problems))"
    check_same_models("`trace`", weights_in(trace), weights_of(pair), call)
    check_same_prompts("`problems`", prompts, trace, call, leading=True)
    ids = [
        likeliest(one, tokens) if isinstance(tokens, int) else _these(pair, tokens, len(prompt))
        for one, prompt in zip(traces, prompts, strict=True)
    ]
    entries = one_each(interventions, [prompt.problem_id for prompt in prompts])
    heads, report, parts, count = lens_heads(pair), progress or (lambda done, total: None), [], 0
    report(0, len(prompts))

    def followed(batch: Sequence[EncodedPrompt], here: slice) -> list[tuple[Tensor, Tensor]]:
        rows = torch.cat(ids[here])

        def read(layer: int, h_base: Tensor, h_rlvr: Tensor) -> tuple[Tensor, Tensor]:
            views = (read_by.view("base", layer, h_base), read_by.view("rlvr", layer, h_rlvr))
            both = zip(views, heads, strict=True)
            base, rlvr = (log_probabilities(h, rows.clamp(min=0), head).cpu().float() for h, head in both)
            return base, rlvr

        write = batch_edits(batch, entries[here])
        return list(compare_residuals(pair, batch, read, layers=trace.layers, write=write).values())

    for batch, part in piecewise(batches(prompts, batch_size), followed, model=pair.base, what="tracing"):
        parts.append(part)
        count += len(batch)
        report(count, len(prompts))
    joined = torch.cat(ids).int()
    base, rlvr = (
        torch.cat([torch.stack([layer[model] for layer in part]) for part in parts], 1) for model in range(2)
    )
    return Followed(
        ids=joined,
        log_probs_base=base.masked_fill(joined < 0, math.nan),
        log_probs_rlvr=rlvr.masked_fill(joined < 0, math.nan),
        prompt=torch.cat([torch.full((len(part),), number) for number, part in enumerate(ids)]).int(),
        layers=trace.layers,
        depth=trace.depth,
        problem_ids=tuple(info.problem_id for info in trace.prompts[: len(prompts)]),
        vocabulary={i: pair.decode_token(i) for i in joined.unique().tolist() if i >= 0},
        fingerprints=tuple(prompt.fingerprint for prompt in prompts),
    )
