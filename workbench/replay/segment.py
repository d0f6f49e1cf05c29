"""A segment of a decoder: some consecutive layers over the later positions of a prompt, to be run again and again.

What comes before the segment is computed once: the residual stream that enters it, and at each of its layers the
keys and values of the positions before its first, which no later position can change.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from workbench.models.anatomy import Anatomy
from workbench.tracing.residuals import LayerCall


class Segment:
    """Layers ``start`` to ``stop - 1`` of a model, from position ``cut`` on, with everything else held fixed."""

    def __init__(
        self, anatomy: Anatomy, calls: Sequence[LayerCall], start: int, stop: int, first: int
    ) -> None:
        """``calls``: how a prefill called the model's first layers. ``first``: no position before it will change."""
        self.layers, self.start = anatomy.layers[start:stop], start
        name = _cache_argument(anatomy.layers[start])
        inside = calls[start:stop]
        self.cut = first if name and all(_can_cut(call, anatomy) for call in inside) else 0
        # One mask for all layers: each would be (positions from the cut, positions).
        causal = cache(partial(_causal, self.cut))
        self.arguments = [_from(call.arguments, self.cut, causal) for call in inside]
        if name and self.cut:
            prefix = _Prefix()
            for layer, call, arguments in zip(self.layers, inside, self.arguments, strict=True):
                with torch.no_grad():
                    layer(call.hidden[:, : self.cut], **_upto(call.arguments, self.cut) | {name: prefix})
                arguments[name] = prefix
            prefix.recording = False
        self.entry = calls[start].hidden[:, self.cut :]
        # Qwen3-VL adds vision features between its first layers; whatever stands between two layers is a constant.
        gaps = [
            after.hidden.to(before.output.device) - before.output
            for before, after in zip(calls[start:], calls[start + 1 :], strict=False)
        ]
        self.gaps = [gap[:, self.cut :] if gap.any() else None for gap in gaps]

    def run(self, hidden: Tensor) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """(layer, what it receives, what it returns), layer by layer; last (stop, what it would receive, None)."""
        for step, layer in enumerate(self.layers):
            output = layer(hidden, **self.arguments[step])
            yield self.start + step, hidden, output
            gap = self.gaps[step] if step < len(self.gaps) else None
            hidden = output if gap is None else output + gap
        yield self.start + len(self.layers), hidden, None


class _Prefix:
    """Keys and values of the positions before the segment, in the form of a transformers cache.

    `update` joins them with the new ones and keeps nothing, so the same prefix serves every run.
    """

    def __init__(self) -> None:
        self.stored: dict[int, tuple[Tensor, Tensor]] = {}
        self.recording = True

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called by each attention; keys and values are (batch, heads, positions, width)."""
        if self.recording:
            self.stored[layer] = keys, values
            return keys, values
        old_keys, old_values = self.stored[layer]
        return torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)


def _cache_argument(layer: torch.nn.Module) -> str | None:
    """What a decoder layer calls its key-value cache: releases of transformers differ."""
    parameters = inspect.signature(layer.forward).parameters
    return next((name for name in ("cache", "past_key_values", "past_key_value") if name in parameters), None)


def _can_cut(call: LayerCall, anatomy: Anatomy) -> bool:
    """Whether the mask can be cut to later rows: an explicit one, or the causal one that sdpa implies by None."""
    mask = call.arguments.get("attention_mask")
    if mask is None:
        text: Any = anatomy.model.config.get_text_config(decoder=True)
        return text._attn_implementation == "sdpa"
    return isinstance(mask, Tensor) and mask.ndim == 4


def _upto(arguments: Mapping[str, Any], cut: int) -> dict[str, Any]:
    """A layer's arguments for the first `cut` positions."""
    return _sliced(arguments, slice(None, cut), slice(None, cut))


def _from(
    arguments: Mapping[str, Any], cut: int, causal: Callable[[int, torch.device], Tensor]
) -> dict[str, Any]:
    """A layer's arguments for the positions from `cut` on, which see all before them too."""
    inputs = _sliced(arguments, slice(cut, None), slice(None))
    if cut and inputs.get("attention_mask") is None:
        cosines = inputs["position_embeddings"][0]
        inputs["attention_mask"] = causal(cosines.shape[-2], cosines.device)
    return inputs


def _causal(cut: int, rows: int, device: torch.device) -> Tensor:
    """What `rows` positions after the first `cut` may see: (1, 1, rows, cut + rows)."""
    return torch.ones(1, 1, rows, cut + rows, dtype=torch.bool, device=device).tril_(cut)


def _sliced(arguments: Mapping[str, Any], rows: slice, columns: slice) -> dict[str, Any]:
    def part(name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(part(name, member) for member in value)
        if not isinstance(value, Tensor):
            return value
        if name.startswith("position_embeddings"):
            return value[..., rows, :]
        if name == "attention_mask":
            return value[..., rows, columns] if value.ndim == 4 else value
        return value[..., rows] if name in ("position_ids", "cache_position") else value

    return {name: part(name, value) for name, value in arguments.items()}
