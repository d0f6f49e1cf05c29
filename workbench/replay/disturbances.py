"""Disturbances of what a model sees, each a value with a strength; seeded by problem, kind, strength and draw.

* ``pixels``      Gaussian noise on the picture; strength: its standard deviation as a share of the full range, clipped.
* ``embeddings``  Gaussian noise on the visual rows of the layer-0 input; strength: its standard deviation over the root
                  mean square of these rows in that prompt. What some families add in later layers is left alone.
* ``colour``      Brightness, contrast and saturation changed by a factor of up to ``1 ± strength``, the hue by up to
                  ``strength / 5`` turns.
* ``patches``     That share of the picture's visual-token cells becomes the picture's mean colour. Where the cells do
                  not tile the whole picture (crops, tiles), squares of ``SQUARE`` pixels are taken instead.

Every image, and every frame of a video, is disturbed in its own way. The batch never matters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import ceil, inf
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from workbench.errors import InputError
from workbench.models.batches import problem_seed
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.problems.problem import Problem

Kind = Literal["pixels", "embeddings", "colour", "patches"]
KINDS: tuple[str, ...] = get_args(Kind)
LARGEST = {"pixels": inf, "embeddings": inf, "colour": 1.0, "patches": 1.0}
SMOOTHING = 0.15
"""Strength of the colour jitter of the self-smoothing control (the released code; a hue of 0.03 turns)."""
SQUARE = 14
"""Side in pixels of what ``patches`` blanks where the cells are not known."""


@dataclass(frozen=True)
class Disturbance:
    """What to disturb, and how much.

    ``kind`` and what its ``strength`` means: ``pixels``: Gaussian noise, standard deviation as a share of the full range;
    ``embeddings``: Gaussian noise on the visual rows of the layer-0 input, standard deviation over their root mean square;
    ``colour``: brightness, contrast and saturation changed by a factor of up to 1 ± strength, the hue by up to strength / 5
    turns; ``patches``: that share of the picture's visual-token cells becomes the picture's mean colour.

    Raises:
        InputError: an unknown kind, or a strength outside its range.
    """

    kind: Kind
    strength: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(
                f"`kind` is {self.kind!r}; expected one of {', '.join(KINDS)}: Disturbance('pixels', 0.1)"
            )
        most = LARGEST[self.kind]
        if not 0 <= self.strength <= most or self.strength == inf:
            limits = "0 or more" if most == inf else f"0 to {most:g}"
            raise InputError(
                f"`strength` of {self.kind!r} is {self.strength}; expected {limits}: Disturbance({self.kind!r}, 0.1)"
            )

    def seed(self, seed: int, problem_id: str, draw: int) -> int:
        """The seed of one draw for one problem."""
        return problem_seed(seed, f"{problem_id}/{self.kind}/{float(self.strength)!r}/{draw}")


DEFAULT_DISTURBANCES = (
    Disturbance("embeddings", 0.1),
    Disturbance("embeddings", 0.3),
    Disturbance("embeddings", 1.0),
    Disturbance("pixels", 0.05),
    Disturbance("pixels", 0.15),
    Disturbance("pixels", 0.3),
    Disturbance("colour", 0.3),
    Disturbance("patches", 0.25),
)


@dataclass(frozen=True, eq=False)
class EmbeddingNoise:
    """Noise on the visual rows of one prompt's layer-0 input: something that `decode` and `tracing` can apply."""

    problem_id: str
    strength: float
    seed: int
    positions: Int[Tensor, " visual"] = field(repr=False)
    """The prompt's visual positions; whatever follows the prompt is left alone."""
    sites: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, prompt: EncodedPrompt, strength: float, seed: int) -> "EmbeddingNoise":
        """For one prompt."""
        return cls(prompt.problem_id, strength, seed, (prompt.kinds == TokenKind.VISUAL).nonzero()[:, 0])

    def apply(
        self, layer: int, hidden: Float[Tensor, "positions hidden"]
    ) -> Float[Tensor, "positions hidden"]:
        """The new input of layer 0; other layers keep theirs."""
        if layer != 0:
            return hidden
        places = self.positions.to(hidden.device)
        rows = hidden[places].float()
        noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(self.seed)).to(rows.device)
        disturbed = hidden.clone()
        disturbed[places] = (rows + self.strength * rows.square().mean().sqrt() * noise).to(hidden.dtype)
        return disturbed


def disturb(problem: Problem, prompt: EncodedPrompt, how: Disturbance, seed: int, draw: int) -> Problem:
    """The problem with its pictures disturbed; ``embeddings``, which no picture can show, leaves them as they are.

    ``prompt`` is the problem encoded, for the cells of its pictures.
    """
    rng = np.random.default_rng(how.seed(seed, problem.id, draw))
    if how.kind == "pixels":
        return _each(problem, lambda picture, _: _noisy(picture, how.strength, rng))
    if how.kind == "colour":
        return _each(problem, lambda picture, _: _recoloured(picture, how.strength, rng))
    if how.kind == "patches":
        return _each(
            problem, lambda picture, i: _blanked(picture, _cells(picture, prompt, i), how.strength, rng)
        )
    return problem


def jittered(problem: Problem, seed: int) -> Problem:
    """The problem with its pictures' colours disturbed as the self-smoothing control asks."""
    rng = np.random.default_rng(problem_seed(seed, problem.id))
    return _each(problem, lambda picture, _: _recoloured(picture, SMOOTHING, rng))


def covered(problem: Problem, prompt: EncodedPrompt, places: Int[Tensor, " places"]) -> Problem:
    """The problem with some visual positions of its pictures painted over with each picture's mean colour.

    Raises:
        InputError: a position that is not visual, or pictures whose visual tokens do not tile them (crops, tiles, videos).
    """
    pictures = list(problem.images)
    means = [np.array(picture).reshape(-1, 3).mean(0).round().astype(np.uint8) for picture in pictures]
    for place in places.tolist():
        view, (_, row, column) = int(prompt.visual_index[place]), prompt.grid[place].tolist()
        whole = 0 <= view < len(prompt.images) and prompt.sources.count(prompt.sources[view]) == 1
        source = prompt.sources[view] if whole else len(pictures)
        if source >= len(pictures) or prompt.images[view].size != pictures[source].size:
            raise InputError(
                f"`problem` {problem.id!r}: position {place} does not stand for one place of a whole picture, so nothing can be "
                "painted over; leave out Cause('cover')"
            )
        pixels = np.array(pictures[source])
        pixels[tuple(_spans(pixels.shape[:2], prompt.grids[view][1:], (row, column)))] = means[source]
        pictures[source] = Image.fromarray(pixels)
    return replace(problem, images=tuple(pictures))


def _each(problem: Problem, change: Callable[[Image.Image, int], Image.Image]) -> Problem:
    """``change(picture, which image or video it belongs to)`` on every image and frame."""
    images = tuple(change(picture, i) for i, picture in enumerate(problem.images))
    video = tuple(change(frame, len(images)) for frame in problem.video)
    return replace(problem, images=images, video=video)


def _noisy(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture, np.float32)
    pixels = pixels + 255 * strength * rng.standard_normal(pixels.shape, np.float32)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def _recoloured(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    brightness, contrast, saturation, hue = (
        float(rng.uniform(-most, most)) for most in (strength, strength, strength, strength / 5)
    )
    changed: Any = tv.adjust_brightness(cast(Any, picture), 1 + brightness)
    changed = tv.adjust_contrast(changed, 1 + contrast)
    changed = tv.adjust_saturation(changed, 1 + saturation)
    return cast(Any, tv.adjust_hue(changed, hue))


def _blanked(
    picture: Image.Image, cells: tuple[int, int], share: float, rng: np.random.Generator
) -> Image.Image:
    pixels = np.array(picture)
    mean = pixels.reshape(-1, 3).mean(0).round().astype(np.uint8)
    count = cells[0] * cells[1]
    for place in rng.choice(count, round(share * count), replace=False).tolist():
        pixels[tuple(_spans(pixels.shape[:2], cells, divmod(place, cells[1])))] = mean
    return Image.fromarray(pixels)


def _spans(size: tuple[int, ...], cells: tuple[int, int], place: tuple[int, int]) -> Iterator[slice]:
    for length, parts, index in zip(size, cells, place, strict=True):
        yield slice(round(length * index / parts), round(length * (index + 1) / parts))


def _cells(picture: Image.Image, prompt: EncodedPrompt, source: int) -> tuple[int, int]:
    """Rows and columns of visual tokens over the whole picture, or of squares."""
    views = [view for view, number in enumerate(prompt.sources) if number == source]
    if len(views) == 1 and prompt.images and prompt.images[views[0]].size == picture.size:
        return prompt.grids[views[0]][1:]
    return ceil(picture.height / SQUARE), ceil(picture.width / SQUARE)
