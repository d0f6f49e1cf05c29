"""Every kind of work, each a function of a pair and its family, whose results can be compared."""

from collections.abc import Callable
from functools import partial
from typing import Any

import tiny
import torch
import zeroed

import workbench as wb
from workbench.attribution.bridge import FAMILIES as BRIDGED
from workbench.conditions import condition_of
from workbench.decoding.likelihoods import response_scores
from workbench.decoding.stops import Stops
from workbench.decoding.vllm_engine import vllm_request
from workbench.experiments.drift import Reference, drift
from workbench.models.identity import fingerprint
from workbench.models.pairs import ModelPair
from workbench.tracing.agreement import agreement_by_layer
from workbench.tracing.attention import attention_received

Work = Callable[[ModelPair, str], Any]
REPLAY = wb.Replay(threshold="quantile", layers=2, iterations=2)
PATCH = wb.Patch(layers=2)
GREEDY: dict[str, Any] = {"max_new_tokens": 4}
FEW: dict[str, Any] = {"samples": 2, "max_new_tokens": 3, "resamples": 20}
SPREAD = (
    "trace",
    "trace, tokens",
    "tokens",
    "tokens, base lower",
    "tokens, in the middle",
    "patch",
    "drift",
    "scores",
    "two models together",
)
"""What is tried too on a pair that is spread over devices."""


def problems(family: str, count: int = 2) -> list[wb.Problem]:
    said = {"chain": "so 3", "wrong": "so 4"}
    return [tiny.problem(family, seed=seed, metadata=said) for seed in range(count)]


def prompts(pair: ModelPair, family: str) -> list[wb.EncodedPrompt]:
    return [pair.encode(problem) for problem in problems(family)]


def made(pair: ModelPair, family: str, condition: Any) -> list[Any]:
    asked = problems(family)
    return wb.prepare(condition, pair, [pair.encode(problem) for problem in asked], problems=asked)


def learnt(pair: ModelPair, family: str, **changes: Any) -> Any:
    """Tokens, their losses, and what is answered with them."""
    found = made(pair, family, wb.Replay(**{"threshold": "quantile", "layers": 2, "iterations": 2} | changes))
    return [*((one.tokens, one.losses) for one in found), said(pair, family, interventions=found)]


def answered(pair: ModelPair, family: str, condition: Any) -> Any:
    return said(
        pair, family, model=condition_of(condition).answered_by, interventions=made(pair, family, condition)
    )


def said(pair: ModelPair, family: str, **how: Any) -> list[list[str]]:
    found = wb.decode_many(pair, prompts(pair, family), **GREEDY | how)
    return [[response.text for response in responses] for responses in found]


def traced(pair: ModelPair, family: str, condition: Any = None, **how: Any) -> Any:
    interventions = None if condition is None else made(pair, family, condition)
    found = wb.trace(pair, prompts(pair, family), interventions=interventions, **how)
    return [found.kl, found.kl_null, found.entropy_base, found.entropy_rlvr, found.top_ids_base]


def followed(pair: ModelPair, family: str) -> Any:
    found = wb.follow(pair, prompts(pair, family)[:1], wb.trace(pair, prompts(pair, family)[:1]), tokens=2)
    return [found.log_probs_base, found.log_probs_rlvr]


def translated(pair: ModelPair, family: str) -> Any:
    train, held = problems(family), problems(family, 3)[2:]
    found = wb.fit_translators(pair, train, held, epochs=2, patience=1, batch_positions=64)
    return wb.lens_fidelity(pair, held, found, resamples=20)


def adapted(pair: ModelPair, family: str) -> Any:
    few = {"width": 8, "rates": (1e-2,), "epochs": 1}
    found = wb.train_adapter(pair, problems(family), REPLAY, validation=problems(family, 3)[2:], **few)
    return [wb.predict_tokens(pair, prompt, found).tokens for prompt in prompts(pair, family)]


def scored(pair: ModelPair, family: str) -> Any:
    found = made(pair, family, REPLAY) if family in tiny.MULTIMODAL else None
    given = [torch.tensor([5, 6, 7])] * 2
    return response_scores(pair.rlvr, prompts(pair, family), given, pad_id=pair.pad_id, interventions=found)


def drifted(pair: ModelPair, family: str) -> Any:
    asked = prompts(pair, family)
    return drift(pair, asked, Reference.of(pair, asked))


def together(pair: ModelPair, family: str) -> Any:
    found = []
    for mixture in (
        wb.CrossSample("base", budget=0.5, under=PATCH),
        wb.CrossSample("rlvr", "low_divergence", budget=0.5),
        wb.CrossSample("base", "random", budget=0.5),
        wb.CrossSample("base", "dlogp", threshold=0.0),
        wb.Extrapolate(1.0, where="divergence", threshold=0.02),
    ):
        how = {"model": mixture.answered_by, "interventions": mixture, "samples": 2, "temperature": 1.0}
        for rows in wb.decode_many(pair, prompts(pair, family), **GREEDY | how):
            found += [[r.text, r.replaced, [*r.values]] for r in rows]
    return found


def ablated(pair: ModelPair, family: str) -> Any:
    found = wb.ablate(pair, problems(family), [REPLAY, PATCH, "base"], **FEW)
    return [found.summary.select_dtypes("number").round(3), found.responses["text"].tolist()]


def perturbed(pair: ModelPair, family: str) -> Any:
    disturbances = [wb.Disturbance("embeddings", 0.5), wb.Disturbance("pixels", 0.3)]
    return wb.perturb(pair, problems(family), disturbances, draws=2, resamples=20).table


def attributed(pair: ModelPair, family: str) -> Any:
    return wb.attribute(pair, problems(family, 1), metrics=["kl"], resamples=20).totals


def requested(pair: ModelPair, family: str) -> Any:
    prompt = prompts(pair, family)[0]
    stops = Stops(pair.processor, pair.rlvr, ())
    handed = vllm_request(pair.rlvr, prompt, stops, intervention=made(pair, family, REPLAY)[0])
    data = handed.prompt["multi_modal_data"]["image"]
    return data if isinstance(data, torch.Tensor) else [data[name] for name in sorted(data)]


def led(pair: ModelPair, family: str) -> Any:
    found = wb.run_agent(pair, problems(family)[0], intervention=REPLAY, turns=2, max_new_tokens=4)
    return [turn.text for turn in found.turns]


def attempted(pair: ModelPair, family: str) -> Any:
    how = {"layers": 2, "threshold": "quantile", "iterations": 2, "samples": 1}
    found = wb.try_replay(pair, problems(family)[0], **how, **GREEDY)
    return [found.learned.tokens, found.learned.losses]


def explored(pair: ModelPair, family: str) -> Any:
    found = wb.explore(pair, problems(family)[:1], top_k=2, followed=2, **GREEDY)
    return len(found._repr_html_()) > 1000


def recorded(pair: ModelPair, family: str) -> Any:
    found = wb.record(pair.base, prompts(pair, family)[0], [0, 1])
    return found.hidden.cpu()  # stays where it was recorded


def nulled(pair: ModelPair, family: str) -> Any:
    return fingerprint(wb.null_pair(pair, "permuted").rlvr.model)


def weighed(pair: ModelPair, family: str) -> Any:
    found = wb.compare_weights(pair, problems(family, 1), resamples=20)
    return [found.table, found.outputs]


WORKS: dict[str, Work] = {
    "trace": traced,
    "trace, some layers": partial(traced, layers=[1], top_k=2),
    "trace, tokens": partial(traced, condition=REPLAY),
    "trace, patch": partial(traced, condition=PATCH),
    "followed tokens": followed,
    "attention": lambda pair, family: attention_received(pair.base, prompts(pair, family), pair.pad_id),
    "agreement": lambda pair, family: agreement_by_layer(wb.trace(pair, prompts(pair, family))),
    "translators": translated,
    "shift": lambda pair, family: wb.stratified_shift(
        wb.trace(pair, prompts(pair, family)), bins=2, resamples=20
    ).to_dataframe(),
    "cells": lambda pair, family: wb.cell_table(pair, problems(family)),
    "tokens": learnt,
    "tokens, base lower": partial(learnt, only_where_base_lower=True),
    "tokens, in the middle": partial(learnt, site="mid_tokens", layer=1),
    "tokens, of the base": partial(learnt, direction="reverse"),
    "tokens, random cells": partial(learnt, select="random"),
    "patch": partial(answered, condition=PATCH),
    "patch, high": partial(answered, condition=wb.Patch(layers=2, select="high")),
    "an own condition": partial(answered, condition=zeroed.Zeroed(1)),
    "recording": recorded,
    "adapter": adapted,
    "greedy": said,
    "greedy, base": partial(said, model="base"),
    "sampled": partial(said, samples=3, temperature=1.0, seed=3),
    "two models together": together,
    "scores": scored,
    "drift": drifted,
    "ablation": ablated,
    "perturbation": perturbed,
    "one try": attempted,
    "agent": led,
    "attribution": attributed,
    "null pair": nulled,
    "null shifts": lambda pair, family: (
        wb.weight_nulls(pair, problems(family), kinds=["gaussian"], draws=1, bins=2, resamples=20).table
    ),
    "weight changes": weighed,
    "explorer": explored,
    "what vLLM is handed": requested,
    "fingerprint": lambda pair, family: fingerprint(pair.rlvr.model),
}
NEED_PICTURES = {
    *(
        "trace, tokens",
        "trace, patch",
        "tokens",
        "tokens, base lower",
        "tokens, in the middle",
        "tokens, of the base",
    ),
    *("tokens, random cells", "patch", "patch, high", "an own condition", "adapter", "drift", "ablation"),
    *("perturbation", "one try", "agent", "what vLLM is handed", "recording"),
}
HANDED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava")


def fitting(family: str) -> list[str]:
    """The kinds of work that a family can do."""
    unfit = set[str]()
    if family in tiny.TEXT_ONLY:
        unfit |= NEED_PICTURES
    if family not in BRIDGED:
        unfit |= {"attribution"}
    if family not in HANDED:
        unfit |= {"what vLLM is handed"}
    return [name for name in WORKS if name not in unfit]
