"""Pictures as data URIs: whole pages without files beside them."""

import base64
import io

from PIL import Image

PICTURE_SIDE = 768
"""Longest side in pixels of a picture in the page."""


def data_uri(image: Image.Image, side: int | None = None) -> str:
    """The image as a PNG ``data:`` URI, shrunk so that neither side exceeds ``side`` pixels."""
    if side is not None and max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture_uri(picture: Image.Image) -> str:
    """A picture as data URI, no larger than PICTURE_SIDE: PNG when it is small, else JPEG."""
    picture = picture.convert("RGB")
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    small = picture.width * picture.height <= 256**2
    buffer = io.BytesIO()
    if small:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=88)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
