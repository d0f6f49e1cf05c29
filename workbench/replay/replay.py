"""Activation Replay: small tokens, learnt at test time, that pull one model's activations to another's.

The algorithm (arXiv 2511.19972, section 4, and its released code), for the direction base -> RLVR. The paper learns tokens at
visual positions; ``Replay(positions=...)`` puts them at the prompt's text, all of it, or spans, with "visual" below read so.

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

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.backoff import piecewise
from workbench.errors import InputError
from workbench.interventions import Replay
from workbench.lens.fused import summarise
from workbench.models.anatomy import Anatomy
from workbench.models.batches import Cells, batches, by_length, collate, seen
from workbench.models.pairs import ModelPair, batch_of
from workbench.models.prompts import EncodedPrompt
from workbench.problems.problem import Problem
from workbench.replay.chosen_cells import places_of, select
from workbench.replay.descent import descend
from workbench.replay.learned_tokens import LearnedTokens
from workbench.replay.loss import Loss, Readout
from workbench.replay.nothing_selected import NOTHING, check_selected, has_selection, unselected
from workbench.replay.quasi_newton import minimise
from workbench.replay.segment import Segment
from workbench.replay.targets import Aim, Target, take_aim
from workbench.selection import Selection
from workbench.tracing.model_heads import lens_head
from workbench.tracing.residuals import read_calls


def learn_tokens(
    pair: ModelPair, prompt: Problem | EncodedPrompt, replay: Replay, *, student: EncodedPrompt | None = None
) -> LearnedTokens:
    """Learn one prompt's tokens (*Activation Replay*); `learn_many` does it for several prompts at a time.

    1. Target: at the output of each of the first K layers and at each visual position (of ``replay.positions``), the base
       model's lens entropy and its most probable tokens.
    2. Mask: per layer, those positions of low entropy (or another selection).
    3. x = 0, one row for each of the positions, added to the RLVR model's input of layer 0 there.
    4. ``iterations`` times: x <- x - alpha * gradient of the KL (base || RLVR) at the masked cells. Only x is learnt.

    Args:
        pair: what `load_pair` returned.
        prompt: what the target is computed from: a problem, or ``pair.encode(problem)``.
        replay: the settings.
        student: for direction ``self``: the same prompt with a disturbed picture.

    Returns:
        The tokens (positions, hidden), the loss of every iteration in nats, and the mask; an intervention for `decode` and
        `trace`.

    Raises:
        InputError: what `learn_many` refuses, or a selection that is empty in every layer though tau > 0.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> prompt = pair.encode(wb.load_problems("shapes", limit=1)[0])
        >>> learned = wb.learn_tokens(pair, prompt, wb.Replay(threshold="quantile", alpha=100.0, layers=5, iterations=5))
        >>> learned.tokens.shape == (int(learned.places.sum()), pair.base.hidden_size)
        True
        >>> bool(learned.losses[-1] < learned.losses[0])
        True
    """
    learned = learn_many(pair, [prompt], replay, students=None if student is None else [student])
    check_selected(unselected(learned), 1, replay)
    return learned[0]


def learn_many(
    pair: ModelPair,
    prompts: Sequence[Problem | EncodedPrompt],
    replay: Replay,
    *,
    students: Sequence[EncodedPrompt] | None = None,
    aims: Sequence[Aim] | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[LearnedTokens]:
    """Learn the tokens of several prompts, each independently of the others.

    Args:
        pair: what `load_pair` returned.
        prompts: what the target is computed from: problems, or encoded prompts.
        replay: the settings.
        students: for direction ``self``: the same prompts with disturbed pictures, which the tokens are learnt on.
        aims: what `aims_of` took before; None: taken as it goes along.
        batch_size: prompts per forward; changes speed and memory, results only by rounding. None: what suits the pair.
        progress: called with (prompts done, prompts in all).

    A prompt whose loss or tokens leave the finite numbers, or of which nothing is selected in any layer, keeps x = 0, says so in
    ``stopped``, and disturbs no other. Where losses end above where they began, the step is too large for these models, and a
    warning says so.

    Raises:
        InputError: a prompt without tokens of the kind, more layers than the models have, or ``students`` that do not fit.
    """
    batch_size, prompts = batch_of(pair, batch_size), [pair.encode(prompt) for prompt in prompts]
    replay.loss_layers(pair.depth)
    learner = learner_of(pair, replay)
    places = [places_of(replay, prompt) for prompt in prompts]
    if (replay.direction == "self") != (students is not None):
        raise InputError(
            f"`students` {'are missing' if students is None else 'were given'} with direction {replay.direction!r}; give the "
            "disturbed prompts for 'self', and only for it: learn_many(pair, prompts, Replay(direction='self'), students=...)"
        )
    if students is not None and [len(s) for s in students] != [len(p) for p in prompts]:
        raise InputError(
            "`students` differ from `prompts` in their positions; only pictures may be disturbed, not their sizes"
        )
    how = {"alpha": replay.alpha, "iterations": replay.iterations}
    solve = minimise if replay.solver == "adaptive" else partial(descend, patience=replay.patience)

    order = by_length(prompts)  # padding is run through all iterations

    def part(values: Sequence[Any] | None, here: slice) -> list[Any] | None:
        return None if values is None else [values[i] for i in order[here]]

    def learnt(batch: Sequence[EncodedPrompt], here: slice) -> list[LearnedTokens]:
        how_aimed = {"students": part(students, here), "aims": part(aims, here)}
        loss_at, mask = prepare(pair, batch, replay, **how_aimed)
        x, losses, stopped = solve(loss_at, learner, **how)
        selections = has_selection(mask, loss_at.cells, replay)
        why = [reason if any_ else NOTHING for reason, any_ in zip(stopped, selections, strict=True)]
        return _results(pair, batch, [places[i] for i in order[here]], replay, mask, x, losses, why)

    learned: list[LearnedTokens] = []
    groups = batches([prompts[i] for i in order], batch_size)
    for _, results in piecewise(groups, learnt, model=learner, what="replay"):
        learned += results
        if progress:
            progress(len(learned), len(prompts))
    by_number = dict(zip(order, learned, strict=True))
    inorder = [by_number[i] for i in range(len(prompts))]
    _warn_of_rises(inorder, replay)
    return inorder


def _warn_of_rises(learned: Sequence[LearnedTokens], replay: Replay) -> None:
    """Warn where learning made the loss larger: such tokens disturb the model, whatever they were to do."""
    if risen := [one for one in learned if one.rose]:
        first, last = risen[0].losses[0], risen[0].losses[-1]
        warnings.warn(
            f"`replay`: the loss of {len(risen)} of {len(learned)} prompts rose, of {risen[0].problem_id!r} from {first:.3g} to "
            f"{last:.3g} nats: steps of alpha {replay.alpha:g} are too large for these models, and such tokens disturb them; "
            f"try alpha={replay.alpha / 10:g}, or solver='adaptive'",
            stacklevel=3,
        )


def aims_of(
    pair: ModelPair, prompts: Sequence[EncodedPrompt], replay: Replay, *, batch_size: int
) -> list[Aim]:
    """Step 1: every prompt's aim, from the model that the settings pull towards.

    Raises:
        InputError: a prompt without tokens of the kind, or more layers than the models have.
    """
    return take_aim(
        pair.base if replay.direction == "base_to_rlvr" else pair.rlvr,
        prompts,
        replay.loss_layers(pair.depth),
        places=[places_of(replay, prompt) for prompt in prompts],
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
        InputError: a prompt without tokens of the kind, or more layers than the models have.
    """
    places = [places_of(replay, prompt) for prompt in prompts]
    loss_layers, learner = replay.loss_layers(pair.depth), learner_of(pair, replay)
    aims = aims_of(pair, prompts, replay, batch_size=len(prompts)) if aims is None else aims
    vocabulary, last = pair.vocab_size, loss_layers[-1]
    visible = [seen(prompt, place) for prompt, place in zip(students or prompts, places, strict=True)]
    cells = Cells.of(
        visible, learner.device, [place[: len(p)] for p, place in zip(visible, places, strict=True)]
    )
    device = learner.unembedding.weight.device
    targets = [Target.join(parts, device) for parts in zip(*aims, strict=True)]
    with torch.no_grad():
        calls = read_calls(learner, collate(visible, pair.pad_id), last + 1)
        below = None
        if replay.only_where_base_lower:
            own = [cells.take(calls[layer].output).to(device) for layer in loss_layers]
            below = torch.stack([summarise(h, lens_head(learner, vocabulary), top_k=1).entropy for h in own])
        mask = _mask(
            torch.stack([target.entropy for target in targets]),
            below,
            cells,
            prompts,
            places,
            replay,
            pair.depth,
        )
    after = replay.alignment == "paper"
    start = loss_layers[0] if replay.site == "mid_tokens" else 0
    segment = Segment(learner, calls, start, last + int(after), int(cells.position.min()))
    readouts = {
        layer: Readout.of(learner, cells, target, row, normalize=replay.normalize)
        for layer, target, row in zip(loss_layers, targets, mask, strict=True)
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
    entropy: Tensor,
    below: Tensor | None,
    cells: Cells,
    prompts: Sequence[EncodedPrompt],
    places: Sequence[Tensor],
    replay: Replay,
    depth: int,
) -> Tensor:
    """Step 2, prompt by prompt, so that no other prompt of the batch changes a random draw."""
    masks = []
    belows = [None] * len(prompts) if below is None else below.split(cells.counts, 1)
    images = cells.image.split(cells.counts)
    parts = zip(prompts, places, entropy.split(cells.counts, 1), images, belows, strict=True)
    for prompt, place, sure, image, other in parts:
        masks.append(
            select(
                Selection.of(replay),
                prompt,
                sure,
                layers=replay.loss_layers(depth),
                within=place,
                groups=image,
                below=other,
            )
        )
    return torch.cat(masks, 1)


def _results(
    pair: ModelPair,
    prompts: Sequence[EncodedPrompt],
    places: Sequence[Tensor],
    replay: Replay,
    mask: Tensor,
    tokens: Tensor,
    losses: list[list[float]],
    stopped: list[str | None],
) -> list[LearnedTokens]:
    results, loss_layers = [], replay.loss_layers(pair.depth)
    counts = [int(place.sum()) for place in places]
    parts = zip(prompts, places, tokens.cpu().split(counts), mask.cpu().split(counts, 1), strict=True)
    for number, (prompt, place, x, row) in enumerate(parts):
        whole = torch.zeros(len(loss_layers), len(prompt), dtype=torch.bool)
        whole[:, place] = row
        results.append(
            LearnedTokens(
                problem_id=prompt.problem_id,
                tokens=x.clone(),
                losses=torch.tensor(losses[number], dtype=x.dtype),
                mask=whole,
                loss_layers=loss_layers,
                places=place,
                grid=prompt.grid[place].clone(),
                replay=replay,
                stopped=stopped[number],
                provenance=pair.provenance,
            )
        )
    return results
