"""Entropy strata: which cells of a layer are confident and which are not.

1. A cell is one (layer, position); its entropy is the base model's logit-lens entropy, in nats.
2. ``quantile_strata`` cuts the cells of a layer into equally full strata.
3. ``fraction_strata`` cuts at fractions of the layer's largest entropy within a prompt. With the one fraction
   tau, stratum 0 is the low-entropy mask ``e <= tau * max(e)`` of Activation Replay (arXiv 2511.19972 and its
   released code; the maximum is taken over the positions of one prompt).
4. ``mask`` makes what a `Selection` takes of them, ``select_cells`` the same from keywords: what an intervention acts on.

In both strata, stratum 0 is the lowest, a cell that lies on an edge belongs to the stratum below it, and cells with
equal entropy (and equal maximum) share a stratum: the order of positions never decides where a cell goes.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from numbers import Integral

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.selection import Select, Selection, Threshold


def quantile_strata(entropy: Float[Tensor, "*layers cells"], bins: int) -> Int[Tensor, "*layers cells"]:
    """Stratum of every cell by quantile of entropy, separately for each leading index.

    The edges are order statistics: without ties, stratum sizes differ by at most one. Ties make them uneven,
    and constant entropy puts every cell into stratum 0.

    Args:
        entropy: finite entropies in nats; the last axis is cut into strata.
        bins: number of strata, from 2 up to the number of cells.

    Returns:
        int64 strata 0 (lowest) to ``bins - 1``.

    Raises:
        InputError: fewer than 2 strata, fewer cells than strata, or entropies that are not finite.
    """
    cells = entropy.shape[-1]
    check_bins(bins)
    if bins > cells:
        raise InputError(
            f"`bins` asks for {bins} strata, but there are only {cells} cells to divide; "
            f"use more prompts or fewer strata, e.g. quantile_strata(entropy, bins={max(2, min(cells, 5))})."
        )
    _check_finite(entropy)
    last_of_stratum = [-(-b * cells // bins) - 1 for b in range(1, bins)]  # ceil(b * cells / bins) - 1
    edges = entropy.sort(dim=-1).values[..., last_of_stratum]
    return torch.searchsorted(edges.contiguous(), entropy.contiguous())  # edges strictly below each cell


def fraction_strata(
    entropy: Float[Tensor, "*layers cells"],
    fractions: Sequence[float],
    groups: Int[Tensor, " cells"] | None = None,
) -> Int[Tensor, "*layers cells"]:
    """Stratum of every cell by fraction of the largest entropy in its layer and group (prompt).

    Args:
        entropy: finite, non-negative entropies in nats.
        fractions: inner edges, increasing, inside (0, 1): ``(0.4,)`` gives the paper's low mask as stratum 0,
            ``(0.2, 0.4, 0.6, 0.8)`` five strata of equal width. Strata can be empty.
        groups: for each cell, which prompt it belongs to; None: all cells are of one prompt.

    Returns:
        int64 strata 0 (lowest) to ``len(fractions)``.

    Raises:
        InputError: fractions that do not increase or leave (0, 1), or entropies that are not finite.
    """
    inner = list(fractions)
    if not inner or inner[0] <= 0 or inner[-1] >= 1 or any(a >= b for a, b in pairwise(inner)):
        raise InputError(
            f"`fractions` must increase inside (0, 1), found {tuple(fractions)}; "
            "for example fraction_strata(entropy, (0.2, 0.4, 0.6, 0.8))."
        )
    _check_finite(entropy)
    if groups is None:
        groups = torch.zeros(entropy.shape[-1], dtype=torch.int64, device=entropy.device)
    index = groups.to(torch.int64).expand(entropy.shape)
    number = int(groups.max()) + 1 if groups.numel() else 0
    largest = entropy.new_zeros((*entropy.shape[:-1], number))
    largest = largest.scatter_reduce(-1, index, entropy, reduce="amax", include_self=False).gather(-1, index)
    strata = torch.zeros_like(entropy, dtype=torch.int64)
    for fraction in inner:
        strata += entropy > fraction * largest
    return strata


def check_bins(bins: int) -> None:
    """Raise InputError unless ``bins`` is a whole number of at least 2."""
    if isinstance(bins, bool) or not isinstance(bins, Integral) or bins < 2:
        raise InputError(f"`bins` must be a whole number of at least 2, found {bins!r}; for example bins=5.")


def _check_finite(entropy: Tensor) -> None:
    wrong = int((~torch.isfinite(entropy)).sum())
    if wrong:
        raise InputError(
            f"`entropy` must be finite, found {wrong} of {entropy.numel()} cells that are NaN or infinite; "
            "trace again in float32, or leave out the prompts that hold them."
        )


def select_cells(
    entropy: Float[Tensor, "layers cells"],
    *,
    select: Select = "low",
    threshold: Threshold = "max_fraction",
    tau: float = 0.4,
    levels: Sequence[float] | None = None,
    candidates: Bool[Tensor, " cells"] | None = None,
    groups: Int[Tensor, " cells"] | None = None,
    below: Float[Tensor, "layers cells"] | None = None,
    seed: int = 0,
) -> Bool[Tensor, "layers cells"]:
    """Which cells an intervention acts on, per layer: the masks M of Activation Replay and of its ablations.

    1. The low cells of a layer, by ``threshold``: ``max_fraction``, ``e <= tau * max(e)`` (the paper's dynamic
       mask); ``quantile``, the ``tau`` part of the cells that is lowest; ``fixed``, ``e < levels[layer]`` (the
       released cross-model patch). Maximum and quantile are taken over the candidates of one group.
    2. Where ``below`` is given, only those whose entropy is less than it.
    3. ``select``: ``low`` takes these; ``high`` all other candidates; ``random`` as many of the group's
       candidates, seeded; ``all`` every candidate.

    Args:
        entropy: the base model's entropies in nats.
        select: which of the candidates to take.
        threshold: what makes a cell low.
        tau: fraction of the largest entropy or of the cells, in [0, 1]; unused by ``fixed``.
        levels: for ``fixed``, one entropy in nats for each layer.
        candidates: the cells in question (the visual positions); None: all.
        groups: which image (or prompt) each cell belongs to; None: all to one.
        below: the other model's entropies, (layers, cells) in nats.
        seed: of ``random``.

    Raises:
        InputError: an unknown ``select`` or ``threshold``, tau outside [0, 1], or levels that do not fit.
    """
    selection = Selection(select, threshold, tau, None if levels is None else tuple(levels), seed=seed)
    return mask(entropy, selection, candidates=candidates, groups=groups, below=below)


def mask(
    entropy: Float[Tensor, "layers cells"],
    selection: Selection,
    *,
    candidates: Bool[Tensor, " cells"] | Bool[Tensor, "layers cells"] | None = None,
    groups: Int[Tensor, " cells"] | None = None,
    below: Float[Tensor, "layers cells"] | None = None,
) -> Bool[Tensor, "layers cells"]:
    """What a selection takes of the cells of some layers, as `select_cells` says it; ``selection.cells`` is not looked at.

    ``candidates`` may differ from layer to layer; each layer's ``random`` part is then drawn by itself.

    Raises:
        InputError: what `Selection.check` refuses, or entropies that are not finite.
    """
    selection.check(len(entropy))
    if candidates is not None and candidates.ndim == 2:
        rows = []
        for layer, chosen in enumerate(candidates):
            one, here = selection, slice(layer, layer + 1)
            if selection.levels is not None:
                one = replace(one, levels=selection.levels[here])
            other = None if below is None else below[here]
            one = replace(one, seed=selection.seed + layer)
            rows.append(mask(entropy[here], one, candidates=chosen, groups=groups, below=other))
        return torch.cat(rows)
    select, threshold, tau = selection.select, selection.threshold, selection.tau
    _check_finite(entropy)
    device, cells = entropy.device, entropy.shape[-1]
    if candidates is None:
        candidates = torch.ones(cells, dtype=torch.bool, device=device)
    if groups is None:
        groups = torch.zeros(cells, dtype=torch.int64, device=device)
    low = torch.zeros_like(entropy, dtype=torch.bool)
    members = [
        (candidates & (groups == group)).nonzero()[:, 0] for group in groups[candidates].unique().tolist()
    ]
    for index in members:
        low[:, index] = _low(entropy[:, index], threshold, tau, selection.levels)
    if below is not None:
        low &= entropy < below
    if select == "low":
        return low
    if select == "all":
        return candidates.expand_as(low).clone()
    if select == "high":
        return candidates & ~low
    drawn = torch.zeros_like(low)
    generator = torch.Generator().manual_seed(selection.seed)
    for index in members:
        order = torch.rand(len(entropy), len(index), generator=generator).argsort(1).argsort(1)
        drawn[:, index] = order.to(device) < low[:, index].sum(1, keepdim=True)
    return drawn


def _low(entropy: Tensor, threshold: Threshold, tau: float, levels: Sequence[float] | None) -> Tensor:
    if threshold == "max_fraction":
        return entropy <= tau * entropy.amax(1, keepdim=True)
    if threshold == "quantile":
        count = round(tau * entropy.shape[1])
        if count == 0:
            return torch.zeros_like(entropy, dtype=torch.bool)
        # Cells with equal entropy share a fate, as in quantile_strata.
        return entropy <= entropy.sort(1).values[:, count - 1 : count]
    return entropy < torch.tensor(levels, dtype=entropy.dtype, device=entropy.device)[:, None]
