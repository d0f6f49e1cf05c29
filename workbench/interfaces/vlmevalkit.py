"""A model for VLMEvalKit, by the shape that it expects: nothing of VLMEvalKit is imported."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.conditions import Named
from workbench.errors import InputError
from workbench.interfaces.harness import Question, Responder, kind_of, make_problem, told
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
        items = message if isinstance(message, list | tuple) else [message]
        return self.generate_inner([_item(item) for item in items], dataset)

    def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """The response to a list of ``{"type": "text" | "image" | "video", "value": text or path}``.

        Pictures go before the text (`harnesses` tells how). An item whose ``role`` is ``system`` is the system
        prompt. The problem is named by ``dataset`` and a digest of the message, pictures included: sampled responses have
        their random stream from that, whatever was asked before.
        """
        (found,) = self.responder.answer(
            [lambda: Question(_problem(dataset or "message", message))], **self.how
        )
        if isinstance(found, str):
            return found
        warnings.warn(f"{dataset or 'message'} has no answer: {told(found)}", UserWarning, stacklevel=2)
        return self.FAILED

    def use_custom_prompt(self, dataset: str) -> bool:
        """No: questions are worded by the data set; the pair's preset adds its own words around them."""
        return False

    def set_dump_image(self, dump_image_func: Callable[..., Any]) -> None:
        """Told by VLMEvalKit how a data set writes its images to files; not needed, as questions come with their files."""
        self.dump_image_func = dump_image_func


def _item(item: Any) -> Mapping[str, Any]:
    """A bare text, or a bare path, as an item of a message."""
    if isinstance(item, Mapping):
        return item
    path = isinstance(item, Path) or (
        len(str(item)) < 1024 and Path(str(item)).suffix and Path(str(item)).is_file()
    )
    return {"type": kind_of(item) if path else "text", "value": item}


def _problem(name: str, message: Sequence[Mapping[str, Any]]) -> Problem:
    """The message as a problem, named by what it says and shows."""
    for item in message:
        if (
            not isinstance(item, Mapping)
            or item.get("type") not in VLMEvalKitModel.allowed_types
            or "value" not in item
        ):
            raise InputError(
                f"{name}: an item of the message is {str(item)[:80]!r}; expected "
                '{"type": "text", "value": "How many?"}, or type "image" or "video" with a path'
            )
    roles = [item.get("role", "user") for item in message]
    if "assistant" in roles:
        raise InputError(f"{name}: the message puts words into the model's mouth; leave out role 'assistant'")
    system = [item["value"] for item, role in zip(message, roles, strict=True) if role == "system"]
    asked = [item for item, role in zip(message, roles, strict=True) if role != "system"]
    made = make_problem(
        name, [(item["type"], item["value"]) for item in asked], "\n".join(system) if system else None
    )
    return replace(made, id=f"{name}/{made.fingerprint}")
