"""What a page's overlays need of a trace, packed small: numbers as base64, tokens as one vocabulary."""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from plotly.colors import sample_colorscale

from workbench.tables import visible

if TYPE_CHECKING:
    from workbench.records import LensTrace

PICTURE_SIDE = 768
"""Longest side in pixels of a picture in the page."""
PREDICTION_BYTES = 3_000_000
"""Of top predictions in a page; deep models and long prompts keep fewer per cell."""


def pack(traces: Sequence["LensTrace"], top_k: int) -> dict[str, Any]:
    """Everything the overlay script reads, ready for JSON. Each trace holds one prompt.

    Arrays are base64, little-endian: entropies and KL in nats as float32 (layers, positions); top tokens as
    indices into ``vocabulary``, and their probabilities times 65535, as integers (layers, positions, topK).
    """
    cells = sum(one.kl.numel() for one in traces)
    top_k = min(top_k, traces[0].top_ids_base.shape[-1], max(1, PREDICTION_BYTES // (8 * cells)))
    texts: dict[int, str] = {}
    for one in traces:
        for ids in (one.top_ids_base, one.top_ids_rlvr):
            texts |= {token: word(one, token) for token in ids[..., :top_k].unique().tolist()}
    tokens = np.array(sorted(texts))
    scale = np.rint(255 * np.array(sample_colorscale("Cividis", 9, colortype="tuple"))).astype(int)
    return {
        "layers": traces[0].layers,
        "depth": traces[0].depth,
        "topK": top_k,
        "wordBytes": _word_type(tokens).itemsize,
        "vocabulary": [texts[token] for token in tokens.tolist()],
        "colours": scale.tolist(),
        "problems": [_pack_one(one, top_k, tokens) for one in traces],
    }


def _pack_one(one: "LensTrace", top_k: int, tokens: np.ndarray) -> dict[str, Any]:
    places = zip(one.visual_index.tolist(), one.grid.tolist(), strict=True)
    packed: dict[str, Any] = {
        "tokens": token_texts(one),
        "kinds": one.kind.tolist(),
        # a visual token without a cell (a newline or class token) is at -1
        "places": [[view, *cell] if cell[0] >= 0 else None for view, cell in places],
        "views": [
            {"name": view_name(one.prompts[0].grids, index), "grid": grid}
            for index, grid in enumerate(one.prompts[0].grids)
        ],
        "entropy": _base64(one.entropy_base.numpy(), "<f4"),
        "entropyRlvr": _base64(one.entropy_rlvr.numpy(), "<f4"),
        "kl": _base64(one.kl.numpy(), "<f4"),
    }
    for model in ("base", "rlvr"):
        ids = getattr(one, f"top_ids_{model}")[..., :top_k].numpy()
        chances = getattr(one, f"top_probs_{model}")[..., :top_k].numpy()
        packed[f"{model}Words"] = _base64(np.searchsorted(tokens, ids), _word_type(tokens))
        packed[f"{model}Chances"] = _base64(np.rint(chances * 65535), "<u2")
    return packed


def token_texts(one: "LensTrace") -> list[str]:
    """The tokens of a prompt as text, white space made visible."""
    texts = one.prompts[0].tokens or [one.vocabulary.get(i, f"#{i}") for i in one.token_id.tolist()]
    return [visible(text) for text in texts]


def word(trace: "LensTrace", token: int) -> str:
    """A token of the vocabulary as text, white space made visible."""
    return visible(trace.vocabulary.get(token, f"#{token}"))


def view_name(grids: Sequence[tuple[int, int, int]], index: int) -> str:
    """What a view is called on the page: "image", "video", or "view 2" (two images, or crops of one)."""
    if len(grids) > 1:
        return f"view {index + 1}"
    return "video" if grids[index][0] > 1 else "image"


def place_name(one: "LensTrace", position: int) -> str:
    """Where a position is: "image, row 2, column 5", or "position 41"."""
    frame, row, column = one.grid[position].tolist()
    if frame < 0:
        return f"position {int(one.position[position])}"
    grids, view = one.prompts[0].grids, int(one.visual_index[position])
    moment = f", frame {frame + 1}" if grids[view][0] > 1 else ""
    return f"{view_name(grids, view)}{moment}, row {row + 1}, column {column + 1}"


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


def _word_type(tokens: np.ndarray) -> np.dtype:
    return np.dtype("<u2" if len(tokens) < 2**16 else "<u4")


def _base64(values: np.ndarray, dtype: str | np.dtype) -> str:
    return base64.b64encode(values.astype(dtype).tobytes()).decode()
