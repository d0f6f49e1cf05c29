"""What the lens explorer needs of a trace, packed small: numbers as base64, tokens as one vocabulary."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from plotly.colors import sample_colorscale

from workbench.views.panels import COLOURS
from workbench.views.pictures import picture_uri
from workbench.views.tables import visible

if TYPE_CHECKING:
    from workbench.tracing.follow import Followed
    from workbench.tracing.lens_trace import LensTrace, PromptInfo

PREDICTION_BYTES = 6_000_000
"""Of top predictions in a page; deep models and long prompts keep fewer per cell."""
FOLLOWED_BYTES = 4_000_000
"""Of followed tokens in a page; deep models and long prompts keep fewer per position."""
STEPS = 2048
"""Probabilities are kept as -log p in 1/STEPS nats: within 0.025%, down to 1e-14."""
_FLOOR = 65535


class ModelAnswer(NamedTuple):
    """What a model answers to a problem."""

    answer: str
    text: str
    """The whole response."""
    right: bool | None
    """None where it is not known."""


Answers = Mapping[str, Mapping[str, ModelAnswer]]
"""Problem -> model ("base", "rlvr") -> its answer."""


def pack(
    traces: Sequence["LensTrace"],
    top_k: int,
    followed: Sequence["Followed | None"] = (),
    answers: Answers | None = None,
) -> dict[str, Any]:
    """Everything the explorer's script reads, ready for JSON. Each trace holds one prompt, and so does each ``followed``.

    Arrays are base64, little-endian: entropies, KL and the mean KL of matched noise (``klNull``; "" where the trace drew none) in
    nats as float32 (layers, positions); top tokens as
    indices into ``vocabulary``, and their probabilities as -log p times ``steps``, as integers (layers, positions,
    topK); followed tokens likewise, (positions, follow), and their probabilities (positions, follow, layers). The
    index ``len(vocabulary)`` stands for no token, 65535 for a probability of 1e-14 or less. ``answers`` are the models'.
    """
    pairs = list(zip(traces, [*followed, *[None] * len(traces)], strict=False))
    cells = sum(one.kl.numel() for one in traces)
    top_k = min(top_k, traces[0].top_ids_base.shape[-1], max(1, PREDICTION_BYTES // (8 * cells)))
    sizes = [(one.ids.shape[1], one.log_probs_base[..., 0].numel()) for one in followed if one is not None]
    space = FOLLOWED_BYTES // (4 * max(1, sum(count for _, count in sizes)))
    follow = min(max((width for width, _ in sizes), default=0), max(1, space))
    texts: dict[int, str] = {}
    for one, more in pairs:
        for ids in (one.top_ids_base, one.top_ids_rlvr):
            texts |= {token: word(one, token) for token in ids[..., :top_k].unique().tolist()}
        if more is not None:
            token_ids = more.ids[:, :follow].unique().tolist()
            texts |= {token: visible(more.vocabulary[token]) for token in token_ids if token >= 0}
    tokens = np.array(sorted(texts))
    return {
        "layers": traces[0].layers,
        "depth": traces[0].depth,
        "topK": top_k,
        "follow": follow,
        "steps": STEPS,
        "wordBytes": _word_type(tokens).itemsize,
        "vocabulary": [texts[token] for token in tokens.tolist()],
        "ids": tokens.tolist(),
        "colours": {"magnitude": _scale("Cividis"), "change": _scale("PuOr")},
        "models": {model: COLOURS[model] for model in ("base", "rlvr")},
        "problems": [
            _pack_one(one, top_k, tokens, more, follow) | {"answers": _answers(one, answers or {})}
            for one, more in pairs
        ],
    }


def pack_after(one: "LensTrace", most: int) -> dict[str, Any] | None:
    """The second model of a trace of one prompt alone, for a page that has the first: what an action made of a model's lens.

    Arrays are as in `pack`, of as many top predictions as go into ``most`` bytes; where it is tight, entropies and KL are the
    upper halves of their float32 (``halves``), within 0.4%. None where not even one prediction goes in.
    """
    for top_k in range(one.top_ids_rlvr.shape[-1], 0, -1):
        words = _words_after(one, top_k)
        for halves in (False, True):
            tables = {"kl": one.kl.numpy(), "entropy": one.entropy_rlvr.numpy()}
            tables |= {"klNull": one.kl_null.mean(0).numpy()} if len(one.kl_null) else {}
            packed = {
                name: base64_of(_upper(v), "<u2") if halves else base64_of(v, "<f4")
                for name, v in tables.items()
            }
            packed |= {"topK": top_k, "halves": halves, **words}
            if len(json.dumps(packed)) <= most:
                return packed
    return None


def _words_after(one: "LensTrace", top_k: int) -> dict[str, Any]:
    """First predictions of the second model, with a vocabulary of their own."""
    ids = one.top_ids_rlvr[..., :top_k].numpy()
    tokens = np.unique(ids)
    with np.errstate(divide="ignore"):
        log_p = np.log(one.top_probs_rlvr[..., :top_k].numpy())
    return {
        "wordBytes": _word_type(tokens).itemsize,
        "vocabulary": [word(one, token) for token in tokens.tolist()],
        "ids": tokens.tolist(),
        "words": base64_of(np.searchsorted(tokens, ids), _word_type(tokens)),
        "chances": base64_of(_steps(log_p), "<u2"),
    }


def _upper(values: np.ndarray) -> np.ndarray:
    """Of each float32 the upper half, rounded: bfloat16."""
    return ((values.astype("<f4").view("<u4") + 0x8000) >> 16).astype("<u2")


def _pack_one(
    one: "LensTrace", top_k: int, tokens: np.ndarray, followed: "Followed | None", follow: int
) -> dict[str, Any]:
    info = one.prompts[0]
    places = zip(one.visual_index.tolist(), one.grid.tolist(), strict=True)
    packed: dict[str, Any] = {
        "id": info.problem_id if info.sample is None else f"{info.problem_id}, response {info.sample}",
        "question": info.question,
        "answer": info.answer,
        "tokens": token_texts(one),
        "kinds": one.kind.tolist(),
        # a visual token without a cell (a newline or class token) is at -1
        "places": [[view, *cell] if cell[0] >= 0 else None for view, cell in places],
        "views": [_view(info, index) for index in range(len(info.grids))],
        "entropyBase": base64_of(one.entropy_base.numpy(), "<f4"),
        "entropyRlvr": base64_of(one.entropy_rlvr.numpy(), "<f4"),
        "kl": base64_of(one.kl.numpy(), "<f4"),
        "klNull": base64_of(one.kl_null.mean(0).numpy(), "<f4") if len(one.kl_null) else "",
        "followedWords": "",
    }
    for model in ("base", "rlvr"):
        ids = getattr(one, f"top_ids_{model}")[..., :top_k].numpy()
        with np.errstate(divide="ignore"):
            log_p = np.log(getattr(one, f"top_probs_{model}")[..., :top_k].numpy())
        packed[f"{model}Words"] = base64_of(np.searchsorted(tokens, ids), _word_type(tokens))
        packed[f"{model}Chances"] = base64_of(_steps(log_p), "<u2")
        packed[f"{model}Followed"] = ""
    if followed is not None:
        ids = followed.ids[:, :follow].numpy()
        words = np.where(ids < 0, len(tokens), np.searchsorted(tokens, ids))
        packed["followedWords"] = base64_of(words, _word_type(tokens))
        for model in ("base", "rlvr"):
            log_p = getattr(followed, f"log_probs_{model}")[..., :follow].permute(1, 2, 0).numpy()
            packed[f"{model}Followed"] = base64_of(_steps(np.nan_to_num(log_p, nan=-np.inf)), "<u2")
    return packed


def _answers(one: "LensTrace", answers: Answers) -> dict[str, dict[str, Any]]:
    models = answers.get(one.prompts[0].problem_id, {})
    return {model: answer._asdict() for model, answer in models.items()}


def _view(info: "PromptInfo", index: int) -> dict[str, Any]:
    image = info.images[index] if info.images else None
    frames = info.frames[index] if info.frames else ()
    moments = info.grids[index][0]
    span = -(-len(frames) // moments)  # frames that the family reads as one
    width, height = image.size if image else info.grids[index][:0:-1]
    return {
        "name": view_name(info.grids, index),
        "grid": info.grids[index],
        "width": width,
        "height": height,
        "image": picture_uri(image) if image else None,
        # of every moment the first frame; empty where they are not known
        "frames": [picture_uri(frame) for frame in frames[::span]] if moments > 1 and frames else [],
        "span": span,
        "small": max(width, height) < 400,
    }


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


def _scale(name: str) -> list[list[int]]:
    """Nine colours of a plotly scale, 0 to 255."""
    return np.rint(255 * np.array(sample_colorscale(name, 9, colortype="tuple"))).astype(int).tolist()


def _steps(log_p: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(-log_p, 0, _FLOOR / STEPS) * STEPS)


def number_type(count: int) -> np.dtype:
    """What holds numbers below or equal to ``count``."""
    return np.dtype("<u2" if count < 2**16 else "<u4")


def _word_type(tokens: np.ndarray) -> np.dtype:
    return number_type(len(tokens))


def base64_of(values: np.ndarray, dtype: str | np.dtype) -> str:
    """Numbers as base64, little-endian."""
    return base64.b64encode(values.astype(dtype).tobytes()).decode()
