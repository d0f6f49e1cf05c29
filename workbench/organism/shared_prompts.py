"""Log-probabilities of many completions of few prompts, each prompt computed once.

Rollouts of GRPO share their prompts. Here a row holds a prompt and all its completions one after the other, and a mask lets each
completion see the prompt and itself: the same numbers as a row a completion (up to rounding), for a third of the arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """Rows of a prompt and its completions, padded on the right."""

    ids: Tensor
    """(rows, L) token ids."""
    positions: Tensor
    """(rows, L): each completion's go on from the prompt's last."""
    mask: Tensor
    """(rows, 1, L, L) bool: which position (third axis) sees which."""
    sources: Tensor
    """(tokens, 2): row and position from which each completion token is predicted, completion by completion."""
    targets: Tensor
    """(tokens,) ids of the completion tokens."""


def pack(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad: int) -> Packed:
    """Pack completion i of prompt i; equal prompts share a row."""
    rows: dict[tuple[int, ...], int] = {}
    ids: list[list[int]] = []
    positions: list[list[int]] = []
    segments: list[list[int]] = []
    sources: list[tuple[int, int]] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        row = rows.setdefault(tuple(prompt), len(rows))
        if row == len(ids):
            ids.append([*prompt])
            positions.append([*range(len(prompt))])
            segments.append([0] * len(prompt))
        begin = len(ids[row])
        sources += [(row, len(prompt) - 1 if k == 0 else begin + k - 1) for k in range(len(completion))]
        ids[row] += completion
        positions[row] += range(len(prompt), len(prompt) + len(completion))
        segments[row] += [segments[row][-1] + 1] * len(completion)
    longest = max(map(len, ids))

    def padded(values: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([row + [fill] * (longest - len(row)) for row in values])

    segment = padded(segments, -1)
    same, prompt_seen = segment[:, :, None] == segment[:, None, :], segment[:, None, :] == 0
    earlier = torch.ones(longest, longest, dtype=torch.bool).tril()
    return Packed(
        padded(ids, pad),
        padded(positions, 0),
        ((same | prompt_seen) & earlier)[:, None],
        torch.tensor(sources),
        torch.tensor([token for completion in completions for token in completion]),
    )


def log_probabilities(model: Any, packed: Packed, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(tokens,) log-probability and entropy (nats, without gradient) of every completion token, in the order given."""
    device = model.device
    body = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = body.model(
        input_ids=packed.ids.to(device),
        attention_mask=packed.mask.to(device),
        position_ids=packed.positions.to(device),
        use_cache=False,
    ).last_hidden_state
    row, place = packed.sources.to(device).unbind(-1)
    log_p = (body.lm_head(hidden[row, place]).float() / temperature).log_softmax(-1)
    with torch.no_grad():
        entropy = -(log_p.exp() * log_p).sum(-1)
    return log_p.gather(-1, packed.targets.to(device)[:, None])[:, 0], entropy
