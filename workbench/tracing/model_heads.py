"""A model's lens head: its own final norm and unembedding."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workbench.lens.heads import LensHead
from workbench.lens.processor import bfloat16_unit
from workbench.models.anatomy import Anatomy
from workbench.models.pairs import ModelPair


def lens_heads(pair: ModelPair) -> tuple[LensHead, LensHead]:
    """Norm and unembedding of base and RLVR model, both on the device of the RLVR model's unembedding.

    Rows that only one model has (padding of its vocabulary) are left out. Of models that have one unembedding, and whose preset
    allows products in bfloat16 (``matmul: medium``), differences are multiplied in it where the CPU has a unit for that.
    """
    device = pair.rlvr.unembedding.weight.device
    base, rlvr = (lens_head(anatomy, pair.vocab_size, device) for anatomy in (pair.base, pair.rlvr))
    allowed = pair.preset is not None and pair.preset.matmul == "medium"
    if allowed and device.type == "cpu" and bfloat16_unit() and torch.equal(base.weight, rlvr.weight):
        one = {"weight": base.weight, "changes": torch.bfloat16}
        return replace(base, **one), replace(rlvr, **one)
    return base, rlvr


def lens_head(anatomy: Anatomy, vocabulary: int, device: torch.device | None = None) -> LensHead:
    """Norm and the first `vocabulary` rows of the unembedding, on `device` (None: where they are)."""
    weight, bias = anatomy.unembedding.weight, anatomy.unembedding.bias
    device = weight.device if device is None else device
    return LensHead(
        norm=_norm_on(anatomy, device),
        weight=weight.detach()[:vocabulary].to(device),
        bias=None if bias is None else bias.detach()[:vocabulary].to(device),
        softcap=anatomy.softcap,
        multiplier=anatomy.logit_multiplier,
    )


def _norm_on(anatomy: Anatomy, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The final norm of what is on a device, computed where the model keeps it: a copy would be moved back by its hooks."""
    norm: Any = anatomy.norm
    home = norm.weight.device
    return norm if home == device else lambda hidden: norm(hidden.to(home)).to(device)
