"""How an image was cut into tiles, for the families whose tensors do not say: InternVL, Idefics3, SmolVLM."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from workbench.models.anatomy import Anatomy
from workbench.models.chat import tokenizer_of
from workbench.problems.problem import Problem


@dataclass(frozen=True)
class Tiling:
    """How one image or video was cut up: ``rows x columns`` tiles, or ``frames`` uncut pictures."""

    frames: int = 1
    rows: int = 1
    columns: int = 1

    @property
    def pictures(self) -> int:
        """Pictures the vision encoder sees: the tiles and the whole picture, or the frames."""
        tiles = self.rows * self.columns
        return tiles + 1 if tiles > 1 else self.frames


def find_tilings(
    processor: Any, anatomy: Anatomy, inputs: Mapping[str, Tensor], problem: Problem | None
) -> list[Tiling] | None:
    """Per image or video, in order of appearance, how it was cut.

    None where the family does not cut images, or where it cannot be told: InternVL without the problem,
    Idefics3 and SmolVLM without a tokenizer.
    """
    if processor is None or "pixel_values" not in inputs:
        return None
    video = [Tiling(frames=len(problem.video))] if problem is not None and problem.video else []
    if anatomy.family == "internvl" and problem is not None:
        return [_canvas(processor.image_processor, image) for image in problem.images] + video
    if anatomy.family in ("idefics3", "smolvlm"):
        return video or _marked(tokenizer_of(processor), anatomy.image_token_id, inputs["input_ids"][0])
    return None


def _marked(tokenizer: Any, image_token: int | None, ids: Tensor) -> list[Tiling]:
    """Idefics3 and SmolVLM write ``<row_1_col_2>`` before a tile, ``<global-img>`` before the whole."""
    tilings, last = [], Tiling()
    visual = (ids == image_token).tolist()
    for start in (i for i, here in enumerate(visual) if here and (i == 0 or not visual[i - 1])):
        before = tokenizer.decode(ids[max(0, start - 16) : start])
        if mark := re.search(r"<row_(\d+)_col_(\d+)>$", before):
            last = Tiling(rows=int(mark[1]), columns=int(mark[2]))  # the last tile has the highest of both
        else:
            tilings.append(last)
            last = Tiling()
    return tilings


def _canvas(image_processor: Any, image: Image.Image) -> Tiling:
    # InternVLProcessor cuts images whatever its image processor's own `crop_to_patches` says.
    height, width = image_processor.size["height"], image_processor.size["width"]
    least, most = image_processor.min_patches, image_processor.max_patches
    columns, rows = get_optimal_tiled_canvas((image.height, image.width), (height, width), least, most)
    return Tiling(rows=rows, columns=columns)
