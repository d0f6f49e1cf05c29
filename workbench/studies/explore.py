"""The lens explorer: both models' predictions at every layer of any token, on one self-contained page.

The page is plain HTML and JavaScript (``templates/explorer.*``). It shows itself in Jupyter inside a frame, without
any widget extension; ``save`` writes it as a file; a study's report holds the same explorer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.conditions import Model
from workbench.decoding.decode import decode_many
from workbench.errors import InputError
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.problems.answers import verify
from workbench.problems.problem import Problem
from workbench.tracing.conversations import Responses, called, with_responses
from workbench.tracing.edits import Intervention
from workbench.tracing.follow import Followed, follow
from workbench.tracing.latent_lens import LatentLens
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.neighbours import Neighbours, check_states, read_neighbours
from workbench.tracing.readings import Reading, apart, in_words
from workbench.tracing.same_prompts import check_same_models, check_same_prompts, weights_in
from workbench.tracing.trace import trace
from workbench.views.explorer import SCRIPTS, embed
from workbench.views.explorer_data import Answers, ModelAnswer
from workbench.views.explorer_neighbours import SHOWN
from workbench.views.pages import frame, render, source, write_page

HEIGHT = 860
"""Pixels of the frame in Jupyter."""


def explore(
    pair: ModelPair,
    problems: Sequence[Problem | EncodedPrompt],
    *,
    top_k: int = 5,
    followed: int = 24,
    layers: Sequence[int] | None = None,
    batch_size: int | None = None,
    responses: Responses | None = None,
    interventions: Sequence[Intervention | None] | None = None,
    reading: Reading | LatentLens | None = None,
    max_new_tokens: int | None = None,
    title: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> "Explorer":
    """Trace both models on a few problems, follow their likeliest tokens, and show it all in an explorer.

    Args:
        pair: what `load_pair` returned.
        problems: problems, or prompts already encoded; all are on the page, so give a few.
        top_k: top predictions of each model per layer and position.
        followed: tokens per position whose exact probability is known at every layer; 0 for none.
        layers: decoder layers to trace, 0-based; all when None.
        batch_size: prompts per forward; changes speed and memory, results only by rounding. None: what suits the pair.
        responses: to the problems, as in `trace`: a page of its own for each.
        interventions: one (or None) for each problem, in place in the RLVR model: learnt tokens or prepared patches.
        reading: through what the layers are read, such as a `TunedLens`; None: the logit lens. With a `LatentLens`, which has no
            distribution, the nearest text states stand beside the logit lens, with what RLVR changed of them.
        max_new_tokens: of both models' greedy responses, whose answers stand beside the right one; None: what suits the pair; 0:
            no responses.
        title: of the page.
        progress: called with (prompts done, prompts in all) while tracing.

    Returns:
        The explorer, which shows itself in Jupyter; `Explorer.save` writes one page that fetches nothing.

    Raises:
        InputError: as `trace`, `follow` and `decode_many`, or a negative ``followed`` or ``max_new_tokens``.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> page = wb.explore(pair, wb.load_problems("shapes", limit=1), followed=4)
        >>> page.save("lens.html").stat().st_size > 10_000
        True
    """
    for name, value in (("followed", followed), ("max_new_tokens", max_new_tokens)):
        if value is not None and value < 0:
            raise InputError(f"`{name}` is {value}, expected 0 or more: `explore(pair, problems, {name}=24)`")
    how: dict[str, Any] = {"batch_size": batch_size, "interventions": interventions}
    settings: dict[str, Any] = {"top_k": top_k, "null_draws": 3, "layers": layers, "responses": responses}
    reading, lens = apart(reading)
    if lens is not None:
        check_states(lens, pair)
    with called("explore"):
        traced = trace(pair, problems, progress=progress, reading=reading, **settings, **how)
    spread = with_responses(pair, problems, responses)
    own = interventions and [interventions[number] for number, _ in spread]
    prompts = [prompt for _, prompt in spread]
    also: dict[str, Any] = {"batch_size": batch_size, "interventions": own}
    curves, near = None, None
    if followed:
        curves = follow(pair, prompts, traced, tokens=followed, reading=reading, **also)
    if lens is not None:
        near = read_neighbours(pair, prompts, lens, k=min(SHOWN, len(lens)), layers=layers, **also)
    answers = (
        _answers(pair, problems, max_new_tokens, **how) if max_new_tokens != 0 and pair.tokenizer else {}
    )
    return Explorer(traced, curves, top_k=top_k, title=title, answers=answers, neighbours=near)


def _answers(
    pair: ModelPair,
    problems: Sequence[Problem | EncodedPrompt],
    max_new_tokens: int | None,
    *,
    batch_size: int | None,
    interventions: Sequence[Intervention | None] | None,
) -> Answers:
    """What both models answer, greedily, by problem; the RLVR model with the interventions."""
    prompts = [pair.encode(problem) for problem in problems]
    answers: dict[str, dict[str, ModelAnswer]] = {prompt.problem_id: {} for prompt in prompts}
    models: tuple[Model, ...] = ("base", "rlvr")
    for model in models:
        how: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
            "interventions": interventions if model == "rlvr" else None,
        }
        responses = decode_many(pair, prompts, model=model, **how)
        for problem, (response, *_) in zip(problems, responses, strict=True):
            answer, right = response.text.strip(), None
            if isinstance(problem, Problem) and problem.answer is not None:
                outcome = verify(response.text, problem.answer, problem.verifier, choices=problem.choices)
                answer, right = outcome.answer or "none", outcome.correct
            answers[response.problem_id][model] = ModelAnswer(answer, response.text, right)
    return answers


@dataclass(frozen=True, eq=False, repr=False)
class Explorer:
    """A page to look around in a trace: hover or click a token, pin predictions, jump to the largest shifts.

    Raises:
        InputError: ``followed`` is of other prompts or layers than ``trace``, or ``top_k`` is below 1.
    """

    trace: LensTrace
    followed: Followed | None = None
    """Exact probabilities for pinned tokens, of all prompts of the trace or its first few."""
    top_k: int = 5
    """Top predictions per cell on the page, at most those traced."""
    title: str | None = None
    answers: Answers = field(default_factory=dict)
    """The models' answers by problem, as far as they are known."""
    neighbours: Neighbours | None = None
    """Nearest text states of the same prompts at the same layers, where they were read."""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise InputError(f"`top_k` is {self.top_k}, expected at least 1: `Explorer.of(trace, top_k=5)`")
        check_followed(self.trace, self.followed)
        check_neighbours(self.trace, self.neighbours)

    @classmethod
    def of(
        cls, trace: LensTrace, followed: Followed | None = None, *, top_k: int = 5, title: str | None = None
    ) -> "Explorer":
        """The explorer of an existing trace; without ``followed``, pins know only what the top predictions tell.

        Raises:
            InputError: ``followed`` is of other prompts or layers than ``trace``, or ``top_k`` is below 1.
        """
        return cls(trace, followed, top_k, title)

    def __repr__(self) -> str:
        return f"Explorer({self.trace!r}, followed={self.followed!r})"

    def _repr_html_(self) -> str:
        """A frame that holds the page."""
        return frame(self.html(), self._title(), HEIGHT)

    def html(self) -> str:
        """The page, whole: nothing in it is fetched from anywhere."""
        traces = [self.trace.select(prompt=index) for index in range(len(self.trace.prompts))]
        return render(
            "explorer.html.j2",
            title=self._title(),
            css=source("explorer.css"),
            explorer=embed(traces, self.top_k, self.followed, self.answers, self.neighbours),
            js=source(*SCRIPTS),
        )

    def save(self, path: str | Path) -> Path:
        """Write the page to one file and return its path; an old file is replaced once the new one is whole.

        Raises:
            InputError: the path cannot be written.
        """
        return write_page(path, self.html())

    def _title(self) -> str:
        own = f"Lens explorer: {self.trace.provenance.get('pair') or 'a pair of models'}"
        return self.title or in_words(
            own, self.neighbours.lens.name if self.neighbours else self.trace.reading
        )


def check_neighbours(trace: LensTrace, found: Neighbours | None) -> None:
    """InputError unless the neighbours are of the prompts of ``trace``, or its first few, at its layers."""
    if found is None:
        return
    call = "Explorer(trace, neighbours=read_neighbours(pair, problems, lens))"
    if found.layers != trace.layers:
        raise InputError(
            f"`neighbours` are of layers {list(found.layers)}, the trace of {list(trace.layers)}: {call}"
        )
    check_same_prompts("`neighbours`", found.prompts, trace, call, leading=True)
    check_same_models("`neighbours`", found.weights, weights_in(trace), call)


def check_followed(trace: LensTrace, followed: Followed | None) -> None:
    """InputError unless ``followed`` is of the first prompts of ``trace``, at its layers."""
    if followed is None:
        return
    call = "`follow(pair, problems, trace)` with this very trace"
    if followed.layers != trace.layers:
        raise InputError(
            f"`followed` has layers {list(followed.layers)}, the trace {list(trace.layers)}; pass {call}"
        )
    count = len(followed.prompt)
    traced = trace.prompts[: len(followed.problem_ids)]
    names = tuple(info.problem_id for info in traced)
    prints = zip((info.fingerprint for info in traced), followed.fingerprints, strict=False)
    others = [pair for pair in prints if all(pair) and pair[0] != pair[1]]  # earlier traces have none
    if names != followed.problem_ids or others or followed.prompt.tolist() != trace.prompt[:count].tolist():
        raise InputError(
            f"`followed` is of {list(followed.problem_ids[:3])}, the trace of "
            f"{[info.problem_id for info in trace.prompts[:3]]} and so on; pass {call}"
        )
