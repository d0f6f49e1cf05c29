"""Log-probabilities of many completions of few prompts, each prompt computed once.

Rollouts of GRPO share their prompts. Here a row holds a prompt and all its completions one after the other, and a mask lets each
completion see the prompt and itself: the same numbers as a row a completion (up to rounding), for a third of the arithmetic.
"""

from collections.abc import Mapping, Sequence
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
    lengths: tuple[int, ...]
    """By row, of its prompt."""
    pictures: tuple[Mapping[str, Tensor], ...] = ()
    """By row, patches and grid of the prompt's picture; none for prompts of text alone."""


def pack(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    pad: int,
    pictures: Sequence[Mapping[str, Tensor]] = (),
) -> Packed:
    """Pack completion i of prompt i, which has picture i or none; equal prompts with equal pictures share a row."""
    rows: dict[tuple[Any, ...], int] = {}
    shown: list[Mapping[str, Tensor]] = []
    lengths: list[int] = []
    ids: list[list[int]] = []
    positions: list[list[int]] = []
    segments: list[list[int]] = []
    sources: list[tuple[int, int]] = []
    seen = [*pictures] or [{}] * len(prompts)
    for prompt, completion, picture in zip(prompts, completions, seen, strict=True):
        pixels = picture["pixel_values"].cpu().numpy().tobytes() if picture else b""
        row = rows.setdefault((*prompt, pixels), len(rows))
        if row == len(ids):
            ids.append([*prompt])
            lengths.append(len(prompt))
            shown += [picture] if picture else []
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
        tuple(lengths),
        tuple(shown),
    )


def _with_pictures(body: Any, packed: Packed) -> dict[str, Tensor]:
    """The pictures of all rows, and (3, rows, L) positions, in which a picture's tokens lie in a grid."""
    names = packed.pictures[0] if packed.pictures else ()
    fields = {name: torch.cat([one[name] for one in packed.pictures]) for name in names}
    positions = packed.positions.expand(3, -1, -1).clone()
    for row, (length, picture) in enumerate(zip(packed.lengths, packed.pictures, strict=True)):
        prompt = packed.ids[row : row + 1, :length]
        places, shift = body.model.get_rope_index(
            prompt,
            mm_token_type_ids=(prompt == body.config.image_token_id).int(),
            image_grid_thw=picture["image_grid_thw"].cpu(),
        )
        positions[:, row, :length] = places[:, 0]
        positions[:, row, length:] += shift.item()
    return fields | {"position_ids": positions}


def log_probabilities(model: Any, packed: Packed, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(tokens,) log-probability and entropy (nats, without gradient) of every completion token, in the order given."""
    device = model.device
    body = model.get_base_model() if hasattr(model, "get_base_model") else model
    read = _with_pictures(body, packed) if packed.pictures else {"position_ids": packed.positions}
    hidden = body.model(
        input_ids=packed.ids.to(device),
        attention_mask=packed.mask.to(device),
        use_cache=False,
        **{name: tensor.to(device) for name, tensor in read.items()},
    ).last_hidden_state
    row, place = packed.sources.to(device).unbind(-1)
    log_p = (body.lm_head(hidden[row, place]).float() / temperature).log_softmax(-1)
    with torch.no_grad():
        entropy = -(log_p.exp() * log_p).sum(-1)
    return log_p.gather(-1, packed.targets.to(device)[:, None])[:, 0], entropy
