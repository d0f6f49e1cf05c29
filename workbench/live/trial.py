"""`Trial`: what was done at a selection, and what came of it: three answers, and the lens before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import pandas as pd
import torch

from workbench.conditions import Condition, Model
from workbench.decoding.decode import decode
from workbench.decoding.responses import Response
from workbench.experiments.divergence import divergence
from workbench.live.mask import Mask
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.problems.answers import verify
from workbench.problems.problem import Problem
from workbench.replay.learned_tokens import LearnedTokens
from workbench.tracing.edits import Intervention
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.trace import trace
from workbench.views import markup

NULL_DRAWS = 3
"""Of matched noise, for the ratio of a shift to it: as in a study."""
WHO = ("base", "rlvr", "action")
"""Whose answers stand side by side."""


class Token(NamedTuple):
    """A token of an answer, and what both models would have said there."""

    id: int
    text: str
    divergence: float | None
    """Jensen-Shannon divergence of the two models' next-token distributions, nats."""
    base: tuple[tuple[int, str, float], ...] = ()
    """(id, text, probability), most probable first."""
    rlvr: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Trial:
    """One thing that was tried; number 0 is the models as they are."""

    number: int
    condition: Condition | None
    mask: Mask
    """What was selected."""
    answers: Mapping[str, tuple[Response, ...]]
    """Greedy ones of ``base``, ``rlvr``, and ``action`` where something was done; one each."""
    begun: tuple[int, ...] = ()
    """Tokens that all of the answers were made to begin with."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """``samples`` and ``temperature`` of `samples`; {} where none were asked for."""
    effect: Mapping[str, Any] = field(default_factory=dict)
    """What it did, by name (`effect_of`)."""
    strips: Mapping[str, tuple[Token, ...]] = field(default_factory=dict, repr=False)
    """Each first answer, token by token."""
    samples: Mapping[str, tuple[Response, ...]] = field(default_factory=dict, repr=False)
    """Answers that were drawn besides, of the same three."""
    norms: tuple[float, ...] = field(default=(), repr=False)
    """Norm of the token that was learnt at each position of the prompt, 0 where none was; () where the action learns none."""

    @property
    def title(self) -> str:
        """What was done."""
        name = "the models as they are" if self.condition is None else self.condition.title
        return f"{name}, from token {len(self.begun)} on" if self.begun else name

    @property
    def text(self) -> str | None:
        """What the model with the action answers; None where nothing was done."""
        return self.answers["action"][0].text if "action" in self.answers else None

    def __repr__(self) -> str:
        said = self.text if self.text is not None else self.answers["rlvr"][0].text
        return f"Trial({self.number}, {self.title!r}, {self.mask.count} cells, {said!r:.80})"

    def _repr_html_(self) -> str:
        told = [markup.paragraph(f"{self.number}: {self.title} ({self.mask.count:,} cells)", strong=True)]
        for who, responses in self.answers.items():
            told.append(markup.paragraph(f"{who}: {responses[0].text}"))
        return "".join(told)


def answers_of(
    pair: ModelPair,
    prompt: EncodedPrompt,
    model: Model,
    made: Intervention | None = None,
    begun: Sequence[int] = (),
    **sampling: Any,
) -> tuple[Response, ...]:
    """Responses of a model, with what was made for the prompt, all beginning with some tokens."""
    whole = prompt if not begun else prompt.continued(torch.tensor([*begun]))
    responses = decode(pair, whole, model=model, intervention=made, **sampling)
    return tuple(_with(pair, one, begun) for one in responses) if begun else tuple(responses)


def _with(pair: ModelPair, response: Response, begun: Sequence[int]) -> Response:
    """The response with what it was made to begin with."""
    ids = (*begun, *response.ids)
    text = pair.tokenizer.decode(ids, skip_special_tokens=True)  # pyright: ignore[reportOptionalMemberAccess]
    return replace(response, text=text, ids=ids, tokens=len(ids))


def lens_effect(
    pair: ModelPair,
    prompt: EncodedPrompt,
    condition: Condition,
    made: Intervention,
    top_k: int,
    null_draws: int = 0,
) -> LensTrace | None:
    """The lens of the model as it is (``base`` of the trace) and with what was done (``rlvr``).

    ``kl_null`` is of ``null_draws`` draws of noise as long as what that changed. None where the prompt is read as ever, as when
    two models only draw together.
    """
    if not made.sites:
        return None
    anatomy = pair.base if condition.answered_by == "base" else pair.rlvr
    same = replace(pair, base=anatomy, rlvr=anatomy)
    return trace(same, [prompt], top_k=top_k, null_draws=null_draws, interventions=[made])


def learnt_norms(made: Intervention | None) -> tuple[float, ...]:
    """Norm of the learnt token at each position of the prompt, 0 where there is none; () of what learns no tokens."""
    own = getattr(made, "own", made)
    if not isinstance(own, LearnedTokens):
        return ()
    norms = torch.zeros(len(own.places))
    norms[own.places.cpu()] = own.tokens.float().norm(dim=-1).cpu()
    return tuple(norms.tolist())


def effect_of(problem: Problem | None, trial: Trial, lens: LensTrace | None) -> dict[str, Any]:
    """What a trial did: tokens changed, whether each answer is right, and how far the lens moved, in nats."""
    effect: dict[str, Any] = {"changed": len(changed_tokens(trial)), "right": _right(problem, trial)}
    effect |= samples_right(problem, trial.samples)
    if lens is not None:
        layer, position = divmod(int(lens.kl.argmax()), lens.kl.shape[1])
        effect |= {"lens_max": float(lens.kl.max()), "layer": layer, "position": position}
        effect |= {"lens_end": float(lens.kl[-1, -1])}
    return effect


def changed_tokens(trial: Trial) -> list[int]:
    """Which tokens of the action's first answer its model does not say without it, in order; [] where they are the same."""
    if trial.condition is None or "action" not in trial.answers:
        return []
    before = trial.answers[trial.condition.answered_by][0].ids
    after = trial.answers["action"][0].ids
    blocks = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return [at for kind, _, _, first, stop in blocks if kind != "equal" for at in range(first, stop)]


def _right(problem: Problem | None, trial: Trial) -> dict[str, bool | None]:
    if problem is None or problem.answer is None:
        return dict.fromkeys(trial.answers)
    return {who: _correct(problem, one[0]) for who, one in trial.answers.items()}


def samples_right(problem: Problem | None, samples: Mapping[str, Sequence[Response]]) -> dict[str, Any]:
    """How many of the drawn answers are right, by whose they are; {} without any, or where it is not known."""
    if problem is None or problem.answer is None or not samples:
        return {}
    return {
        "samples_right": {who: sum(_correct(problem, one) for one in drawn) for who, drawn in samples.items()}
    }


def _correct(problem: Problem, response: Response) -> bool:
    return verify(response.text, problem.answer or "", problem.verifier, choices=problem.choices).correct


def strips_of(
    pair: ModelPair, prompt: EncodedPrompt, answers: Mapping[str, Sequence[Response]], top_k: int = 5
) -> dict[str, tuple[Token, ...]]:
    """Every first answer token by token, read by both models as they are."""
    firsts = [replace(responses[0], sample=number) for number, responses in enumerate(answers.values())]
    read = divergence(
        pair, [prompt], responses={prompt.problem_id: firsts}, drawn_by="text", resamples=1, top_k=top_k
    )
    strips, table = {}, read.positions.to_dict("records")
    for number, (who, responses) in enumerate(answers.items()):
        rows = [row for row, entry in enumerate(table) if entry["sample"] == number]
        strips[who] = tuple(
            Token(
                ident,
                str(table[row]["token"]),
                float(table[row]["jensen_shannon"]),
                *(
                    tuple(
                        (int(i), read.vocabulary[int(i)], float(p))
                        for i, p in zip(read.top_ids[model][row], read.top_probs[model][row], strict=True)
                    )
                    for model in ("base", "rlvr")
                ),
            )
            for ident, row in zip(responses[0].ids, rows, strict=True)
        )
    return strips


def table_of(trials: Sequence[Trial]) -> pd.DataFrame:
    """A row a trial: cells selected, tokens changed, right or not, and the largest KL over the lens between the model without and
    with the action (``lens_max``, nats), and where that is.
    """
    rows = [
        {
            "trial": one.number,
            "what": one.title,
            "cells": one.mask.count,
            "changed": one.effect["changed"],
            "right": one.effect["right"].get("action", one.effect["right"]["rlvr"]),
            "lens_max": one.effect.get("lens_max", float("nan")),
            "layer": one.effect.get("layer"),
            "position": one.effect.get("position"),
            "text": one.answers["rlvr"][0].text if one.text is None else one.text,
        }
        for one in trials
    ]
    return pd.DataFrame(rows).astype({"layer": "Int64", "position": "Int64"})
