"""How long a prompt is and how many of its tokens are visual, before there is one: from a config and a processor's files."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import transformers

from workbench.errors import InputError
from workbench.models.chat import pixel_budget

QWEN_VL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families that cut a picture of any size into patches, and whose vision tower is in the forecast of memory."""

PICTURE = (1000, 1000)
"""Width and height where none is given."""

TEXT = 300
"""Tokens beside the picture where none are given."""

BUDGET = (56 * 56, 28 * 28 * 1280)
"""Least and most pixels of a Qwen-VL processor that is not configured otherwise."""

_FILES = ("processor_config.json", "preprocessor_config.json")
_NARROWEST = 200  # transformers' `smart_resize` refuses pictures whose sides differ by more


@dataclass(frozen=True)
class PromptSize:
    """Tokens of a prompt with one picture, or none."""

    positions: int
    visual: int
    before: int
    """Of those that are not visual: how many come before the picture."""
    patches: tuple[int, int]
    """Rows and columns that the vision tower sees; (0, 0) where there is no picture, or none that can be sized."""
    told: str
    """What was taken for granted, in words."""


def prompt_size(
    config: Any,
    *,
    image: tuple[int, int] | Literal["auto"] | None = "auto",
    text: int | None = None,
    tokens: int | None = None,
    before: int | None = None,
    budget: tuple[int, int] | None = None,
) -> PromptSize:
    """The size of a prompt; arguments and errors are those of `predict_memory`."""
    for name, value, least in (("tokens", tokens, 1), ("text", text, 0), ("before", before, 0)):
        if value is not None and value < least:
            raise InputError(f"`{name}` is {value}; expected at least {least}, as in {name}=1500")
    family, patches, visual = config.model_type, (0, 0), 0
    sees = getattr(config, "vision_config", None) is not None
    if image == "auto" and sees and family not in QWEN_VL:
        if tokens is None:
            raise InputError(
                f"`tokens` is missing: how {family} cuts a picture is not predicted; give the length of the prompt, "
                "tokens=1500, and of it `text` beside the picture"
            )
        text = min(TEXT, tokens // 2) if text is None else text
        visual = max(0, tokens - text)
        note = f"{visual} tokens are taken for visual and {text} for text: how {family} cuts a picture is not predicted, and "
        note += "its vision tower is not in the forecast"
    elif image is None or (image == "auto" and not sees):
        note = "no picture"
    else:
        width, height = PICTURE if image == "auto" else image
        patches = visual_grid(config, (width, height), budget)
        merge: int = config.vision_config.spatial_merge_size
        visual = math.prod(patches) // merge**2
        least, most = budget or BUDGET
        note = f"a picture of {width} x {height}, resized to between {least} and {most} pixels"
        note += "" if budget else " (assumed: what transformers takes where nothing is configured)"
    if tokens is not None and tokens < visual:
        raise InputError(
            f"`tokens` is {tokens}, but the picture alone has {visual}; give at least these, a smaller `image`, or none: "
            "image=None (--image 0x0)"
        )
    rest = (TEXT if tokens is None else tokens - visual) if text is None else text
    if tokens not in (None, visual + rest):
        raise InputError(
            f"`tokens` is {tokens}, but the picture has {visual} and `text` {rest}; leave `text` or `tokens` out"
        )
    if not visual + rest:
        raise InputError("`text` is 0 and there is no `image`; give a prompt: text=300")
    before = rest // 3 if before is None else before
    if before > rest:
        raise InputError(f"`before` is {before}, of {rest} tokens that are not visual; give at most these")
    return PromptSize(visual + rest, visual, before, patches, note)


def visual_grid(config: Any, size: tuple[int, int], budget: tuple[int, int] | None) -> tuple[int, int]:
    """Patches (rows, columns) that an image of (width, height) is cut into.

    Args:
        config: of the model.
        size: in pixels.
        budget: least and most pixels; None: `BUDGET`.

    Raises:
        InputError: the family is not Qwen-VL, or an image that its processor refuses.
    """
    if config.model_type not in QWEN_VL:
        raise InputError(
            f"`image` {size}: how {config.model_type} cuts an image is not predicted; leave it out and give `tokens`, "
            f"or use one of {', '.join(QWEN_VL)}"
        )
    if min(size) < 1:
        raise InputError(f"`image` is {size}; expected width and height in pixels: image=(1000, 800)")
    if max(size) > _NARROWEST * min(size):
        raise InputError(
            f"`image` {size}: its sides differ by a factor of {max(size) / min(size):.0f}, and the processor refuses more "
            f"than {_NARROWEST}; give width and height such as image=(1000, 800)"
        )
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    vision = config.vision_config
    least, most = budget or BUDGET
    factor = vision.patch_size * vision.spatial_merge_size
    height, width = smart_resize(size[1], size[0], factor=factor, min_pixels=least, max_pixels=most)
    return height // vision.patch_size, width // vision.patch_size


def configured_budget(
    source: str | Path, config: Any, *, revision: str | None = None, videos: bool = False
) -> tuple[int, int] | None:
    """Least and most pixels that a checkpoint's processor resizes an image to, from its files; None without them.

    Args:
        source: folder or hub id.
        config: of the model that is to see the patches.
        revision: hub revision.
        videos: those of a frame instead.

    Raises:
        InputError: files that can't be read, or patches of another size than the model's.
    """
    folder = Path(source).expanduser()
    if folder.is_dir() and not any((folder / name).is_file() for name in _FILES):
        return None
    where = str(folder) if folder.is_dir() else str(source)
    try:
        reader = transformers.AutoVideoProcessor if videos else transformers.AutoImageProcessor
        processor: Any = reader.from_pretrained(where, revision=revision)
    except Exception as error:  # transformers raises its own and the hub's, of any type
        if not folder.is_dir() and isinstance(error, OSError):
            return None
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"`processor` {where!r}: its {'video' if videos else 'image'} processor can't be read ({reason}); mend its files, or "
            "give `budget`, the least and most pixels: budget=(3136, 1003520)"
        ) from error
    for name, key in (("patch_size", "patch_size"), ("merge_size", "spatial_merge_size")):
        cuts, reads = getattr(processor, name, None), getattr(config.vision_config, key)
        if cuts != reads:
            raise InputError(
                f"`processor` {where!r} has {name} {cuts}, the models' vision_config.{key} is {reads}; give the pair's "
                "own processor"
            )
    least, most = pixel_budget(processor) or BUDGET
    return least, most
