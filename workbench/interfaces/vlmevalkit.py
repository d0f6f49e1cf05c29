"""A model for VLMEvalKit, by the shape that it expects: nothing of VLMEvalKit is imported."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.conditions import Named
from workbench.digests import digest_of
from workbench.errors import InputError
from workbench.interfaces.harness import (
    Part,
    Question,
    Responder,
    kind_of,
    make_problem,
    make_question,
    told,
)
from workbench.models.chat import as_said, with_turns
from workbench.models.pairs import ModelPair
from workbench.problems.problem import Problem


class VLMEvalKitModel:
    """A pair under one condition, as VLMEvalKit calls a model.

    ::

        from vlmeval.config import supported_VLM

        supported_VLM["vl-rethinker-replay"] = partial(
            wb.VLMEvalKitModel, pair="vl-rethinker-7b", intervention="replay", device="cuda"
        )

    A message that fails is answered with `FAILED`, which VLMEvalKit counts as wrong and asks again in the next run.

    Args:
        pair: a name, or what `load_pair` returned.
        intervention: ``"rlvr"``, ``"base"``, ``"replay"``, ``"patch"``, or a value.
        temperature: 0 is greedy.
        max_new_tokens: where a response is cut off; None: what suits the pair.
        settings: the rest of `Responder.of`, such as ``tau=0.4``.

    Raises:
        InputError: what `Responder.of` refuses.
    """

    FAILED = "Failed to obtain answer via API."
    INTERLEAVE = False
    is_api = False
    allowed_types = ("text", "image", "video")

    def __init__(
        self,
        pair: ModelPair | str | None = None,
        intervention: Named | str | None = None,
        *,
        temperature: float = 0.0,
        max_new_tokens: int | None = None,
        **settings: Any,
    ) -> None:
        self.responder = Responder.of(pair, intervention, **settings)
        self.how = {"temperature": temperature, "max_new_tokens": max_new_tokens}
        self.VIDEO_LLM = getattr(self.responder.pair.processor, "video_processor", None) is not None
        self.dump_image_func: Callable[..., Any] | None = None

    def generate(self, message: Any, dataset: str | None = None) -> str:
        """As `generate_inner`, of anything that VLMEvalKit takes for a message: texts and paths, alone or in a list."""
        return self.generate_inner(_items(message), dataset)

    def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """The response to a list of ``{"type": "text" | "image" | "video", "value": text or path}``.

        Pictures go before the text (`harnesses` tells how). An item whose ``role`` is ``system`` is the system
        prompt. The problem is named by ``dataset`` and a digest of the message, pictures included: sampled responses have
        their random stream from that, whatever was asked before.
        """
        return self._answer(dataset, lambda name: Question(_problem(name, message)))

    def chat(self, messages: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """As `chat_inner`, of contents in any form that `generate` takes; no turn is left out where it can't be answered."""
        contents = [{**message, "content": _items(message.get("content"))} for message in messages]
        return self.chat_inner(contents, dataset)

    def chat_inner(self, messages: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """The response to a conversation, a list of ``{"role": "user" | "assistant", "content": list as in generate_inner}``.

        The first user's message is the problem, and shows its pictures before its text; later ones keep their order. What
        the assistant said is a text that ends no turn, whatever it spells. Named as in `generate_inner`, by all of the
        conversation.
        """
        return self._answer(dataset, lambda name: self._conversation(name, messages))

    def _answer(self, dataset: str | None, asked: Callable[[str], Question]) -> str:
        """The response to a question; `FAILED` and a warning where there is none."""
        name = dataset or "message"
        (answer,) = self.responder.answer([lambda: asked(name)], **self.how)
        if isinstance(answer, str):
            return answer
        warnings.warn(f"{name} has no answer: {told(answer)}", UserWarning, stacklevel=3)
        return self.FAILED

    def _conversation(self, name: str, messages: Sequence[Mapping[str, Any]]) -> Question:
        """The messages as a problem and turns, named by all that they say and show."""
        processor, turns = self.responder.pair.processor, list[tuple[str, list[Part]]]()
        for message in messages:
            role, items = message.get("role", "user"), _items(message.get("content"))
            _check_items(name, items)
            spoken = role == "assistant"
            turns.append(
                (role, [(i["type"], as_said(processor, i["value"]) if spoken else i["value"]) for i in items])
            )
        question = make_question(name, turns)
        texts = [
            (t.role, [part if isinstance(part, str) else "image" for part in t.parts]) for t in question.turns
        ]
        fingerprint = with_turns(question.problem, question.turns).fingerprint
        return replace(
            question, problem=replace(question.problem, id=f"{name}/{digest_of([fingerprint, texts])}")
        )

    def use_custom_prompt(self, dataset: str) -> bool:
        """No: questions are worded by the data set; the pair's preset adds its own words around them."""
        return False

    def set_dump_image(self, dump_image_func: Callable[..., Any]) -> None:
        """Told by VLMEvalKit how a data set writes its images to files; not needed, as questions come with their files."""
        self.dump_image_func = dump_image_func


def _items(message: Any) -> list[Mapping[str, Any]]:
    """Anything that VLMEvalKit takes for a message as a list of items."""
    return [_item(item) for item in (message if isinstance(message, list | tuple) else [message])]


def _item(item: Any) -> Mapping[str, Any]:
    """A bare text, or a bare path, as an item of a message."""
    if isinstance(item, Mapping):
        return item
    path = isinstance(item, Path) or (
        len(str(item)) < 1024 and Path(str(item)).suffix and Path(str(item)).is_file()
    )
    return {"type": kind_of(item) if path else "text", "value": item}


def _check_items(name: str, items: Sequence[Any]) -> None:
    """Refuse an item that is no text, image or video."""
    for item in items:
        if (
            not isinstance(item, Mapping)
            or item.get("type") not in VLMEvalKitModel.allowed_types
            or "value" not in item
        ):
            raise InputError(
                f"{name}: an item of the message is {str(item)[:80]!r}; expected "
                '{"type": "text", "value": "How many?"}, or type "image" or "video" with a path'
            )


def _problem(name: str, message: Sequence[Mapping[str, Any]]) -> Problem:
    """The message as a problem, named by what it says and shows."""
    _check_items(name, message)
    roles = [item.get("role", "user") for item in message]
    if "assistant" in roles:
        raise InputError(f"{name}: the message puts words into the model's mouth; leave out role 'assistant'")
    system = [item["value"] for item, role in zip(message, roles, strict=True) if role == "system"]
    items = [item for item, role in zip(message, roles, strict=True) if role != "system"]
    problem = make_problem(
        name, [(item["type"], item["value"]) for item in items], "\n".join(system) if system else None
    )
    return replace(problem, id=f"{name}/{problem.fingerprint}")
