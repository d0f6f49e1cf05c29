"""`Bench`: a prompt under two models, a selection of its cells, and what was tried at it; no browser is needed."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from workbench.errors import InputError, install
from workbench.live import actions, kept
from workbench.live.acting import Acting
from workbench.live.cases import case_named
from workbench.live.choose import Ground
from workbench.live.mask import Mask
from workbench.live.page import page_of
from workbench.live.steps import Moment
from workbench.live.trial import (
    NULL_DRAWS,
    Token,
    Trial,
    answers_of,
    effect_of,
    strips_of,
    table_of,
)
from workbench.models.chat import Message
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.problems.images import open_image
from workbench.problems.problem import Problem
from workbench.tracing.follow import Followed, follow
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.trace import trace
from workbench.views.pages import frame, write_page

HEIGHT = 1100
"""Pixels of the frame where there is no widget."""


class Bench(Acting):
    """Both models at one prompt, under your hands. In a notebook it shows itself; everything it does is also a method.

    Args:
        pair: what `load_pair` returned, with a tokenizer.
        problem: a problem, an encoded prompt, or a question in words.
        picture: for a question in words: a picture of PIL, or a file.
        turns: what followed the problem, as in `ModelPair.encode`: an agent's calls and crops (`experiments.agent.given`).
        top_k: first predictions per layer and position.
        followed: tokens per position whose exact probability is known at every layer.
        max_new_tokens: of an answer; None: what suits the pair.

    Raises:
        InputError: what `trace` or `decode` refuse, or a picture without a question.

    Example:
        >>> bench = wb.bench(wb.load_pair("shapes"), wb.load_problems("shapes", limit=1)[0])
        >>> bench.select(rectangle=(0, 0, 1, 1), layers=(2, 3)).count
        8
        >>> bench.patch().text == bench.answers["rlvr"][0].text  # does the base's activation there change the answer?
        True
    """

    def __init__(
        self,
        pair: ModelPair,
        problem: Problem | EncodedPrompt | str,
        *,
        picture: Image.Image | str | Path | None = None,
        turns: Sequence[Message] = (),
        top_k: int = 5,
        followed: int = 16,
        max_new_tokens: int | None = None,
    ) -> None:
        if not isinstance(pair, ModelPair) or pair.tokenizer is None:
            raise InputError(
                f"`pair` is {pair!r:.80}; expected a pair with a tokenizer: wb.bench(wb.load_pair('shapes'), problem)"
            )
        for name, value, least in (("top_k", top_k, 1), ("followed", followed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(
                    f"`{name}` is {value!r}; expected a whole number of at least {least}: wb.bench(pair, problem, {name}=5)"
                )
        pair.sampling(max_new_tokens=max_new_tokens)
        self.top_k, self.followed_tokens, self.max_new_tokens = top_k, followed, max_new_tokens
        super().__init__()
        self._widget: Any = None
        self.open(problem_of(problem, picture), pair=pair, turns=turns)

    def open(
        self,
        problem: Problem | EncodedPrompt,
        *,
        pair: ModelPair | None = None,
        turns: Sequence[Message] = (),
    ) -> "Bench":
        """Begin anew at another problem, of this pair or another; nothing is kept of what was tried.

        Raises:
            InputError: what `trace` or `decode` refuse; the bench then stays as it is.
        """
        pair = pair or self.pair
        self.wait("reading the prompt", lambda: self.read(problem, pair, turns))
        return self

    def read(self, problem: Problem | EncodedPrompt, pair: ModelPair, turns: Sequence[Message] = ()) -> None:
        """What `open` does, in the worker's thread."""
        prompt = pair.encode(problem, turns)
        lens = trace(pair, [prompt], top_k=self.top_k, null_draws=NULL_DRAWS)
        curves = follow(pair, [prompt], lens, tokens=self.followed_tokens) if self.followed_tokens else None
        how: dict[str, Any] = {"max_new_tokens": self.max_new_tokens}
        answers = {model: answers_of(pair, prompt, model, **how) for model in ("base", "rlvr")}
        first = Trial(0, None, Mask({}), answers)
        question = problem if isinstance(problem, Problem) else None
        first = replace(
            first, effect=effect_of(question, first, None), strips=strips_of(pair, prompt, answers)
        )
        self.pair, self.prompt, self.problem, self.turns = pair, prompt, question, tuple(turns)
        self.lens: LensTrace = lens
        self.followed: Followed | None = curves
        self.ground = Ground(prompt, lens.entropy_base)
        self.trials: list[Trial] = [first]
        self.latest = None
        self.lenses: OrderedDict[int, LensTrace] = OrderedDict()
        self.start(Moment(Mask({}), 0))
        self.error: str | None = None

    def play(self, case: str) -> Trial:
        """Open one of the prepared cases (`cases.cases`): its problem, its selection, its action.

        Raises:
            InputError: there is none of that name.
        """
        chosen = case_named(case)
        self.wait(chosen.title, lambda: chosen.play(self))
        return self.trial

    @property
    def widget(self) -> Any:
        """What shows it in a notebook, an anywidget; the same one every time.

        Raises:
            InputError: anywidget is not installed.
        """
        if self._widget is None:
            try:
                from workbench.live.widget import BenchWidget
            except ImportError as error:
                raise InputError(
                    f"the live bench needs anywidget ({error}): {install('notebooks')}"
                ) from error
            self._widget = BenchWidget(self)
        return self._widget

    def _repr_mimebundle_(self, **how: Any) -> Any:
        """The widget; where anywidget is not installed, the page that needs no kernel."""
        try:
            return self.widget._repr_mimebundle_(**how)
        except InputError:
            return {"text/plain": repr(self), "text/html": frame(page_of(self), repr(self), HEIGHT)}

    def __repr__(self) -> str:
        layers, positions = self.ground.shape
        return (
            f"Bench({self.pair.name!r}, {self.prompt.problem_id!r}, {layers} layers x {positions} positions, "
            f"{self.now.mask.count} cells selected, {len(self.trials) - 1} tried)"
        )

    # ---- what there is ---------------------------------------------------------------------------------------

    @property
    def answers(self) -> Mapping[str, tuple[Any, ...]]:
        """Responses by ``base``, ``rlvr`` and, where something was done, ``action``."""
        return self.trial.answers

    @property
    def strips(self) -> Mapping[str, tuple[Token, ...]]:
        """The answers token by token, with their divergence and both models' alternatives."""
        return self.trial.strips

    def to_dataframe(self) -> pd.DataFrame:
        """What was tried, a row a trial (`trial.table_of`)."""
        return table_of(self.trials)

    def show(self, number: int) -> Trial:
        """Go back to one of the trials, with the selection that it had."""
        if not 0 <= number < len(self.trials):
            raise InputError(
                f"`number` is {number}; there are trials 0 to {len(self.trials) - 1}: bench.show(0)"
            )
        self.move(Moment(self.trials[number].mask if number else self.mask, number))
        return self.trial

    def code(self, name: str | None = None, **settings: Any) -> str:
        """Python to copy into a cell: what is shown, from nothing; or the selection as what a button does (`do`).

        Raises:
            InputError: what `do` refuses.
        """
        if name is None:
            return kept.code(self)
        return kept.code_with(self, actions.act(name, self.pair, self.mask, settings))

    def save(self, path: str | Path) -> Path:
        """Write the bench: ``.html``, a page that needs no kernel; ``.json``, to be reopened; ``.py``, what is shown as code.

        Raises:
            InputError: another ending, a path that can't be written, or what can't be kept as JSON.
        """
        path = Path(path)
        if path.suffix == ".json":
            return kept.save_json(self, path)
        if path.suffix not in (".html", ".py"):
            raise InputError(
                f"`path` {str(path)!r} ends in {path.suffix!r}; expected .html, .json or .py: bench.save('bench.html')"
            )
        return write_page(path, page_of(self) if path.suffix == ".html" else self.code())

    def restore(self, entry: Mapping[str, Any]) -> None:
        """Take up what was tried in a bench that was kept as JSON (`kept.read_json`).

        Raises:
            InputError: it is of another pair or problem, or can't be read.
        """
        if entry.get("pair") != self.pair.name:
            raise InputError(
                f"`reopen` is of pair {entry.get('pair')!r}, and `pair` is {self.pair.name!r}: "
                f"wb.bench(wb.load_pair({entry.get('pair')!r}), reopen='bench.json')"
            )
        trials = kept.trials_in(entry, self.pair)
        shown, mask = int(entry.get("shown", 0)), Mask.from_spans(entry.get("selection"))
        if not 0 <= shown < len(trials):
            raise InputError(f"`reopen` shows trial {shown}, and has {len(trials)}")
        mask.cells(*self.ground.shape)
        self.trials, self.lenses = trials, OrderedDict()
        self.start(Moment(mask, shown))
        self.tell()


def problem_of(
    given: Problem | EncodedPrompt | str, picture: Image.Image | str | Path | None
) -> Problem | EncodedPrompt:
    """A problem of what a bench was asked about.

    Raises:
        InputError: it is none, or has a picture of its own.
    """
    if isinstance(given, Problem | EncodedPrompt):
        if picture is not None:
            raise InputError(
                "`picture` belongs to a question in words: wb.bench(pair, 'How many?', picture='a.png')"
            )
        return given
    if not isinstance(given, str) or not given.strip():
        raise InputError(
            f"`problem` is {given!r:.80}; expected a problem, an encoded prompt or a question: "
            "wb.bench(pair, 'How many circles are there?', picture='board.png')"
        )
    if picture is None:
        return Problem("bench", given)
    shown = picture if isinstance(picture, Image.Image) else open_image(Path(picture), f"`picture` {picture}")
    return Problem("bench", given, images=(shown,))
