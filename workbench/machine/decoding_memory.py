"""What decoding needs beside the weights: keys and values of every sample, a step's forward, and next-token distributions.

The decoder itself is run on the meta device with its own cache, so that layers with a window keep what they keep. Two models that
decode together, or a patch while decoding, have two caches; a step of one of them runs at a time.
"""

from collections.abc import Mapping

import torch
from transformers import DynamicCache

from workbench.errors import InputError
from workbench.machine.meter import metered
from workbench.models.anatomy import Anatomy
from workbench.models.prefix_cache import cache_name

ALONE, BOTH = 20, 32
"""Bytes at a time for each row and token of the vocabulary: logits in float32 and a draw in float64; and two models compared."""


def decoding_rows(
    models: Mapping[str, Anatomy], weights: Mapping[str, int], given: int, prompt: int, samples: int, new: int
) -> list[tuple[str, str, int]]:
    """Rows (job, part, bytes) of one model that decodes, and of both together, at the end of responses as long as can be.

    Args:
        models: on the meta device, by role.
        weights: bytes, by role.
        given: bytes of the prompt as it is given.
        prompt: its positions.
        samples: drawn at once, all from one prefill.
        new: tokens of each.

    Raises:
        InputError: a number below 1.
    """
    for name, value in (("samples", samples), ("max_new_tokens", new)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(
                f"`{name}` is {value!r}; expected a whole number of at least 1: predict_memory(base, rlvr, {name}=16)"
            )
    caches = {role: _step(anatomy, prompt + new, samples) for role, anatomy in models.items()}
    names = {"base": "base", "rlvr": "RLVR"}
    rows: list[tuple[str, str, int]] = []
    for job, roles, each in (("decoding", ("rlvr",), ALONE), ("decoding together", ("base", "rlvr"), BOTH)):
        rows += [(job, f"weights, {names[role]}", weights[role]) for role in ("base", "rlvr")]
        rows += [(job, f"keys and values, {names[role]}", caches[role][0]) for role in roles]
        entries = samples * models["rlvr"].vocab_size
        step = max(caches[role][1] for role in roles) + 4 * entries * len(roles)
        rows.append(
            (job, "a step's forward", step)
            if step > each * entries
            else (job, "next-token distributions", each * entries)
        )
        rows.append((job, "pixels and ids", given))
    return rows


@torch.no_grad()
def _step(anatomy: Anatomy, positions: int, samples: int) -> tuple[int, int]:
    """Bytes of keys and values of so many samples before their last step, and what that step needs beside them."""
    name, meta = str(cache_name(anatomy)), torch.device("meta")
    with metered() as meter:
        cache = DynamicCache(config=anatomy.model.config)
        whole = torch.empty(1, positions - 1, anatomy.hidden_size, dtype=anatomy.dtype, device=meta)
        anatomy.decoder(inputs_embeds=whole, use_cache=True, **{name: cache})
        del whole
        cache.batch_repeat_interleave(samples)
        kept = meter.peak = meter.live
        token = torch.empty(samples, 1, anatomy.hidden_size, dtype=anatomy.dtype, device=meta)
        mask = torch.ones(samples, positions, dtype=torch.int64, device=meta)
        anatomy.decoder(inputs_embeds=token, attention_mask=mask, use_cache=True, **{name: cache})
        return kept, meter.peak - kept
