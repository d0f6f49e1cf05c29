"""From a problem to the tensors a model reads, with the kind and the place of every position.

1. The chat template turns system text, pictures and question into one text (``chat``).
2. The processor turns text and pictures into the forward's keyword arguments.
3. Every position gets a kind: visual (image or video placeholder), special (any other special token), text, or response
   (what a model said: turns of a conversation, and a response after the prompt, its special tokens too).
4. Every visual position gets its view and its cell (t, row, column) (``layouts``).

Tensors stay on the CPU; whoever runs a model moves a batch to it.
"""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int, Int8
from PIL import Image
from torch import Tensor

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy, named_token_ids
from workbench.models.chat import Message, processor_call, shown_pictures, tokenizer_of, with_turns
from workbench.models.layouts import Grid, Layout, locate
from workbench.models.prompt_html import prompt_html
from workbench.models.response_places import assistant_places, last_response, turns_of
from workbench.models.tilings import find_tilings
from workbench.problems.problem import Problem

PER_POSITION = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
_VISUAL = (
    "pixel_values",
    "pixel_values_videos",
    "image_grid_thw",
    "video_grid_thw",
    "second_per_grid_ts",
    "image_sizes",
    "batch_num_images",
    "pixel_attention_mask",
)


class TokenKind(IntEnum):
    """What a position of a prompt holds."""

    TEXT = 0
    VISUAL = 1
    SPECIAL = 2
    RESPONSE = 3
    """Said by a model: in an earlier turn, or after the prompt."""


@runtime_checkable
class _Pair(Protocol):
    @property
    def base(self) -> Anatomy: ...
    @property
    def processor(self) -> Any | None: ...


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """One prompt of T positions, ready for the forward of every model of its family.

    A *view* is one grid of visual tokens: an image, a video, or the tiles and the small whole picture that
    some families make of one image. V views, numbered in order of appearance.
    """

    problem_id: str
    model_inputs: dict[str, Tensor] = field(repr=False)
    """Batch of one: exactly the keyword arguments of the model's forward."""
    kinds: Int8[Tensor, "positions"] = field(repr=False)
    """TokenKind values."""
    visual_index: Int[Tensor, "positions"] = field(repr=False)
    """Which view a visual position belongs to; -1 elsewhere."""
    grid: Int[Tensor, "positions 3"] = field(repr=False)
    """(t, row, column) in the view's merged grid; -1 elsewhere, and at newline and class tokens."""
    grids: tuple[Grid, ...]
    """Per view: merged (t, h, w)."""
    sources: tuple[int, ...]
    """Per view: which image or video of the prompt it shows."""
    tokens: tuple[str, ...] = field(repr=False)
    """Display string of every position."""
    images: tuple[Image.Image, ...] = field(default=(), repr=False)
    """Per view: the part of its picture that the model sees (of a video, the first frame); may be empty."""
    frames: tuple[tuple[Image.Image, ...], ...] = field(default=(), repr=False)
    """Per view: the frames of its video, none for an image; may be empty. Some families read several as one t."""

    def __post_init__(self) -> None:
        length = len(self.input_ids)
        for name in ("kinds", "visual_index", "grid", "tokens"):
            if len(getattr(self, name)) != length:
                raise InputError(
                    f"`{name}` has {len(getattr(self, name))} entries, expected {length}, one a position"
                )
        views = len(self.grids)
        if len(self.sources) != views or {len(self.images), len(self.frames)} - {0, views}:
            raise InputError(
                f"`sources`, `images` and `frames` must have one entry for each of the {views} `grids`"
            )

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that stand for everything that the models read."""
        digest = hashlib.sha256(self.problem_id.encode())
        for name, value in sorted(self.model_inputs.items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @property
    def input_ids(self) -> Int[Tensor, "positions"]:
        """Token ids."""
        return self.model_inputs["input_ids"][0]

    @property
    def image_index(self) -> Int[Tensor, "positions"]:
        """Which image or video of the prompt a visual position belongs to; -1 elsewhere."""
        sources = torch.tensor([*self.sources, -1], dtype=torch.int32)
        return sources[self.visual_index.long()]  # -1 reads the last entry

    @property
    def turn(self) -> Int[Tensor, "positions"]:
        """Which response of the conversation a response position belongs to, 0 the first; -1 elsewhere."""
        return turns_of(self.kinds == TokenKind.RESPONSE)

    @property
    def response_start(self) -> int:
        """Where the response begins that ends the prompt; the number of positions where there is none."""
        return last_response(self.kinds == TokenKind.RESPONSE)

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        numbers = {kind: int((self.kinds == kind).sum()) for kind in TokenKind}
        shown = [kind for kind in TokenKind if kind != TokenKind.RESPONSE or numbers[kind]]
        counts = ", ".join(f"{numbers[kind]} {kind.name.lower()}" for kind in shown)
        return (
            f"EncodedPrompt({self.problem_id!r}, {len(self)} positions: {counts}; grids {list(self.grids)})"
        )

    def _repr_html_(self) -> str:
        return prompt_html(self, [TokenKind(kind).name.lower() for kind in self.kinds.tolist()])

    def prefix(self, length: int) -> "EncodedPrompt":
        """The first ``length`` positions, which must hold every visual one.

        Raises:
            InputError: a visual position would be lost, or there are not so many positions.
        """
        last = int((self.visual_index >= 0).nonzero()[-1]) if len(self.grids) else -1
        if not last < length <= len(self):
            raise InputError(
                f"`length` is {length}, expected {last + 1} to {len(self)}, so that the picture stays whole"
            )
        inputs = {
            name: value[:, :length] if name in PER_POSITION else value
            for name, value in self.model_inputs.items()
        }
        cut = {name: getattr(self, name)[:length] for name in ("kinds", "visual_index", "grid", "tokens")}
        return replace(self, model_inputs=inputs, **cut)

    def continued(self, ids: Int[Tensor, "tokens"], tokens: Sequence[str] | None = None) -> "EncodedPrompt":
        """The prompt with the ids of a response after it, shown as ``tokens``, as ids without; all are of kind response."""
        count = len(ids)
        added = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs = {
            name: torch.cat([value, added.get(name, torch.zeros_like(ids)).to(value)[None]], 1)
            if name in PER_POSITION
            else value
            for name, value in self.model_inputs.items()
        }
        return replace(
            self,
            model_inputs=inputs,
            kinds=torch.cat([self.kinds, self.kinds.new_full((count,), TokenKind.RESPONSE)]),
            visual_index=torch.cat([self.visual_index, self.visual_index.new_full((count,), -1)]),
            grid=torch.cat([self.grid, self.grid.new_full((count, 3), -1)]),
            tokens=(*self.tokens, *([f"#{i}" for i in ids.tolist()] if tokens is None else tokens)),
        )

    @classmethod
    def from_tensors(cls, pair: _Pair, *, problem_id: str = "prompt", **tensors: Any) -> "EncodedPrompt":
        """An encoding you built yourself: the forward's keyword arguments for one prompt.

        ``attention_mask`` and the token type ids that Qwen-VL and Gemma 3 need are filled in where missing.
        Without a tokenizer, tokens are shown as ids, and special tokens are those that the model's config
        names.

        Raises:
            InputError: a tensor is unknown, misshapen, or does not fit the others.
        """
        inputs = _checked(pair.base, tensors)
        return cls(**_describe(pair.processor, pair.base, inputs, None), problem_id=problem_id)


def encode(
    processor: Any, anatomy: Anatomy, problem: Problem, turns: Sequence[Message] = ()
) -> EncodedPrompt:
    """Encode a problem, and the turns after it, with a transformers processor or tokenizer.

    Raises:
        InputError: there is no processor, the problem's pictures do not fit the model or the text, or the
            processor itself refuses them.
    """
    here = f"problem {problem.id!r}"
    if processor is None:
        raise InputError(
            "`pair` has no processor, so it cannot encode a problem: load it with `load_pair(..., "
            "processor=<folder or hub id>)`, or bring your own tensors with "
            "`EncodedPrompt.from_tensors(pair, input_ids=..., ...)`"
        )
    call = processor_call(processor, anatomy, problem, turns)
    asked, problem = problem, with_turns(problem, turns)
    try:
        encoding = processor(**call)
    except Exception as error:  # processors raise whatever their arithmetic on sizes leads to
        raise InputError(f"{here}: {type(processor).__name__} refused it: {error}") from error
    names = _known_inputs(anatomy)
    inputs = {name: torch.as_tensor(value) for name, value in encoding.items() if name in names}
    try:
        fields = _describe(processor, anatomy, _completed(anatomy, inputs), problem)
    except InputError as error:
        raise InputError(f"{here}: {error}") from error
    if turns:
        fields["kinds"][assistant_places(processor, asked, turns, inputs["input_ids"][0])] = (
            TokenKind.RESPONSE
        )
    return EncodedPrompt(**fields, problem_id=problem.id)


def show_token(tokenizer: Any, token_id: int) -> str:
    """Display string of one token id, ``"#17"`` without a tokenizer."""
    if tokenizer is None:
        return f"#{token_id}"
    text = tokenizer.decode([token_id])
    if text and "\ufffd" not in text:
        return text
    # Part of a character, or a padding row.
    return tokenizer.convert_ids_to_tokens(token_id) or f"#{token_id}"


# --- positions -----------------------------------------------------------------------------------------


def _describe(
    processor: Any, anatomy: Anatomy, inputs: dict[str, Tensor], problem: Problem | None
) -> dict[str, Any]:
    """The fields of an EncodedPrompt, from its tensors and, where there is one, its problem."""
    tokenizer, ids = tokenizer_of(processor), inputs["input_ids"][0]
    layout = locate(anatomy, ids, inputs, find_tilings(processor, anatomy, inputs, problem))
    kinds = torch.zeros(len(ids), dtype=torch.int8)
    kinds[torch.isin(ids, torch.tensor(sorted(_special_ids(tokenizer, anatomy))))] = TokenKind.SPECIAL
    kinds[torch.isin(ids, torch.tensor(sorted(anatomy.visual_token_ids)))] = TokenKind.VISUAL
    spelling = {i: show_token(tokenizer, i) for i in set(ids.tolist())}
    return {
        "model_inputs": inputs,
        "kinds": kinds,
        "visual_index": layout.visual_index,
        "grid": layout.grid,
        "grids": layout.grids,
        "sources": layout.sources,
        "tokens": tuple(spelling[i] for i in ids.tolist()),
        **({} if problem is None else _pictures(processor, anatomy, problem, layout)),
    }


def _special_ids(tokenizer: Any, anatomy: Anatomy) -> set[int]:
    if tokenizer is not None:
        added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        return added | set(tokenizer.all_special_ids)
    return set(named_token_ids(anatomy.model))


def _pictures(processor: Any, anatomy: Anatomy, problem: Problem, layout: Layout) -> dict[str, Any]:
    pictures = shown_pictures(processor, anatomy, problem)
    if len(pictures) != len(set(layout.sources)):  # Gemma 3's pan-and-scan crops the problem does not hold
        return {}
    frames = [()] * len(problem.images) + [problem.video] * bool(problem.video)
    return {
        "images": tuple(pictures[source] for source in layout.sources),
        "frames": tuple(frames[source] for source in layout.sources),
    }


# --- the user's own tensors ----------------------------------------------------------------------------


def _known_inputs(anatomy: Anatomy) -> set[str]:
    """What of a prompt the model's forward reads; positions, caches and labels are not part of a prompt."""
    return inspect.signature(type(anatomy.model).forward).parameters.keys() & {*PER_POSITION, *_VISUAL}


def _completed(anatomy: Anatomy, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds the attention mask and the token type ids that the family's positions or masks are built from."""
    ids = inputs["input_ids"]
    inputs.setdefault("attention_mask", torch.ones_like(ids))
    types = torch.zeros_like(ids)
    for value, token in ((1, anatomy.image_token_id), (2, anatomy.video_token_id)):
        types[ids == (-1 if token is None else token)] = value
    names = _known_inputs(anatomy)
    name = "mm_token_type_ids" if "mm_token_type_ids" in names else "token_type_ids"
    if anatomy.visual_token_ids and name in names:
        inputs.setdefault(name, types)
    return inputs


def _checked(anatomy: Anatomy, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    call = "`EncodedPrompt.from_tensors(pair, input_ids=ids)` with `ids` of shape (1, positions)"
    if "input_ids" not in tensors:
        raise InputError(f"`input_ids` is missing, got {sorted(tensors)}: {call}")
    names = _known_inputs(anatomy)
    if unknown := sorted(set(tensors) - names):
        raise InputError(
            f"`{unknown[0]}` is no input of a prompt for {type(anatomy.model).__name__}, known are "
            f"{sorted(names)}; leave it out"
        )
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"`{name}` is a {type(value).__name__}, expected a torch.Tensor: `torch.as_tensor(...)`"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"`{name}` holds NaN or infinite values; encode the picture again")
    ids = tensors["input_ids"]
    if ids.ndim != 2 or ids.shape[0] != 1 or ids.shape[1] == 0 or ids.is_floating_point():
        raise InputError(
            f"`input_ids` is {ids.dtype} of shape {tuple(ids.shape)}, expected integers for one prompt: "
            f"{call}"
        )
    if not 0 <= int(ids.min()) <= int(ids.max()) < anatomy.vocab_size:
        raise InputError(
            f"`input_ids` holds ids {int(ids.min())} to {int(ids.max())}, expected 0 to "
            f"{anatomy.vocab_size - 1}: encode with the pair's own tokenizer"
        )
    for name in PER_POSITION:
        if name in tensors and tensors[name].shape != ids.shape:
            shape = tuple(tensors[name].shape)
            raise InputError(f"`{name}` has shape {shape}, expected {tuple(ids.shape)} like `input_ids`")
    if "attention_mask" in tensors and not bool((tensors["attention_mask"] == 1).all()):
        raise InputError(
            "`attention_mask` hides positions; give the prompt without padding, `collate` adds it"
        )
    return _completed(anatomy, {name: value.detach().cpu() for name, value in tensors.items()})
