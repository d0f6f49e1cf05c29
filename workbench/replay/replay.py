"""Activation Replay: small visual tokens, learnt at test time, that pull one model's activations to another's.

The algorithm (arXiv 2511.19972, section 4, and its released code), for the direction base -> RLVR:

1. Target: run the base model over the prompt. At the output of each of the first K layers and at each visual
   position take the logit-lens entropy e (nats) and the ``top_v`` most probable tokens with their probabilities,
   renormalised over these.
2. Mask: per layer, the visual positions with low entropy, ``e <= tau * max(e)`` (or another selection, ``strata``).
3. x = 0, one row for each visual position, added to the RLVR model's input of layer 0 there.
4. ``iterations`` times: x <- x - alpha * gradient of sum over layers, mean over masked positions, KL(base || RLVR)
   over those tokens; with ``normalize`` divided by the number of visual positions. Only x is learnt.

``alignment="paper"`` reads the RLVR model after the same layer as the base; ``"released"`` before it, one layer
earlier, as the released code does.

What does not change from one iteration to the next is computed once: everything before the first layer; the keys
and values of the positions before the first visual token (they cannot see x); the targets. Positions after the last
visual token, which it cannot see, and layers after K never run.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.backoff import piecewise
from workbench.conditions import Replay
from workbench.errors import InputError
from workbench.lens.fused import summarise
from workbench.lens.strata import select_cells
from workbench.models.anatomy import Anatomy
from workbench.models.batches import Cells, batches, collate, problem_seed, seen
from workbench.models.pairs import ModelPair
from workbench.models.prompts import VIEWS, EncodedPrompt, TokenKind
from workbench.replay.descent import descend
from workbench.replay.loss import Loss, Readout
from workbench.replay.nothing_selected import NOTHING, check_selected, has_selection, unselected
from workbench.replay.segment import Segment
from workbench.replay.targets import Aim, Target, take_aim
from workbench.tracing.model_heads import lens_head
from workbench.tracing.residuals import read_calls
from workbench.views import markup
from workbench.views.markup import grids_of, settings_text


@dataclass(frozen=True, eq=False)
class LearnedTokens:
    """What `learn_tokens` learnt for one prompt of T positions, V of them visual."""

    problem_id: str
    tokens: Float[Tensor, "visual hidden"]
    """x: what is added at the visual positions, in order of position. All zeros where nothing was learnt (`stopped`)."""
    losses: Float[Tensor, " iterations"]
    """Loss (nats) before each step."""
    mask: Bool[Tensor, "layers positions"]
    """Which cells the loss covered; a row for each of `loss_layers`."""
    loss_layers: tuple[int, ...]
    visual: Bool[Tensor, " positions"]
    grid: Tensor = field(repr=False)
    """(t, row, column) of each visual position, (visual, 3)."""
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
    def summary(self) -> dict[str, Any]:
        """In a line of a table: share of visual cells that the loss covered, first and last loss in nats, why it ended early."""
        losses = self.losses.tolist() or [float("nan")]
        share = float(self.mask[:, self.visual].float().mean())
        return {"cells": share, "first_loss": losses[0], "last_loss": losses[-1], "stopped": self.stopped}

    @property
    def sites(self) -> tuple[int, ...]:
        """The layers whose input is written."""
        return (self.layer,)

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        """The input of `layer`, (..., T, hidden), with the tokens added; bit for bit the same where they are all zero."""
        if not self.tokens.any():
            return hidden.clone()
        index = self.visual.nonzero()[:, 0].to(hidden.device)
        moved = hidden[..., index, :] + self.tokens.to(hidden.device)
        return hidden.index_copy(-2, index, moved.to(hidden.dtype))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; settings and provenance are in its metadata."""
        from safetensors.torch import save_file

        told = {"problem_id": self.problem_id, "loss_layers": self.loss_layers, "replay": asdict(self.replay)}
        told |= {"stopped": self.stopped, "provenance": dict(self.provenance)}
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        save_file(tensors, str(path), metadata={"learned_tokens": json.dumps(told)})

    @classmethod
    def load(cls, path: str | Path) -> "LearnedTokens":
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or not one that `save` wrote.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                told = json.loads((file.metadata() or {})["learned_tokens"])
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(
                f"`path` {str(path)!r} holds no learned tokens ({error}); write them with `learned.save(path)`"
            ) from error
        settings = told.pop("replay")
        levels = settings.pop("levels")
        replay = Replay(**settings, levels=None if levels is None else tuple(levels))
        return cls(**tensors, **told | {"loss_layers": tuple(told["loss_layers"])}, replay=replay)

    def plot(self) -> Any:
        """Loss by iteration, and the norm of x over each visual grid, as a plotly Figure."""
        from workbench.views.replay_figures import learned_tokens

        return learned_tokens(self)


_TENSORS = ("tokens", "losses", "mask", "visual", "grid")


def learn_tokens(
    pair: ModelPair, prompt: EncodedPrompt, replay: Replay, *, student: EncodedPrompt | None = None
) -> LearnedTokens:
    """Learn one prompt's tokens (*Activation Replay*); `learn_many` does it for several prompts at a time.

    1. Target: at the output of each of the first K layers and at each visual position, the base model's lens entropy and its
       most probable tokens.
    2. Mask: per layer, the visual positions of low entropy (or another selection).
    3. x = 0, one row for each visual position, added to the RLVR model's input of layer 0 there.
    4. ``iterations`` times: x <- x - alpha * gradient of the KL (base || RLVR) at the masked cells. Only x is learnt.

    Args:
        pair: what `load_pair` returned.
        prompt: what the target is computed from: ``pair.encode(problem)``.
        replay: the settings.
        student: for direction ``self``: the same prompt with a disturbed picture.

    Returns:
        The tokens (visual positions, hidden), the loss of every iteration in nats, and the mask; an intervention for `decode` and
        `trace`.

    Raises:
        InputError: what `learn_many` refuses, or a selection that is empty in every layer though tau > 0.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> prompt = pair.encode(wb.load_problems("shapes", limit=1)[0])
        >>> learned = wb.learn_tokens(pair, prompt, wb.Replay(threshold="quantile", alpha=100.0, layers=5, iterations=5))
        >>> learned.tokens.shape == (int(learned.visual.sum()), pair.base.hidden_size)
        True
        >>> bool(learned.losses[-1] < learned.losses[0])
        True
    """
    learned = learn_many(pair, [prompt], replay, students=None if student is None else [student])
    check_selected(unselected(learned), 1, replay)
    return learned[0]


def learn_many(
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    replay: Replay,
    *,
    students: Sequence[EncodedPrompt] | None = None,
    aims: Sequence[Aim] | None = None,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> list[LearnedTokens]:
    """Learn the tokens of several prompts, each independently of the others.

    Args:
        pair: what `load_pair` returned.
        prompts: what the target is computed from.
        replay: the settings.
        students: for direction ``self``: the same prompts with disturbed pictures, which the tokens are learnt on.
        aims: what `aims_of` took before; None: taken as it goes along.
        batch_size: prompts per forward; changes speed and memory, results only by rounding.
        progress: called with (prompts done, prompts in all).

    A prompt whose loss or tokens leave the finite numbers, or of which nothing is selected in any layer, keeps x = 0, says so in
    ``stopped``, and disturbs no other.

    Raises:
        InputError: a prompt without visual tokens, more layers than the models have, or ``students`` that do not fit.
    """
    replay.loss_layers(pair.depth)
    learner = learner_of(pair, replay)
    _refuse_blind(prompts)
    if (replay.direction == "self") != (students is not None):
        raise InputError(
            f"`students` {'are missing' if students is None else 'were given'} with direction {replay.direction!r}; give the "
            "disturbed prompts for 'self', and only for it: learn_many(pair, prompts, Replay(direction='self'), students=...)"
        )
    if students is not None and [len(s) for s in students] != [len(p) for p in prompts]:
        raise InputError(
            "`students` differ from `prompts` in their positions; only pictures may be disturbed, not their sizes"
        )
    how = {name: getattr(replay, name) for name in ("alpha", "iterations", "patience")}

    def learnt(batch: Sequence[EncodedPrompt], here: slice) -> list[LearnedTokens]:
        shown = None if students is None else students[here]
        aimed = None if aims is None else aims[here]
        loss_at, mask = prepare(pair, batch, replay, students=shown, aims=aimed)
        x, losses, stopped = descend(loss_at, learner, **how)
        chosen = has_selection(mask, loss_at.cells, replay)
        why = [told if any_ else NOTHING for told, any_ in zip(stopped, chosen, strict=True)]
        return _results(pair, batch, replay, loss_at.cells, mask, x, losses, why)

    done: list[LearnedTokens] = []
    for _, results in piecewise(batches(prompts, batch_size), learnt, model=learner, what="replay"):
        done += results
        if progress:
            progress(len(done), len(prompts))
    return done


def aims_of(
    pair: ModelPair, prompts: Sequence[EncodedPrompt], replay: Replay, *, batch_size: int
) -> list[Aim]:
    """Step 1: every prompt's aim, from the model that the settings pull towards; InputError for one without visual tokens."""
    _refuse_blind(prompts)
    return take_aim(
        pair.base if replay.direction == "base_to_rlvr" else pair.rlvr,
        prompts,
        replay.loss_layers(pair.depth),
        top_v=replay.top_v,
        vocabulary=pair.vocab_size,
        pad_id=pair.pad_id,
        batch_size=batch_size,
    )


def prepare(
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    replay: Replay,
    *,
    students: Sequence[EncodedPrompt] | None = None,
    aims: Sequence[Aim] | None = None,
) -> tuple[Loss, Bool[Tensor, "layers n"]]:
    """Steps 1 and 2 for prompts that go into one batch: the loss as a function of x, and the cells that it covers.

    Raises:
        InputError: a prompt without visual tokens, or more layers than the models have.
    """
    _refuse_blind(prompts)
    loss_layers, learner = replay.loss_layers(pair.depth), learner_of(pair, replay)
    aims = aims_of(pair, prompts, replay, batch_size=len(prompts)) if aims is None else aims
    shown, vocabulary, last = [seen(p) for p in students or prompts], pair.vocab_size, loss_layers[-1]
    cells, device = Cells.of(shown, learner.device), learner.unembedding.weight.device
    targets = [Target.join(parts, device) for parts in zip(*aims, strict=True)]
    with torch.no_grad():
        calls = read_calls(learner, collate(shown, pair.pad_id), last + 1)
        below = None
        if replay.only_where_base_lower:
            own = [cells.take(calls[layer].output).to(device) for layer in loss_layers]
            below = torch.stack([summarise(h, lens_head(learner, vocabulary), top_k=1).entropy for h in own])
        mask = _mask(torch.stack([target.entropy for target in targets]), below, cells, prompts, replay)
    after = replay.alignment == "paper"
    start = loss_layers[0] if replay.site == "mid_tokens" else 0
    segment = Segment(learner, calls, start, last + int(after), int(cells.position.min()))
    readouts = {
        layer: Readout.of(learner, cells, target, chosen, normalize=replay.normalize)
        for layer, target, chosen in zip(loss_layers, targets, mask, strict=True)
    }
    return Loss(segment, readouts, cells, after), mask


def objective(
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    replay: Replay,
    tokens: Sequence[Float[Tensor, "visual hidden"] | None],
    *,
    batch_size: int = 8,
) -> Float[Tensor, " prompts"]:
    """Each prompt's loss (nats) with tokens that came from anywhere in place; None: without any.

    Raises:
        InputError: what `prepare` refuses.
    """

    def found(batch: Sequence[EncodedPrompt], here: slice) -> list[Tensor]:
        loss_at, _ = prepare(pair, batch, replay)
        entry = loss_at.segment.entry
        parts = zip(tokens[here], loss_at.cells.counts, strict=True)
        x = torch.cat([entry.new_zeros(n, entry.shape[-1]) if t is None else t.to(entry) for t, n in parts])
        with torch.no_grad():
            return [*loss_at(x).cpu()]

    groups = batches(prompts, batch_size)
    learner = learner_of(pair, replay)
    return torch.stack(
        [loss for _, losses in piecewise(groups, found, model=learner, what="replay") for loss in losses]
    )


def learner_of(pair: ModelPair, replay: Replay) -> Anatomy:
    """The model that the tokens are added to."""
    return pair.base if replay.direction == "reverse" else pair.rlvr


def _mask(
    entropy: Tensor, below: Tensor | None, cells: Cells, prompts: Sequence[EncodedPrompt], replay: Replay
) -> Tensor:
    """Step 2, prompt by prompt, so that no other prompt of the batch changes a random draw."""
    masks = []
    belows = [None] * len(prompts) if below is None else below.split(cells.counts, 1)
    parts = zip(prompts, entropy.split(cells.counts, 1), cells.image.split(cells.counts), belows, strict=True)
    for prompt, sure, image, other in parts:
        masks.append(
            select_cells(
                sure,
                select=replay.select,
                threshold=replay.threshold,
                tau=replay.tau,
                levels=replay.levels,
                groups=image.to(sure.device),
                below=None if other is None else other.to(sure.device),
                seed=problem_seed(replay.seed, prompt.problem_id),
            )
        )
    return torch.cat(masks, 1)


def _refuse_blind(prompts: Sequence[EncodedPrompt]) -> None:
    for prompt in prompts:
        if not (prompt.kinds == TokenKind.VISUAL).any():
            raise InputError(
                f"`prompts`: {prompt.problem_id!r} has no visual tokens to replay; "
                "give a problem with an image, or leave the prompt out"
            )


def _results(
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    replay: Replay,
    cells: Cells,
    mask: Tensor,
    tokens: Tensor,
    losses: list[list[float]],
    stopped: list[str | None],
) -> list[LearnedTokens]:
    results, loss_layers = [], replay.loss_layers(pair.depth)
    parts = zip(prompts, tokens.cpu().split(cells.counts), mask.cpu().split(cells.counts, 1), strict=True)
    for number, (prompt, x, chosen) in enumerate(parts):
        visual = prompt.kinds == TokenKind.VISUAL
        whole = torch.zeros(len(loss_layers), len(prompt), dtype=torch.bool)
        whole[:, visual] = chosen
        results.append(
            LearnedTokens(
                problem_id=prompt.problem_id,
                tokens=x.clone(),
                losses=torch.tensor(losses[number], dtype=x.dtype),
                mask=whole,
                loss_layers=loss_layers,
                visual=visual,
                grid=prompt.grid[visual].clone(),
                replay=replay,
                stopped=stopped[number],
                provenance=pair.provenance,
            )
        )
    return results


def learned_html(learned: LearnedTokens) -> str:
    """The loss, the length of x over the picture, and how much of each layer the loss covered."""
    losses, how = learned.losses.tolist(), learned.replay
    parts = {}
    if losses:
        caption = f"loss, nats: {markup.shown(losses[0])} → {markup.shown(losses[-1])}"
        parts[caption] = markup.curve(losses, name=caption)
    norms = learned.tokens.norm(dim=1)
    caption = f"‖x‖ over the picture, up to {markup.shown(float(norms.max()))}"
    grids = grids_of(norms.tolist(), learned.grid.tolist())
    for number, grid in enumerate(grids[:VIEWS]):
        name = caption if number == 0 else f"‖x‖, grid {number + 1}"
        parts[name] = markup.cells(grid, name=name)
    shares = learned.mask[:, learned.visual].float().mean(1).tolist()
    caption = "visual cells in the loss, by layer"
    parts[caption] = markup.columns(dict(zip(learned.loss_layers, shares, strict=True)), name=caption)
    return (
        markup.paragraph(repr(learned), strong=True)
        + markup.side_by_side(parts)
        + markup.paragraph(f"Replay: {settings_text(asdict(how))}")
    )
