"""`trace`: run the logit lens on every layer and position of prompts, in both models of a pair.

For every batch of prompts (left-padded; padded positions are dropped before anything is computed from them):

1. base pass: keep the residual stream after each layer, real positions only;
2. RLVR pass on the same inputs: inside the trace, as each layer's residual stream appears, compare the two
   through each model's own norm and unembedding (`lens.compare`), then drop the base's;
3. beside it a null (`tracing.nulls`): the base's residual plus a direction as long as the real change, by default
   a random one, drawn from a seed made of the given seed, the problem and the layer, so that neither the batch
   nor the order of the problems changes a draw, nor a response those of its prompt.

Only numbers per (layer, position) leave the device; (layers, positions, vocabulary) never exists.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from workbench.backoff import piecewise
from workbench.errors import InputError
from workbench.lens.fused import LensStats, compare
from workbench.models.batches import batches_by
from workbench.models.pairs import ModelPair, batch_of
from workbench.models.prompts import EncodedPrompt
from workbench.names import NULLS
from workbench.problems.problem import Problem, listed
from workbench.tracing.both_models import Measure, Stretch, Values, compare_residuals, over_conversations
from workbench.tracing.conversations import Conversation, Responses, conversations
from workbench.tracing.edits import Intervention, one_each
from workbench.tracing.lens_trace import AXES, LensTrace, PromptInfo, occurring_ids
from workbench.tracing.model_heads import lens_heads
from workbench.tracing.nulls import Changes, FromChanges, Noise, Null, Together, collect_changes
from workbench.tracing.readings import LogitLens, Reading, chosen

__all__ = ["LensTrace", "PromptInfo", "compare_residuals", "lens_heads", "trace"]


def trace(
    pair: ModelPair,
    problems: Iterable[Problem | EncodedPrompt],
    *,
    top_k: int = 10,
    null_draws: int = 3,
    null: str | Sequence[str] = "noise",
    seed: int = 0,
    batch_size: int | None = None,
    layers: Sequence[int] | None = None,
    responses: Responses | None = None,
    interventions: Sequence[Intervention | None] | None = None,
    reading: Reading | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LensTrace:
    """Trace both models of ``pair`` on ``problems``: entropy, KL and top predictions at every layer and position.

    1. The base runs, and its residual stream after every layer is kept.
    2. The RLVR model runs on the same inputs; layer by layer the two are compared, each through its own norm and unembedding.
    3. Beside it the null: the base's residual plus another direction as long as the real change.

    Args:
        pair: what `load_pair` returned.
        problems: problems, or prompts already encoded; at least one.
        top_k: how many top predictions to keep per cell.
        null_draws: directions per cell for the null; each costs half a comparison more.
        null: which directions (`tracing.nulls` says which question each answers): ``noise``: random ones; ``exchanged``: other
            cells' changes, of another problem; ``covariance``: noise with the covariance of the changes. The last two run both
            models once more, to collect changes. Of several, each has its draws, and `against` cuts out one.
        seed: of the null's directions.
        batch_size: prompts per forward; changes speed and memory, results only by rounding. None: what suits the pair.
        layers: decoder layers to trace, 0-based; all when None.
        responses: what was answered, by either model (`decode`'s responses) or as text, by problem id one or several: each
            is read by both models after its prompt, which runs once for all of them; a prompt of the trace for each.
        interventions: one (or None) for each problem, in place in the RLVR model: learnt tokens or prepared patches.
        reading: through what the models' heads look at the residual stream, such as a `TunedLens`; None: the logit lens. Noise
            is added to the residual stream, and read as the RLVR model's is.
        progress: called with (prompts done, prompts in all), at the start and after every batch.

    Returns:
        The trace: numbers per (layer, position), positions of all prompts behind each other, nats. `LensTrace.select` cuts out
        one prompt, `LensTrace.to_dataframe` gives a row a cell.

    Raises:
        InputError: no problems, bad arguments, an intervention made for another problem, activations that are not finite, or
            responses to other problems, empty, with placeholders, of another tokenizer or longer than the context; a reading
            without a distribution, or of another model.

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
    more: dict[str, Any] = {} if responses is None else {"responses": True}
    nulls = _null_names(null)
    more |= {} if null == "noise" else {"against": null if isinstance(null, str) else nulls}
    _check(pair, settings)
    for name in nulls or [""]:
        check_null(name, null_draws, len(items))
    read_by = chosen(reading, pair)
    if read_by != LogitLens():
        more["reading"] = read_by.described
    names = [item.problem_id if isinstance(item, EncodedPrompt) else item.id for item in items]
    entries = one_each(interventions, names)
    report = progress or (lambda done, total: None)
    report(0, len(items))
    groups = batches_by(conversations(pair, items, responses), batch_size, lambda group: group[0].prompt)
    how: dict[str, Any] = {"axis": _position_axis, "layers": layers, "rows": batch_size}
    kept = {"made": entries, "seed": seed, "batch_size": batch_size, "layers": layers}
    collect = partial(collect_changes, pair, problems=len(items), **kept)
    drawn = _nulls(nulls, null_draws, seed, lambda: collect(conversations(pair, items, responses)))
    traced = partial(_traced, pair, _measure(pair, read_by, top_k, drawn), entries, how)
    infos, parts, done = list[PromptInfo](), list[dict[str, Tensor]](), 0
    for batch, cells in piecewise(groups, traced, model=pair.base, what="tracing"):
        both = [(item, one) for item, group in zip(items[done:], batch, strict=False) for one in group]
        for (item, one), measured in zip(both, cells, strict=True):
            parts.append(measured | _places(one.whole, len(infos)))
            infos.append(_info(item, one))
        done += len(batch)
        report(done, len(items))
    tensors = {
        name: torch.cat([part[name] for part in parts], axes.index("P")) for name, (axes, _) in AXES.items()
    }
    return LensTrace(
        **tensors,
        layers=tuple(sorted(set(layers))) if layers is not None else tuple(range(pair.base.depth)),
        depth=pair.base.depth,
        prompts=tuple(infos),
        vocabulary={i: pair.decode_token(i) for i in sorted(occurring_ids(tensors))},
        provenance=_provenance(pair, settings | more, None if interventions is None else entries),
    )


def against(traced: LensTrace, null: str) -> LensTrace:
    """A trace with the draws of one of its nulls alone.

    Raises:
        InputError: it was not traced against that one.
    """
    held = traced.provenance.get("against", "noise")
    names = [held] if isinstance(held, str) else [*held]
    if null not in names:
        raise InputError(
            f"`null` is {null!r}, and the trace holds {', '.join(names)}: trace(pair, problems, null={null!r})"
        )
    count = len(traced.kl_null) // len(names)
    start = names.index(null) * count
    return replace(
        traced,
        kl_null=traced.kl_null[start : start + count],
        provenance=traced.provenance | {"against": null},
    )


def _nulls(names: Sequence[str], draws: int, seed: int, collect: Callable[[], Changes]) -> Null | None:
    """What is held against the real change; changes are collected once, for all that draw from them."""
    if not draws:
        return None
    changes = None if {*names} == {"noise"} else collect()
    parts = [
        Noise(draws, seed) if name == "noise" or changes is None else FromChanges(name, changes, draws, seed)
        for name in names
    ]
    return parts[0] if len(parts) == 1 else Together(parts)


def _traced(
    pair: ModelPair,
    measure: Any,
    entries: Sequence[Intervention | None],
    how: Mapping[str, Any],
    batch: Sequence[Sequence[Conversation]],
    here: slice,
) -> list[dict[str, Tensor]]:
    return [_by_cell(read) for read in over_conversations(pair, batch, measure, made=entries[here], **how)]


def _by_cell(by_layer: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What was measured at every layer, stacked."""
    return {
        name: torch.stack([values[name] for values in by_layer.values()], axes.index("L"))
        for name, (axes, _) in AXES.items()
        if "L" in axes
    }


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


def _null_names(null: Any) -> list[str]:
    """The nulls that a call names, one or several."""
    nulls = [null] if isinstance(null, str) or not isinstance(null, Iterable) else [*null]
    for name in nulls:
        if not isinstance(name, str):
            raise InputError(
                f"`null` is {null!r}, expected one of {', '.join(NULLS)}, or several in a list: `trace(pair, problems, "
                "null=['noise', 'exchanged'])`; without a null: `trace(pair, problems, null_draws=0)`"
            )
    return nulls


def check_null(null: str, draws: int, problems: int) -> None:
    """Refuse a null that does not exist, or that these problems can't have.

    Raises:
        InputError: it says so.
    """
    if null not in NULLS:
        raise InputError(
            f"`null` is {null!r}, expected one of {', '.join(NULLS)}: `trace(pair, problems, null='noise')`"
        )
    if null != "noise" and draws < 1:
        raise InputError(
            f"`null_draws` is 0, but null={null!r} asks for draws: `trace(pair, problems, null={null!r}, null_draws=3)`"
        )
    if null != "noise" and problems < 2:
        raise InputError(
            f"null={null!r} draws from other problems' changes, and there is one problem alone: trace several, or take "
            "`trace(pair, problems, null='noise')`"
        )


def _provenance(
    pair: ModelPair, settings: Mapping[str, Any], interventions: Sequence[Intervention | None] | None
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


def _measure(pair: ModelPair, reading: Reading, top_k: int, null: Null | None) -> Measure:
    """What is kept of one layer of a batch: every measure at every position."""
    heads = lens_heads(pair)

    def measure(layer: int, parts: Sequence[Stretch], h_base: Tensor, h_rlvr: Tensor) -> Values:
        base, rlvr = reading.view("base", layer, h_base), reading.view("rlvr", layer, h_rlvr)
        drawn = None
        if null:
            lengths = [part.length for part in parts]
            by_part = zip(parts, h_base.split(lengths), h_rlvr.split(lengths), strict=True)
            draws = torch.cat([null(layer, *each) for each in by_part], 1)
            drawn = torch.stack([reading.view("rlvr", layer, draw) for draw in draws])
        stats = compare(base, rlvr, *heads, top_k=top_k, null=drawn)
        measures = _measures(stats, h_base, h_rlvr)
        return {name: value.to("cpu", AXES[name][1]) for name, value in measures.items()}

    return measure


def _position_axis(name: str) -> int:
    """Of a value in one layer."""
    return AXES[name][0].replace("L", "").index("P")


def _places(prompt: EncodedPrompt, number: int) -> dict[str, Tensor]:
    """What each position is, the prompt having a number in the trace."""
    places = {
        "prompt": torch.full((len(prompt),), number),
        "position": torch.arange(len(prompt)),
        "kind": prompt.kinds,
        "token_id": prompt.input_ids,
        "visual_index": prompt.visual_index,
        "grid": prompt.grid,
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


def _info(item: Problem | EncodedPrompt, one: Conversation) -> PromptInfo:
    texts = {"question": item.question, "answer": item.answer} if isinstance(item, Problem) else {}
    prompt = one.whole
    return PromptInfo(
        prompt.problem_id,
        **texts,
        tokens=prompt.tokens,
        grids=prompt.grids,
        images=prompt.images,
        frames=prompt.frames,
        sample=one.sample,
        fingerprint=prompt.fingerprint,
    )
