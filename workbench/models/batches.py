"""Prompts in batches: padded inputs, where their visual tokens stand, and a seed for each problem."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.models.prompts import PER_POSITION, EncodedPrompt, TokenKind


def problem_seed(seed: int, problem_id: str) -> int:
    """The seed of one problem's random stream: the same in every process, unlike ``hash``."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{problem_id}".encode()).digest()[:7], "big")


def collate(prompts: Sequence[EncodedPrompt], pad_id: int) -> dict[str, Tensor]:
    """One batch: positions padded on the left, visual tensors joined along their first dimension.

    Families that pad the pictures of one image (LLaVA-OneVision) or of one prompt (Idefics3, SmolVLM) to the
    largest count have zeros there, which their models drop.

    Raises:
        InputError: no prompts, or prompts that do not go into one batch; `batches` only makes groups that do.
    """
    if not prompts:
        raise InputError("`prompts` is empty; give at least one, as in `collate([prompt], pad_id)`")
    if len({_signature(prompt) for prompt in prompts}) > 1:
        raise InputError(
            "`prompts` do not go into one batch, their inputs are "
            f"{sorted({str(_signature(p)) for p in prompts})}; let `batches(prompts, size)` group them"
        )
    longest = max(len(prompt) for prompt in prompts)
    joined: dict[str, Tensor] = {}
    for name in prompts[0].model_inputs:
        parts = [prompt.model_inputs[name] for prompt in prompts]
        if name in PER_POSITION:
            fill = pad_id if name == "input_ids" else 0
            parts = [torch.nn.functional.pad(p, (longest - p.shape[1], 0), value=fill) for p in parts]
        elif name in ("pixel_values", "pixel_attention_mask") and _has_picture_axis(name, parts[0]):
            most = max(part.shape[1] for part in parts)
            parts = [_pad_second(part, most) for part in parts]
        joined[name] = torch.cat(parts)
    return joined


Item = TypeVar("Item")


def batches(prompts: Iterable[EncodedPrompt], size: int) -> Iterator[list[EncodedPrompt]]:
    """Consecutive prompts in groups of at most ``size`` that `collate` can join; keeps the order.

    Raises:
        InputError: ``size`` is below 1.
    """
    return batches_by(prompts, size, lambda prompt: prompt)


def batches_by(
    items: Iterable[Item], size: int, prompt_of: Callable[[Item], EncodedPrompt]
) -> Iterator[list[Item]]:
    """`batches` of what stands for a prompt each.

    Raises:
        InputError: ``size`` is below 1.
    """
    if size < 1:
        raise InputError(f"`size` is {size}, expected at least 1: `batches(prompts, 8)`")
    group: list[Item] = []
    for item in items:
        if group and (len(group) == size or _signature(prompt_of(item)) != _signature(prompt_of(group[0]))):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def by_length(prompts: Sequence[EncodedPrompt]) -> list[int]:
    """Numbers of the prompts in an order in which `batches` of them pad little: those that go together, shortest first."""
    kinds = [_signature(prompt) for prompt in prompts]
    first = {kind: place for place, kind in reversed([*enumerate(kinds)])}
    return sorted(range(len(prompts)), key=lambda i: (first[kinds[i]], len(prompts[i])))


def _signature(prompt: EncodedPrompt) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and the shapes that have to agree for prompts to be joined."""
    free = {name: 2 if _has_picture_axis(name, value) else 1 for name, value in prompt.model_inputs.items()}
    return tuple(
        (name, () if name in PER_POSITION else tuple(value.shape[free[name] :]))
        for name, value in sorted(prompt.model_inputs.items())
    )


def _has_picture_axis(name: str, value: Tensor) -> bool:
    return (name == "pixel_values" and value.ndim == 5) or (
        name == "pixel_attention_mask" and value.ndim == 4
    )


def _pad_second(part: Tensor, count: int) -> Tensor:
    missing = torch.zeros(len(part), count - part.shape[1], *part.shape[2:], dtype=part.dtype)
    return torch.cat([part, missing], dim=1)


@dataclass(frozen=True, eq=False)
class Cells:
    """Some positions of a left-padded batch of prompts, n in all, one prompt after another: of visual tokens, or others."""

    prompt: Int[Tensor, " n"]
    position: Int[Tensor, " n"]
    image: Int[Tensor, " n"]
    """Which of its prompt's images; -1: none."""
    counts: list[int]
    """Positions per prompt."""

    @classmethod
    def of(
        cls,
        prompts: Sequence[EncodedPrompt],
        device: torch.device,
        places: Sequence[Bool[Tensor, " positions"]] | None = None,
    ) -> "Cells":
        """Those of `prompts`, collated in this order, at each one's ``places``; None: its visual tokens."""
        longest = max(len(prompt) for prompt in prompts)
        parts = []
        if places is None:
            places = [prompt.kinds == TokenKind.VISUAL for prompt in prompts]
        for number, (prompt, place) in enumerate(zip(prompts, places, strict=True)):
            index = place.nonzero()[:, 0]
            image = prompt.image_index[index].long()
            parts.append((torch.full_like(index, number), index + longest - len(prompt), image))
        prompt_of, position, image = (torch.cat(part).to(device) for part in zip(*parts, strict=True))
        return cls(prompt_of, position, image, [len(part[0]) for part in parts])

    def take(self, hidden: Float[Tensor, "batch positions hidden"]) -> Float[Tensor, "n hidden"]:
        """The residual stream at the cells."""
        return hidden[self.prompt.to(hidden.device), self.position.to(hidden.device)]


def seen(prompt: EncodedPrompt, places: Bool[Tensor, " positions"] | None = None) -> EncodedPrompt:
    """The prompt up to its last visual token, or the last of ``places``: no earlier position sees what comes after."""
    where = prompt.kinds == TokenKind.VISUAL
    where = where if places is None else where | places
    return prompt.prefix(int(where.nonzero()[-1]) + 1)
