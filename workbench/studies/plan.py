"""What a study will do and what each part of it costs, before it begins: an estimate of the time left that holds from the start.

Costs are multiply-adds, by the shape of the models: a trace multiplies every cell by the whole vocabulary for each distribution,
which is most of it where the vocabulary is large; a response runs the model once a token; tokens are learnt in passes forward and
back over some layers. Products of few rows are slower than those of many: `FEW_ROWS` and `BACK_AND_FORTH` say by how much,
measured on the pair ``smol`` on a CPU. So the cost of answering a problem is k traces of it, with k from the models' sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workbench.conditions import Named, condition_of
from workbench.interventions import Replay
from workbench.models.anatomy import Anatomy
from workbench.models.pairs import ModelPair
from workbench.problems.problem import Problem
from workbench.sampling import Sampling
from workbench.studies.parts import NEAREST, Answers, Disturbances, Measures, Progress

WHOLE = "the whole study"
"""What the estimate is told as, in hundredths."""
FEW_ROWS = 2.5
"""Times that a product of a few rows takes as long as its share of one of many."""
BACK_AND_FORTH = 2.0
"""The same of learning."""
DIFFERENT = 1 / 3
"""Rows of a model for each response, in the mean over its tokens: equal ones are one row (`decoding.streams`)."""
DISTURBED = 10
"""Comparisons of the two models for each picture that is disturbed, about."""


@dataclass(frozen=True)
class Sizes:
    """Of a model and a prompt, in multiply-adds a position."""

    layers: float
    """Of all decoder layers."""
    head: float
    """Of one product with the vocabulary."""
    depth: int
    positions: int

    @classmethod
    def of(cls, anatomy: Anatomy, positions: int, vocabulary: int) -> "Sizes":
        """Of a model, with prompts of so many positions."""
        weights = sum(one.numel() for layer in anatomy.layers for one in layer.parameters() if one.ndim > 1)
        return cls(float(weights), float(vocabulary * anatomy.hidden_size), anatomy.depth, positions)

    def trace(self, distributions: int) -> float:
        """Of both models on a prompt, with so many distributions at every cell."""
        return self.positions * (2 * self.layers + self.depth * distributions * self.head)

    def nearest(self, states: int, hidden: int, searches: int) -> float:
        """Of both models' residuals on a prompt, with so many searches at every cell among so many states."""
        return self.positions * (2 * self.layers + self.depth * searches * float(states) * hidden)

    def drift(self, models: int = 1) -> float:
        """Of the comparison of one model's cells with another's; ``models`` that are run for it."""
        return self.positions * (models * self.layers + self.depth * 2 * self.head)

    def answers(self, sampling: Sampling) -> float:
        """Of a prompt's responses, half as long as they may be."""
        rows = 1 + sampling.samples * DIFFERENT
        return self.positions * self.layers + FEW_ROWS * rows * (sampling.max_new_tokens / 2) * (
            self.layers + self.head
        )

    def learning(self, replay: Replay) -> float:
        """Of a prompt's tokens: forward and back."""
        layers = replay.loss_layers(self.depth)
        first = layers[0] if replay.site == "mid_tokens" else 0
        share = (layers[-1] + 1 - first) / self.depth
        return BACK_AND_FORTH * 2 * replay.iterations * self.positions * share * self.layers


@dataclass
class Plan:
    """The parts of a study by the name that progress has of them, with what each costs in all; progress goes through it."""

    costs: Mapping[str, float]
    tell: Progress
    done: dict[str, float] = field(default_factory=dict)
    """Share of each part that is done."""

    @classmethod
    def of(
        cls,
        pair: ModelPair,
        problems: Sequence[Problem],
        how: Measures,
        answers: Answers,
        disturbances: Disturbances,
        tell: Progress,
    ) -> "Plan":
        """Of a study of these problems; ``tell`` is called with (part, done, total), and with `WHOLE` and hundredths."""
        sizes = Sizes.of(pair.base, len(pair.encode(problems[0])), pair.vocab_size)
        count, distributions, controls = len(problems), 2 + how.null_draws, [*disturbances.controls]
        costs = {"tracing both models": count * sizes.trace(distributions)}
        costs |= {f"tracing the control {name}": count * sizes.trace(distributions) for name in controls}
        costs |= {f"null model: {name}": count * sizes.trace(2) for name in disturbances.names}
        if how.states is not None:
            search = sizes.nearest(
                len(how.states), pair.base.hidden_size, 4 + how.null_draws
            )  # two are of ranks
            names = [NEAREST, *(f"{NEAREST}: {name}" for name in controls)]
            costs |= dict.fromkeys(names, count * search)
        if disturbances.pictured:
            costs["disturbing the pictures"] = count * DISTURBED * sizes.drift(2)
        if answers.interventions:
            answered, sampling = len(answers.of(problems)), answers.sampling
            named: dict[str, Named] = {"base": "base", "rlvr": "rlvr", **answers.interventions}
            each = {name: _answered(sizes, condition, sampling) for name, condition in named.items()}
            each |= dict.fromkeys(controls, sizes.answers(sampling))
            costs |= {f"answering: {name}": answered * cost for name, cost in each.items()}
        return cls(costs, tell)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Pass progress on, and the whole study's with it."""
        self.tell(what, done, total)
        if what in self.costs:
            self.done[what] = done / max(1, total)
            self.tell(WHOLE, self.hundredths, 100)

    @property
    def hundredths(self) -> int:
        """Of the costs in all, what is done."""
        spent = sum(self.costs[what] * share for what, share in self.done.items())
        return int(100 * spent / sum(self.costs.values()) + 1e-9)


def _answered(sizes: Sizes, condition: Named, sampling: Sampling) -> float:
    """Of one problem under a condition: what it prepares, its responses, and the drift."""
    made, cost = condition_of(condition), sizes.answers(sampling)
    if isinstance(condition, Replay):
        cost += sizes.learning(condition)
    if condition == "base":
        return cost
    if condition == "rlvr":  # whose drift is that of the pair, which the others share
        return cost + sizes.drift(2)
    return cost + sizes.drift() + (sizes.drift(2) if made.answered_by == "base" else 0)
