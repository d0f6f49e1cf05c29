"""`Acting`: what a bench does at its selection, one job after another in the benches' own thread."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from workbench.conditions import Condition
from workbench.errors import InputError
from workbench.live import actions
from workbench.live.steps import Moment, Steps
from workbench.live.trial import (
    NULL_DRAWS,
    WHO,
    Trial,
    answers_of,
    effect_of,
    learnt_norms,
    lens_effect,
    samples_right,
    strips_of,
)
from workbench.live.worker import Job, submit
from workbench.models.chat import Message
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.problems.problem import Problem
from workbench.replay.prepared import check_fits, prepare
from workbench.stopping import Stopped, still_wanted
from workbench.tracing.edits import Intervention
from workbench.tracing.lens_trace import LensTrace

KEPT = 12
"""Lenses of trials that are kept: the latest; numbers and answers of the others stay."""


class Acting(Steps):
    """What of a bench acts on the models."""

    pair: ModelPair
    prompt: EncodedPrompt
    problem: Problem | None
    turns: tuple[Message, ...]
    top_k: int
    max_new_tokens: int | None
    lenses: OrderedDict[int, LensTrace]
    error: str | None

    def __init__(self) -> None:
        super().__init__()
        self.job: Job | None = None
        self.latest: tuple[Condition, EncodedPrompt, Intervention | None] | None = None
        """What was made last, and for what."""
        self.stage = ""
        """Which part of the work is being done."""

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

        return self.wait(condition.title, work)

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
        return self.wait("drawing samples", lambda: self.draw(how))

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
        return self.wait("going on", lambda: self.attempt(self.trial.condition, begun))

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
        self._now("preparing")
        made = self._made(condition)
        if condition is not None:
            self._now("answering")
            answers["action"] = answers_of(pair, prompt, condition.answered_by, made, begun=begun, **how)
        still_wanted()
        ready = {} if begun else {who: self.trials[0].strips[who] for who in ("base", "rlvr")}
        trial = Trial(number, condition, mask, answers, begun, strips=ready, norms=learnt_norms(made))
        trial = replace(trial, effect=effect_of(self.problem, trial, None))
        before = self.now.shown
        self.trials.append(trial)
        self.move(Moment(mask, number))  # the answers are shown while the rest is computed
        try:
            return self._read_closely(trial, made)
        except BaseException:
            self.trials.pop()
            self.drop(number, before)
            raise

    def _read_closely(self, trial: Trial, made: Intervention | None) -> Trial:
        """The trial with its answers token by token, and with what it did to the lens, which is kept."""
        pair, prompt, condition = self.pair, self.prompt, trial.condition
        fresh = {who: one for who, one in trial.answers.items() if who not in trial.strips}
        self._now("reading the answer token by token")
        strips = {**trial.strips, **(strips_of(pair, prompt, fresh) if fresh else {})}
        still_wanted()
        lens = None
        if condition is not None and made is not None:
            self._now("reading every layer")
            lens = lens_effect(pair, prompt, condition, made, self.top_k)
        still_wanted()
        if lens is not None:
            self._keep(trial.number, lens)
        strips = {who: strips[who] for who in WHO if who in trial.answers}
        whole = replace(trial, effect=effect_of(self.problem, trial, lens), strips=strips)
        self.trials[trial.number] = whole
        self.tell()
        return whole

    def draw(self, how: Mapping[str, Any]) -> Trial:
        """What `sample` does, in the worker's thread."""
        trial, drawn = self.trial, dict[str, tuple[Any, ...]]()
        made = self._made(trial.condition)
        for who in trial.answers:
            model: Any = who
            if who == "action" and trial.condition is not None:
                model = trial.condition.answered_by
            self._now(f"{how['samples']} answers of {who}")
            own = made if who == "action" else None
            more: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, **how}
            drawn[who] = answers_of(self.pair, self.prompt, model, own, begun=trial.begun, **more)
        effect = {**trial.effect, **samples_right(self.problem, drawn)}
        self.trials[trial.number] = replace(trial, sampling=dict(how), samples=drawn, effect=effect)
        self.tell()
        return self.trial

    def noise(self) -> LensTrace | None:
        """The lens of the shown action with matched noise (``kl_null``); None where there is none.

        `act` leaves it out, because it takes as long as all else together.

        Raises:
            Stopped: `cancel` was called meanwhile.
        """
        return self.wait("drawing noise", self.add_noise)

    def add_noise(self) -> LensTrace | None:
        """What `noise` does, in the worker's thread."""
        trial, made = self.trial, self._made(self.trial.condition)
        if trial.condition is None or made is None:
            return None
        lens = lens_effect(self.pair, self.prompt, trial.condition, made, self.top_k, NULL_DRAWS)
        if lens is not None:
            self._keep(trial.number, lens)
        return lens

    def _now(self, stage: str) -> None:
        """Say which part of the work begins."""
        self.stage = stage
        self.tell()

    def _keep(self, number: int, lens: LensTrace) -> None:
        self.lenses[number] = lens
        while len(self.lenses) > KEPT:
            self.lenses.popitem(last=False)

    def _made(self, condition: Condition | None) -> Intervention | None:
        """What a condition makes for the prompt; the latest is kept, since learning it takes long."""
        if condition is None:
            return None
        if self.latest is None or self.latest[0] != condition or self.latest[1] is not self.prompt:
            alone = None if self.problem is None or self.turns else [self.problem]
            prepared: Any = prepare(condition, self.pair, [self.prompt], problems=alone)
            self.latest = (condition, self.prompt, prepared[0])
        return self.latest[2]

    def cancel(self) -> None:
        """Stop what is being computed, at its next token, layer or step; nothing is kept of it."""
        if self.job:
            self.job.cancel()

    def begin(self, name: str, work: Callable[[], Any]) -> Job:
        """Queue work of the bench; an error stays in `error`, in words.

        Raises:
            InputError: other work is under way.
        """
        if self.job is not None and not self.job.done:
            raise InputError(f"the bench is busy ({self.job.name}); wait for it, or bench.cancel()")
        self.error, self.stage = None, ""

        def after(job: Job) -> None:
            self.error = None if job.error is None else words(job.error)
            self.tell()

        self.job = submit(name, work, after)
        self.tell()
        return self.job

    def wait(self, name: str, work: Callable[[], Any]) -> Any:
        """Do work of the bench, and wait for what it returns."""
        return self.begin(name, work).result()


def words(error: BaseException) -> str:
    """What went wrong, in a sentence."""
    if isinstance(error, Stopped):
        return "Cancelled; the models are as they were."
    if isinstance(error, InputError):
        return str(error)
    return f"That did not work: {str(error).splitlines()[0] if str(error) else 'no reason given'} ({type(error).__name__})"
