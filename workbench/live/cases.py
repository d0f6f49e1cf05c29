"""Prepared cases to open: chosen from the bundled pairs by ``tests/perf/bench_cases.py``, which says what each one shows."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import InputError, nearest
from workbench.experiments.agent import given, run_agent
from workbench.live.actions import from_json
from workbench.live.mask import Mask
from workbench.models.chat import Message
from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair
from workbench.problems.problem import Problem, load_problems

if TYPE_CHECKING:
    from workbench.live.session import Bench

FILE = Path(__file__).with_name("cases.json")


@dataclass(frozen=True)
class Case:
    """A problem of a bundled set, what is selected, and what is done there."""

    name: str
    title: str
    """What it shows."""
    pair: str
    problems: str
    """A generated set; the problem is number ``index`` of its test split, seed 0."""
    index: int
    cells: Any
    """As `Mask.spans` has them."""
    actions: tuple[Any, ...] = ()
    """What is done, one after another, as `actions.to_json` has it."""
    goes_on: tuple[str, int, int] | None = None
    """Instead: the arguments of `Bench.go_on`."""
    turn: int = 1
    """Of an agent: at which turn of its conversation, RLVR's greedy one (`experiments.agent.run_agent`)."""

    def problem(self) -> Problem:
        """The problem."""
        return load_problems(self.problems, split="test", limit=self.index + 1)[self.index]

    def asked(self, pair: ModelPair) -> tuple[Problem, ModelPair, tuple[Message, ...]]:
        """The problem, the pair, and the turns before: what `Bench.read` takes."""
        problem = self.problem()
        if self.turn == 1:
            return problem, pair, ()
        problem, turns = given(pair, run_agent(pair, problem, turns=self.turn - 1), self.turn)
        return problem, pair, turns

    def play(self, bench: "Bench") -> None:
        """Open it on a bench, in the worker's thread: read the prompt, select the cells, act."""
        pair = bench.pair if bench.pair.name == self.pair else _loaded(self.pair)
        bench.read(*self.asked(pair))
        if self.cells:
            bench.selection = Mask.from_spans(self.cells)
        for action in self.actions:
            bench.attempt(from_json(action))
        if self.goes_on is not None:
            bench.attempt(None, bench.beginning(*self.goes_on))


def cases() -> tuple[Case, ...]:
    """All of them."""
    entries: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return tuple(Case(**{name: _tuple(value) for name, value in one.items()}) for one in entries)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def case_named(name: str) -> Case:
    """The one of that name.

    Raises:
        InputError: there is none.
    """
    known = {case.name: case for case in cases()}
    if name not in known:
        raise InputError(
            f"`case` is {name!r}{nearest(name, known)}; there are {', '.join(known)}: bench.play({next(iter(known), '')!r})"
        )
    return known[name]


@cache
def _loaded(name: str) -> ModelPair:
    return load_pair(name)
