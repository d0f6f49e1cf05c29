"""Null models: the base plus a random update as large as that of RLVR.

1. The update is RLVR minus base, tensor by tensor. ``permuted``: its entries in random order; ``gaussian``: noise of its
   norm.
2. Null model = base + random update. Tied weights stay tied, tensors that RLVR left alone stay as they are, buffers are
   the base's.
"""

from copy import deepcopy
from dataclasses import replace
from math import inf
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from workbench.errors import InputError
from workbench.lens.precision import double
from workbench.models.anatomy import dissect
from workbench.models.batches import problem_seed
from workbench.models.pairs import ModelPair

NullKind = Literal["permuted", "gaussian"]
NULLS: tuple[str, ...] = get_args(NullKind)


def null_pair(
    pair: ModelPair, kind: NullKind = "permuted", seed: int = 0, *, scale: float = 1.0
) -> ModelPair:
    """The pair with a null model in place of the RLVR model: the base plus a random update as large as RLVR's.

    ``permuted``: the entries of RLVR's update in random order, tensor by tensor; ``gaussian``: noise of each tensor's norm.

    The base is shared, the given pair untouched. ``scale`` multiplies the random update. Weights are summed in at least
    float32 and rounded to the model's dtype; ``provenance["null"]["size"]`` is the norm of the null's update over that of
    the RLVR model's: ``scale``, but for this rounding.

    Raises:
        InputError: an unknown kind, a scale that is not above 0, or two models with equal weights.
    """
    if kind not in NULLS:
        raise InputError(
            f"`kind` is {kind!r}; expected {' or '.join(map(repr, NULLS))}: null_pair(pair, 'permuted')"
        )
    check_scale(scale)
    check_update(pair)
    start, model = named_weights(pair.base.model), deepcopy(pair.rlvr.model)
    squares = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for name, weight in model.named_parameters():  # names a tied weight once
            if weight.is_floating_point() and name in start:
                generator = torch.Generator().manual_seed(problem_seed(seed, f"{kind}/{name}"))
                squares += _randomise(weight.data, start[name], kind, scale, generator)
        for name, buffer in model.named_buffers():
            if name in start and start[name].shape == buffer.shape:
                buffer.copy_(start[name])
    null = {"kind": kind, "seed": seed, "scale": scale, "size": float((squares[0] / squares[1]).sqrt())}
    name = f"{pair.name}, {kind} null {seed}"
    provenance = {**pair.provenance, "pair": name, "null": null}
    return replace(pair, name=name, rlvr=dissect(model), provenance=provenance)


def check_scale(scale: float) -> None:
    """Raise InputError unless a random update can be scaled so."""
    if not 0 < scale < inf:
        raise InputError(
            f"`scale` is {scale}; expected a number above 0: null_pair(pair, 'permuted', scale=1.0)"
        )


def check_update(pair: ModelPair) -> None:
    """Raise InputError if the two models have the same weights."""
    start = named_weights(pair.base.model)
    for name, weight in named_weights(pair.rlvr.model).items():
        if name not in start or not torch.equal(weight, start[name].to(weight.device)):
            return
    raise InputError(
        f"`pair` {pair.name!r} has zero shift: its two models have equal weights, so there is no update to randomise; "
        "load the model after RLVR, as in load_pair(base=..., rlvr=...)"
    )


def same_base(pair: ModelPair, other: ModelPair) -> bool:
    """Whether two pairs have one base, or two with equal weights."""
    if other.base is pair.base:
        return True
    mine, theirs = named_weights(pair.base.model), named_weights(other.base.model)
    return theirs.keys() == mine.keys() and all(
        tensor.shape == mine[key].shape and torch.equal(tensor, mine[key].to(tensor.device))
        for key, tensor in theirs.items()
    )


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, a tied one under each of its names."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach() for name, tensor in named}


def _randomise(weight: Tensor, start: Tensor, kind: str, scale: float, generator: torch.Generator) -> Tensor:
    """Make ``weight`` the start plus a randomised update; (squared norm of its change, of the update)."""
    # Vocabularies can be padded differently: rows that only one model has are left alone.
    shared = tuple(slice(min(sizes)) for sizes in zip(weight.shape, start.shape, strict=True))
    weight, start = weight[shared], start[shared].to(weight.device)
    wide = torch.promote_types(weight.dtype, torch.float32)
    update = weight.to(wide) - start.to(wide)
    if kind == "permuted":
        order = torch.randperm(update.numel(), generator=generator)
        random = update.flatten()[order.to(update.device)].view_as(update)
    else:
        random = torch.randn(update.shape, generator=generator, dtype=wide).to(update.device)
        random *= update.norm() / random.norm()
    if update.any():  # else not even rounding moves it
        weight.copy_(start.to(wide) + scale * random)
    change = weight.to(wide) - start.to(wide)
    return torch.stack([double(change).square().sum(), double(update).square().sum()]).cpu()
