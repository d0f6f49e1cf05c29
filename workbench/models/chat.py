"""From a problem to what a processor is called with: one text with placeholders, and the pictures beside it.

The chat template is the processor's, else the tokenizer's, else none. Pictures come before the question,
images before the video. Options are appended to the question as VLMEvalKit does. Turns may follow: the model's responses
and the replies to them, with further pictures in their places.
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from jinja2 import TemplateError
from PIL import Image, ImageOps

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy
from workbench.problems.problem import Problem, question_text

FRAME_RATE = 2.0
"""Frames per second of ``Problem.video`` where ``problem.metadata["fps"]`` does not say (Qwen's own rate)."""


@dataclass(frozen=True, eq=False)
class Message:
    """One turn after the problem: texts and pictures in their order."""

    role: Literal["assistant", "user"]
    parts: tuple[str | Image.Image, ...]

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """Its pictures alone."""
        return tuple(part for part in self.parts if not isinstance(part, str))


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer in a processor; a tokenizer is its own; None for None."""
    return getattr(processor, "tokenizer", processor)


def with_turns(problem: Problem, turns: Sequence[Message]) -> Problem:
    """The problem with the pictures of the turns after its own."""
    added = tuple(picture for turn in turns for picture in turn.images)
    return replace(problem, images=(*problem.images, *added)) if added else problem


def as_said(processor: Any, text: str) -> str:
    """A model's own words as text for a turn: spelled special tokens are broken up, so that they end no turn and show nothing."""
    tokenizer = tokenizer_of(processor)
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= {*tokenizer.all_special_tokens, *_marks_of(processor)}
    spelled = re.compile(
        "|".join(re.escape(token) for token in sorted(special - {""}, key=len, reverse=True))
    )
    while spelled.pattern and spelled.search(text):
        text = spelled.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}" if len(mark[0]) > 1 else " ", text)
    return text


def processor_call(
    processor: Any, anatomy: Anatomy, problem: Problem, turns: Sequence[Message] = ()
) -> dict[str, Any]:
    """Keyword arguments with which ``processor`` (or a tokenizer) encodes the problem and the turns after it.

    Raises:
        InputError: pictures that this processor or model cannot read, or a text that holds a placeholder
            itself.
    """
    whole = with_turns(problem, turns)
    _check_pictures(processor, anatomy, whole, turns)
    tokenizer, text = tokenizer_of(processor), render(processor, problem, turns)
    templated = getattr(processor, "chat_template", None) is not None
    begins = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    if processor is tokenizer:
        return {"text": text, "return_tensors": "pt", "add_special_tokens": not templated}
    # As `apply_chat_template(tokenize=True)` of a processor: a begin token unless the template wrote one.
    call: dict[str, Any] = {
        "text": [text],
        "return_tensors": "pt",
        "text_kwargs": {"add_special_tokens": not begins},
    }
    if whole.images:
        call["images"] = [list(whole.images)]  # nested: several images of one prompt, not of several
    if problem.video:
        call["videos"] = [list(problem.video)]
        call["videos_kwargs"] = {"do_sample_frames": False, "video_metadata": [_video_metadata(problem)]}
    return call


def render(processor: Any, problem: Problem, turns: Sequence[Message] = ()) -> str:
    """The problem and the turns after it as one text, with a placeholder for each picture.

    Raises:
        InputError: the chat template refuses them, or there are turns and no template.
    """
    multimodal = tokenizer_of(processor) is not processor
    pictures = [{"type": "image"}] * len(problem.images) + [{"type": "video"}] * bool(problem.video)
    question = question_text(problem)
    if getattr(processor, "chat_template", None) is None:
        if turns:
            raise InputError(
                f"problem {problem.id!r}: `turns` need a chat template, and `processor` has none; give one that has, "
                "load_pair(..., processor=<folder or hub id>)"
            )
        marks = "".join(getattr(processor, f"{part['type']}_token") for part in pictures)
        return "\n".join(part for part in (problem.system, marks, question) if part)
    messages: list[dict[str, Any]] = []
    if problem.system:
        content: Any = [{"type": "text", "text": problem.system}] if multimodal else problem.system
        messages.append({"role": "system", "content": content})
    content = [*pictures, {"type": "text", "text": question}] if multimodal else question
    messages.append({"role": "user", "content": content})
    messages += [{"role": turn.role, "content": _content(turn, multimodal)} for turn in turns]
    try:
        return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise InputError(
            f"problem {problem.id!r}: the chat template refused it ({error}); leave out what it does not "
            "know (often `system`), or give a processor with another `chat_template`"
        ) from error


def shown_pictures(processor: Any, anatomy: Anatomy, problem: Problem) -> list[Image.Image]:
    """Per image, then the video's first frame: the part of it that the model sees, not resized."""
    pictures = [*problem.images, *problem.video[:1]]
    if anatomy.family == "llava" and processor.image_processor.do_center_crop:
        return [ImageOps.fit(p, (min(p.size), min(p.size))) for p in pictures]
    if (
        anatomy.family == "llava_onevision" and len(problem.images) > 1
    ):  # padded to squares, not cut into tiles
        color = tuple(int(255 * mean) for mean in processor.image_processor.image_mean)
        padded = [ImageOps.pad(p, (max(p.size), max(p.size)), color=color) for p in problem.images]
        return padded + pictures[len(padded) :]
    return pictures


def within_budget(
    processor: Any, anatomy: Anatomy, image: tuple[int, int] | None, frame: tuple[int, int] | None
) -> Any:
    """A copy of the processor that resizes pictures to no less and no more pixels than these; the one passed in is unchanged.

    Raises:
        InputError: the family does not cut pictures of any size into patches.
    """
    changed = processor
    for name, part, budget in (
        ("image_pixels", "image_processor", image),
        ("frame_pixels", "video_processor", frame),
    ):
        if budget is None:
            continue
        inner: Any = getattr(processor, part, None)
        if pixel_budget(inner) is None:
            raise InputError(
                f"`{name}` {list(budget)} is for families that cut a picture of any size into patches (Qwen-VL); "
                f"{type(processor).__name__} of {anatomy.family} has sizes of its own: leave `{name}` out"
            )
        changed = copy.copy(processor) if changed is processor else changed
        inner = copy.copy(inner)
        inner.size = type(inner.size)(shortest_edge=budget[0], longest_edge=budget[1])
        setattr(changed, part, inner)
    return changed


def pixel_budget(part: Any) -> list[int] | None:
    """Least and most pixels of an image or video processor; None where it has sizes of another kind."""
    size = getattr(part, "size", None)
    if size is None or getattr(part, "merge_size", None) is None:
        return None
    return [size["shortest_edge"], size["longest_edge"]]


def _content(turn: Message, multimodal: bool) -> Any:
    if not multimodal:
        return "".join(part for part in turn.parts if isinstance(part, str))
    return [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in turn.parts]


def _marks_of(processor: Any) -> set[str]:
    return {mark for name in ("image", "video") if (mark := getattr(processor, f"{name}_token", None))}


def _check_pictures(processor: Any, anatomy: Anatomy, problem: Problem, turns: Sequence[Message]) -> None:
    here = f"problem {problem.id!r}"
    if (problem.images or problem.video) and not anatomy.visual_token_ids:
        raise InputError(
            f"{here} has pictures, but the pair is text-only ({anatomy.family}): leave `images` and `video` "
            "out, or load a pair that sees"
        )
    for what, pictures in (("image", problem.images), ("video", problem.video)):
        if pictures and getattr(processor, f"{what}_processor", None) is None:
            raise InputError(
                f"{here} has `{what}{'s' * (what == 'image')}`, but `processor` is a "
                f"{type(processor).__name__} without a {what}_processor: load the pair with `processor=` a "
                f"complete one, or leave the {what}s out"
            )
    if problem.video and any(turn.images for turn in turns):
        raise InputError(f"{here} has a `video`, and `turns` have images; leave one of them out")
    if problem.images and problem.video and anatomy.family == "smolvlm":
        raise InputError(
            f"{here} has `images` and a `video`; SmolVLM reads one or the other: leave one of them out"
        )
    marks = {tokenizer_of(processor).convert_ids_to_tokens(token) for token in anatomy.visual_token_ids}
    marks |= {getattr(processor, name, None) for name in ("image_token", "video_token") if marks}
    texts = [part for turn in turns for part in turn.parts if isinstance(part, str)]
    for mark in sorted(marks - {None}):
        if mark in "\n".join([problem.system or "", question_text(problem), *texts]):
            raise InputError(
                f"{here}: its text holds the placeholder {mark!r}; take it out: pictures come from `images` "
                "and `video`, and are placed before the question"
            )


def _video_metadata(problem: Problem) -> dict[str, Any]:
    frames, rate = len(problem.video), problem.metadata.get("fps", FRAME_RATE)
    if not isinstance(rate, (int, float)) or not rate > 0:
        raise InputError(
            f'problem {problem.id!r}: `metadata["fps"]` is {rate!r}, expected frames per second above 0'
        )
    indices = list(range(frames))
    return {"total_num_frames": frames, "fps": rate, "duration": frames / rate, "frames_indices": indices}
