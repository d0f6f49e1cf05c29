"""Where in a prompt a model speaks: the turns of a conversation, and the response at its end."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.models.chat import Message, render, tokenizer_of
from workbench.problems.problem import Problem


def turns_of(said: Bool[Tensor, " positions"]) -> Int[Tensor, " positions"]:
    """The number of each unbroken run of positions that a model said, from 0; -1 elsewhere."""
    begins = said & ~torch.cat([said.new_zeros(1), said[:-1]])
    return torch.where(said, begins.cumsum(0) - 1, -1).to(torch.int32)


def last_response(said: Bool[Tensor, " positions"]) -> int:
    """Where the run begins that ends at the last position; the number of positions where nothing was said there."""
    silent = (~said).nonzero()
    return int(silent[-1]) + 1 if len(silent) else 0


def assistant_places(
    processor: Any, problem: Problem, turns: Sequence[Message], ids: Int[Tensor, " positions"]
) -> Int[Tensor, " n"]:
    """Positions of an encoded conversation that hold words of the assistant's turns.

    The template's text has one placeholder a picture, which ``ids`` have at length: so the tokens of the text alone are
    aligned with ``ids``. A turn that the template leaves out or rewrites has no positions, nor has any where the tokenizer
    cannot tell which characters a token stands for.
    """
    tokenizer, text = tokenizer_of(processor), render(processor, problem, turns)
    if not getattr(tokenizer, "is_fast", False):
        return torch.empty(0, dtype=torch.int64)
    spans = []
    for number, turn in enumerate(turns):
        words = "".join(part for part in turn.parts if isinstance(part, str)).strip()
        if turn.role != "assistant" or not words:
            continue
        both = zip(text, render(processor, problem, turns[:number]), strict=False)
        start = text.find(words, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both)))
        if start >= 0:
            spans.append((start, start + len(words)))
    alone = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    inside = [
        any(begin < end_here and begin_here < end for begin, end in spans)
        for begin_here, end_here in alone["offset_mapping"]
    ]
    matcher = SequenceMatcher(None, alone["input_ids"], ids.tolist(), autojunk=False)
    places = [
        block.b + step
        for block in matcher.get_matching_blocks()
        for step in range(block.size)
        if inside[block.a + step]
    ]
    return torch.tensor(places, dtype=torch.int64)
