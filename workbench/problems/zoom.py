r"""The zoom tool of visual agents: what a model may ask for, how that is read, and what it gets back.

A call is strict JSON between tags, and nothing of a response is ever executed:

    <tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [x1, y1, x2, y2], "label": "the sign"}}</tool_call>

1. A response is read up to the first ``</tool_call>`` or ``</answer>``, whichever closes first; later text is dropped.
2. The text since the last ``<tool_call>`` before that is parsed: no more than ``max_call`` characters, no duplicate or
   unknown keys, no NaN or Infinity, numbers as numbers.
3. The box is clipped to the image; one without an area inside it is refused. Small ones grow around their middle to
   ``min_side``, and very long ones to a hundredth of their length, because image processors refuse slivers.
4. Whatever is wrong comes back to the model as a sentence; nothing raises.

``bbox_2d`` counts pixels of the image at full size, x to the right and y down, as in the released loop of arXiv 2511.19972.
Models that were trained on pixels of the image as their processor resized it (Qwen2.5-VL) mean the same only up to the pixel
budget: above it ``ZoomTool(relative_to="seen")`` crops where they point. ``image_index`` is optional: 0 is the first image of
the problem, later numbers are its further images, then the crops.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from workbench.errors import InputError

OPENS, CLOSES = "<tool_call>", "</tool_call>"
ANSWERS, ANSWERED = "<answer>", "</answer>"
STOPS = (CLOSES, ANSWERED)
"""Where a response may be cut off without loss."""
_LONGEST = 100  # length over width of a crop; Qwen-VL's processors refuse 200
_FAR = 1e9  # coordinates beyond it are the same as this far
_LABEL = 200  # characters of a label that are kept


@dataclass(frozen=True)
class Call:
    """A valid call."""

    image: int
    """Which image of the context, from 0."""
    asked: tuple[float, float, float, float]
    """``bbox_2d`` as the model wrote it (beyond a billion: a billion)."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels of that image: clipped, and grown if it was small."""
    label: str = ""


@dataclass(frozen=True)
class Step:
    """What was read in one response: an answer, a call, or an error; never two of them."""

    text: str
    """The response as far as it counts."""
    answered: bool = False
    call: Call | None = None
    error: str | None = None
    """What the model is told."""


class _Refusal(Exception):
    """Carries the sentence that the model is told."""


@dataclass(frozen=True)
class ZoomTool:
    """How calls are read. Frozen: a value, like the interventions.

    Raises:
        InputError: a setting outside its range.
    """

    name: str = "image_zoom_in_tool"
    relative_to: float | Literal["seen"] | None = None
    """What boxes count. None: pixels of the image at full size. ``seen``: pixels of the image as it was resized for the model.
    A number: the whole width or height is this much, 1 for fractions, 1000 for Qwen3-VL."""
    min_side: int = 28
    """Pixels of a crop's shorter side at least, as far as the image has them."""
    max_call: int = 4096
    """Characters of JSON at most."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise InputError(
                f"`name` is {self.name!r}; expected a tool's name: ZoomTool(name='image_zoom_in_tool')"
            )
        for name in ("min_side", "max_call"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(
                    f"`{name}` is {value!r}; expected a whole number of at least 1: ZoomTool({name}=28)"
                )
        whole = self.relative_to
        if whole not in (None, "seen") and not (type(whole) in (int, float) and 0 < whole < math.inf):
            raise InputError(
                f"`relative_to` is {whole!r}; expected None for pixels, 'seen' for pixels of the resized image, or what the "
                "whole width counts: ZoomTool(relative_to=1000)"
            )

    @property
    def instructions(self) -> str:
        """A system text that explains the tool, for problems that bring none."""
        unit = (
            "pixels"
            if self.relative_to in (None, "seen")
            else f"units of 1/{self.relative_to:g} of its width or height"
        )
        box = {
            "type": "array",
            "items": {"type": "number"},
            "minItems": 4,
            "maxItems": 4,
            "description": f"[x1, y1, x2, y2] in {unit}: upper left and lower right corner.",
        }
        index = {"type": "integer", "description": "Which image, from 0; the first one if left out."}
        properties = {"bbox_2d": box, "label": {"type": "string"}, "image_index": index}
        described = {
            "name": self.name,
            "description": "Cuts a region out of an image and shows it larger.",
            "parameters": {"type": "object", "properties": properties, "required": ["bbox_2d"]},
        }
        example = {"name": self.name, "arguments": {"bbox_2d": [10, 20, 100, 200], "label": "the sign"}}
        return (
            "You can look closer before you answer. This function is there:\n"
            f"<tools>\n{json.dumps({'type': 'function', 'function': described})}\n</tools>\n"
            f"To use it, write one call as JSON:\n{OPENS}{json.dumps(example)}{CLOSES}\n"
            f"You will be shown the region as a new image. When you know the answer, write {ANSWERS}...{ANSWERED}."
        )

    def read(
        self,
        response: str,
        sizes: Sequence[tuple[int, int]],
        seen: Sequence[tuple[int, int]] | None = None,
    ) -> Step:
        """What a response asks for: the last ``<tool_call>`` before its first closing tag, read as strict JSON.

        Args:
            response: what the model said.
            sizes: (width, height) in pixels of every image in the context.
            seen: the same of the images as they were resized for the model; None: as they are.
        """
        tags = [(at, tag) for tag in STOPS if (at := response.find(tag)) >= 0]
        if not tags:
            return Step(response, error=self._missing(response))
        end, tag = min(tags)
        text = response[: end + len(tag)]
        start = text.rfind(OPENS if tag == CLOSES else ANSWERS, 0, end)
        if start < 0:
            opening = OPENS if tag == CLOSES else ANSWERS
            return Step(text, error=f"{tag} without {opening} before it.")
        if tag == ANSWERED:
            return Step(text, answered=True)
        try:
            return Step(text, call=self._parse(text[start + len(OPENS) : end], sizes, seen or sizes))
        except _Refusal as refusal:
            return Step(text, error=str(refusal))

    def _parse(self, body: str, sizes: Sequence[tuple[int, int]], seen: Sequence[tuple[int, int]]) -> Call:
        call = self._object(
            _parsed(body, self.max_call), "the call", {"name", "arguments"}, {"name", "arguments"}
        )
        if call["name"] != self.name:
            raise _Refusal(f"there is no tool {_shown(call['name'])}; the only one is {self.name!r}.")
        fields = {"bbox_2d", "label", "image_index"}
        arguments = self._object(call["arguments"], "`arguments`", fields, {"bbox_2d"})
        image, label = arguments.get("image_index", 0), arguments.get("label", "")
        if type(image) is not int or not 0 <= image < len(sizes):
            raise _Refusal(f"`image_index` is {_shown(image)}; there are images 0 to {len(sizes) - 1}.")
        if not isinstance(label, str):
            raise _Refusal(f"`label` is {_shown(label)}; it must be a text.")
        box = _numbers(arguments["bbox_2d"])
        return Call(image, box, self._box(box, sizes[image], seen[image]), utf8(label)[:_LABEL])

    def crop(self, call: Call, images: Sequence[Image.Image]) -> Image.Image:
        """The region of a call, at the image's own resolution."""
        return images[call.image].crop(call.box)

    def reply(self, step: Step, crop: Image.Image | None, index: int) -> tuple[str | Image.Image, ...]:
        """What the model gets back, as parts of a message; ``index`` is the number that the crop now has."""
        if crop is None or step.call is None:
            return (f"<tool_response>\nError: {step.error}\n</tool_response>",)
        # Where pixels are those that the model sees, a crop's own would mislead.
        size = "" if self.relative_to == "seen" else f", {crop.width} x {crop.height} pixels"
        what = f"Image {index}, cut out of image {step.call.image}{size}:\n"
        return (f"<tool_response>\n{what}", crop, "\n</tool_response>")

    def _missing(self, response: str) -> str:
        for opening, closing in ((OPENS, CLOSES), (ANSWERS, ANSWERED)):
            if opening in response:
                return f"{opening} without {closing} after it."
        return f"neither a call nor an answer; write {OPENS}...{CLOSES} or {ANSWERS}...{ANSWERED}."

    def _object(self, value: Any, what: str, allowed: set[str], needed: set[str]) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise _Refusal(f"{what} is {_shown(value)}; it must be a JSON object.")
        if missing := sorted(needed - value.keys()):
            raise _Refusal(f"{what} has no {missing[0]!r}.")
        if unknown := [key for key in value if key not in allowed]:
            raise _Refusal(f"{what} has {_shown(unknown[0])}; known are {', '.join(sorted(allowed))}.")
        return value

    def _box(
        self, box: tuple[float, ...], size: tuple[int, int], seen: tuple[int, int]
    ) -> tuple[int, int, int, int]:
        (width, height), whole = size, self._whole(size, seen)
        x1, y1, x2, y2 = (value * (size[i % 2] / whole[i % 2]) for i, value in enumerate(box))
        if not (x1 < x2 and y1 < y2):
            raise _Refusal("`bbox_2d` must have x1 < x2 and y1 < y2: [x1, y1, x2, y2].")
        left, right = math.floor(min(max(x1, 0), width)), math.ceil(min(max(x2, 0), width))
        top, bottom = math.floor(min(max(y1, 0), height)), math.ceil(min(max(y2, 0), height))
        if left >= right or top >= bottom:
            raise _Refusal(f"`bbox_2d` lies outside the image, which is {self._extent(whole)}.")
        least = max(self.min_side, math.ceil(max(right - left, bottom - top) / _LONGEST))
        (left, right), (top, bottom) = _grown(left, right, least, width), _grown(top, bottom, least, height)
        return left, top, right, bottom

    def _whole(self, size: tuple[int, int], seen: tuple[int, int]) -> tuple[float, float]:
        """Width and height of an image in the units of a call's box."""
        if self.relative_to is None or self.relative_to == "seen":
            return size if self.relative_to is None else seen
        return self.relative_to, self.relative_to

    def _extent(self, whole: tuple[float, float]) -> str:
        if self.relative_to in (None, "seen"):
            return f"{whole[0]} pixels wide and {whole[1]} high"
        return f"{self.relative_to:g} wide and high"


def utf8(text: str) -> str:
    """The text with whatever UTF-8 cannot hold (halves of surrogate pairs) replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _parsed(body: str, longest: int) -> Any:
    if len(body) > longest:
        raise _Refusal(f"the call has {len(body)} characters; at most {longest} are read.")
    try:
        return json.loads(body, parse_constant=_constant, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise _Refusal(f"the call is not JSON ({error.msg}, character {error.pos}).") from None
    except RecursionError:
        raise _Refusal("the call is nested too deeply.") from None
    except ValueError:  # an integer of thousands of digits
        raise _Refusal("the call holds a number that is too long.") from None


def _constant(name: str) -> Any:
    raise _Refusal(f"{name} is not a number that JSON knows.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise _Refusal("the call has a key twice.")
    return table


def _numbers(value: Any) -> tuple[float, float, float, float]:
    if not isinstance(value, list) or len(value) != 4:
        raise _Refusal(f"`bbox_2d` is {_shown(value)}; it must be a list of four numbers, [x1, y1, x2, y2].")
    for number in value:
        if type(number) not in (int, float) or (type(number) is float and not math.isfinite(number)):
            raise _Refusal(f"`bbox_2d` holds {_shown(number)}; it must be a list of four finite numbers.")
    # Clipped before any arithmetic: integers may be larger than every float.
    x1, y1, x2, y2 = (float(min(max(number, -_FAR), _FAR)) for number in value)
    return x1, y1, x2, y2


def _grown(low: int, high: int, least: int, size: int) -> tuple[int, int]:
    """An interval of at least ``least``, as far as there is room, around the same middle."""
    length = min(size, max(high - low, least))
    start = min(max((low + high - length) // 2, 0), size - length)
    return start, start + length


def _shown(value: Any) -> str:
    """A value of the model's as it is quoted back: short, and without whatever UTF-8 cannot hold."""
    if isinstance(value, list | dict):
        return f"a list of {len(value)}" if isinstance(value, list) else "an object"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _FAR:
        return "a very large number"  # whose digits may be too many to write
    return utf8(repr(value[:60] if isinstance(value, str) else value))
