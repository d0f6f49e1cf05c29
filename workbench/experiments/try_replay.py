"""`try_replay`: replay on one problem in one setting, seen whole: what was learnt, and what it did to the answers.

Made to be called again and again, by hand or by sliders: ``ipywidgets.interact(try_replay, pair=fixed(pair), ...)``.
`ablate` is for conclusions, this is for looking.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from workbench.columns import describe
from workbench.decoding.decode import decode
from workbench.errors import InputError
from workbench.interventions import Replay
from workbench.models.pairs import ModelPair
from workbench.problems.answers import verify
from workbench.problems.problem import Problem
from workbench.replay.learned_tokens import LearnedTokens
from workbench.replay.replay import learn_tokens
from workbench.views import markup


@dataclass(frozen=True, eq=False, repr=False)
class Attempt:
    """What `try_replay` saw."""

    learned: LearnedTokens
    table: pd.DataFrame
    """A row for base, rlvr and replay: model, greedy (the greedy response), right (whether its answer is), samples,
    samples_right."""

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{row['model']} {row['samples_right']}/{row['samples']}" for row in self.table.to_dict("records")
        )
        return f"Attempt({self.learned!r}; right: {counts})"

    def _repr_html_(self) -> str:
        return self.learned._repr_html_() + markup.table(self.table)

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of its tables."""
        return describe({"attempt": self.table})

    def to_dataframe(self) -> pd.DataFrame:
        """A copy of ``table``."""
        return self.table.copy()

    def plot(self) -> Any:
        """Loss and norm of x, as a plotly Figure."""
        return self.learned.plot()


def try_replay(
    pair: ModelPair,
    problem: Problem,
    *,
    layer: int | None = None,
    samples: int = 8,
    seed: int = 0,
    max_new_tokens: int | None = None,
    **settings: Any,
) -> Attempt:
    """Learn one problem's tokens, and let base, RLVR model and RLVR model with the tokens answer it.

    Args:
        pair: what `load_pair` returned, with a processor.
        problem: with a picture and an answer.
        layer: learn tokens for the input of this layer (``site="mid_tokens"``; ``layers`` then says nothing); None: for
            that of the first layer.
        samples: responses of each at temperature 1, beside the greedy one; all three get equal random draws.
        seed: of the samples.
        max_new_tokens: where a response is cut off; None: what suits the pair, its preset's or 1024.
        settings: of `Replay`: tau, alpha, layers, ...

    Raises:
        InputError: no answer to compare with, or what `Replay`, `learn_tokens` and `decode` refuse.
    """
    if problem.answer is None:
        raise InputError(
            f"`problem` {problem.id!r} has no answer to compare with; give one: Problem(..., answer='3')"
        )
    if layer is not None:
        settings |= {"site": "mid_tokens", "layer": layer, "layers": None}
    prompt = pair.encode(problem)
    learned = learn_tokens(pair, prompt, Replay(**settings))
    rows = []
    for name, model, tokens in (("base", "base", None), ("rlvr", "rlvr", None), ("replay", "rlvr", learned)):
        how: dict[str, Any] = {"model": model, "intervention": tokens, "max_new_tokens": max_new_tokens}
        greedy = decode(pair, prompt, **how)
        sampled = decode(pair, prompt, samples=samples, temperature=1.0, seed=seed, **how)
        right = [
            verify(response.text, problem.answer, problem.verifier, choices=problem.choices).correct
            for response in [*greedy, *sampled]
        ]
        rows.append({"model": name, "greedy": greedy[0].text, "right": right[0]})
        rows[-1] |= {"samples": samples, "samples_right": sum(right[1:])}
    return Attempt(learned, pd.DataFrame(rows))
