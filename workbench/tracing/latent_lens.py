"""LatentLens: what a residual stream says by the contextual states of text that lie nearest to it (arXiv 2602.00462).

1. A corpus of text runs through a language model; the residual stream after several layers is kept at every position, with the
   token that stands there and its text (a *context*).
2. A state of interest, at a visual token say, is compared with all of them, of all layers together: the largest cosines.

The package ``latentlens`` (0.1.0) writes an index as ``layer_N/embeddings_cache.pt``; its layer N is ``hidden_states[N]``, so the
output of decoder layer N - 1 (of the last one after the final norm, which is why an index leaves it out). It is read here,
never with code in it.
There is no distribution, so no entropy and no KL: `neighbours.read_neighbours` gives overlap and rank shift.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from workbench.conditions import Model
from workbench.errors import InputError
from workbench.lens.neighbours import Nearest, nearest, unit
from workbench.models.batches import batches
from workbench.models.pairs import ModelPair, batch_of
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.tracing.pickled import is_dense, kind_of, read_pickled
from workbench.tracing.tensor_files import write_tensors
from workbench.tracing.tuned_lens import digest_of_tensors, read_all

FORMAT = 1
"""Version of the folder that `LatentLens.save` writes."""
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_NUMBERS = ("layer", "token_id", "position", "context")
_BUILD = "LatentLens.build(pair, ['a red circle', 'two blue crosses'])"
_LOAD = "LatentLens.load('latentlens-index')"
_FOLDER = re.compile(r"layer_(\d+)", re.ASCII)
_TOLERANCE = 5e-3
"""Of the length 1 of a state: what rounding to bfloat16 may change."""


@dataclass(frozen=True, eq=False, repr=False)
class LatentLens:
    """Contextual states of text to compare with, S in all; on the CPU.

    Raises:
        InputError: fields that do not fit together.
    """

    states: Float[Tensor, "states hidden"]
    """float32, of length 1."""
    layer: Int[Tensor, " states"]
    """The decoder layer, 0-based, that a state is the output of; -1: the embedding."""
    token_id: Int[Tensor, " states"]
    """-1: not known."""
    position: Int[Tensor, " states"]
    """In its context; -1: not known, as in the package."""
    context: Int[Tensor, " states"]
    """Index into `contexts`."""
    tokens: tuple[str, ...] = field(repr=False)
    """(S,): what stands at each state."""
    contexts: tuple[str, ...] = field(repr=False)
    """The texts."""
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_kinds()
        texts = len(self.contexts)
        for name, least in (("layer", -1), ("token_id", -1), ("position", -1), ("context", 0)):
            values = getattr(self, name)
            if int(values.min()) < least or (name == "context" and int(values.max()) >= texts):
                below = f", below the number of `contexts`, {texts}" if name == "context" else ""
                raise InputError(
                    f"`{name}` holds {int(values.min())} to {int(values.max())}, expected {least} or more{below}: {_BUILD}"
                )
        lengths = torch.linalg.vector_norm(self.states, dim=1)
        wrong = ~((lengths - 1).abs() <= _TOLERANCE)  # also true of NaN
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise InputError(
                f"`states` must have length 1, that of row {row} is {float(lengths[row]):.4g} (in all {int(wrong.sum())} such); "
                f"divide each by its length, unless that is 0 or not finite: {_BUILD}"
            )

    def _check_kinds(self) -> None:
        """Refuse fields of other types or of lengths that do not fit."""
        if not is_dense(self.states) or self.states.dtype != torch.float32:
            raise InputError(f"`states` is {kind_of(self.states)}, expected float32 (S, hidden): {_BUILD}")
        for name in _NUMBERS:
            value = getattr(self, name)
            if not isinstance(value, Tensor) or value.dtype not in _INTEGERS:
                raise InputError(f"`{name}` is {kind_of(value)}, expected integers (S,): {_BUILD}")
        for name in ("tokens", "contexts"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(text, str) for text in value):
                raise InputError(f"`{name}` is {value!r:.60}, expected a tuple of texts: {_BUILD}")
        count = len(self.states) if self.states.ndim else 0
        wrong = [name for name in _NUMBERS if getattr(self, name).shape != (count,)]
        if self.states.ndim != 2 or not count or wrong or len(self.tokens) != count:
            raise InputError(
                f"`{[*wrong, 'states'][0]}` does not fit: {tuple(self.states.shape)} states, {len(self.tokens)} tokens; "
                f"expected (S, hidden), and S of each: {_BUILD}"
            )
        if not isinstance(self.provenance, dict) or not isinstance(self.provenance.get("model", {}), Mapping):
            raise InputError(
                f"`provenance` is {self.provenance!r:.80}, expected a dict, whose 'model', if it has one, says what made the "
                f"states, {{'model': {{'weights': ...}}}}: {_BUILD}"
            )

    @property
    def name(self) -> str:
        """``"latent lens"``."""
        return "latent lens"

    @property
    def described(self) -> dict[str, Any]:
        """Its name, and a digest of its states."""
        return {"name": self.name, "states": digest_of_tensors((self.states, self.layer))}

    def __len__(self) -> int:
        return len(self.states)

    def __repr__(self) -> str:
        layers = sorted(set(self.layer.tolist()))
        return f"LatentLens({len(self):,} states of {len(self.contexts):,} texts, layers {layers}, width {self.states.shape[1]})"

    def nearest(self, hidden: Float[Tensor, "positions hidden"], k: int = 10) -> Nearest:
        """The nearest states of residuals, all layers together; on the device of the residuals.

        Raises:
            InputError: residuals of another width, or ``k`` out of range.
        """
        return nearest(hidden, self.states.to(hidden.device), k)

    @classmethod
    def build(
        cls,
        pair: ModelPair,
        corpus: Sequence[str | EncodedPrompt],
        *,
        model: Model = "base",
        layers: Sequence[int] | None = None,
        contexts_per_token: int = 50,
        skip: int = 2,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "LatentLens":
        """Run a corpus through one model of a pair and keep its states, as ``latentlens`` does.

        A token has at most so many contexts, first come, first kept; a prefix that was seen already is not kept twice, since its
        state would be the same. Of prompts, what is text or response is kept; so a model that never saw text without a picture
        can be read by prompts with pictures.

        Args:
            pair: what `load_pair` returned.
            corpus: texts, or prompts already encoded (``pair.encode(problem, response=...)``).
            model: whose states.
            layers: decoder layers, 0-based; None: those that the package takes (`default_layers`).
            contexts_per_token: at most.
            skip: first positions of a text to leave out.
            batch_size: texts per forward; None: what suits the pair.
            progress: called with (texts done, texts in all), at the start and after every batch.

        Raises:
            InputError: no text that is long enough, no tokenizer, or a layer that does not exist.
        """
        chosen = default_layers(pair.depth) if layers is None else sorted({*layers})
        if not chosen or not 0 <= chosen[0] <= chosen[-1] < pair.depth:
            raise InputError(f"`layers` is {layers}, expected some of 0 to {pair.depth - 1}: {_BUILD}")
        prompts = [_encoded(pair, number, item) for number, item in enumerate(corpus)]
        kept = _kept(prompts, contexts_per_token, skip)
        if not any(len(places) for places in kept):
            raise InputError(
                f"`corpus` has no text beyond {skip} positions, {len(prompts)} items in all: {_BUILD}"
            )
        anatomy, size = pair.base if model == "base" else pair.rlvr, batch_of(pair, batch_size)
        report, parts, done = progress or (lambda done, total: None), [], 0
        report(0, len(prompts))
        for batch in batches(prompts, size):
            residuals = read_all(anatomy, batch, pair.pad_id, batch_size=size)[chosen].cpu()
            starts = torch.tensor([0, *(len(prompt) for prompt in batch)]).cumsum(0)
            here = [places + start for places, start in zip(kept[done:], starts[:-1], strict=False)]
            parts.append(unit(residuals[:, torch.cat(here)].flatten(0, 1)).unflatten(0, (len(chosen), -1)))
            done += len(batch)
            report(done, len(prompts))
        owner = torch.cat([torch.full((len(places),), number) for number, places in enumerate(kept)])
        ids = torch.cat([prompt.input_ids[places] for prompt, places in zip(prompts, kept, strict=True)])
        texts = tuple(prompts[n].tokens[i] for n, places in enumerate(kept) for i in places.tolist())
        metadata = {
            "pair": pair.name,
            "model": pair.provenance[model],
            "contexts_per_token": contexts_per_token,
        }
        times = len(chosen)
        return cls(
            torch.cat(parts, 1).flatten(0, 1),
            torch.tensor(chosen).repeat_interleave(len(owner)),
            ids.long().repeat(times),
            torch.cat(kept).repeat(times),
            owner.repeat(times),
            texts * times,
            tuple("".join(prompt.tokens) for prompt in prompts),
            metadata | {"skip": skip},
        )

    def save(self, folder: str | Path) -> Path:
        """Write ``states.safetensors`` and, last, ``states.json`` into a folder; returns it.

        Raises:
            InputError: the folder cannot be written.
        """
        about = {
            "format": FORMAT,
            "tokens": self.tokens,
            "contexts": self.contexts,
            "provenance": self.provenance,
        }
        tensors = {name: getattr(self, name) for name in ("states", *_NUMBERS)}
        return write_tensors(folder, "states", tensors, json.dumps(about, ensure_ascii=False, default=str))

    @classmethod
    def load(cls, folder: str | Path) -> "LatentLens":
        """Read what `save` wrote, or an index of the package ``latentlens``.

        Raises:
            InputError: no such folder, nothing of the kind in it, or a file with more than tensors, numbers and text.
        """
        home = Path(folder)
        if not (home / "states.json").exists():
            return _from_package(home)
        try:
            about = json.loads((home / "states.json").read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']}, expected {FORMAT}")
            tensors = load_file(home / "states.safetensors")
            fields: dict[str, Any] = {name: tensors[name] for name in ("states", *_NUMBERS)}
            fields |= {name: tuple(about[name]) for name in ("tokens", "contexts")}
            return cls(**fields, provenance=about["provenance"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"`folder` {str(home)!r} holds no states (states.json and states.safetensors: {type(error).__name__}: {error}); "
                "write them with `lens.save(folder)`"
            ) from error


def default_layers(depth: int) -> list[int]:
    """Decoder layers that an index is made of, 0-based: early, middle and late ones, and not the last."""
    grid = [*(layer for layer in (1, 2, 4, 8, 16, 24) if layer < depth), depth - 2, depth - 1]
    return sorted({layer - 1 for layer in grid if layer >= 1})


def _encoded(pair: ModelPair, number: int, item: str | EncodedPrompt) -> EncodedPrompt:
    if isinstance(item, EncodedPrompt):
        return item
    if not isinstance(item, str) or not item.strip():
        raise InputError(
            f"`corpus` holds {item!r} at {number}, expected a text or an EncodedPrompt: {_BUILD}"
        )
    return EncodedPrompt.from_tensors(pair, problem_id=f"text {number}", input_ids=pair.ids_of(item)[None])


def _kept(prompts: Sequence[EncodedPrompt], most: int, skip: int) -> list[Int[Tensor, " kept"]]:
    """Which positions of each are kept."""
    seen, counts, kept = set[tuple[Any, ...]](), Counter[int](), []
    for prompt in prompts:
        ids, places = prompt.input_ids.tolist(), []
        picture = prompt.problem_id if prompt.grids else ""
        words = (prompt.kinds == TokenKind.TEXT) | (prompt.kinds == TokenKind.RESPONSE)
        for place in words.nonzero()[:, 0].tolist():
            prefix = (picture, *ids[: place + 1])
            if place >= skip and prefix not in seen and counts[ids[place]] < most:
                seen.add(prefix)
                counts[ids[place]] += 1
                places.append(place)
        kept.append(torch.tensor(places, dtype=torch.int64))
    return kept


def _from_package(home: Path) -> LatentLens:
    """An index that ``latentlens`` wrote."""
    folders = {int(m[1]): path for path in home.glob("layer_*") if (m := _FOLDER.fullmatch(path.name))}
    files = {
        layer: file
        for layer, path in sorted(folders.items())
        if (file := path / "embeddings_cache.pt").exists()
    }
    if not files:
        raise InputError(
            f"`folder` {str(home)!r} holds no index; expected layer_N/embeddings_cache.pt (latentlens) or states.json: {_LOAD}"
        )
    parts, contexts = list[LatentLens](), dict[str, int]()
    for layer, file in files.items():
        cache = read_pickled(file, _LOAD)
        try:
            parts.append(_of_layer(layer - 1, cache, contexts, {"read": home.name}))
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"`folder`: {file.parent.name}/{file.name} is no index of a layer ({type(error).__name__}: {error}): {_LOAD}"
            ) from error
    if len({part.states.shape[1] for part in parts}) > 1:
        raise InputError(f"`folder` {str(home)!r} holds layers of different width: {_LOAD}")
    whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("states", *_NUMBERS)}
    words = tuple(word for part in parts for word in part.tokens)
    return LatentLens(**whole, tokens=words, contexts=tuple(contexts), provenance={"read": home.name})


def _of_layer(layer: int, cache: Any, contexts: dict[str, int], provenance: dict[str, Any]) -> LatentLens:
    """The states of one layer of an index; their texts are added to ``contexts``, text -> number."""
    if not isinstance(cache, Mapping):
        raise TypeError(f"it holds a {type(cache).__name__}, expected a dict with embeddings and metadata")
    vectors, metadata = cache["embeddings"], cache["metadata"]
    if not is_dense(vectors) or vectors.ndim != 2 or not 0 < len(vectors) == len(metadata):
        raise ValueError(f"it holds embeddings that are {kind_of(vectors)}, and {len(metadata)} entries")
    rows, words = list[tuple[int, ...]](), list[str]()
    for row in metadata:
        context = contexts.setdefault(str(row.get("caption", "")), len(contexts))
        rows.append((layer, index(row.get("token_id", -1)), index(row.get("position", -1)), context))
        words.append(str(row.get("token_str", "")))
    numbers = dict(zip(_NUMBERS, torch.tensor(rows, dtype=torch.int64).T.contiguous(), strict=True))
    texts: dict[str, Any] = {"tokens": tuple(words), "contexts": tuple(contexts)}
    return LatentLens(unit(vectors), **numbers, **texts, provenance=provenance)
