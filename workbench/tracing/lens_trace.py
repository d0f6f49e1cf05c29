"""`LensTrace`: the record of what the logit lens saw in a pair, at every traced layer and position.

Numbers per (layer, position) cell, and what is needed to show them: tokens, kinds, places, images. On disk:
``cells.safetensors``, ``prompts.json``, ``vocabulary.json``, ``images/``, and ``manifest.json`` last.
"""

import itertools
import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from workbench.columns import describe
from workbench.errors import InputError
from workbench.models.prompts import TokenKind
from workbench.models.response_places import last_response, turns_of
from workbench.tracing.trace_html import trace_html

FORMAT = 1
"""Version of the folder that `LensTrace.save` writes."""

KIND_NAMES = ("visual", "text", "special", "response")
"""Kinds of tokens in the order in which they are shown."""

# name -> axes and dtype; L layers, P positions, D null draws, k top predictions.
AXES: dict[str, tuple[str, torch.dtype]] = {
    "entropy_base": ("LP", torch.float32),
    "entropy_rlvr": ("LP", torch.float32),
    "kl": ("LP", torch.float32),
    "kl_null": ("DLP", torch.float32),
    "cosine": ("LP", torch.float32),
    "shift_norm": ("LP", torch.float32),
    "base_norm": ("LP", torch.float32),
    "top_ids_base": ("LPk", torch.int32),
    "top_ids_rlvr": ("LPk", torch.int32),
    "top_probs_base": ("LPk", torch.float32),
    "top_probs_rlvr": ("LPk", torch.float32),
    "topk_overlap": ("LP", torch.float32),
    "top1_agreement": ("LP", torch.bool),
    "prompt": ("P", torch.int32),
    "position": ("P", torch.int32),
    "kind": ("P", torch.int32),
    "token_id": ("P", torch.int32),
    "visual_index": ("P", torch.int32),
    "grid": ("P3", torch.int32),
}


@dataclass(frozen=True, eq=False)
class PromptInfo:
    """What is needed to show one traced prompt: the question, its tokens and its images."""

    problem_id: str
    question: str = ""
    answer: str | None = None
    tokens: tuple[str, ...] = field(default=(), repr=False)
    grids: tuple[tuple[int, int, int], ...] = ()
    """Per image or video its size in visual tokens, (t, height, width)."""
    images: tuple[Image.Image, ...] = field(default=(), repr=False)
    frames: tuple[tuple[Image.Image, ...], ...] = field(default=(), repr=False)
    """Per image or video: the frames of a video, none for an image."""
    sample: int | None = None
    """Which of the responses to the problem ends the prompt; None for none, or one that is part of the prompt."""
    fingerprint: str = field(default="", repr=False)
    """`EncodedPrompt.fingerprint`; empty in traces of earlier versions."""


@dataclass(frozen=True, eq=False, repr=False)
class LensTrace:
    """Logit-lens numbers of a pair at (layer, position) cells; positions of all prompts one after another.

    Axes: L traced layers, P positions, D null draws, k top predictions. All tensors are on the CPU.

    Raises:
        InputError: fields that do not fit together, or values that are not finite.
    """

    entropy_base: Tensor
    """(L, P) float32, nats: entropy of the base model's lens distribution."""
    entropy_rlvr: Tensor
    """(L, P) float32, nats."""
    kl: Tensor
    """(L, P) float32, nats: KL(base || RLVR)."""
    kl_null: Tensor
    """(D, L, P) float32, nats: KL(base || null), the null being the base residual plus a random direction
    of norm `shift_norm`, read by the RLVR model's norm and unembedding."""
    cosine: Tensor
    """(L, P) float32: cosine of the two residuals."""
    shift_norm: Tensor
    """(L, P) float32: Euclidean norm of the RLVR residual minus the base residual."""
    base_norm: Tensor
    """(L, P) float32: Euclidean norm of the base residual."""
    top_ids_base: Tensor
    """(L, P, k) int32, most likely first."""
    top_ids_rlvr: Tensor
    top_probs_base: Tensor
    """(L, P, k) float32."""
    top_probs_rlvr: Tensor
    topk_overlap: Tensor
    """(L, P) float32: share of the top k that both models have, in any order."""
    top1_agreement: Tensor
    """(L, P) bool."""
    prompt: Tensor
    """(P,) int32: index into `prompts`."""
    position: Tensor
    """(P,) int32: index within the prompt."""
    kind: Tensor
    """(P,) int32: `TokenKind`."""
    token_id: Tensor
    visual_index: Tensor
    """(P,) int32: which image or video of the prompt, -1 for none."""
    grid: Tensor
    """(P, 3) int32: (t, row, column) among the visual tokens of that image, -1 for none."""
    layers: tuple[int, ...]
    depth: int
    """Decoder layers of the models; the last layer is `depth - 1`."""
    prompts: tuple[PromptInfo, ...]
    vocabulary: dict[int, str]
    """Display text of every token id that occurs."""
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        sizes = {"L": len(self.layers), "P": len(self.prompt), "D": len(self.kl_null), "3": 3}
        sizes["k"] = self.top_ids_base.shape[-1]
        for name, (axes, dtype) in AXES.items():
            value, shape = getattr(self, name), tuple(sizes[axis] for axis in axes)
            if tuple(value.shape) != shape or value.dtype != dtype:
                raise InputError(
                    f"`{name}` is {value.dtype} {tuple(value.shape)}; expected {dtype} {shape}, "
                    f"its axes are ({', '.join(axes)})"
                )
            if dtype == torch.float32 and not value.isfinite().all():
                layer = self.layers[int((~value.isfinite()).nonzero()[0][axes.index("L")])]
                raise InputError(
                    f"`{name}` is not finite, first at layer {layer}; half precision may have overflowed: "
                    "load the pair in another one, `load_pair(..., dtype='float32')`"
                )
        if not self.prompts or int(self.prompt.max()) >= len(self.prompts) or int(self.prompt.min()) < 0:
            raise InputError(f"`prompt` names prompts outside `prompts`, which holds {len(self.prompts)}")

    def __repr__(self) -> str:
        draws, top_k = len(self.kl_null), self.top_ids_base.shape[-1]
        return (
            f"LensTrace({self.provenance.get('pair', '')!r}: {len(self.prompts)} prompts, "
            f"{len(self.prompt)} positions, {len(self.layers)} of {self.depth} layers, top {top_k}, "
            f"{draws} null draws)"
        )

    def _repr_html_(self) -> str:
        return trace_html(self, {name: self.kind == TokenKind[name.upper()] for name in KIND_NAMES})

    def select(self, *, prompt: int) -> "LensTrace":
        """The trace of one prompt alone, which becomes prompt 0.

        Raises:
            InputError: no such prompt.
        """
        if not 0 <= prompt < len(self.prompts):
            raise InputError(
                f"`prompt` is {prompt}, but the trace holds prompts 0 to {len(self.prompts) - 1}: "
                "`trace.select(prompt=0)`"
            )
        mask = self.prompt == prompt
        tensors = {
            name: getattr(self, name).index_select(axes.index("P"), mask.nonzero().flatten())
            for name, (axes, _) in AXES.items()
        }
        tensors["prompt"] = torch.zeros_like(tensors["prompt"])
        used = occurring_ids(tensors)
        vocabulary = {i: text for i, text in self.vocabulary.items() if i in used}
        return replace(self, **tensors, prompts=(self.prompts[prompt],), vocabulary=vocabulary)

    @classmethod
    def join(cls, traces: "Sequence[LensTrace]") -> "LensTrace":
        """Traces of the same pair and settings as one; their prompts follow one another.

        Raises:
            InputError: no traces, or traces of different layers or pairs.
        """
        if not traces:
            raise InputError("`traces` is empty; give at least one: `LensTrace.join([first, second])`")
        first = traces[0]
        if any(
            (t.layers, t.depth, t.provenance) != (first.layers, first.depth, first.provenance) for t in traces
        ):
            raise InputError(
                "`traces` come from different pairs, layers or settings; trace them with one call's arguments"
            )
        tensors = {
            name: torch.cat([getattr(t, name) for t in traces], axes.index("P"))
            for name, (axes, _) in AXES.items()
        }
        starts = itertools.accumulate((len(t.prompts) for t in traces), initial=0)
        tensors["prompt"] = torch.cat(
            [t.prompt + start for t, start in zip(traces, starts, strict=False)]
        ).int()
        vocabulary = {i: text for t in traces for i, text in t.vocabulary.items()}
        prompts = tuple(info for t in traces for info in t.prompts)
        return replace(first, **tensors, prompts=prompts, vocabulary=dict(sorted(vocabulary.items())))

    @property
    def reading(self) -> str:
        """What its distributions were read through: ``"logit lens"``, or the `Reading.name` of another."""
        return str((self.provenance.get("reading") or {}).get("name", "logit lens"))

    @property
    def turn(self) -> Tensor:
        """(P,) int32: which response of its conversation a response position belongs to, 0 the first; -1 elsewhere."""
        runs = [turns_of(part == TokenKind.RESPONSE) for part in self.by_prompt(self.kind)]
        return torch.cat(runs)

    @property
    def predicts(self) -> Tensor:
        """(P,) int32: which token of the response that ends the prompt is predicted here; -1: none.

        The first is predicted at the last position before the response; at the response's own last position none is.
        """
        parts = []
        for kind in self.by_prompt(self.kind):
            start, steps = last_response(kind == TokenKind.RESPONSE), torch.arange(len(kind))
            inside = (steps >= start - 1) & (steps < len(kind) - 1)
            parts.append(torch.where(inside, steps - start + 1, -1).to(torch.int32))
        return torch.cat(parts)

    def by_prompt(self, values: Tensor) -> tuple[Tensor, ...]:
        """What there is at every position, (P, ...), cut into the prompts."""
        return values.split(torch.bincount(self.prompt.long(), minlength=len(self.prompts)).tolist())

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of `to_dataframe`."""
        return describe({"cells": None})

    def to_dataframe(self) -> pd.DataFrame:
        """One row per (layer, position) cell; nats; `kl_null` is the mean over draws (NaN without)."""
        cells = len(self.layers) * len(self.prompt)
        layer = torch.tensor(self.layers).repeat_interleave(len(self.prompt))
        place = torch.arange(len(self.prompt)).repeat(len(self.layers))
        prompts = self.prompt[place].numpy()
        columns: dict[str, Any] = {
            "layer": layer.numpy(),
            "problem": [self.prompts[i].problem_id for i in prompts],
            "prompt": prompts,
            "position": self.position[place].numpy(),
            "kind": [TokenKind(i).name.lower() for i in self.kind[place].tolist()],
            "turn": self.turn[place].numpy(),
            "predicts": self.predicts[place].numpy(),
            "token": [self.vocabulary[i] for i in self.token_id[place].tolist()],
            "visual_index": self.visual_index[place].numpy(),
        }
        columns |= {
            name: self.grid[place, axis].numpy()
            for axis, name in enumerate(("grid_t", "grid_row", "grid_column"))
        }
        for name, (axes, _) in AXES.items():
            if axes == "LP":
                columns[name] = getattr(self, name).reshape(cells).numpy()
        columns["kl_null"] = self.kl_null.mean(0).reshape(cells).numpy()
        for model in ("base", "rlvr"):
            ids, probabilities = getattr(self, f"top_ids_{model}"), getattr(self, f"top_probs_{model}")
            columns[f"top1_{model}"] = [self.vocabulary[i] for i in ids[..., 0].flatten().tolist()]
            columns[f"top1_prob_{model}"] = probabilities[..., 0].reshape(cells).numpy()
        return pd.DataFrame(columns)

    def plot(self) -> Any:
        """Mean KL by layer and token kind, with 95% intervals clustered by problem: a plotly Figure."""
        from workbench.tracing.agreement import agreement_by_layer
        from workbench.views.shift_figures import layer_curves

        return layer_curves(agreement_by_layer(self), "kl", depth=self.depth)

    def save(self, folder: str | Path) -> Path:
        """Write the trace to a new folder: safetensors, JSON and PNG; whole or not at all, manifest last.

        Raises:
            InputError: the folder exists, or it cannot be written.
        """
        target = Path(folder)
        if target.exists():
            raise InputError(f"`folder` {str(target)!r} exists; name a new one, `trace.save('trace-2')`")
        building = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            building = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
            building.mkdir()  # unlike `tempfile.mkdtemp`, with the mode that the user wants for folders
            self._write(building)
            building.rename(target)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"`folder` {str(target)!r} cannot be written: {error}; "
                "name one on a writable disk with space, `trace.save('trace')`"
            ) from error
        finally:
            if building is not None:
                shutil.rmtree(building, ignore_errors=True)
        return target

    def _write(self, folder: Path) -> None:
        save_file({name: getattr(self, name).contiguous() for name in AXES}, folder / "cells.safetensors")
        (folder / "images").mkdir()
        listed = []
        for number, info in enumerate(self.prompts):
            names = [f"images/{number:05d}-{i}.png" for i in range(len(info.images))]
            moments = [
                [f"images/{number:05d}-{i}-{t}.png" for t in range(len(frames))]
                for i, frames in enumerate(info.frames)
            ]
            for name, image in zip(
                [*names, *itertools.chain(*moments)],
                [*info.images, *itertools.chain(*info.frames)],
                strict=True,
            ):
                image.save(folder / name)
            pictures = {"images": names, "frames": moments}
            listed.append({f.name: getattr(info, f.name) for f in fields(info)} | pictures)
        _write_json(folder / "prompts.json", listed)
        _write_json(folder / "vocabulary.json", {str(i): text for i, text in sorted(self.vocabulary.items())})
        manifest = {
            "format": FORMAT,
            "layers": self.layers,
            "depth": self.depth,
            "provenance": self.provenance,
        }
        _write_json(folder / "manifest.json", manifest)

    @classmethod
    def load(cls, folder: str | Path) -> "LensTrace":
        """Read what `save` wrote.

        Raises:
            InputError: not a trace folder, an unfinished or damaged one, or one of another format.
        """
        source = Path(folder)
        if not (source / "manifest.json").is_file():
            raise InputError(
                f"`folder` {str(source)!r} holds no finished trace (no manifest.json); "
                "give the folder that `trace.save(folder)` wrote"
            )
        try:
            manifest = json.loads((source / "manifest.json").read_text())
            if manifest["format"] != FORMAT:
                raise InputError(
                    f"`folder` {str(source)!r} has trace format {manifest['format']}, expected {FORMAT}; "
                    "trace again with `workbench.trace(pair, problems)`"
                )
            prompts = tuple(
                _read_prompt(source, item) for item in json.loads((source / "prompts.json").read_text())
            )
            vocabulary = json.loads((source / "vocabulary.json").read_text())
            tensors = load_file(source / "cells.safetensors")
            return cls(
                **{name: tensors[name] for name in AXES},
                layers=tuple(manifest["layers"]),
                depth=manifest["depth"],
                prompts=prompts,
                vocabulary={int(i): text for i, text in vocabulary.items()},
                provenance=manifest["provenance"],
            )
        except (OSError, KeyError, TypeError, SafetensorError, json.JSONDecodeError) as error:
            raise InputError(
                f"`folder` {str(source)!r} holds a damaged trace ({type(error).__name__}: {error}); "
                "trace again with `workbench.trace(pair, problems)`"
            ) from error


def occurring_ids(tensors: Mapping[str, Tensor]) -> set[int]:
    """Token ids among the prompts' own tokens and the top predictions."""
    return {
        i for name in ("top_ids_base", "top_ids_rlvr", "token_id") for i in tensors[name].unique().tolist()
    }


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def _read_prompt(folder: Path, item: dict[str, Any]) -> PromptInfo:
    def read(names: Sequence[str]) -> tuple[Image.Image, ...]:
        images = []
        for name in names:
            with Image.open(folder / name) as image:
                images.append(image.copy())
        return tuple(images)

    pictures = {"images": read(item["images"]), "frames": tuple(map(read, item.get("frames", ())))}
    grids = tuple(tuple(grid) for grid in item["grids"])
    return PromptInfo(**item | {"tokens": tuple(item["tokens"]), "grids": grids} | pictures)
