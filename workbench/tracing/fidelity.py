"""How faithful a reading is: how far what it says at a layer is from what the model goes on to predict.

`lens_fidelity` compares the plain lens with translators, `reading_fidelity` any readings in both models. `neighbour_fidelity` is
for what has no distribution: whether text is recognised as itself, and how near the nearest state is at all.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Unpack

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.conditions import Model
from workbench.errors import InputError
from workbench.estimates import Interval, Settings, mean, ratio
from workbench.lens.fused import compare
from workbench.lens.heads import LensHead
from workbench.models.pairs import ModelPair, batch_of
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.problems.problem import Problem, listed
from workbench.tracing.model_heads import lens_head
from workbench.tracing.neighbours import Neighbours
from workbench.tracing.readings import Reading, chosen
from workbench.tracing.tuned_lens import Residuals, Translators, read_all

_MODELS: tuple[Model, ...] = ("base", "rlvr")


def kl_to_final(
    residuals: Residuals, head: LensHead, translators: Translators | None = None
) -> Float[Tensor, "layers positions"]:
    """KL(final || lens) at every layer and position, in nats; through ``translators`` if given.

    Raises:
        InputError: translators of another model.
    """
    final, rows = residuals[-1], []
    for layer, hidden in enumerate(residuals):
        view = hidden if translators is None else translators.translate(layer, hidden)
        rows.append(compare(final, view, head, head, top_k=1).kl)
    return torch.stack(rows)


def lens_fidelity(
    pair: ModelPair,
    problems: Sequence[Problem | EncodedPrompt],
    translators: Translators,
    *,
    batch_size: int = 8,
    **settings: Unpack[Settings],
) -> pd.DataFrame:
    """How far the plain and the translated lens of the base model are from its own prediction, layer by layer.

    Columns: layer, lens ("plain" or "translated"), kl: mean KL(final || lens) over positions, nats, with its interval
    clustered by problem.

    Raises:
        InputError: no problems, or translators of another model.
    """
    call = "lens_fidelity(pair, load_problems('shapes', limit=64), translators)"
    prompts = [pair.encode(item) for item in listed(problems, call, Problem, EncodedPrompt)]
    head = lens_head(pair.base, pair.vocab_size)
    residuals = read_all(pair.base, prompts, pair.pad_id, batch_size=batch_size)
    owner = [prompt.problem_id for prompt in prompts for _ in range(len(prompt))]
    rows = []
    for lens, some in (("plain", None), ("translated", translators)):
        for layer, kl in enumerate(kl_to_final(residuals, head, some)):
            interval = mean(kl.cpu().numpy(), owner, **settings)
            ends = {"kl": interval.estimate, "kl_low": interval.low, "kl_high": interval.high}
            rows.append({"layer": layer, "lens": lens} | ends)
    return pd.DataFrame(rows)


def reading_fidelity(
    pair: ModelPair,
    problems: Sequence[Problem | EncodedPrompt],
    readings: Sequence[Reading],
    *,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Unpack[Settings],
) -> pd.DataFrame:
    """How far each reading is from what its model goes on to predict, layer by layer, at every position of some problems.

    Columns: reading, model, layer; kl: mean KL(final || reading), nats; top1: share of positions whose first token is the
    final one; each with its interval clustered by problem.

    Args:
        pair: what `load_pair` returned.
        problems: best others than a reading was fitted on.
        readings: that give a distribution, each of another name.
        batch_size: prompts per forward; None: what suits the pair.
        progress: called with (layers done, layers in all), of each reading in both models.
        **settings: of the intervals.

    Raises:
        InputError: no problems, no readings or two of one name, or a reading of another model.
    """
    call = "reading_fidelity(pair, load_problems('shapes', limit=64), [LogitLens(), tuned])"
    by_name: Mapping[str, Reading] = {one.name: one for one in (chosen(some, pair) for some in readings)}
    if not by_name or len(by_name) < len(readings):
        raise InputError(f"`readings` is {list(readings)}; expected some, each of another name: {call}")
    prompts = [pair.encode(item) for item in listed(problems, call, Problem, EncodedPrompt)]
    owner = [prompt.problem_id for prompt in prompts for _ in range(len(prompt))]
    rows, report = [], progress or (lambda done, total: None)
    total = len(_MODELS) * len(by_name) * pair.depth
    report(0, total)
    for model in _MODELS:
        anatomy = pair.base if model == "base" else pair.rlvr
        head = lens_head(anatomy, pair.vocab_size)
        residuals = read_all(anatomy, prompts, pair.pad_id, batch_size=batch_of(pair, batch_size))
        for name, reading in by_name.items():
            for layer, hidden in enumerate(residuals):
                stats = compare(residuals[-1], reading.view(model, layer, hidden), head, head, top_k=1)
                same = stats.top1_agreement.cpu().numpy().astype(np.float64)
                kl = stats.kl.cpu().numpy()
                intervals = {
                    "kl": ratio(kl, np.ones_like(kl), owner, **settings)
                }  # `mean` takes 0 everywhere for a share
                intervals["top1"] = mean(same, owner, **settings)
                ends = {k: v for part, one in intervals.items() for k, v in one.columns(part).items()}
                rows.append({"reading": name, "model": model, "layer": layer} | ends)
                report(len(rows), total)
    return pd.DataFrame(rows)


def neighbour_fidelity(found: Neighbours, **settings: Unpack[Settings]) -> pd.DataFrame:
    """Whether nearest states can be trusted: at text and visual tokens, layer by layer, in both models.

    Columns: model, layer, kind; own: share of text positions whose nearest state is of the token that stands there (missing for
    visual ones, where none does); cosine: of the nearest state; each with its interval clustered by problem.

    Args:
        found: what `read_neighbours` returned, best of problems that are none of the states' texts.
        **settings: of the intervals.
    """
    kinds = torch.cat([prompt.kinds for prompt in found.prompts])
    tokens, owner = torch.cat([prompt.input_ids for prompt in found.prompts]), np.array(found.problem)
    missing = Interval(np.nan, np.nan, np.nan)
    rows = []
    for model, kind in product(_MODELS, (TokenKind.TEXT, TokenKind.VISUAL)):
        here = kinds == kind
        for place, layer in enumerate(found.layers if bool(here.any()) else ()):
            nearest = getattr(found, f"ids_{model}")[place, here, 0]
            own = (found.lens.token_id[nearest] == tokens[here]).double().numpy()
            cosine = getattr(found, f"cosines_{model}")[place, here, 0].double().numpy()
            problem = owner[here.numpy()]
            text = kind == TokenKind.TEXT
            ends = (mean(own, problem, **settings) if text else missing).columns("own")
            ends |= mean(cosine, problem, **settings).columns("cosine")
            rows.append({"model": model, "layer": layer, "kind": kind.name.lower()} | ends)
    return pd.DataFrame(rows)
