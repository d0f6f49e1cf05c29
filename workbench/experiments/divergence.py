"""Divergence along responses: where two models differ while one of them speaks.

1. Responses are drawn from the RLVR model or the base, or given.
2. Both models read each of them after its prompt (teacher-forced), the prompt once for all of its responses.
3. At every place where a token was drawn, the two next-token distributions are compared, exactly and over the whole vocabulary:
   Jensen-Shannon divergence, KL both ways, entropies, and the drawn token's log-probabilities and ranks (`lens.contrast`).
4. Controls (a pair fine-tuned without RL, random weights) read the very same responses against the same base.

What is measured is that of arXiv 2603.22446, and the signed ``dlogp`` that of arXiv 2603.22117.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.analysis.null_models import same_base
from workbench.analysis.response_divergence import (
    RLVR,
    claims_of,
    headline,
    heaviest_tokens,
    place_of,
    summarise,
)
from workbench.analysis.verdicts import Claim, claims_html
from workbench.backoff import piecewise
from workbench.columns import describe
from workbench.decoding.decode import Engine, decode_many
from workbench.errors import InputError
from workbench.lens.contrast import Contrast, contrast
from workbench.models.batches import batches_by
from workbench.models.pairs import ModelPair, batch_of
from workbench.models.prompts import EncodedPrompt
from workbench.problems.problem import Problem, listed
from workbench.tracing.both_models import Stretch, Values, over_conversations
from workbench.tracing.conversations import Conversation, Responses, called, conversations
from workbench.tracing.model_heads import lens_heads
from workbench.views import markup
from workbench.views.coloured_response import ResponseView

DrawnBy = Literal["rlvr", "base", "text"]
_CALL = "divergence(pair, load_problems('shapes', limit=64))"
_TABLE = ("jensen_shannon", "kl", "kl_reverse", "entropy_base", "entropy_rlvr", "log_p_base", "log_p_rlvr")


@dataclass(frozen=True, eq=False, repr=False)
class Divergence:
    """Where along responses a pair diverges, beside its controls; tables are explained by ``columns``."""

    positions: pd.DataFrame
    """One row a condition ("rlvr" or a control) and position of a response."""
    summary: pd.DataFrame
    """One row a condition, measure and part of the positions, with intervals clustered by problem."""
    tokens: pd.DataFrame
    """The tokens that hold most of the divergence, by condition."""
    claims: tuple[Claim, ...]
    """Sparse, reranking, start and end."""
    top_ids: Mapping[str, Tensor] = field(repr=False)
    """Per model ("base", "rlvr") (rows of the condition "rlvr", k) int32: its first predictions, most probable first."""
    top_probs: Mapping[str, Tensor] = field(repr=False)
    vocabulary: Mapping[int, str] = field(repr=False)
    drawn_by: DrawnBy
    provenance: Mapping[str, Any] = field(repr=False)

    @property
    def verdict(self) -> str:
        """The line to remember."""
        return headline(self.claims)

    def __repr__(self) -> str:
        own = self.positions.loc[self.positions["condition"] == RLVR]
        spoken = own.groupby(["problem", "sample"]).ngroups
        said = f"{len(own):,} positions, {spoken} responses drawn by {self.drawn_by}"
        return f"Divergence({said}, {own['problem'].nunique()} problems)\n{self.verdict}"

    def _repr_html_(self) -> str:
        return (
            markup.paragraph(self.verdict, strong=True)
            + claims_html(self.claims)
            + markup.folded(
                "tokens that diverge most", markup.table(self.tokens.groupby("condition").head(15))
            )
            + markup.folded("summary, nats and shares", markup.table(self.summary))
        )

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of its tables."""
        return describe(self.tables())

    def tables(self) -> dict[str, pd.DataFrame]:
        """Everything that was found, by the names that a run folder gives it."""
        return {
            "divergence": self.positions,
            "divergence_summary": self.summary,
            "divergence_tokens": self.tokens,
        }

    def to_dataframe(self) -> pd.DataFrame:
        """A copy of ``positions``."""
        return self.positions.copy()

    def predictions(self, problem: str, position: int, sample: int = 0) -> pd.DataFrame:
        """Both models' first predictions where a token of a response was drawn: rank, and token and probability of each.

        Raises:
            InputError: no such position.
        """
        own = self.positions.loc[self.positions["condition"] == RLVR].reset_index(drop=True)
        here = (own["problem"] == problem) & (own["sample"] == sample) & (own["position"] == position)
        if not here.any():
            raise InputError(
                f"`position` {position} of response {sample} to {problem!r} was not measured; `.positions` has those that were: "
                f"found.predictions({own['problem'].iloc[0]!r}, 0)"
            )
        row = int(here.to_numpy().argmax())
        table = pd.DataFrame({"rank": np.arange(1, self.top_ids["base"].shape[1] + 1)})
        for model in ("base", "rlvr"):
            table[model] = [self.vocabulary[i] for i in self.top_ids[model][row].tolist()]
            table[f"p_{model}"] = self.top_probs[model][row].numpy()
        return table

    def show(self, problem: str | None = None, sample: int = 0) -> "ResponseView":
        """One response (the first unless told) coloured by divergence; a click on a token opens both models' predictions.

        Raises:
            InputError: no such response.
        """
        own = self.positions.loc[self.positions["condition"] == RLVR].reset_index(drop=True)
        problem = str(own["problem"].iloc[0]) if problem is None else problem
        rows = own.loc[(own["problem"] == problem) & (own["sample"] == sample)]
        if rows.empty:
            raise InputError(
                f"`problem` {problem!r} has no response {sample} here; `.positions` has those that were measured: "
                f"found.show({own['problem'].iloc[0]!r})"
            )
        tables = [self.predictions(problem, place, sample) for place in rows["position"].tolist()]
        return ResponseView(rows, tables)

    def plot(self) -> Any:
        """Share of positions above each divergence, and mean divergence by place: a plotly Figure."""
        from workbench.views.response_figures import divergence_figure

        return divergence_figure(self.positions, self.summary)


def divergence(
    pair: ModelPair,
    problems: Sequence[Problem | EncodedPrompt],
    *,
    responses: Responses | None = None,
    drawn_by: DrawnBy | None = None,
    controls: Mapping[str, ModelPair] | None = None,
    samples: int = 4,
    temperature: float = 1.0,
    max_new_tokens: int | None = None,
    engine: Engine | None = None,
    top_k: int = 5,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    batch_size: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Divergence:
    """How far two models' next-token distributions are apart along responses, and where, and at which tokens.

    Args:
        pair: what `load_pair` returned.
        problems: problems, or prompts already encoded.
        responses: to read, as in `trace`; None draws them.
        drawn_by: the model that draws them, None: the RLVR model; of given ones, who did ("text", None: neither is known).
        controls: pairs of the same base that RL did not train, by name, such as
            ``{"permuted": null_pair(pair)}``; they read the same responses.
        samples: responses to draw to each problem.
        temperature: of these; the distributions compared are always those at temperature 1.
        max_new_tokens: of these; None: what suits the pair.
        engine: that draws them, as in `decode_many`.
        top_k: first predictions of both models that are kept for `Divergence.predictions`.
        seed: of the samples and the bootstrap.
        resamples: of the bootstrap over problems.
        level: of the intervals.
        batch_size: prompts, and responses, per forward; None: what suits the pair.
        progress: called with (what, prompts done, prompts in all).

    Returns:
        Tables, claims with verdicts, `Divergence.plot`.

    Raises:
        InputError: no problems, responses that `trace` refuses, an unknown ``drawn_by``, a control of another base.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> found = wb.divergence(pair, wb.load_problems("shapes", limit=2), samples=2)
        >>> bool((found.positions["jensen_shannon"] <= 0.6932).all())
        True
    """
    problems = listed(problems, _CALL, Problem, EncodedPrompt, distinct=True)
    size, report = batch_of(pair, batch_size), progress or (lambda *_: None)
    drawn_by = _check(
        pair, responses, drawn_by, controls, {"top_k": top_k, "batch_size": size, "samples": samples}
    )
    controls = dict(controls or {})
    if responses is None:
        how: dict[str, Any] = {"temperature": temperature, "seed": seed, "max_new_tokens": max_new_tokens}
        how |= {"samples": samples, "batch_size": batch_size, "engine": engine}
        how["model"] = "base" if drawn_by == "base" else "rlvr"
        responses = decode_many(pair, problems, progress=lambda *done: report("responses", *done), **how)
    with called("divergence"):
        groups = list(conversations(pair, problems, responses))
    numbers = {
        name: _contrasts(one, groups, top_k, size, lambda *done, name=name: report(name, *done))
        for name, one in {RLVR: pair, **controls}.items()
    }
    parts, kept = [_positions(pair, groups, part, name) for name, part in numbers.items()], numbers[RLVR]
    positions = pd.concat(parts, ignore_index=True)
    settings = {"resamples": resamples, "level": level, "seed": seed}
    used = {"drawn_by": drawn_by, "samples": samples, "temperature": temperature, **settings}
    used["controls"] = {name: dict(one.provenance) for name, one in controls.items()}
    ids = {"base": kept.top_ids_base.int(), "rlvr": kept.top_ids_rlvr.int()}
    return Divergence(
        positions,
        summarise(positions, **settings),
        heaviest_tokens(positions),
        tuple(claims_of(positions, drawn_by, **settings)),
        ids,
        {"base": kept.top_probs_base, "rlvr": kept.top_probs_rlvr},
        _texts(pair, ids),
        drawn_by,
        {**pair.provenance, "pair": pair.name, "divergence": used},
    )


def _texts(pair: ModelPair, ids: Mapping[str, Tensor]) -> dict[int, str]:
    """The text of every token that occurs."""
    occurring = torch.cat([part.flatten() for part in ids.values()]).unique().tolist()
    return {i: pair.decode_token(i) for i in occurring}


def _contrasts(
    pair: ModelPair,
    groups: Sequence[Sequence[Conversation]],
    top_k: int,
    batch_size: int,
    report: Callable[[int, int], None],
) -> Contrast:
    """At every place where a token of a response was drawn, conversation by conversation, on the CPU."""
    heads, last, done = lens_heads(pair), pair.depth - 1, 0
    report(0, len(groups))

    def keep(layer: int, parts: Sequence[Stretch], h_base: Tensor, h_rlvr: Tensor) -> Values:
        return {"base": h_base, "rlvr": h_rlvr}

    def contrasted(batch: Sequence[Sequence[Conversation]], here: slice) -> list[Contrast]:
        how: dict[str, Any] = {"layers": [last], "rows": batch_size, "whole_prompt": False}
        each = over_conversations(pair, batch, keep, axis=lambda _: 0, made=[None] * len(batch), **how)
        flat = [one for group in batch for one in group]
        found = []
        for start in range(0, len(flat), batch_size):
            # The last position of the prompt predicts the first token, the response's own last none.
            some = [by_layer[last] for by_layer in each[start : start + batch_size]]
            base, rlvr = (torch.cat([values[name][:-1] for values in some]) for name in ("base", "rlvr"))
            drawn = torch.cat([one.ids for one in flat[start : start + batch_size]])
            found.append(contrast(base, rlvr, *heads, drawn, top_k=top_k))
        return found

    parts: list[Contrast] = []
    batched = batches_by(groups, batch_size, lambda group: group[0].prompt)
    for batch, some in piecewise(batched, contrasted, model=pair.base, what="tracing"):
        parts += some
        done += len(batch)
        report(done, len(groups))
    names = Contrast.__dataclass_fields__
    return Contrast(**{name: torch.cat([getattr(part, name).cpu() for part in parts]) for name in names})


def _positions(
    pair: ModelPair, groups: Sequence[Sequence[Conversation]], numbers: Contrast, condition: str
) -> pd.DataFrame:
    """The table of one condition."""
    flat = [one for group in groups for one in group]
    lengths = np.array([len(one.ids) for one in flat])
    position = np.concatenate([np.arange(length) for length in lengths])
    length = np.repeat(lengths, lengths)
    tokens = [pair.decode_token(i) for one in flat for i in one.ids.tolist()]
    top = [
        [pair.decode_token(i) for i in getattr(numbers, f"top_ids_{model}")[:, 0].tolist()]
        for model in ("base", "rlvr")
    ]
    table = pd.DataFrame(
        {
            "condition": condition,
            "problem": np.repeat([one.prompt.problem_id for one in flat], lengths),
            "sample": np.repeat([one.sample or 0 for one in flat], lengths),
            "turn": np.repeat([int(one.whole.turn.max()) for one in flat], lengths),
            "position": position,
            "from_end": length - 1 - position,
            "place": place_of(position, length),
            "token": tokens,
        }
        | {name: getattr(numbers, name).double().numpy() for name in _TABLE}
        | {name: getattr(numbers, name).numpy() for name in ("rank_base", "rank_rlvr")}
        | {"top1_base": top[0], "top1_rlvr": top[1]}
    )
    table["dlogp"] = table["log_p_rlvr"] - table["log_p_base"]
    return table


def _check(
    pair: ModelPair,
    responses: Responses | None,
    drawn_by: DrawnBy | None,
    controls: Mapping[str, ModelPair] | None,
    numbers: Mapping[str, int],
) -> DrawnBy:
    """Who drew the responses, where everything else is right."""
    drawn_by = drawn_by or ("rlvr" if responses is None else "text")
    known = ("rlvr", "base") if responses is None else ("rlvr", "base", "text")
    if drawn_by not in known:
        raise InputError(
            f"`drawn_by` is {drawn_by!r}; expected {' or '.join(map(repr, known))}: divergence(pair, problems, drawn_by='rlvr')"
        )
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"`{name}` is {value!r}; expected a whole number of at least 1: {_CALL}")
    if controls is not None and not isinstance(controls, Mapping):
        raise InputError(
            f"`controls` is a {type(controls).__name__}; expected pairs by name: divergence(pair, problems, "
            "controls={'permuted': null_pair(pair)})"
        )
    for name, other in (controls or {}).items():
        if name == RLVR:
            raise InputError(
                f"`controls` names a pair {name!r}, which is the pair's own name; name it otherwise"
            )
        if not isinstance(other, ModelPair) or not same_base(pair, other):
            raise InputError(
                f"`controls`: {name!r} is no pair with the base of {pair.name!r}, so the two are not comparable; load it "
                "with the same one: load_pair(base=pair.base.model, rlvr=...)"
            )
    return drawn_by
