"""Images from outside: opened once, checked, upright, RGB.

Whatever a file, a base64 cell or a user hands over is decoded completely before any model runs, so that a
broken image costs a message and not a half-finished run.
"""

import base64
import binascii
import io
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from workbench.errors import InputError

PIXEL_LIMIT = 64_000_000  # width x height of the largest image accepted: two 8K frames
FRAME_LIMIT = 16  # evenly spaced frames kept of a video, unless told otherwise
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_NOTES = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
"""Where Pillow keeps what a file says of its orientation."""


def as_rgb(image: Image.Image, where: str) -> Image.Image:
    """The image decoded, turned upright by its EXIF orientation, in RGB; transparency is laid over white.

    A plain RGB image is returned as it is. ``where`` names the image in messages.

    Raises:
        InputError: no pixels, more than `PIXEL_LIMIT` of them, broken data, or a mode without a known range.
    """
    width, height = image.size
    if not width or not height:
        raise InputError(
            f"{where} is empty ({width} x {height} pixels); expected at least 1 x 1: replace or remove it"
        )
    if width * height > PIXEL_LIMIT:
        raise InputError(
            f"{where} is enormous ({width} x {height} pixels); the limit is {PIXEL_LIMIT:,} pixels: "
            "shrink it first, for example with `image.thumbnail((4096, 4096))`"
        )
    try:
        image.load()
        image = _upright(image, where)
        if image.mode == "F":
            raise InputError(
                f"{where} has mode F (floating point) with no agreed range; "
                "expected 8 or 16 bits a channel: scale it to 0 ... 255 and `image.convert('RGB')`"
            )
        if image.mode == "I" or image.mode.startswith("I;16"):  # 16-bit grey: convert() would clip it at 255
            image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
        if image.has_transparency_data:
            over = image.convert("RGBA")
            image = Image.new("RGBA", over.size, "white")
            image.alpha_composite(over)
        # A file class keeps its file and its metadata: only a plain image goes on.
        return image if type(image) is Image.Image and image.mode == "RGB" else image.convert("RGB")
    except InputError:
        raise
    except Exception as error:  # decoders raise anything from OSError to struct.error on broken data
        raise _broken(where, error) from error


def _upright(image: Image.Image, where: str) -> Image.Image:
    """The image turned as its metadata say, then without metadata; as stored, with a warning, where they can't be read.

    Only the orientation is asked for: metadata that can't be written again are no fault of the pixels.
    """
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception as error:  # Pillow raises SyntaxError, struct.error and more
        turn = None
        warnings.warn(
            f"{where} has EXIF data that can't be read ({type(error).__name__}: {error}); it is shown as stored, not turned",
            stacklevel=4,
        )
    else:
        if turn is None:
            return image
    turned = image.copy() if turn is None else image.transpose(turn)
    for note in _NOTES:
        turned.info.pop(note, None)
    return turned


def open_image(source: Path | bytes, where: str) -> Image.Image:
    """An image file, or the bytes of one, as `as_rgb` returns it.

    Raises:
        InputError: missing, broken, empty or enormous.
    """
    if isinstance(source, Path) and not source.is_file():
        raise InputError(
            f"{where} is missing: no file {str(source)!r}; expected a path relative to the table's own folder"
        )
    try:
        opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"{where} is enormous ({error}); the limit is {PIXEL_LIMIT:,} pixels: shrink it first"
        ) from error
    except Exception as error:  # as above
        raise _broken(where, error) from error
    with opened:
        return as_rgb(opened, where)


def decode_base64(text: str, where: str) -> bytes:
    """The bytes of a base64 string or of a ``data:`` URI.

    Raises:
        InputError: not base64.
    """
    body = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        start = text if len(text) <= 40 else f"{text[:40]}..."
        raise InputError(
            f"{where} is neither an existing file nor base64 ({error}): it starts with {start!r}; "
            "write it with `base64.b64encode(path.read_bytes()).decode()`"
        ) from error


def image_files(folder: Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """The image files directly in a folder, ordered by name with numbers counted as numbers."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file()]
    return sorted(files, key=lambda path: (_natural(path.name), path.name))


def open_frames(path: Path, where: str, frames: int = FRAME_LIMIT) -> tuple[Image.Image, ...]:
    """At most ``frames`` evenly spaced frames of a video given as a folder of images or an animated image.

    Raises:
        InputError: missing, broken, or without frames.
    """
    if path.is_dir():
        files = image_files(path)
        if not files:
            raise InputError(
                f"{where} is a folder without images: {str(path)!r}; expected frames, for example 001.png"
            )
        sample = [files[i] for i in _spread(len(files), frames)]
        return tuple(open_image(file, f"{where}, frame {file.name!r},") for file in sample)
    first = open_image(path, where)  # its checks come first: size, truncation
    with Image.open(path) as animation:
        try:
            count = getattr(animation, "n_frames", 1)
            numbers = set(_spread(count, frames))
            stills = enumerate(ImageSequence.Iterator(animation)) if count > 1 else ()
            return tuple(as_rgb(frame.copy(), where) for i, frame in stills if i in numbers) or (first,)
        except InputError:
            raise
        except Exception as error:  # as in `as_rgb`
            raise _broken(where, error) from error


def _broken(where: str, error: Exception) -> InputError:
    return InputError(
        f"{where} could not be read ({type(error).__name__}: {error}); "
        "expected a complete image with at least 1 x 1 pixels: export it again, for example as PNG"
    )


def _spread(count: int, frames: int) -> Sequence[int]:
    """Indices of at most ``frames`` of ``count`` frames, the first among them, and the last if there are two."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, frames)).round()})


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key: digit runs compare by value, so that 2.png comes before 10.png."""
    runs: list[str] = []
    for character in name.lower():
        if runs and runs[-1].isdecimal() == character.isdecimal():
            runs[-1] += character
        else:
            runs.append(character)
    return [(False, int(run), "") if run.isdecimal() else (True, 0, run) for run in runs]
