"""The bench as a widget (anywidget): messages of the page become calls of the bench; what changed goes back, packed small."""

import json
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from workbench.errors import InputError
from workbench.live import actions, kept
from workbench.live.cases import case_named, cases
from workbench.live.page import page_of
from workbench.live.state import prompt_data, shown_answers, shown_effect, shown_selection, shown_state
from workbench.problems.images import decode_base64, open_image
from workbench.problems.problem import Problem
from workbench.views.explorer import bench_module

if TYPE_CHECKING:
    from workbench.live.session import Bench

__all__ = ["DOES"]  # what the class inherits has pages of its own, elsewhere

_MODULE, _STYLE = bench_module()


class BenchWidget(anywidget.AnyWidget):
    """What a page shows of one bench, as many times as it is shown; work runs in the benches' own thread."""

    _esm = _MODULE
    _css = _STYLE
    data = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    selection = traitlets.Dict().tag(sync=True)
    answers = traitlets.Dict().tag(sync=True)
    effect = traitlets.Dict().tag(sync=True)
    cases = traitlets.List().tag(sync=True)

    def __init__(self, bench: "Bench") -> None:
        self._bench, self._prompt, self._trial = bench, bench.prompt, bench.trial
        self._lens = bench.lenses.get(bench.trial.number)
        self._lock = threading.RLock()  # changes come from the worker's thread and from the kernel's
        super().__init__(
            data=prompt_data(bench),
            state=shown_state(bench),
            selection=shown_selection(bench),
            answers=shown_answers(bench),
            effect=shown_effect(bench),
            cases=[{"name": case.name, "title": case.title} for case in cases()],
        )
        bench.listen(self.refresh)
        self.on_msg(self._received)

    def close(self) -> None:
        """Show nothing any more."""
        self._bench.forget(self.refresh)
        super().close()

    def refresh(self) -> None:
        """Show what changed; what did not change is not sent."""
        bench = self._bench
        with self._lock, self.hold_sync():
            anew = self._prompt is not bench.prompt
            self.state, self.selection = shown_state(bench), shown_selection(bench)
            if anew or self._trial is not bench.trial:
                self.answers = shown_answers(bench)
            lens = bench.lenses.get(bench.trial.number)
            if anew or self._trial.number != bench.trial.number or lens is not self._lens:
                self.effect, self._lens = shown_effect(bench), lens
            if anew:
                self.data = prompt_data(bench)
            self._prompt, self._trial = bench.prompt, bench.trial

    def _received(self, _: Any, message: Any, __: Any) -> None:
        """Do what the page asks; whatever goes wrong is shown there in words."""
        from workbench.live.acting import words

        bench = self._bench
        try:
            entry = dict(message)
            do = DOES.get(str(entry.pop("do", None)))
            if do is None:
                raise InputError(f"the page asked for {message!r:.80}, which a bench does not do")
            if (reply := do(bench, entry)) is not None:
                self.send(reply)
        except Exception as error:
            bench.error = words(error)
            bench.tell()


def _select(bench: "Bench", message: Mapping[str, Any]) -> None:
    where = dict(message["where"])
    first, last = where.pop("layers")
    positions = where.pop("positions", None)
    bench.error = None
    bench.select(positions, layers=range(int(first), int(last) + 1), how=message["how"], **where)


def _act(bench: "Bench", message: Mapping[str, Any]) -> None:
    condition = actions.act(message["name"], bench.pair, bench.mask, message.get("settings", {}))
    bench.check(condition)
    bench.begin(condition.title, lambda: bench.attempt(condition))


def _sample(bench: "Bench", message: Mapping[str, Any]) -> None:
    how = bench.sampling(message["samples"], message.get("temperature", 1.0))
    bench.begin("drawing samples", lambda: bench.draw(how))


def _code(bench: "Bench", message: Mapping[str, Any]) -> dict[str, str]:
    bench.error = None
    bench.tell()
    return {"code": bench.code(message.get("name"))}


def _go_on(bench: "Bench", message: Mapping[str, Any]) -> None:
    begun = bench.beginning(message["who"], int(message["position"]), message.get("token"))
    bench.begin("going on", lambda: bench.attempt(bench.trial.condition, begun))


def _ask(bench: "Bench", message: Mapping[str, Any]) -> None:
    picture = message.get("picture")
    images = (
        (open_image(decode_base64(picture, "the picture"), "the picture"),) if picture is not None else ()
    )
    problem = Problem("bench", str(message.get("question", "")), images=images)
    bench.begin("reading the prompt", lambda: bench.read(problem, bench.pair))


def _case(bench: "Bench", message: Mapping[str, Any]) -> None:
    case = case_named(message["name"])
    bench.begin(case.title, lambda: case.play(bench))


def _reopen(bench: "Bench", message: Mapping[str, Any]) -> None:
    entry = kept.checked(json.loads(message["content"]), "the file")
    problem, turns = kept.problem_in(entry), kept.turns_in(entry)

    def reopened() -> None:
        bench.read(problem, bench.pair, turns)
        bench.restore(entry)

    bench.begin("reopening", reopened)


def _save(bench: "Bench", message: Mapping[str, Any]) -> dict[str, Any]:
    file = {"name": "bench.html", "type": "text/html"}
    if message["kind"] == "json":
        file = {"name": "bench.json", "type": "application/json"}
    content = json.dumps(kept.as_json(bench)) if message["kind"] == "json" else page_of(bench)
    return {"file": {**file, "content": content}}


DOES: Mapping[str, Callable[["Bench", Mapping[str, Any]], Any]] = {
    "select": _select,
    "invert": lambda bench, _: (bench.invert(), None)[1],
    "clear": lambda bench, _: (bench.clear(), None)[1],
    "undo": lambda bench, _: (bench.undo(), None)[1],
    "redo": lambda bench, _: (bench.redo(), None)[1],
    "show": lambda bench, message: (bench.show(int(message["number"])), None)[1],
    "cancel": lambda bench, _: bench.cancel(),
    "act": _act,
    "sample": _sample,
    "code": _code,
    "noise": lambda bench, _: (bench.begin("drawing noise", bench.add_noise), None)[1],
    "ping": lambda bench, _: {"here": True},
    "go_on": _go_on,
    "ask": _ask,
    "case": _case,
    "reopen": _reopen,
    "save": _save,
}
"""What a page can ask for."""
