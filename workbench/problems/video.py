"""Movie files: some frames of them, evenly spaced in time, upright, and no larger than a model looks at.

1. The packets' time stamps are read without decoding. Of n frames the first and the last are those of the file, and the
   others are what is on the screen at evenly spaced times between them; so a picture that stays is taken as often as it
   stays (variable frame rate), unless the file has no more than n frames: then each is taken once.
2. The decoder goes to the key frame before each of these, and on from there. Where a container cannot seek exactly, or
   has no time stamps, the file is decoded from its beginning.

Decoded by PyAV: its wheels bring FFmpeg along, whereas torchcodec wants one installed on the system and a version for
each of torch.
"""

import io
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from workbench.errors import InputError, install
from workbench.problems.images import FRAME_LIMIT, PIXEL_LIMIT

if TYPE_CHECKING:
    from types import ModuleType

MOVIES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
MAX_PIXELS = 200_704
"""Width x height of a sampled frame, at most: 16 x 16 visual tokens of 28 pixels."""


@dataclass(frozen=True, eq=False)
class Clip:
    """What was sampled of a movie file."""

    frames: tuple[Image.Image, ...] = field(repr=False)
    """RGB, in order of time."""
    seconds: float
    """From the file's first frame to its last; 0 where there is only one, NaN without time stamps."""
    total: int
    """Frames in the file."""

    @property
    def metadata(self) -> dict[str, float]:
        """For ``Problem.metadata``: ``fps`` of what was sampled, ``video_seconds`` and ``video_frames`` of the file."""
        metadata: dict[str, float] = {"video_frames": self.total}
        if self.seconds >= 0:  # not NaN
            metadata["video_seconds"] = self.seconds
        if self.seconds > 0:
            metadata["fps"] = (len(self.frames) - 1) / self.seconds
        return metadata


def sample_frames(
    path: str | Path, frames: int = FRAME_LIMIT, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, ...]:
    """At most ``frames`` pictures of a movie file, evenly spaced in time, the first and the last frame among them.

    Args:
        path: a file that FFmpeg reads.
        frames: how many; of a file with fewer all are given, with a warning.
        max_pixels: larger frames are shrunk to so many pixels, keeping their proportions.

    Raises:
        InputError: no such file, no video in it, nothing that can be decoded, or PyAV missing.
    """
    return read_clip(Path(path), f"`path` {str(path)!r}", frames, max_pixels).frames


def read_clip(
    source: Path | bytes, where: str, frames: int = FRAME_LIMIT, max_pixels: int = MAX_PIXELS
) -> Clip:
    """As `sample_frames`, of a file or the bytes of one, with its length; ``where`` names it in messages."""
    for name, value in (("frames", frames), ("max_pixels", max_pixels)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(
                f"`{name}` is {value!r}; expected a whole number of at least 1: sample_frames('clip.mp4', frames=16)"
            )
    if isinstance(source, Path) and not source.is_file():
        raise InputError(
            f"{where} is missing: no file {str(source)!r}; expected a path relative to the table's own folder"
        )
    av = _pyav(where)
    try:
        stamps, keys, base, missing = _stamps(av, source, where)
        sample = _spread(stamps, frames)
        moments = sorted(set(sample))
        by_count = base is None
        pictures_at = _decode(av, source, moments, keys, max_pixels, by_count)
        if list(pictures_at) != moments and keys:  # a container that seeks inexactly
            pictures_at = _decode(av, source, moments, [], max_pixels, by_count)
    except av.error.FFmpegError as error:
        raise InputError(
            f"{where} could not be decoded ({type(error).__name__}: {error.strerror or error}); expected a complete "
            "movie file: write it again, `ffmpeg -i old.mp4 -c:v libx264 new.mp4`"
        ) from error
    if not pictures_at:
        raise InputError(
            f"{where} has no frame that can be decoded; write it again, `ffmpeg -i old.mp4 -c:v libx264 new.mp4`"
        )
    if len(stamps) < frames:
        warnings.warn(
            "a video has fewer frames than are asked for; all of them are used", UserWarning, stacklevel=2
        )
    seconds = float("nan") if base is None else float((stamps[-1] - stamps[0]) * base)
    if missing > max(1.0, 0.2 * seconds):
        warnings.warn(
            f"{where}: the last {missing:.3g} seconds that the file tells of have no frames; what is there is sampled. "
            "Is it complete?",
            UserWarning,
            stacklevel=2,
        )
    at = sorted(pictures_at)
    # Where the decoder left a frame out (damaged, or not to be shown), the one before it is still on the screen.
    pictures = tuple(pictures_at[at[max(bisect_right(at, moment) - 1, 0)]] for moment in sample)
    return Clip(pictures, seconds, len(stamps))


def _pyav(where: str) -> "ModuleType":
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"{where} is a movie file, and decoding needs a package that is missing: "
            f"{install('video')}; or give a folder of frames"
        ) from error
    return av


def _open(av: Any, source: Path | bytes) -> Any:
    return av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source))


def _stream(av: Any, container: Any) -> Any | None:
    """The first video that is not a cover picture."""
    cover = av.stream.Disposition.attached_pic
    return next((s for s in container.streams.video if not s.disposition & cover), None)


def _stamps(av: Any, source: Path | bytes, where: str) -> tuple[list[int], list[int], Fraction | None, float]:
    """Time stamps of all frames in order, those of key frames, their unit in seconds, and the seconds at its end without any.

    Without usable time stamps: the frames' numbers, no key frames, and None.
    """
    with _open(av, source) as container:
        stream = _stream(av, container)
        if stream is None:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "none"
            raise InputError(
                f"{where} has no video stream (streams found: {kinds}); expected a movie: sample_frames('clip.mp4')"
            )
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > PIXEL_LIMIT:
            raise InputError(
                f"{where} has enormous frames ({width} x {height}); the limit is {PIXEL_LIMIT:,} pixels: shrink it "
                "first, `ffmpeg -i old.mp4 -vf scale=1280:-2 new.mp4`"
            )
        packets = [
            (p.pts, p.duration or 0, p.is_keyframe)  # not the packets, which hold the whole file
            for p in container.demux(stream)
            if p.size and not p.is_discard
        ]
        base = stream.time_base
        length = (
            float(stream.duration * base) if stream.duration and base else (container.duration or 0) / 1e6
        )
    if not packets:
        raise InputError(f"{where} has a video stream without frames; expected at least one")
    stamps = sorted(pts for pts, _, _ in packets if pts is not None)
    if len(stamps) < len(packets) or base is None or (len(stamps) > 1 and stamps[0] == stamps[-1]):
        return list(range(len(packets))), [], None, 0.0
    end = max(pts + duration for pts, duration, _ in packets)
    return stamps, _keys(packets), base, length - float((end - stamps[0]) * base)


def _keys(packets: Sequence[tuple[int, int, bool]]) -> list[int]:
    return sorted(pts for pts, _, key in packets if key)


def _spread(stamps: Sequence[int], count: int) -> list[int]:
    """The time stamps of the frames to take: all, or those on the screen at ``count`` evenly spaced times."""
    if len(stamps) <= count:
        return [*stamps]
    times = np.linspace(stamps[0], stamps[-1], count).round()
    return [stamps[bisect_right(stamps, time) - 1] for time in times.tolist()]


def _decode(
    av: Any,
    source: Path | bytes,
    moments: Sequence[int],
    keys: Sequence[int],
    max_pixels: int,
    by_count: bool,
) -> dict[int, Image.Image]:
    """The frames with these time stamps (or numbers); seeks where a key frame lies between two of them."""
    pictures: dict[int, Image.Image] = {}
    with _open(av, source) as container:
        stream: Any = _stream(av, container)
        stream.thread_type = "AUTO"
        frames = enumerate(container.decode(stream))
        for before, moment in pairwise([*moments[:1], *moments]):
            key = keys[bisect_right(keys, moment) - 1] if keys and keys[0] <= moment else None
            if key is not None and key > before:
                container.seek(key, stream=stream)
                frames = enumerate(container.decode(stream))
            for number, frame in frames:
                stamp = number if by_count else frame.pts
                if stamp is not None and stamp >= moment:
                    pictures[stamp] = _picture(frame, stream.sample_aspect_ratio, max_pixels)
                    break
    return pictures


def _picture(frame: Any, aspect: Fraction | None, max_pixels: int) -> Image.Image:
    """A decoded frame as it is meant to be seen: square pixels, upright, within the budget."""
    image = frame.to_image()
    width, height = image.width * float(aspect or 1), float(image.height)
    shrink = min(1.0, (max_pixels / (width * height)) ** 0.5)
    size = (max(1, int(width * shrink)), max(1, int(height * shrink)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    turned = frame.rotation % 360
    return image.rotate(turned, expand=True) if turned else image
