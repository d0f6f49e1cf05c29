"""Many samples of one prompt from one prefill, for evaluating the organism."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.organism.model import visual_token_ids
from workbench.problems import Problem


@torch.no_grad()
def sample(
    model: Any,
    processor: Any,
    problems: Sequence[Problem],
    *,
    samples: int,
    temperature: float,
    seed: int,
    max_new_tokens: int = 64,
    batch_size: int = 16,
) -> list[list[str]]:
    """`samples` responses per problem; temperature 0 is greedy.

    Every problem draws from a random stream of its own (seed, its id), so results don't depend on the batch.
    """
    responses: list[list[str]] = []
    for start in range(0, len(problems), batch_size):
        batch = problems[start : start + batch_size]
        chats = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": p.images[0]},
                        {"type": "text", "text": p.question},
                    ],
                }
            ]
            for p in batch
        ]
        inputs = processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(model.device)
        streams = [torch.Generator().manual_seed(hash_seed(seed, p.id)) for p in batch]
        uniforms = torch.stack(
            [torch.rand(samples, max_new_tokens, generator=g, dtype=torch.float64) for g in streams]
        )
        ids = _continue(
            model,
            inputs,
            uniforms.to(model.device),
            temperature,
            visual_token_ids(processor),
            processor.tokenizer.eos_token_id,
        )
        texts = processor.tokenizer.batch_decode(ids.flatten(0, 1), skip_special_tokens=True)
        responses += [texts[i * samples : (i + 1) * samples] for i in range(len(batch))]
    return responses


def hash_seed(seed: int, problem_id: str) -> int:
    """A seed for one problem's random stream: stable across processes, unlike ``hash``."""
    import hashlib

    return int.from_bytes(hashlib.sha256(f"{seed}/{problem_id}".encode()).digest()[:7], "big")


def _continue(
    model: Any, inputs: Any, uniforms: Tensor, temperature: float, suppressed: list[int], stop: int
) -> Tensor:
    """Token ids (B, samples, up to max_new_tokens); past a stop token only stop tokens follow."""
    batch, samples, longest = uniforms.shape
    output = model(**inputs, use_cache=True, logits_to_keep=1)
    cache, logits = output.past_key_values, output.logits[:, -1]
    cache.batch_repeat_interleave(samples)
    logits = logits.repeat_interleave(samples, 0)
    mask = inputs["attention_mask"].repeat_interleave(samples, 0)
    position = (
        inputs["attention_mask"].sum(1, keepdim=True) + model.model.rope_deltas.view(batch, 1)
    ).repeat_interleave(samples, 0)
    draws = uniforms.flatten(0, 1)
    ids, finished = [], torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
    for step in range(longest):
        logits[:, suppressed] = -torch.inf
        if temperature == 0:
            token = logits.argmax(-1)
        else:
            cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
            token = torch.searchsorted(cumulative, draws[:, step, None] * cumulative[:, -1:], right=True)[
                :, 0
            ]
            token = token.clamp_max(logits.shape[-1] - 1)
        token = torch.where(finished, stop, token)
        ids.append(token)
        finished |= token == stop
        if finished.all():
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = (position + step).expand(3, -1, -1)
        output = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits[:, -1]
    return torch.stack(ids, 1).view(batch, samples, -1)
