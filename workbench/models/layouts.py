"""Where every visual placeholder token sits in the picture, for each supported family.

A *view* is one regular grid (t, h, w) of visual tokens: an image, a video, or, where a family cuts an image
into tiles, the stitched tiles and the small whole picture as two views of the same image. What each family
puts into the placeholders, in order (read off transformers' processors and ``get_image_features``):

- Qwen2-VL, Qwen2.5-VL, Qwen3-VL: frames of ``grid_thw / spatial_merge_size``, row by row; videos have their
  own placeholder token, and Qwen3-VL writes a time stamp between the frames of one.
- LLaVA-1.5: one grid of patches; the class token first where ``vision_feature_select_strategy="full"``.
- LLaVA-OneVision: the whole picture, then the stitched tiles without their padding, each row closed by a
  newline embedding; with several images in a prompt only the whole picture and one newline; video frames
  pooled by 2, one newline at the end.
- InternVL, Idefics3, SmolVLM: tiles one after another, each row by row, then the whole picture; a video is
  one small picture per frame, in image placeholders.
- Gemma 3: one square grid of ``mm_tokens_per_image``.

Newline and class tokens fill a placeholder but show no place: they belong to a view and have no cell (-1).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy
from workbench.models.tilings import Tiling

Grid = tuple[int, int, int]
"""Frames, rows and columns of visual tokens."""


@dataclass(frozen=True, eq=False)
class Layout:
    """T positions, V views; -1 where a position has no view or no cell."""

    visual_index: Int[Tensor, "positions"]
    """Which view a visual position belongs to, counted in order of appearance."""
    grid: Int[Tensor, "positions 3"]
    """(t, row, column) in its view."""
    grids: tuple[Grid, ...]
    """Per view: its frames, rows and columns."""
    sources: tuple[int, ...]
    """Per view: which image or video of the prompt it shows, counted in order of appearance."""


@dataclass(frozen=True, eq=False)
class _Block:
    """A run of neighbouring placeholders that belong to one view."""

    source: tuple[str, int]
    view: str
    grid: Grid
    cells: Tensor  # (n, 3)


def locate(
    anatomy: Anatomy,
    input_ids: Int[Tensor, "positions"],
    inputs: Mapping[str, Tensor],
    tilings: Sequence[Tiling] | None = None,
) -> Layout:
    """Find the view and the cell of every visual placeholder.

    Args:
        anatomy: the model that will read the prompt.
        input_ids: the prompt.
        inputs: its visual tensors (``pixel_values``, ``image_grid_thw``, ...).
        tilings: per image or video, for the families that cut images into tiles (InternVL, Idefics3,
            SmolVLM). Where None, every tile counts as an image of its own.

    Raises:
        InputError: placeholders and visual tensors do not fit each other, or the family is not supported.
    """
    images = _image_blocks(anatomy, inputs, tilings) if "pixel_values" in inputs else []
    videos = _video_blocks(anatomy, inputs) if "pixel_values_videos" in inputs else []
    positions: list[tuple[int, _Block, Tensor]] = []
    for what, token, blocks in (
        ("image", anatomy.image_token_id, images),
        ("video", anatomy.video_token_id, videos),
    ):
        where = torch.nonzero(input_ids == (-1 if token is None else token)).flatten()
        expected = sum(len(block.cells) for block in blocks)
        if len(where) != expected:
            raise InputError(_mismatch(what, token, len(where), expected))
        for block, run in zip(blocks, where.split([len(b.cells) for b in blocks]), strict=True):
            if int(run[-1] - run[0]) != len(run) - 1:
                raise InputError(
                    f"`input_ids`: the {what} placeholders at positions {int(run[0])} to {int(run[-1])} are "
                    f"interrupted, expected {len(run)} in a row for a {block.grid} grid; are the {what}s in "
                    "the order of their placeholders?"
                )
            positions.append((int(run[0]), block, run))
    return _assemble(len(input_ids), sorted(positions, key=lambda item: item[0]))


def _assemble(length: int, runs: list[tuple[int, _Block, Tensor]]) -> Layout:
    visual_index = torch.full((length,), -1, dtype=torch.int32)
    grid = torch.full((length, 3), -1, dtype=torch.int32)
    views: dict[tuple[tuple[str, int], str], int] = {}
    sources: dict[tuple[str, int], int] = {}
    grids: list[Grid] = []
    for _, block, run in runs:
        sources.setdefault(block.source, len(sources))
        index = views.setdefault((block.source, block.view), len(views))
        if index == len(grids):
            grids.append(block.grid)
        visual_index[run] = index
        grid[run] = block.cells.to(torch.int32)
    return Layout(visual_index, grid, tuple(grids), tuple(sources[source] for source, _ in views))


def _image_blocks(
    anatomy: Anatomy, inputs: Mapping[str, Tensor], tilings: Sequence[Tiling] | None
) -> list[_Block]:
    pixels = inputs["pixel_values"]
    _check_dimensions("pixel_values", pixels, anatomy)
    match anatomy.family:
        case "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl":
            return _qwen(anatomy, pixels, _needed(inputs, "image_grid_thw"), "image")
        case "llava_onevision":
            return _onevision_images(
                anatomy, pixels, _needed(inputs, "image_sizes"), inputs.get("batch_num_images")
            )
        case "llava" | "gemma3":
            rows, columns, leading = _single_grid(anatomy, pixels)
            return _tiled([Tiling()] * len(pixels), len(pixels), rows, columns, leading)
        case "internvl":
            height, width = anatomy.geometry["vision_config.patch_size"]
            merge = anatomy.spatial_merge
            rows, columns = pixels.shape[-2] // height // merge, pixels.shape[-1] // width // merge
            return _tiled(tilings, len(pixels), rows, columns)
        case "idefics3" | "smolvlm":
            # Pictures that only pad the batch are all zero, and the model drops them.
            real = int((pixels.flatten(2) != 0).any(-1).sum())
            merge = anatomy.geometry["vision_config.patch_size"] * anatomy.spatial_merge
            return _tiled(tilings, real, pixels.shape[-2] // merge, pixels.shape[-1] // merge)
    raise InputError(
        f"`pair`: where the visual tokens of model type {anatomy.family!r} sit is not known; supported are "
        "Qwen2-VL, Qwen2.5-VL, Qwen3-VL, LLaVA-1.5, LLaVA-OneVision, InternVL, Gemma 3, Idefics3 and "
        "SmolVLM"
    )


def _video_blocks(anatomy: Anatomy, inputs: Mapping[str, Tensor]) -> list[_Block]:
    pixels = inputs["pixel_values_videos"]
    _check_dimensions("pixel_values_videos", pixels, anatomy)
    match anatomy.family:
        case "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl":
            blocks = _qwen(anatomy, pixels, _needed(inputs, "video_grid_thw"), "video")
            if anatomy.family == "qwen3_vl":
                blocks = [frame for block in blocks for frame in _frames(block)]
            return blocks
        case "llava_onevision":
            side = math.ceil(_vision_side(anatomy) / 2)  # frames are pooled by 2
            frames = pixels.shape[1]
            cells = torch.cat([_cells(frames, side, side), _nowhere(1)])
            return [_Block(("video", i), "video", (frames, side, side), cells) for i in range(len(pixels))]
    raise InputError(
        f"`pixel_values_videos` is not an input of model type {anatomy.family!r}; give the frames as "
        "`Problem(images=...)`, or as a video to a pair that reads videos"
    )


def _qwen(anatomy: Anatomy, pixels: Tensor, grids: Tensor, what: str) -> list[_Block]:
    patches = int(grids.prod(-1).sum())
    if len(pixels) != patches:
        raise InputError(
            f"`{what}_grid_thw` {grids.tolist()} stands for {patches} patches, but {len(pixels)} were "
            "given: pass both as the processor returned them"
        )
    merge = anatomy.spatial_merge
    if bool((grids[:, 1:] % merge).any()) or patches == 0:
        raise InputError(f"`{what}_grid_thw` {grids.tolist()}: rows and columns must be multiples of {merge}")
    merged = [(t, h // merge, w // merge) for t, h, w in grids.tolist()]
    return [_Block((what, i), what, grid, _cells(*grid)) for i, grid in enumerate(merged)]


def _frames(block: _Block) -> list[_Block]:
    frames = block.cells.chunk(block.grid[0])
    return [_Block(block.source, block.view, block.grid, cells) for cells in frames]


def _single_grid(anatomy: Anatomy, pixels: Tensor) -> tuple[int, int, int]:
    """Rows, columns and leading class tokens of families that show one square picture per image."""
    if anatomy.family == "gemma3":
        side = math.isqrt(anatomy.geometry["mm_tokens_per_image"])
        return side, side, 0
    patch = anatomy.geometry["vision_config.patch_size"]
    vision = anatomy.model.config.vision_config.model_type
    if vision == "pixtral":
        raise InputError(
            "`pair`: LLaVA with a Pixtral vision tower is not supported; LLaVA-1.5 has a CLIP tower"
        )
    whole = anatomy.geometry["vision_feature_select_strategy"] == "full" and vision == "clip_vision_model"
    return pixels.shape[-2] // patch, pixels.shape[-1] // patch, int(whole)


def _tiled(
    tilings: Sequence[Tiling] | None, pictures: int, rows: int, columns: int, leading: int = 0
) -> list[_Block]:
    tilings = [Tiling()] * pictures if tilings is None else tilings
    expected = sum(tiling.pictures for tiling in tilings)
    if expected != pictures:
        raise InputError(
            f"`pixel_values` holds {pictures} tiles or frames, expected {expected} for {list(tilings)}"
        )
    blocks = []
    for i, tiling in enumerate(tilings):
        source, small = ("image", i), torch.cat([_nowhere(leading), _cells(1, rows, columns)])
        if tiling.rows * tiling.columns > 1:
            grid = (1, tiling.rows * rows, tiling.columns * columns)
            for row in range(tiling.rows):
                for column in range(tiling.columns):
                    offset = torch.tensor([0, row * rows, column * columns])
                    blocks.append(_Block(source, "tiles", grid, small + offset))
        whole = (tiling.frames, rows, columns)
        for frame in range(tiling.frames):
            cells = torch.where(small < 0, small, small + torch.tensor([frame, 0, 0]))
            blocks.append(_Block(source, "whole", whole, cells))
    return blocks


def _onevision_images(
    anatomy: Anatomy, pixels: Tensor, sizes: Tensor, per_prompt: Tensor | None
) -> list[_Block]:
    if len(pixels) != len(sizes):
        raise InputError(
            f"`image_sizes` names {len(sizes)} images, `pixel_values` holds {len(pixels)}: give one each"
        )
    alone = (
        [True] * len(sizes) if per_prompt is None else [n == 1 for n in per_prompt.tolist() for _ in range(n)]
    )
    side, blocks = _vision_side(anatomy), []
    whole = _cells(1, side, side)
    for i, ((height, width), cut) in enumerate(zip(sizes.tolist(), alone, strict=True)):
        source = ("image", i)
        if not cut:
            blocks.append(_Block(source, "whole", (1, side, side), torch.cat([whole, _nowhere(1)])))
            continue
        rows, columns = _onevision_tiles(anatomy, height, width)
        stitched = _cells(1, rows, columns).view(rows, columns, 3)
        closed = torch.cat([stitched, torch.full((rows, 1, 3), -1)], dim=1).flatten(0, 1)
        blocks.append(_Block(source, "whole", (1, side, side), whole))
        if rows and columns:
            blocks.append(_Block(source, "tiles", (1, rows, columns), closed))
        elif len(
            closed
        ):  # of a picture hundreds of times as tall as wide no column is left, but the ends of rows are
            blocks.append(_Block(source, "whole", (1, side, side), closed))
    return blocks


def _onevision_tiles(anatomy: Anatomy, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the stitched tiles: unpadded, and shrunk beyond ``anyres_max_N`` tiles."""
    side, tile = _vision_side(anatomy), anatomy.geometry["vision_config.image_size"]
    best = select_best_resolution((height, width), anatomy.geometry["image_grid_pinpoints"])
    rows, columns = (side * (edge // tile) for edge in best)
    if width / height > columns / rows:
        rows -= 2 * ((rows - int(round(height * (columns / width), 7))) // 2)
    else:
        columns -= 2 * ((columns - int(round(width * (rows / height), 7))) // 2)
    most = int(anatomy.geometry["vision_aspect_ratio"].removeprefix("anyres_max_"))
    ratio = math.sqrt(rows * columns / (most * side**2))
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


def _vision_side(anatomy: Anatomy) -> int:
    return anatomy.geometry["vision_config.image_size"] // anatomy.geometry["vision_config.patch_size"]


def _cells(frames: int, rows: int, columns: int) -> Int[Tensor, "cells 3"]:
    return torch.cartesian_prod(torch.arange(frames), torch.arange(rows), torch.arange(columns)).view(-1, 3)


def _nowhere(count: int) -> Int[Tensor, "cells 3"]:
    return torch.full((count, 3), -1)


def _check_dimensions(name: str, pixels: Tensor, anatomy: Anatomy) -> None:
    patches, stacks = anatomy.family.startswith("qwen"), ("llava_onevision", "idefics3", "smolvlm")
    expected = 2 if patches else 5 if anatomy.family in stacks else 4
    if pixels.ndim != expected:
        raise InputError(
            f"`{name}` has shape {tuple(pixels.shape)}, expected {expected} dimensions for "
            f"{anatomy.family}: pass it as the processor returned it"
        )


def _needed(inputs: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in inputs:
        raise InputError(
            f"`{name}` is missing beside the pixels; pass every tensor that the processor returned"
        )
    return inputs[name]


def _mismatch(what: str, token: int | None, count: int, expected: int) -> str:
    if expected == 0:
        return (
            f"`input_ids` holds {count} {what} placeholders (token {token}) but no {what} was given; give "
            "the pixels too, or a text without placeholders"
        )
    return (
        f"`input_ids` holds {count} {what} placeholders (token {token}), the pixels stand for {expected}; "
        f"encode text and {what}s together with `pair.encode(problem)`, or insert {expected} placeholders"
    )
