"""Learnt tokens: what replay learnt for one prompt, as an intervention, a safetensors file, and a line of a table."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import InputError
from workbench.interventions import Replay
from workbench.models.prompt_html import VIEWS
from workbench.views import markup
from workbench.views.markup import grids_of, settings_text


@dataclass(frozen=True, eq=False)
class LearnedTokens:
    """What `learn_tokens` learnt for one prompt of T positions, V of them with tokens: the visual ones, unless told otherwise."""

    problem_id: str
    tokens: Float[Tensor, "places hidden"]
    """x: what is added at `places`, in order of position. All zeros where nothing was learnt (`stopped`)."""
    losses: Float[Tensor, " iterations"]
    """Loss (nats) before each step."""
    mask: Bool[Tensor, "layers positions"]
    """Which cells the loss covered; a row for each of `loss_layers`."""
    loss_layers: tuple[int, ...]
    places: Bool[Tensor, " positions"]
    """Which positions x is added at."""
    grid: Tensor = field(repr=False)
    """(t, row, column) of each of `places`, (places, 3); -1 for text."""
    replay: Replay
    stopped: str | None
    """Why it ended before the last iteration, or `NOTHING`; None if neither."""
    provenance: Mapping[str, Any] = field(repr=False)

    @property
    def layer(self) -> int:
        """The layer whose input x is added to."""
        return self.replay.layer or 0

    def __repr__(self) -> str:
        path = f"{self.losses[0]:.3g} -> {self.losses[-1]:.3g} nats" if len(self.losses) else "no iteration"
        ended = f", stopped: {self.stopped}" if self.stopped else ""
        return f"LearnedTokens({self.problem_id!r}, {len(self.tokens)} tokens, loss {path}{ended})"

    def _repr_html_(self) -> str:
        return learned_html(self)

    @property
    def rose(self) -> bool:
        """Whether the loss ended above where it began, by more than 5% and rounding: steps that are too large for this model."""
        return bool(self.tokens.any() and self.losses[-1] > 1.05 * self.losses[0] + 1e-6)

    @property
    def summary(self) -> dict[str, Any]:
        """In a line of a table: share of the cells that the loss covered, first and last loss in nats, why it ended early."""
        losses = self.losses.tolist() or [float("nan")]
        share = float(self.mask[:, self.places].float().mean())
        return {"cells": share, "first_loss": losses[0], "last_loss": losses[-1], "stopped": self.stopped}

    @property
    def sites(self) -> tuple[int, ...]:
        """The layers whose input is written."""
        return (self.layer,)

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        """The input of `layer`, (..., T, hidden), with the tokens added; bit for bit the same where they are all zero."""
        if not self.tokens.any():
            return hidden.clone()
        index = self.places.nonzero()[:, 0].to(hidden.device)
        moved = hidden[..., index, :] + self.tokens.to(hidden.device)
        return hidden.index_copy(-2, index, moved.to(hidden.dtype))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; settings and provenance are in its metadata.

        Raises:
            InputError: the file can't be written there.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        metadata = {
            "problem_id": self.problem_id,
            "loss_layers": self.loss_layers,
            "replay": asdict(self.replay),
        }
        metadata |= {"stopped": self.stopped, "provenance": dict(self.provenance)}
        tensors = {key: getattr(self, name).contiguous() for key, name in _TENSORS.items()}
        try:
            save_file(tensors, str(path), metadata={"learned_tokens": json.dumps(metadata)})
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"`path` {str(path)!r} can't be written ({error}); name a file in a folder that is there: "
                "learned.save('learned.safetensors')"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> "LearnedTokens":
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or not one that `save` wrote.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                metadata = json.loads((file.metadata() or {})["learned_tokens"])
                tensors = {name: file.get_tensor(key) for key, name in _TENSORS.items()}
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(
                f"`path` {str(path)!r} holds no learned tokens ({error}); write them with `learned.save(path)`"
            ) from error
        settings = metadata.pop("replay")
        replay = Replay(**settings)
        return cls(**tensors, **metadata | {"loss_layers": tuple(metadata["loss_layers"])}, replay=replay)

    def plot(self) -> Any:
        """Loss by iteration, and the norm of x over each visual grid and at text, as a plotly Figure."""
        from workbench.views.replay_figures import learned_tokens

        return learned_tokens(self)


_TENSORS = {"tokens": "tokens", "losses": "losses", "mask": "mask", "visual": "places", "grid": "grid"}
"""Name in a file -> attribute."""


def learned_html(learned: LearnedTokens) -> str:
    """The loss, the length of x over the picture, and how much of each layer the loss covered."""
    losses, how = learned.losses.tolist(), learned.replay
    parts = {}
    if losses:
        caption = f"loss, nats: {markup.shown(losses[0])} → {markup.shown(losses[-1])}"
        parts[caption] = markup.curve(losses, name=caption)
    norms = learned.tokens.norm(dim=1)
    seen = norms[learned.grid[:, 0] >= 0].tolist()
    caption = f"‖x‖ over the picture, up to {markup.shown(max(seen, default=0.0))}"
    grids = grids_of(norms.tolist(), learned.grid.tolist())
    for number, grid in enumerate(grids[:VIEWS]):
        name = caption if number == 0 else f"‖x‖, grid {number + 1}"
        parts[name] = markup.cells(grid, name=name)
    text = norms[learned.grid[:, 0] < 0].tolist()
    if text:
        name = f"‖x‖ at {len(text)} other tokens, up to {markup.shown(max(text))}"
        parts[name] = markup.curve(text, name=name)
    shares = learned.mask[:, learned.places].float().mean(1).tolist()
    caption = "share of cells in the loss, by layer"
    parts[caption] = markup.columns(dict(zip(learned.loss_layers, shares, strict=True)), name=caption)
    return (
        markup.paragraph(repr(learned), strong=True)
        + markup.side_by_side(parts)
        + markup.paragraph(f"Replay: {settings_text(asdict(how))}")
    )
