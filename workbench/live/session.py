"""`Bench`: a prompt under two models, a selection of its cells, and what was tried at it; no browser is needed."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from workbench.conditions import Condition
from workbench.errors import InputError, install
from workbench.live import actions, kept
from workbench.live.cases import case_named
from workbench.live.choose import Ground
from workbench.live.mask import Mask
from workbench.live.page import page_of
from workbench.live.steps import Moment, Steps
from workbench.live.trial import (
    NULL_DRAWS,
    WHO,
    Token,
    Trial,
    answers_of,
    effect_of,
    learnt_norms,
    lens_effect,
    samples_right,
    strips_of,
    table_of,
)
from workbench.live.worker import Job, submit
from workbench.models.chat import Message
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.problems.images import open_image
from workbench.problems.problem import Problem
from workbench.replay.prepared import check_fits, prepare
from workbench.stopping import Stopped, still_wanted
from workbench.tracing.edits import Intervention
from workbench.tracing.follow import Followed, follow
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.trace import trace
from workbench.views.pages import frame, write_page

HEIGHT = 1100
"""Pixels of the frame where there is no widget."""
KEPT = 12
"""Lenses of trials that are kept: the latest; numbers and answers of the others stay."""


class Bench(Steps):
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
        self.job: Job | None = None
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
        self._wait("reading the prompt", lambda: self.read(problem, pair, turns))
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
        self._latest: tuple[Condition, str, Intervention | None] | None = None
        self.lenses: OrderedDict[int, LensTrace] = OrderedDict()
        self.start(Moment(Mask({}), 0))
        self.error: str | None = None

    def play(self, case: str) -> Trial:
        """Open one of the prepared cases (`cases.cases`): its problem, its selection, its action.

        Raises:
            InputError: there is none of that name.
        """
        chosen = case_named(case)
        self._wait(chosen.title, lambda: chosen.play(self))
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

    # ---- acting ----------------------------------------------------------------------------------------------

    def act(self, condition: Condition, *, samples: int = 0, temperature: float = 1.0) -> Trial:
        """Let a model answer under a condition of any kind; the other answers beside it are those of the models as they are.

        Args:
            condition: what is done.
            samples: answers to draw besides the greedy ones, of base, RLVR and the action alike; `sample` does it later.
            temperature: of the samples.

        Raises:
            InputError: what does not fit the pair, what `decode` refuses.
            Stopped: `cancel` was called meanwhile.
        """
        how = self.sampling(samples, temperature) if samples else {}
        self.check(condition)

        def work() -> Trial:
            self.attempt(condition)
            return self.draw(how) if how else self.trial

        return self._wait(condition.title, work)

    def check(self, condition: Condition) -> None:
        """Refuse what can't be tried, before anything is computed."""
        check_fits(condition, self.pair)

    def sampling(self, samples: int, temperature: float) -> dict[str, Any]:
        """How samples are drawn.

        Raises:
            InputError: numbers outside their range.
        """
        how: dict[str, Any] = {"samples": samples, "temperature": temperature}
        self.pair.sampling(**how)
        return how

    def sample(self, samples: int = 8, temperature: float = 1.0) -> Trial:
        """Draw answers of base, RLVR and the shown action, besides the greedy ones: `Trial.samples`.

        Raises:
            InputError: numbers outside their range.
            Stopped: `cancel` was called meanwhile.
        """
        how = self.sampling(samples, temperature)
        return self._wait("drawing samples", lambda: self.draw(how))

    def do(self, name: str, *, samples: int = 0, temperature: float = 1.0, **settings: Any) -> Trial:
        """What a button does at the selection: ``patch``, ``replay``, ``scale``, ``remove``, ``cross-sample``, ``extrapolate`` or
        ``adapter``, with its settings.

        Raises:
            InputError: nothing is selected, or settings that it does not take.
        """
        condition = actions.act(name, self.pair, self.mask, settings)
        return self.act(condition, samples=samples, temperature=temperature)

    def patch(self, source: str = "base", **how: Any) -> Trial:
        """Write one model's activations into the other at the selection, and let that one answer."""
        return self.do("patch", source=source, **how)

    def replay(self, **changes: Any) -> Trial:
        """Learn tokens at the selected positions; ``changes`` are fields of `Replay`."""
        return self.do("replay", **changes)

    def scale(self, factor: float, model: str = "rlvr") -> Trial:
        """Multiply the selected cells; 0 takes them away."""
        return self.do("scale", factor=factor, model=model)

    def remove(self, layer: int, head: int | None = None, model: str = "rlvr") -> Trial:
        """Take a head, or the MLP, out of a layer at the selected positions, everywhere where nothing is selected."""
        return self.do("remove", layer=layer, head=head, model=model)

    def go_on(self, who: str, position: int, token: int | None = None) -> Trial:
        """Let all answers begin with the shown answer of ``who`` up to ``position``, then ``token``, and go on from there.

        Args:
            who: "base", "rlvr" or "action".
            position: of the token, in the answer.
            token: its id; None: the one that stands there.

        Raises:
            InputError: no such answer, position or token.
        """
        begun = self.beginning(who, position, token)
        return self._wait("going on", lambda: self.attempt(self.trial.condition, begun))

    def beginning(self, who: str, position: int, token: int | None) -> tuple[int, ...]:
        """The tokens that `go_on` begins with."""
        answers = self.trial.answers
        if who not in answers:
            raise InputError(
                f"`who` is {who!r}; expected one of {', '.join(answers)}: bench.go_on('rlvr', 3, token)"
            )
        ids = answers[who][0].ids
        if not 0 <= position < len(ids):
            raise InputError(
                f"`position` is {position}; the answer has tokens 0 to {len(ids) - 1}: bench.go_on({who!r}, 0, token)"
            )
        begun = (*ids[:position], ids[position] if token is None else token)
        return tuple(self.pair.ids_of(begun).tolist())

    def attempt(self, condition: Condition | None, begun: tuple[int, ...] = ()) -> Trial:
        """What `act` and `go_on` do, in the worker's thread: answers first, then the lens, then the answers token by token."""
        pair, prompt, mask, number = self.pair, self.prompt, self.mask, len(self.trials)
        how: dict[str, Any] = {"max_new_tokens": self.max_new_tokens}
        answers = {model: self.trials[0].answers[model] for model in ("base", "rlvr")}
        if begun:
            answers = {m: answers_of(pair, prompt, m, begun=begun, **how) for m in ("base", "rlvr")}  # pyright: ignore[reportArgumentType]
        made = self._made(condition)
        if condition is not None:
            answers["action"] = answers_of(pair, prompt, condition.answered_by, made, begun=begun, **how)
        trial = Trial(number, condition, mask, answers, begun)
        still_wanted()
        lens = None
        if condition is not None and made is not None:
            lens = lens_effect(pair, prompt, condition, made, self.top_k)
        strips = dict(self.trials[0].strips) if not begun else {}
        fresh = {who: one for who, one in answers.items() if who not in strips}
        still_wanted()
        if fresh:
            strips |= strips_of(pair, prompt, fresh)
        trial = replace(
            trial,
            effect=effect_of(self.problem, trial, lens),
            strips={who: strips[who] for who in WHO if who in answers},
            norms=learnt_norms(made),
        )
        self.trials.append(trial)
        if lens is not None:
            self.lenses[number] = lens
            while len(self.lenses) > KEPT:
                self.lenses.popitem(last=False)
        self.move(Moment(mask, number))
        return trial

    def draw(self, how: Mapping[str, Any]) -> Trial:
        """What `sample` does, in the worker's thread."""
        trial, drawn = self.trial, dict[str, tuple[Any, ...]]()
        made = self._made(trial.condition)
        for who in trial.answers:
            model: Any = who
            if who == "action" and trial.condition is not None:
                model = trial.condition.answered_by
            own = made if who == "action" else None
            more: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, **how}
            drawn[who] = answers_of(self.pair, self.prompt, model, own, begun=trial.begun, **more)
        effect = {**trial.effect, **samples_right(self.problem, drawn)}
        self.trials[trial.number] = replace(trial, sampling=dict(how), samples=drawn, effect=effect)
        self.tell()
        return self.trial

    def _made(self, condition: Condition | None) -> Intervention | None:
        """What a condition makes for the prompt; the latest is kept, since learning it takes long."""
        if condition is None:
            return None
        if self._latest is None or self._latest[:2] != (condition, self.prompt.problem_id):
            alone = None if self.problem is None or self.turns else [self.problem]
            prepared: Any = prepare(condition, self.pair, [self.prompt], problems=alone)
            self._latest = (condition, self.prompt.problem_id, prepared[0])
        return self._latest[2]

    def cancel(self) -> None:
        """Stop what is being computed, at its next token, layer or step; nothing is kept of it."""
        if self.job:
            self.job.cancel()

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

    # ---- working ------------------------------------------------------------------------------------

    def begin(self, name: str, work: Callable[[], Any]) -> Job:
        """Queue work of the bench; an error stays in `error`, in words.

        Raises:
            InputError: other work is under way.
        """
        if self.job is not None and not self.job.done:
            raise InputError(f"the bench is busy ({self.job.name}); wait for it, or bench.cancel()")
        self.error = None

        def after(job: Job) -> None:
            self.error = None if job.error is None else words(job.error)
            self.tell()

        self.job = submit(name, work, after)
        self.tell()
        return self.job

    def _wait(self, name: str, work: Callable[[], Any]) -> Any:
        return self.begin(name, work).result()


def words(error: BaseException) -> str:
    """What went wrong, in a sentence."""
    if isinstance(error, Stopped):
        return "Cancelled; the models are as they were."
    if isinstance(error, InputError):
        return str(error)
    return f"That did not work: {str(error).splitlines()[0] if str(error) else 'no reason given'} ({type(error).__name__})"


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
