"""The model `workbench` of lmms-eval (extra `lmms-eval`), which finds it by `lmms_eval_plugin`.

::

    python -m lmms_eval --model workbench --model_args pair=vl-rethinker-7b,intervention=replay,tau=0.4 \
        --tasks mathvista_testmini --batch_size auto --gen_kwargs max_new_tokens=2048

``model_args`` are those of `workbench.interfaces.harness.Responder.of`. lmms-eval hands over chat messages (`ChatModel`), or with
``--force_simple`` a text and pictures (`SimpleModel`), which its multiple-choice tasks need.

Of a task's generation settings ``until``, ``max_new_tokens``, ``do_sample`` and ``temperature`` are obeyed, ``top_p``,
``top_k`` and ``num_beams`` refused where they would change the responses, and others ignored. Of ``until`` an empty line is left
out: lmms-eval puts it there by itself where a task says nothing, and it would end a response between two thoughts.

A request that fails is answered with an empty text (or an infinite loss) and told of at the end; if all fail, the first
error is raised.
"""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from workbench.errors import InputError, install
from workbench.interfaces.harness import Part, Question, Responder, kind_of, make_problem, make_question, told

try:
    from lmms_eval.api.instance import GenerationResult
    from lmms_eval.api.model import lmms
except ImportError as missing:
    raise InputError(
        f"lmms-eval can't be imported ({missing}); install it, best in an environment of its own, with "
        + install("lmms-eval")
    ) from missing


class ChatModel(lmms):
    """Questions as chat messages; what it is given is told in `Responder.of`.

    Raises:
        InputError: what `Responder.of` refuses, or several processes.
    """

    is_simple = False

    def __init__(
        self,
        pair: str | None = None,
        intervention: str | None = None,
        max_batch_size: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError(
                "`WORLD_SIZE` is above 1; run one process, and spread a large pair with --model_args device_map=auto"
            )
        self.responder = Responder.of(pair, intervention, **settings)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """A response to each request; those with the same settings go into batches together."""
        groups: dict[str, list[int]] = {}
        settings = [_settings(request.args) for request in requests]
        for i, how in enumerate(settings):
            groups.setdefault(repr(how), []).append(i)
        questions, by_place = self._questions(requests), dict[int, Any]()
        for members in groups.values():
            answers = self.responder.answer([questions[i] for i in members], **settings[members[0]])
            by_place |= zip(members, answers, strict=True)
        return _whole([by_place[i] for i in range(len(requests))], "")

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """(loss, whether greedy decoding would say it) of each request's continuation; an intervention is made once for all
        continuations of a question.

        The loss is minus the log probability of the whole continuation, in nats: lmms-eval takes the smallest. Each pair is
        the ``text`` of a result of lmms-eval, since version 0.7.3 turns a bare pair into a string, and then can't score it.
        """
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i, request in enumerate(requests):
            if len(request.args) != 6:
                raise InputError(
                    "a request has no question (metric `acc_mutual_info`); score the task by `acc`, not by mutual information"
                )
            context, _, _, number, task, split = request.args
            groups.setdefault((task, split, number, context), []).append(i)
        by_place: dict[int, Any] = {}
        for members in groups.values():
            (question,) = self._questions([requests[members[0]]])
            continuations = [self._continuation(requests[i].args) for i in members]
            by_place |= zip(members, self.responder.likelihoods(question, continuations), strict=True)
        scores = _whole([by_place[i] for i in range(len(requests))], (float("-inf"), False))
        return [GenerationResult((-log_p, greedy)) for log_p, greedy in scores]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused.

        Raises:
            InputError: always.
        """
        raise InputError(
            "tasks of several rounds are not supported; take a task whose output_type is generate_until, or `workbench agent`"
        )

    def _questions(self, requests: Sequence[Any]) -> list[Callable[[], Question]]:
        """How to make each request's question; one that is asked again gets another name, and so other random draws."""
        times: Counter[str] = Counter()
        makers = []
        for request in requests:
            *_, number, task, split = request.args
            name = f"{task}/{split}/{number}"
            makers.append(
                partial(self._question, f"{name}/{times[name]}" if times[name] else name, request.args)
            )
            times[name] += 1
        return makers

    def _question(self, name: str, args: Sequence[Any]) -> Question:
        context, *_, number, task, split = args
        document: Any = self.task_dict[task][split][number]
        if not self.is_simple:
            return _from_messages(name, args[1](document))
        parts: list[Part] = [(kind_of(v), v) for v in _flat(args[2](document) or [])]
        return Question(make_problem(name, [*parts, ("text", _unmarked(context))]))

    def _continuation(self, args: Sequence[Any]) -> str:
        _, target, _, number, task, split = args
        return str(target(self.task_dict[task][split][number])) if callable(target) else target


class SimpleModel(ChatModel):
    """Questions as a text and pictures, for tasks that score continuations."""

    is_simple = True


def _settings(args: Sequence[Any]) -> dict[str, Any]:
    """Arguments of `Responder.answer`, out of a task's generation settings."""
    generation = next(arg for arg in args if isinstance(arg, Mapping))
    temperature = float(generation.get("temperature") or 0.0)
    sampled = generation.get("do_sample")
    if sampled and generation.get("temperature") is None:
        temperature = 1.0
    if sampled is False:
        temperature = 0.0
    plain = {"num_beams": (None, 1)}
    if temperature:
        plain |= {"top_p": (None, 1), "top_k": (None, 0, -1)}
    for name, harmless in plain.items():
        if generation.get(name) not in harmless:
            raise InputError(
                f"`{name}` is {generation[name]!r}; responses are greedy, or drawn from the whole distribution: "
                f"--gen_kwargs {name}=1,..."
            )
    until = generation.get("until") or []
    stops = [until] if isinstance(until, str) else until
    return {
        "temperature": temperature,
        "max_new_tokens": generation.get("max_new_tokens"),
        "stop": tuple(stop for stop in stops if stop.strip()),
    }


def _from_messages(name: str, messages: Sequence[Any]) -> Question:
    """Chat messages as a question: system text, the first user's message as problem, then turns."""
    turns = [message if isinstance(message, Mapping) else message.model_dump() for message in messages]
    return make_question(name, [(turn["role"], _parts(turn)) for turn in turns])


def _parts(message: Mapping[str, Any]) -> list[Part]:
    content = message["content"]
    if isinstance(content, str):
        return [("text", _unmarked(content))]
    return [
        ("text", _unmarked(part["text"])) if part["type"] == "text" else (part["type"], part["url"])
        for part in content
    ]


def _unmarked(text: str) -> str:
    """A text without the mark that some tasks put where an image belongs."""
    return text.replace("<image>", "")


def _flat(visuals: Any) -> list[Any]:
    if not isinstance(visuals, list | tuple):
        return [visuals]
    return [item for visual in visuals for item in _flat(visual)]


def _whole(found: list[Any], nothing: Any) -> list[Any]:
    """Results with ``nothing`` where a request failed; raises the first error if none succeeded."""
    errors = [item for item in found if isinstance(item, Exception)]
    if errors and len(errors) == len(found):
        raise errors[0]
    if errors:
        warnings.warn(
            f"{len(errors)} of {len(found)} requests failed and count as wrong; the first: {told(errors[0])}",
            UserWarning,
            stacklevel=3,
        )
    return [nothing if isinstance(item, Exception) else item for item in found]
