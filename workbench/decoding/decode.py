"""Decoding: greedy or sampled responses, from either model of a pair, with or without an intervention.

1. Prefill: one forward over a left-padded batch of prompts; an intervention writes here and nowhere else, but for a patch while
   decoding (``decoding.patched``).
2. The key-value cache of every prompt serves all its n samples: those that have drawn the same tokens so far are one row of the
   model, and part where they differ.
3. One token at a time from the unmodified model, until every sample has stopped; finished ones are dropped as it goes.
   Placeholders of images and videos are never drawn: a model refuses its own output that has placeholders without pixels.

A problem draws from a random stream of its own, made of the seed and its id, and sample i reads row i of it:
neither the batch nor the number of samples changes a response, beyond rounding. An engine
(``decoding.vllm_engine``) does all of it in
its own way, and has random streams of its own.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from workbench.backoff import piecewise
from workbench.conditions import Condition, check_made
from workbench.decoding.alike import alike, check_mixture, while_decoding
from workbench.decoding.patched import stream_of
from workbench.decoding.responses import Response, Written
from workbench.decoding.stops import Stops
from workbench.decoding.streams import generate, pick
from workbench.decoding.together import together_ids
from workbench.decoding.vllm_engine import Model, VllmEngine, engine_for, vllm_request
from workbench.errors import InputError
from workbench.models.anatomy import Anatomy
from workbench.models.batches import batches, problem_seed
from workbench.models.pairs import ModelPair
from workbench.models.products import products_of
from workbench.models.prompts import EncodedPrompt
from workbench.models.rope_memory import from_rest
from workbench.problems.problem import Problem, listed
from workbench.replay.prepared import prepare_seeing
from workbench.sampling import Sampling
from workbench.tracing.edits import Intervention, one_each

Engine = VllmEngine | Literal["vllm"]
"""What can draw responses instead of the models in this process."""

DROP_AT = 0.25
"""Share of finished rows at which a batch goes on without them; above 1 it never does."""


def decode(
    pair: ModelPair,
    prompt: Problem | EncodedPrompt,
    *,
    model: Model = "rlvr",
    intervention: Intervention | Condition | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    engine: Engine | None = None,
) -> list[Response]:
    """Responses to one prompt, from either model, with or without an intervention; `decode_many` takes several prompts.

    Args:
        pair: what `load_pair` returned, with a tokenizer.
        prompt: a problem, or an encoded prompt: ``pair.encode(problem)``.
        model: which of the two answers.
        intervention: a condition, or what was made for this prompt by it: learnt tokens or a prepared patch; written into the
            prefill, and nowhere else.
        samples: responses, all from one prefill.
        temperature: 0 is greedy, and then every sample is the same, which a warning says.
        seed: of the samples; each problem has a random stream of its own, sample i reads row i of it.
        max_new_tokens: where a response is cut off; None: what suits the pair, its preset's or 1024.
        stop: strings that end a response; it ends right after the first of them.
        engine: as in `decode_many`.

    Raises:
        InputError: what `decode_many` refuses.

    Returns:
        ``samples`` responses: text, number of tokens, and whether each stopped by itself.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> problem = wb.load_problems("shapes", limit=1)[0]
        >>> answers = wb.decode(pair, pair.encode(problem), samples=3, temperature=1.0, seed=0, max_new_tokens=48)
        >>> [answer.sample for answer in answers]
        [0, 1, 2]
    """
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
        engine=engine,
    )[0]


def decode_many(
    pair: ModelPair,
    prompts: Sequence[Problem | EncodedPrompt],
    *,
    model: Model = "rlvr",
    interventions: Condition | Sequence[Intervention | Condition | None] | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    batch_size: int | None = None,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Response]]:
    """`samples` responses to each prompt.

    Args:
        pair: what `load_pair` returned, with a tokenizer.
        prompts: problems, or encoded prompts.
        model: which of the two answers.
        interventions: a condition for all prompts, or one for each: a condition, or what was made for it; None for none.
        samples: responses per prompt; all from one prefill.
        temperature: 0 is greedy, and then every sample is the same, which a warning says.
        seed: of the samples.
        max_new_tokens: where a response is cut off; None: what suits the pair, its preset's or 1024.
        stop: strings that end a response; it ends right after the first of them.
        batch_size: prompts per prefill, None: what suits the pair; an engine gets all prompts at once, and forms batches itself.
        engine: what draws the responses: None for this process, ``"vllm"`` for the model's own checkpoint in vLLM, loaded
            once (extra ``vllm``), or a `VllmEngine`. Its samples are other draws than those in process.
        progress: called with (prompts done, prompts in all).

    Raises:
        InputError: a number outside its range, no tokenizer, an intervention that was made for another prompt, or what
            `vllm_request` refuses.
        NotFiniteError: a forward of a prompt gives NaN or infinity; it says where.
    """
    sampling = pair.sampling(
        samples=samples,
        temperature=temperature,
        seed=seed,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        engine=engine,
    )
    prompts = listed(
        prompts, "decode(pair, load_problems('shapes', limit=1)[0])", Problem, EncodedPrompt, name="prompts"
    )
    encoded = [pair.encode(prompt) for prompt in prompts]
    edits = _prepared(pair, prompts, encoded, interventions, model, sampling)
    return draw(pair, encoded, sampling, model=model, interventions=edits, stop=stop, progress=progress)


def _prepared(
    pair: ModelPair,
    items: Sequence[Problem | EncodedPrompt],
    prompts: Sequence[EncodedPrompt],
    interventions: Condition | Sequence[Intervention | Condition | None] | None,
    model: Model,
    sampling: Sampling,
) -> list[Intervention | None] | None:
    """Interventions as they were made for the prompts, those of conditions made here.

    Raises:
        InputError: a condition that acts on the other model, or what it refuses.
    """
    if interventions is None:
        return None
    check_made(interventions if isinstance(interventions, type) else None)
    alike = isinstance(interventions, Condition)
    entries = [interventions] * len(prompts) if alike else [*interventions]
    for one in entries:
        check_made(one)
    for condition in {id(one): one for one in entries if isinstance(one, Condition)}.values():
        if condition.answered_by != model:
            raise InputError(
                f"`intervention` {condition.title!r} acts on {condition.answered_by!r}, and `model` is {model!r}: "
                f"decode(pair, prompt, model={condition.answered_by!r}, intervention=...)"
            )
    how: dict[str, Any] = {"seed": sampling.seed, "batch_size": sampling.batch_size}
    problems = [item for item in items if isinstance(item, Problem)]
    whole = problems if len(problems) == len(prompts) else None
    if alike:
        return prepare_seeing(interventions, pair, prompts, problems=whole, **how)
    ready = [None if isinstance(one, Condition) else one for one in entries]
    if odd := [one for one in ready if one is not None and not hasattr(one, "problem_id")]:
        raise InputError(
            f"`intervention` is {odd[0]!r}; expected a condition, or what was made of one for the prompt: "
            "decode(pair, prompt, intervention=Patch(select='low'))"
        )
    one_each(ready, [prompt.problem_id for prompt in prompts], decoded=True)
    return [
        prepare_seeing(one, pair, [prompt], problems=whole and [whole[i]], **how)[0]
        if isinstance(one, Condition)
        else one
        for i, (prompt, one) in enumerate(zip(prompts, entries, strict=True))
    ]


def draw(
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    sampling: Sampling,
    *,
    model: Model = "rlvr",
    interventions: Sequence[Intervention | None] | None = None,
    stop: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    greedy: bool = False,
) -> list[list[Response]]:
    """What `decode_many` does, of a `Sampling`; with ``greedy`` each prompt's greedy response, too, the last of its list.

    The greedy one is drawn along with the sampled ones, from the same prefill, where nothing but its tokens tells them apart.
    """
    if model not in ("base", "rlvr"):
        raise InputError(
            f"`model` is {model!r}; expected 'base' or 'rlvr': decode(pair, prompt, model='base')"
        )
    sampling = replace(sampling, engine=engine_for(pair, model, sampling.engine))
    with products_of(pair):
        answers: dict[int, list[Response]] = {}
        for mixture, here in alike(interventions, len(prompts)):
            check_mixture(mixture, model, sampling)
            edits = interventions and [interventions[i] for i in here]
            answered = partial(
                respond,
                pair.base if model == "base" else pair.rlvr,
                pair.processor,
                [prompts[i] for i in here],
                interventions=edits,
                stop=stop,
                write=None if mixture is None else partial(together_ids, pair, mixture, drop_at=DROP_AT),
            )
            tell = progress and _counted(progress, len(answers), len(prompts))
            at_once = greedy and mixture is None and sampling.engine is None and not while_decoding(edits)
            responses = answered(sampling, progress=tell, greedy=at_once)
            if greedy and not at_once:
                alone = answered(sampling.greedy)
                responses = [[*many, *one] for many, one in zip(responses, alone, strict=True)]
            answers |= dict(zip(here, responses, strict=True))
    return [answers[i] for i in range(len(prompts))]


def _counted(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _: progress(before + done, total)


def respond(
    anatomy: Anatomy,
    processor: Any,
    prompts: Sequence[EncodedPrompt],
    sampling: Sampling,
    *,
    interventions: Sequence[Intervention | None] | None = None,
    stop: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    write: Callable[..., list[list[Written]]] | None = None,
    greedy: bool = False,
) -> list[list[Response]]:
    """What `draw` does, for one model with its processor or tokenizer; ``sampling.engine`` is a `VllmEngine` or None.

    ``write``: called with (prompts, interventions, uniforms, temperature, stops) of a batch, instead of `generate_ids`.
    ``greedy``: a greedy response, too, the last of each prompt's; in this process, where nothing is written while decoding.
    """
    sampling.check()
    samples, temperature, engine = sampling.samples, sampling.temperature, sampling.engine
    if temperature == 0 and samples > 1:
        warnings.warn(
            f"`samples` is {samples} with `temperature` 0, which is greedy: all {samples} texts of a prompt are the same; one is "
            f"enough, or draw them: decode(pair, prompt, samples={samples}, temperature=1.0)",
            stacklevel=2,
        )
    prompts = listed(prompts, "decode(pair, pair.encode(problem))", EncodedPrompt, name="prompts")
    entries = one_each(interventions, [prompt.problem_id for prompt in prompts], decoded=True)
    stops = Stops(processor, anatomy, stop)

    def answered(batch: Sequence[EncodedPrompt], here: slice) -> list[list[Response]]:
        begun = time.perf_counter()
        if engine is None:
            uniforms = torch.stack([_uniforms(sampling, prompt.problem_id) for prompt in batch])
            if greedy:  # whose draws are NaN, see `pick`
                uniforms = torch.nn.functional.pad(uniforms, (0, 0, 0, 1), value=torch.nan)
            how = (batch, entries[here], uniforms, temperature, stops)
            written = write(*how) if write else generate_ids(anatomy, *how)
        else:
            how = {
                "temperature": temperature,
                "seed": sampling.seed,
                "max_new_tokens": sampling.max_new_tokens,
            }
            written = _plain(
                engine.generate(
                    [
                        vllm_request(anatomy, prompt, stops, intervention=edit, samples=samples, **how)
                        for prompt, edit in zip(batch, entries[here], strict=True)
                    ]
                )
            )
        seconds = (time.perf_counter() - begun) / (len(batch) * (samples + greedy))
        return [
            [
                Response(
                    prompt.problem_id,
                    i,
                    *stops.read(row.ids),
                    seconds,
                    tuple(map(int, row.ids)),
                    row.replaced,
                    row.values,
                    row.cells,
                )
                for i, row in enumerate(rows)
            ]
            for prompt, rows in zip(batch, written, strict=True)
        ]

    answers: list[list[Response]] = []
    groups = batches(prompts, sampling.batch_size if engine is None else max(1, len(prompts)))
    for _, responses in piecewise(groups, answered, model=anatomy, what="decoding"):
        answers += responses
        if progress:
            progress(len(answers), len(prompts))
    return answers


def _plain(ids: Sequence[Sequence[Sequence[int]]]) -> list[list[Written]]:
    return [[Written(row) for row in rows] for rows in ids]


def _uniforms(sampling: Sampling, problem_id: str) -> Tensor:
    """(samples, tokens) uniform draws; more samples or more tokens leave the earlier ones as they are."""
    rows = [
        torch.Generator().manual_seed(problem_seed(sampling.seed, f"{problem_id}/{i}"))
        for i in range(sampling.samples)
    ]
    return torch.stack(
        [torch.rand(sampling.max_new_tokens, generator=row, dtype=torch.float64) for row in rows]
    )


@torch.no_grad()
@from_rest
def generate_ids(
    anatomy: Anatomy,
    prompts: Sequence[EncodedPrompt],
    interventions: Sequence[Intervention | None],
    uniforms: Tensor,
    temperature: float,
    stops: Stops,
) -> list[list[Written]]:
    """Every sample of every prompt, up to the end of the response; ``uniforms``: (prompts, samples, tokens)."""
    count, samples, longest = uniforms.shape
    stream = stream_of(anatomy, prompts, interventions, stops, samples=samples, longest=longest)

    def choose(step: int, rows: Tensor, draws: Tensor) -> Tensor:
        stream.logits[:, stops.forbidden] = -torch.inf
        return pick(stream.logits, temperature, draws, stream.of)

    ids = generate([stream], uniforms.flatten(0, 1), choose, drop_at=DROP_AT)
    rows = [[i for i in row if i >= 0] for row in ids.tolist()]
    written = [Written(row, cells=stream.cells(number, len(row))) for number, row in enumerate(rows)]
    return [written[i * samples : (i + 1) * samples] for i in range(count)]
