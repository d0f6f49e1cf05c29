"""A picture whose pixels can be read is read, whatever stands around them and whatever its shape."""

import io
import struct
import warnings

import mixes
import numpy as np
import pytest
import tiny
from mixes import TOKENS
from PIL import Image

import workbench as wb
from workbench.models.prompts import TokenKind
from workbench.problems.images import open_image

TURNS = {
    1: None,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_270,
    8: Image.Transpose.ROTATE_90,
}


def jpeg(exif: bytes) -> bytes:
    made = io.BytesIO()
    tiny.image(24, 16).save(made, "JPEG", exif=exif)
    return made.getvalue()


def entries(*rows: tuple[int, int, int, bytes]) -> bytes:
    """A big-endian EXIF block of (tag, type, count, four bytes of value)."""
    packed = b"".join(struct.pack(">HHI", *row[:3]) + row[3] for row in rows)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(rows)) + packed + b"\0\0\0\0"


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("odd", [(0x010E, 10, 1), (0x010D, 5, 1), (0x011A, 2, 8), (0x8769, 13, 1)])
def test_a_jpeg_is_turned_though_its_exif_cannot_be_written_again(turn, odd):
    """Protects from a photograph refused for a camera's odd notes, which say its orientation all the same."""
    exif = entries((*odd, b"\0\0\0\x10"), (0x0112, 3, 1, struct.pack(">HH", turn, 0)))
    stored = Image.open(io.BytesIO(jpeg(b""))).convert("RGB")
    wanted = stored if TURNS[turn] is None else stored.transpose(TURNS[turn])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, about the notes
        found = open_image(jpeg(exif), "photograph")
        again = wb.Problem("p", "What?", images=(found,)).images[0]
    for image in (found, again):  # and not turned twice
        assert np.array_equal(np.asarray(image), np.asarray(wanted))


def test_a_picture_whose_exif_cannot_be_read_at_all_is_shown_as_stored(monkeypatch):
    """Protects from refusing pixels for metadata; what could not be looked at is said."""

    def broken(self: Image.Image) -> Image.Exif:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    with pytest.warns(
        UserWarning, match=r"photograph has EXIF data that can't be read \(SyntaxError: not a TIFF"
    ):
        found = open_image(jpeg(b""), "photograph")
    assert found.size == (24, 16)


@pytest.mark.parametrize("size", [(400, 2), (300, 1), (1000, 3), (96, 2), (2, 400), (3, 150), (120, 3)])
def test_onevision_reads_very_wide_and_very_tall_pictures(size):
    """Protects from an IndexError where no row or column of the tiles is left; `generate` reads them."""
    pair = mixes.untouched("llava_onevision")
    prompt = pair.encode(tiny.problem("llava_onevision", (tiny.image(*size),)))
    assert prompt.grids == ((1, 4, 4),)
    visual = prompt.kinds == TokenKind.VISUAL
    assert prompt.grid[prompt.grid[:, 0] >= 0].tolist() == [
        [0, row, column] for row in range(4) for column in range(4)
    ]
    assert bool((prompt.visual_index[visual] == 0).all())
    wanted = mixes.generated(pair, "rlvr", prompt)
    assert wb.decode(pair, prompt, max_new_tokens=TOKENS)[0].text == wanted
