"""Training of adapters for amortised replay (`train_adapter`), on problems that nothing is reported on.

1. For every batch of training prompts, what replay would descend on (``replay.prepare``): the target, the cells, the
   layers in between. The weights of both models stay as they are.
2. x comes from the adapter instead of being free; its weights follow the gradient of the prompts' mean loss (AdamW). The
   loss is replay's own, so nothing is optimised for a prompt, neither before nor after.
3. After each epoch the loss on the validation prompts; the weights of the best epoch are kept, and training ends after
   ``patience`` epochs without a better one. The same for every rate; the rate that validates best is kept.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.digests import digest_of, versions
from workbench.errors import InputError
from workbench.interventions import Replay
from workbench.models.anatomy import frozen
from workbench.models.batches import batches, problem_seed
from workbench.models.pairs import ModelPair, weights_of
from workbench.models.prompts import EncodedPrompt
from workbench.problems.problem import Problem, listed
from workbench.replay.adapters import TRAINED, Adapter, check_replay, predicted
from workbench.replay.amortised import embeddings
from workbench.replay.loss import Loss
from workbench.replay.nothing_selected import check_selected, has_selection
from workbench.replay.replay import prepare

RATES = (1e-3, 3e-3, 1e-2)
# A step improves the validation loss if it lowers it by more than this part.
_BETTER = 1e-4


def train_adapter(
    pair: ModelPair,
    problems: Sequence[Problem],
    replay: Replay,
    *,
    validation: Sequence[Problem],
    width: int = 64,
    rates: Sequence[float] = RATES,
    epochs: int = 30,
    patience: int = 5,
    weight_decay: float = 0.01,
    batch_size: int = 8,
    seed: int = 0,
    hold: bool = True,
    keep: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Adapter:
    """Train an adapter on replay's own loss, on problems that nothing is reported on.

    1. For every batch of training prompts, what replay would descend on: the target, the cells, the layers in between.
    2. x comes from the adapter instead of being free; its weights follow the gradient of the prompts' mean loss (AdamW).
    3. After each epoch the loss on the validation prompts decides; the weights of the best epoch, and of the best rate, are kept.

    Args:
        pair: what `load_pair` returned, with a processor.
        problems: to train on, with pictures; no answers are needed.
        replay: the settings that it stands in for. Its ``alpha``, ``iterations`` and ``patience`` play no part.
        validation: other problems, to choose the epoch and the rate by. Report on neither.
        width: units of the adapter's layer; 0 learns one vector for all tokens, for comparison.
        rates: learning rates that are tried.
        epochs: passes over the training problems at most, for each rate.
        patience: epochs without a better validation loss that end training.
        weight_decay: of AdamW, on matrices.
        batch_size: prompts per step.
        seed: of the first weights, and of the order of the prompts.
        hold: keep what is constant of every batch between epochs; False computes it anew, slower, where memory is short.
        keep: a folder for the state after each epoch; the same call with the same folder goes on from there, also after
            Ctrl-C, and ends with the same weights.
        progress: called with (epochs done, epochs at most), over all rates.

    Raises:
        InputError: a number outside its range, no problems, one that is in both sets, settings that no adapter can stand in
            for, nothing selected of any prompt, or a loss that left the finite numbers at every rate.
    """
    check_replay(replay)
    counts = {"epochs": epochs, "patience": patience, "batch_size": batch_size}
    _check(problems, validation, rates, weight_decay, counts)
    facts = {"name": pair.name, **weights_of(pair)}
    dtype = torch.float64 if pair.dtype == torch.float64 else torch.float32
    start = Adapter.untrained(pair.base.hidden_size, width, replay, facts, seed=seed, dtype=dtype)
    origin = {
        "problems": digest_of([p.fingerprint for p in problems]),
        "validation": digest_of([p.fingerprint for p in validation]),
        "number": [len(problems), len(validation)],
        **{**counts, "weight_decay": weight_decay, "seed": seed},
    }
    order = torch.randperm(len(problems), generator=torch.Generator().manual_seed(seed)).tolist()
    train = _Batches(pair, [pair.encode(problems[i]) for i in order], replay, batch_size, hold)
    held_out = _Batches(pair, [pair.encode(p) for p in validation], replay, batch_size, hold)
    start = replace(start, weights={**start.weights, **_statistics(train.inputs)})
    runs = []
    for number, rate in enumerate(rates):
        spec = {"adapter": start.digest, "width": width, "rate": rate, **origin, "computed_with": versions()}
        file = None if keep is None else Path(keep) / f"adapter-{digest_of(spec)}.safetensors"
        run = _Run(start, rate, weight_decay, file)
        while run.epoch < epochs and run.waited < patience and not run.failed:
            run.pass_over(train, held_out, epochs, seed)
            if progress:
                progress(number * epochs + run.epoch, len(rates) * epochs)
        runs.append(run)
        if progress:
            progress((number + 1) * epochs, len(rates) * epochs)
    best = _best(runs)
    curves = [row for run in runs for row in run.curve]
    training = {"rate": best.rate, "validation_loss": best.lowest, **origin, "curves": curves}
    return replace(start, weights={**start.weights, **best.best}, training=training)


def _best(runs: Sequence["_Run"]) -> "_Run":
    """The run of the lowest validation loss."""
    sound = [run for run in runs if not run.failed]
    if not sound:
        rates = tuple(run.rate for run in runs)
        raise InputError(
            f"`rates` {rates} all led to a loss that is not finite; give smaller ones: train_adapter(..., rates=(1e-4,))"
        )
    return min(sound, key=lambda run: run.lowest)


class _Batches:
    """Prompts in batches, each with its loss as a function of x and what the adapter reads."""

    def __init__(
        self,
        pair: ModelPair,
        prompts: Sequence[EncodedPrompt],
        replay: Replay,
        batch_size: int,
        hold: bool,
    ) -> None:
        self.pair, self.replay, self.hold = pair, replay, hold
        self.groups = list(batches(prompts, batch_size))
        self.inputs = embeddings(pair, prompts, batch_size=batch_size)
        self.prompts = len(prompts)
        self.first = [0, *accumulate(map(len, self.groups))]
        self._held: dict[int, Loss] = {}
        self._selected = False

    def loss_at(self, number: int) -> Loss:
        """Of one batch."""
        loss_at = self._held.get(number)
        if loss_at is None:
            loss_at, mask = prepare(self.pair, self.groups[number], self.replay)
            self._selected |= any(has_selection(mask, loss_at.cells, self.replay))
        if self.hold:
            self._held[number] = loss_at
        return loss_at

    def losses(self, number: int, weights: Mapping[str, Tensor]) -> Float[Tensor, " prompts"]:
        """Of one batch's prompts, in nats, with x from the adapter."""
        loss_at = self.loss_at(number)
        inputs = torch.cat(self.inputs[self.first[number] : self.first[number + 1]])
        return loss_at(predicted(weights, inputs).to(loss_at.segment.entry.device))

    @torch.no_grad()
    def mean(self, weights: Mapping[str, Tensor]) -> float:
        """The mean loss over all prompts; InputError where nothing is selected of any of them."""
        total = sum(float(self.losses(number, weights).sum()) for number in range(len(self.groups)))
        if not self._selected:
            ids = [prompt.problem_id for group in self.groups for prompt in group]
            check_selected(ids, len(ids), self.replay)
        return total / self.prompts


class _Run:
    """Training at one rate, from epoch to epoch, as far as it has come."""

    def __init__(self, start: Adapter, rate: float, weight_decay: float, file: Path | None) -> None:
        self.rate, self.file = rate, file
        self.fixed = {name: value for name, value in start.weights.items() if name not in TRAINED}
        self.weights = {name: start.weights[name].clone().requires_grad_(True) for name in TRAINED}
        self.best = {name: value.detach().clone() for name, value in self.weights.items()}
        decayed = [self.weights[name] for name in TRAINED if not name.endswith("bias")]
        others = [self.weights[name] for name in TRAINED if name.endswith("bias")]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=rate)
        self.epoch, self.waited, self.lowest, self.failed = 0, 0, math.inf, False
        self.curve: list[dict[str, Any]] = []
        if file is not None and file.exists():
            self._resume(file)

    def pass_over(self, train: "_Batches", held_out: "_Batches", epochs: int, seed: int) -> None:
        """One epoch: a step for each batch, then validation; before the first, validation of x = 0."""
        begun, whole = time.perf_counter(), {**self.fixed, **self.weights}
        if self.epoch == 0:
            self.lowest = held_out.mean(whole)
            self._note(train.mean(whole), self.lowest, begun)
        draws = torch.Generator().manual_seed(problem_seed(seed, f"epoch {self.epoch}"))
        total, number = 0.0, len(train.groups)
        for step, batch in enumerate(torch.randperm(number, generator=draws).tolist()):
            share = (self.epoch * number + step) / (epochs * number)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * 0.5 * (1 + math.cos(math.pi * share))
            self.optimizer.zero_grad()
            with frozen(train.pair.rlvr), torch.enable_grad():
                losses = train.losses(batch, whole)
                losses.mean().backward()
            self.optimizer.step()
            total += float(losses.detach().sum())
        self.epoch += 1
        mean_loss = held_out.mean(whole)
        self.failed = not (math.isfinite(mean_loss) and math.isfinite(total))
        self.waited = 0 if mean_loss < self.lowest * (1 - _BETTER) else self.waited + 1
        if not self.failed and mean_loss < self.lowest:
            self.lowest = mean_loss
            self.best = {name: value.detach().clone() for name, value in self.weights.items()}
        self._note(total / train.prompts, mean_loss, begun)
        self._save()

    def _note(self, train: float, validation: float, begun: float) -> None:
        row = {"rate": self.rate, "epoch": self.epoch, "train": train, "validation": validation}
        before = self.curve[-1]["seconds"] if self.curve else 0.0
        self.curve.append(row | {"seconds": before + time.perf_counter() - begun})

    def _save(self) -> None:
        """Everything that the next epoch depends on, in one file that is whole or not there."""
        if self.file is None:
            return
        tensors = {f"best.{name}": value for name, value in self.best.items()}
        for name, value in self.weights.items():
            tensors[f"now.{name}"] = value.detach()
            tensors |= {f"{part}.{name}": moment for part, moment in self.optimizer.state[value].items()}
        progress = {name: getattr(self, name) for name in _PROGRESS}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        save_file(contiguous, str(partial), metadata={"run": json.dumps(progress)})
        partial.rename(self.file)

    def _resume(self, file: Path) -> None:
        try:
            with safe_open(str(file), "pt") as stored:
                progress = json.loads((stored.metadata() or {})["run"])
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  (no mapping)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(
                f"`keep` has a state of training that can't be read ({file}: {error}); delete that file"
            ) from error
        for name in _PROGRESS:
            setattr(self, name, progress[name])
        self.best = {name: tensors[f"best.{name}"] for name in TRAINED}
        for name, value in self.weights.items():
            value.data.copy_(tensors[f"now.{name}"])
            parts = ("step", "exp_avg", "exp_avg_sq")
            self.optimizer.state[value] = {part: tensors[f"{part}.{name}"] for part in parts}


_PROGRESS = ("epoch", "waited", "lowest", "failed", "curve")


def _statistics(inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Centre and scale of each input over all training tokens; one that never varies is left unscaled."""
    together = torch.cat([*inputs])
    spread = together.std(0, correction=0)
    return {"centre": together.mean(0), "scale": torch.where(spread > 1e-6, spread, torch.ones_like(spread))}


def _check(
    problems: Sequence[Problem],
    validation: Sequence[Problem],
    rates: Sequence[float],
    weight_decay: float,
    counts: Mapping[str, int],
) -> None:
    call = "train_adapter(pair, problems, replay, validation=others"
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(
                f"`{name}` is {value!r}; expected a whole number of at least 1: {call}, {name}=5)"
            )
    if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise InputError(
            f"`rates` is {rates!r}; expected learning rates above 0: {call}, rates=(1e-3, 1e-2))"
        )
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise InputError(
            f"`weight_decay` is {weight_decay!r}; expected 0 or more: {call}, weight_decay=0.01)"
        )
    for name, part in (("problems", problems), ("validation", validation)):
        listed(part, f"{call})", name=name)
    shared = {p.fingerprint for p in problems} & {p.fingerprint for p in validation}
    if shared:
        raise InputError(
            f"`validation` shares {len(shared)} problems with `problems`; give others, or the choice of the epoch means "
            f"nothing: {call})"
        )
