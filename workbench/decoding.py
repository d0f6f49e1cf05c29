"""Decoding: greedy or sampled responses, from either model of a pair, with or without an intervention.

1. Prefill: one forward over a left-padded batch of prompts; an intervention writes here and nowhere else.
2. The key-value cache of every prompt is repeated for its n samples, not computed again.
3. One token at a time from the unmodified model, until every sample has stopped. Placeholders of images and videos
   are never
   drawn: a model refuses its own output that has placeholders without pixels.

A problem draws from a random stream of its own, made of the seed and its id, and sample i reads row i of it:
neither the batch nor the number of samples changes a response, beyond rounding.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.anatomy import Anatomy
from workbench.chat import tokenizer_of
from workbench.displays import response_html
from workbench.errors import InputError
from workbench.interventions import Intervention, batch_edits, one_each
from workbench.pairs import ModelPair
from workbench.prompts import EncodedPrompt, TokenKind, batches, collate, problem_seed
from workbench.tracing import prefill

Model = Literal["base", "rlvr"]


@dataclass(frozen=True)
class Response:
    """One response to one problem."""

    problem_id: str
    sample: int
    text: str
    tokens: int
    """Tokens generated, the stop token included."""
    finished: bool
    """Whether it stopped by itself, rather than at `max_new_tokens`."""
    seconds: float = field(compare=False)
    """Its share of the wall time of its batch."""

    def _repr_html_(self) -> str:
        return response_html(self)


def decode(
    pair: ModelPair,
    prompt: EncodedPrompt,
    *,
    model: Model = "rlvr",
    intervention: Intervention | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 256,
    stop: Sequence[str] = (),
) -> list[Response]:
    """Responses to one prompt; see `decode_many` for several and for what the arguments mean."""
    return decode_many(
        pair,
        [prompt],
        model=model,
        interventions=None if intervention is None else [intervention],
        samples=samples,
        temperature=temperature,
        seed=seed,
        max_new_tokens=max_new_tokens,
        stop=stop,
    )[0]


def decode_many(
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    *,
    model: Model = "rlvr",
    interventions: Sequence[Intervention | None] | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 256,
    stop: Sequence[str] = (),
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Response]]:
    """`samples` responses to each prompt.

    Args:
        pair: what `load_pair` returned, with a tokenizer.
        prompts: encoded prompts.
        model: which of the two answers.
        interventions: one for each prompt, made for it; None for none.
        samples: responses per prompt; all from one prefill.
        temperature: 0 is greedy, and then every sample is the same.
        seed: of the samples.
        max_new_tokens: where a response is cut off.
        stop: strings that end a response; it ends right after the first of them.
        batch_size: prompts per prefill.
        progress: called with (prompts done, prompts in all).

    Raises:
        InputError: a number outside its range, no tokenizer, or an intervention that was made for another prompt.
    """
    if model not in ("base", "rlvr"):
        raise InputError(
            f"`model` is {model!r}; expected 'base' or 'rlvr': decode(pair, prompt, model='base')"
        )
    return respond(
        pair.base if model == "base" else pair.rlvr,
        pair.processor,
        prompts,
        interventions=interventions,
        samples=samples,
        temperature=temperature,
        seed=seed,
        max_new_tokens=max_new_tokens,
        stop=stop,
        batch_size=batch_size,
        progress=progress,
    )


def respond(
    anatomy: Anatomy,
    processor: Any,
    prompts: Sequence[EncodedPrompt],
    *,
    interventions: Sequence[Intervention | None] | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 256,
    stop: Sequence[str] = (),
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Response]]:
    """What `decode_many` does, for one model with its processor or tokenizer."""
    tokenizer = tokenizer_of(processor)
    _check(tokenizer, samples, temperature, max_new_tokens)
    given = one_each(interventions, [prompt.problem_id for prompt in prompts])
    stops = _Stops(tokenizer, anatomy, stop)
    done: list[list[Response]] = []
    for batch in batches(prompts, batch_size):
        begun = time.perf_counter()
        chosen = given[len(done) : len(done) + len(batch)]
        uniforms = torch.stack([_uniforms(seed, p.problem_id, samples, max_new_tokens) for p in batch])
        ids = _generate(anatomy, batch, chosen, uniforms, temperature, stops)
        seconds = (time.perf_counter() - begun) / (len(batch) * samples)
        done += [
            [stops.response(prompt.problem_id, i, row, seconds) for i, row in enumerate(rows.tolist())]
            for prompt, rows in zip(batch, ids, strict=True)
        ]
        if progress:
            progress(len(done), len(prompts))
    return done


def export_visual_embeddings(
    pair: ModelPair, prompt: EncodedPrompt, intervention: Intervention | None = None
) -> list[Float[Tensor, "visual hidden"]]:
    """The visual embeddings that the RLVR model's decoder reads, one tensor an image, with learnt tokens added.

    This is what the image-embedding input of an inference engine takes (one (visual tokens, hidden) tensor for
    each image), so that an engine with unmodified weights can draw the samples.

    Raises:
        InputError: an intervention elsewhere than at the input of layer 0, which no embedding can express.
    """
    from workbench.tracing import read_calls

    hidden = read_calls(pair.rlvr, prompt.model_inputs, 1)[0].hidden[0]
    if intervention is not None:
        if intervention.sites != (0,):
            raise InputError(
                f"`intervention` writes the input of layers {intervention.sites}; only tokens at layer 0 can be exported as "
                "embeddings: learn_tokens(pair, prompt, Replay(site='tokens'))"
            )
        hidden = intervention.apply(0, hidden)
    visual = prompt.kinds == TokenKind.VISUAL
    pictures = prompt.image_index[visual].to(hidden.device)
    rows = hidden[visual.to(hidden.device)]
    return [rows[pictures == picture].clone() for picture in pictures.unique().tolist()]


def _uniforms(seed: int, problem_id: str, samples: int, length: int) -> Tensor:
    """(samples, length) uniform draws; more samples or more tokens leave the earlier ones as they are."""
    rows = [torch.Generator().manual_seed(problem_seed(seed, f"{problem_id}/{i}")) for i in range(samples)]
    return torch.stack([torch.rand(length, generator=row, dtype=torch.float64) for row in rows])


@torch.no_grad()
def _generate(
    anatomy: Anatomy,
    prompts: Sequence[EncodedPrompt],
    interventions: Sequence[Intervention | None],
    uniforms: Tensor,
    temperature: float,
    stops: "_Stops",
) -> Tensor:
    """Token ids (prompts, samples, up to max_new_tokens); -1 after the end of a response."""
    count, samples, longest = uniforms.shape
    inputs = {name: value.to(anatomy.device) for name, value in collate(prompts, stops.ends[0]).items()}
    output = prefill(anatomy, inputs, write=batch_edits(prompts, interventions))
    cache_name = (
        "cache" if hasattr(output, "cache") and output.get("cache") is not None else "past_key_values"
    )
    cache, logits = output[cache_name], output.logits[:, -1].float()
    cache.batch_repeat_interleave(samples)
    logits = logits.repeat_interleave(samples, 0)
    mask = inputs["attention_mask"].repeat_interleave(samples, 0)
    position = _next_position(anatomy, inputs).repeat_interleave(samples, -2)
    draws = uniforms.flatten(0, 1).to(logits.device)
    forbidden = sorted(stops.forbidden)
    ids, finished = [], torch.zeros(count * samples, dtype=torch.bool, device=logits.device)
    for step in range(longest):
        logits[:, forbidden] = -torch.inf
        token = _pick(logits, temperature, draws[:, step])
        ids.append(torch.where(finished, -1, token))
        token = torch.where(finished, stops.ends[0], token)
        finished = finished | stops.ended(token, ids)
        if finished.all() or step == longest - 1:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        output = anatomy.model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=position + step,
            use_cache=True,
            **{cache_name: cache},
        )
        logits = output.logits[:, -1].float()
    return torch.stack(ids, 1).view(count, samples, -1).cpu()


def _pick(logits: Tensor, temperature: float, draws: Tensor) -> Tensor:
    """The next token of each row: the most probable, or where a uniform draw falls in the cumulative distribution."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
    token = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return token.clamp_max(logits.shape[-1] - 1)


def _next_position(anatomy: Anatomy, inputs: Mapping[str, Tensor]) -> Tensor:
    """Position id of the first new token: (prompts, 1), or (3, prompts, 1) where positions have three axes."""
    length = inputs["attention_mask"].sum(1, keepdim=True)
    holder = getattr(anatomy.model, "model", anatomy.model)
    deltas = getattr(holder, "rope_deltas", None)
    if not hasattr(holder, "rope_deltas"):
        return length
    if deltas is not None:
        length = length + deltas.view(-1, 1).to(length.device)
    return length.expand(3, -1, -1)


class _Stops:
    """Where a response ends, and what may never be drawn."""

    def __init__(self, tokenizer: Any, anatomy: Anatomy, strings: Sequence[str]) -> None:
        self.tokenizer, self.strings = tokenizer, tuple(strings)
        settings = getattr(anatomy.model, "generation_config", None)
        named = getattr(settings, "eos_token_id", None)
        ends = {named} if isinstance(named, int) else {*(named or ())}
        own = getattr(tokenizer, "eos_token_id", None)
        self.ends = sorted(ends if own is None else ends | {own})
        if not self.ends:
            raise InputError(
                "`pair` names no token that ends a response; set `model.generation_config.eos_token_id`, or give a tokenizer "
                "that has an `eos_token`"
            )
        self.forbidden = {*anatomy.visual_token_ids, *(getattr(settings, "suppress_tokens", None) or ())}
        self.tail = max((len(s) for s in self.strings), default=0)

    def ended(self, token: Tensor, ids: Sequence[Tensor]) -> Tensor:
        """Which rows end with this token."""
        over = torch.isin(token, torch.tensor(self.ends, device=token.device))
        if self.strings:
            # A stop string may begin inside an earlier token, but never more than its own length of tokens ago.
            recent = torch.stack(list(ids[-self.tail :]), 1).tolist()
            texts = [self._text([i for i in row if i >= 0]) for row in recent]
            found = [any(s in text for s in self.strings) for text in texts]
            over = over | torch.tensor(found, device=token.device)
        return over

    def response(self, problem_id: str, sample: int, row: list[int], seconds: float) -> Response:
        """A row of ids as a response."""
        ids = [token for token in row if token >= 0]
        text = self._text(ids)
        cuts = [text.index(s) + len(s) for s in self.strings if s in text]
        finished = bool(cuts) or ids[-1] in self.ends
        return Response(problem_id, sample, text[: min(cuts)] if cuts else text, len(ids), finished, seconds)

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def _check(tokenizer: Any, samples: int, temperature: float, max_new_tokens: int) -> None:
    for name, value in (("samples", samples), ("max_new_tokens", max_new_tokens)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(
                f"`{name}` is {value!r}; expected a whole number of at least 1: decode(pair, prompt, {name}=16)"
            )
    if not 0 <= temperature < float("inf"):
        raise InputError(
            f"`temperature` is {temperature}; expected 0 (greedy) or more: decode(pair, prompt, temperature=1.0)"
        )
    if tokenizer is None:
        raise InputError(
            "`pair` has no tokenizer, so responses can't be turned into text: load_pair(..., processor=<folder or hub id>)"
        )
