"""`trace`: run the logit lens on every layer and position of prompts, in both models of a pair.

For every batch of prompts (left-padded; padded positions are dropped before anything is computed from them):

1. base pass: keep the residual stream after each layer, real positions only;
2. RLVR pass on the same inputs: inside the trace, as each layer's residual stream appears, compare the two
   through each model's own norm and unembedding (`lens.compare`), then drop the base's;
3. beside it the matched-noise null: the base's residual plus a random direction as long as the real change,
   drawn from a seed made of the given seed, the problem and the layer, so that neither the batch nor the
   order of the problems changes a draw.

Only numbers per (layer, position) leave the device; (layers, positions, vocabulary) never exists.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from workbench.backoff import piecewise
from workbench.errors import InputError
from workbench.lens.fused import LensStats, compare, matched_noise
from workbench.lens.heads import LensHead
from workbench.models.batches import batches, collate
from workbench.models.finite import naming
from workbench.models.pairs import ModelPair, batch_of
from workbench.models.prompts import EncodedPrompt
from workbench.problems.problem import Problem, listed
from workbench.tracing.edits import Intervention, batch_edits, one_each
from workbench.tracing.lens_trace import AXES, LensTrace, PromptInfo, occurring_ids
from workbench.tracing.model_heads import lens_heads
from workbench.tracing.residuals import Edit, read_residuals

__all__ = ["LensTrace", "PromptInfo", "compare_residuals", "lens_heads", "trace"]


def trace(
    pair: ModelPair,
    problems: Iterable[Problem | EncodedPrompt],
    *,
    top_k: int = 10,
    null_draws: int = 3,
    seed: int = 0,
    batch_size: int | None = None,
    layers: Sequence[int] | None = None,
    interventions: Sequence[Intervention | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LensTrace:
    """Trace both models of ``pair`` on ``problems``: entropy, KL and top predictions at every layer and position.

    1. The base runs, and its residual stream after every layer is kept.
    2. The RLVR model runs on the same inputs; layer by layer the two are compared, each through its own norm and unembedding.
    3. Beside it the matched-noise null: the base's residual plus a random direction as long as the real change.

    Args:
        pair: what `load_pair` returned.
        problems: problems, or prompts already encoded; at least one.
        top_k: how many top predictions to keep per cell.
        null_draws: random directions per cell for the matched-noise null; each costs half a comparison more.
        seed: of the null's directions.
        batch_size: prompts per forward; changes speed and memory, results only by rounding. None: what suits the pair.
        layers: decoder layers to trace, 0-based; all when None.
        interventions: one (or None) for each problem, in place in the RLVR model: learnt tokens or prepared patches.
        progress: called with (prompts done, prompts in all), at the start and after every batch.

    Returns:
        The trace: numbers per (layer, position), positions of all prompts behind each other, nats. `LensTrace.select` cuts out
        one prompt, `LensTrace.to_dataframe` gives a row a cell.

    Raises:
        InputError: no problems, bad arguments, an intervention made for another problem, or activations that are not finite.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> traced = wb.trace(pair, wb.load_problems("shapes", limit=2), top_k=3)
        >>> traced.kl.shape == (pair.depth, len(traced.position))
        True
        >>> bool((traced.kl >= 0).all())
        True
    """
    batch_size = batch_of(pair, batch_size)
    items = listed(problems, "trace(pair, load_problems('shapes', limit=8))", Problem, EncodedPrompt)
    settings = {"seed": seed, "top_k": top_k, "null_draws": null_draws, "batch_size": batch_size}
    _check(pair, settings)
    names = [item.problem_id if isinstance(item, EncodedPrompt) else item.id for item in items]
    entries = one_each(interventions, names)
    report = progress or (lambda done, total: None)
    report(0, len(items))
    heads = lens_heads(pair)
    infos, parts = list[PromptInfo](), list[dict[str, Tensor]]()
    encoded = (pair.encode(item) for item in items)

    def traced(batch: Sequence[EncodedPrompt], here: slice) -> dict[str, Tensor]:
        reduce = _cells(batch, heads, top_k, null_draws, seed)
        write = batch_edits(batch, entries[here])
        parts = list(compare_residuals(pair, batch, reduce, layers=layers, write=write).values())
        return {
            name: torch.stack([part[name] for part in parts], AXES[name][0].index("L")) for name in parts[0]
        }

    for batch, cells in piecewise(batches(encoded, batch_size), traced, model=pair.base, what="tracing"):
        parts.append(cells | _places(batch, len(infos)))
        for prompt in batch:
            infos.append(_info(items[len(infos)], prompt))
        report(len(infos), len(items))
    tensors = {
        name: torch.cat([part[name] for part in parts], axes.index("P")) for name, (axes, _) in AXES.items()
    }
    return LensTrace(
        **tensors,
        layers=tuple(sorted(set(layers))) if layers is not None else tuple(range(pair.base.depth)),
        depth=pair.base.depth,
        prompts=tuple(infos),
        vocabulary={i: pair.decode_token(i) for i in sorted(occurring_ids(tensors))},
        provenance=_provenance(pair, settings, None if interventions is None else entries),
    )


def _check(pair: ModelPair, settings: Mapping[str, int]) -> None:
    for name, least in (("top_k", 1), ("null_draws", 0), ("batch_size", 1)):
        if settings[name] < least:
            raise InputError(
                f"`{name}` is {settings[name]}, expected at least {least}: `trace(pair, problems, {name}={least})`"
            )
    if settings["top_k"] > pair.vocab_size:
        raise InputError(
            f"`top_k` is {settings['top_k']}, but the vocabulary of {pair.name!r} has {pair.vocab_size} tokens"
        )


def _provenance(
    pair: ModelPair, settings: Mapping[str, int], interventions: Sequence[Intervention | None] | None
) -> dict[str, Any]:
    """What a trace depends on; of interventions, their kinds."""
    kinds = sorted({type(one).__name__ for one in interventions or () if one is not None})
    return {
        **pair.provenance,
        "pair": pair.name,
        "libraries": {**pair.provenance.get("libraries", {}), "nnsight": version("nnsight")},
        **settings,
        **({} if interventions is None else {"interventions": kinds}),
    }


def compare_residuals(
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    reduce: Callable[[int, Tensor, Tensor], Any],
    *,
    layers: Sequence[int] | None = None,
    write: Mapping[int, Edit] | None = None,
) -> dict[int, Any]:
    """Run both models on one batch; ``reduce(layer, h_base, h_rlvr)`` runs inside the RLVR model's forward.

    ``write`` changes what the RLVR model's layers receive.

    It sees residuals (N, hidden) of the N real positions, one prompt after another, on the device
    of the RLVR model's unembedding. Returns layer -> what ``reduce`` returned.
    """
    inputs = collate(prompts, pair.pad_id)
    real, device = inputs["attention_mask"].bool(), pair.rlvr.unembedding.weight.device

    def keep(layer: int, hidden: Tensor) -> Tensor:
        return hidden[real.to(hidden.device)].to(device)

    def meet(layer: int, hidden: Tensor) -> Any:
        return reduce(layer, base.pop(layer), keep(layer, hidden))

    with naming([prompt.problem_id for prompt in prompts]):
        base = read_residuals(pair.base, inputs, layers=layers, reduce=keep)
        return read_residuals(pair.rlvr, inputs, layers=layers, reduce=meet, write=write)


def _cells(
    batch: Sequence[EncodedPrompt], heads: tuple[LensHead, LensHead], top_k: int, null_draws: int, seed: int
) -> Callable[[int, Tensor, Tensor], dict[str, Tensor]]:
    """What `compare_residuals` does with one layer of a batch: every measure at every position."""
    lengths = [len(prompt) for prompt in batch]

    def reduce(layer: int, h_base: Tensor, h_rlvr: Tensor) -> dict[str, Tensor]:
        by_prompt = zip(batch, h_base.split(lengths), h_rlvr.split(lengths), strict=True)
        null = [
            matched_noise(base, rlvr, draws=null_draws, seed=_noise_seed(seed, prompt.problem_id, layer))
            for prompt, base, rlvr in by_prompt
            if null_draws
        ]
        stats = compare(h_base, h_rlvr, *heads, top_k=top_k, null=torch.cat(null, 1) if null else None)
        measures = _measures(stats, h_base, h_rlvr)
        return {name: value.to("cpu", AXES[name][1]) for name, value in measures.items()}

    return reduce


def _places(batch: Sequence[EncodedPrompt], first: int) -> dict[str, Tensor]:
    """What each position is, the prompts being numbered from ``first``."""
    places = {
        "prompt": torch.cat([torch.full((len(prompt),), first + i) for i, prompt in enumerate(batch)]),
        "position": torch.cat([torch.arange(len(prompt)) for prompt in batch]),
        "kind": torch.cat([prompt.kinds for prompt in batch]),
        "token_id": torch.cat([prompt.input_ids for prompt in batch]),
        "visual_index": torch.cat([prompt.visual_index for prompt in batch]),
        "grid": torch.cat([prompt.grid for prompt in batch]),
    }
    return {name: value.to(torch.int32) for name, value in places.items()}


def _measures(stats: LensStats, h_base: Tensor, h_rlvr: Tensor) -> dict[str, Tensor]:
    base, rlvr = h_base.float(), h_rlvr.float()
    return {
        "entropy_base": stats.entropy_base,
        "entropy_rlvr": stats.entropy_rlvr,
        "kl": stats.kl,
        "kl_null": stats.kl.new_zeros(0, len(stats.kl)) if stats.kl_null is None else stats.kl_null,
        "cosine": torch.cosine_similarity(base, rlvr, dim=-1),
        "shift_norm": (rlvr - base).norm(dim=-1),
        "base_norm": base.norm(dim=-1),
        "top_ids_base": stats.top_ids_base,
        "top_ids_rlvr": stats.top_ids_rlvr,
        "top_probs_base": stats.top_probs_base,
        "top_probs_rlvr": stats.top_probs_rlvr,
        "topk_overlap": stats.topk_overlap,
        "top1_agreement": stats.top1_agreement,
    }


def _noise_seed(seed: int, problem_id: str, layer: int) -> int:
    return int.from_bytes(blake2b(f"{seed}/{layer}/{problem_id}".encode(), digest_size=7).digest())


def _info(item: Problem | EncodedPrompt, prompt: EncodedPrompt) -> PromptInfo:
    texts = {"question": item.question, "answer": item.answer} if isinstance(item, Problem) else {}
    return PromptInfo(
        prompt.problem_id,
        **texts,
        tokens=prompt.tokens,
        grids=prompt.grids,
        images=prompt.images,
        frames=prompt.frames,
    )
