"""`Transcript`: what a visual agent said and saw on one problem, turn by turn, as a table and as a page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from PIL import Image

from workbench.columns import describe
from workbench.errors import InputError
from workbench.models.chat import Message
from workbench.problems.answers import Outcome, extract, verify
from workbench.problems.problem import Problem
from workbench.problems.zoom import Call
from workbench.tracing.lens_trace import LensTrace
from workbench.views.explorer import SCRIPTS, embed
from workbench.views.pages import frame, render, source, write_page
from workbench.views.pictures import picture_uri

if TYPE_CHECKING:
    from collections.abc import Sequence

HEIGHT = 700
"""Pixels of the frame in Jupyter."""

Ended = Literal["answer", "turns", "context"]
_WHY = {
    "answer": "answered",
    "turns": "no answer: out of turns",
    "context": "no answer: the next turn would not fit the context",
}


@dataclass(frozen=True, eq=False)
class Turn:
    """One response of the model, and what came of it: a call with its crop, an error, or the answer (neither)."""

    number: int
    """From 1."""
    positions: int
    """Tokens of the prompt, the whole conversation so far."""
    visual: int
    """Of these, visual tokens."""
    images: int
    """Images in the context."""
    text: str = field(repr=False)
    """The response, whole."""
    tokens: int
    """Of the response."""
    call: Call | None
    error: str | None
    """What the model was told instead of a crop."""
    crop: Image.Image | None = field(repr=False)
    made: Mapping[str, Any]
    """The intervention of this turn: learnt tokens (first and last loss in nats, share of cells, why stopped), or a
    patch (share of cells); empty without one."""
    making_seconds: float
    """Wall time of making it."""
    seconds: float
    """Wall time of decoding."""
    trace: LensTrace | None = field(default=None, repr=False)
    """Both models on this turn's whole context, without the intervention."""
    replaced: int = 0
    """Of the response's tokens, those drawn by the other model or from extrapolated logits, where two decode together."""
    overwritten: int = 0
    """How many (layer, token) cells of the response were overwritten, of a patch while decoding."""


@dataclass(frozen=True, eq=False)
class Transcript:
    """What `run_agent` returns."""

    problem: Problem
    turns: tuple[Turn, ...] = field(repr=False)
    ended: Ended
    """``turns``: the limit was reached; ``context``: the next turn would not have fitted."""
    settings: Mapping[str, Any] = field(repr=False)
    messages: tuple[Message, ...] = field(default=(), repr=False)
    """What followed the problem, two a turn that was not the last: the response, and the reply to it with its crop."""

    def __repr__(self) -> str:
        calls, errors = (sum(getattr(t, name) is not None for t in self.turns) for name in ("call", "error"))
        return (
            f"Transcript({self.problem.id!r}, {len(self.turns)} turns, {calls} calls, {errors} errors, "
            f"ended by {self.ended}, answer={self.answer!r})"
        )

    def _repr_html_(self) -> str:
        return frame(self.html(), self._title(), HEIGHT)

    @property
    def answer(self) -> str | None:
        """The answer in the last response; None if there was none."""
        if self.ended != "answer":
            return None
        return extract(self.turns[-1].text, self.problem.verifier, self.problem.choices)[0]

    def outcome(self, problem: Problem | None = None) -> Outcome:
        """Whether the answer is right.

        Raises:
            InputError: the problem has no reference answer.
        """
        task = problem or self.problem
        if task.answer is None:
            raise InputError(f"`problem` {task.id!r} has no answer to compare with: Problem(..., answer='3')")
        if self.ended != "answer":
            return Outcome(False, None, _WHY[self.ended])
        return verify(self.turns[-1].text, task.answer, task.verifier, choices=task.choices)

    def images(self) -> "Sequence[Image.Image]":
        """The images of the context: the problem's, then the crops."""
        return [*self.problem.images, *(turn.crop for turn in self.turns if turn.crop is not None)]

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of `to_dataframe`."""
        return describe({"turns": self.to_dataframe()})

    def to_dataframe(self) -> pd.DataFrame:
        """One row a turn."""
        rows = []
        for turn in self.turns:
            box = turn.call.box if turn.call else (None,) * 4
            row: dict[str, Any] = {
                "problem": self.problem.id,
                "turn": turn.number,
                "positions": turn.positions,
                "visual": turn.visual,
                "images": turn.images,
                "text": turn.text,
                "tokens": turn.tokens,
                "replaced": turn.replaced,
                "overwritten": turn.overwritten,
                "image": turn.call.image if turn.call else None,
                **dict(zip(("left", "top", "right", "bottom"), box, strict=True)),
                "label": turn.call.label if turn.call else "",
                "error": turn.error or "",
                "making_seconds": turn.making_seconds,
                "seconds": turn.seconds,
            }
            rows.append(row | {f"made_{name}": value for name, value in turn.made.items()})
        return pd.DataFrame(rows).astype(dict.fromkeys(("image", "left", "top", "right", "bottom"), "Int64"))

    def html(self) -> str:
        """The page, whole: nothing in it is fetched from anywhere."""
        traces = [turn.trace for turn in self.turns if turn.trace is not None]
        right = self.outcome().correct if self.problem.answer is not None else None
        return render(
            "transcript.html.j2",
            title=self._title(),
            css=source("transcript.css", *(["explorer.css"] if traces else [])),
            problem=self.problem,
            pictures=self._pictures(),
            turns=self.turns,
            owned=len(self.problem.images),
            ended=_WHY[self.ended],
            answer=self.answer,
            right=right,
            settings=self.settings,
            explorer=embed(traces, traces[0].top_ids_base.shape[-1]) if traces else None,
            js=source(*SCRIPTS) if traces else None,
        )

    def save(self, path: str | Path) -> Path:
        """Write the page to one file and return its path; an old file is replaced once the new one is whole.

        Raises:
            InputError: the path cannot be written.
        """
        return write_page(path, self.html())

    def _title(self) -> str:
        return f"Transcript of {self.problem.id}"

    def _pictures(self) -> list[dict[str, Any]]:
        """Every image once, with the boxes that were cut out of it."""
        pictures = []
        for index, image in enumerate(self.images()):
            boxes = [
                {"turn": turn.number, "label": turn.call.label, "at": turn.call.box}
                for turn in self.turns
                if turn.call is not None and turn.call.image == index
            ]
            pictures.append(
                {
                    "uri": picture_uri(image.copy()),
                    "width": image.width,
                    "height": image.height,
                    "boxes": boxes,
                }
            )
        return pictures
