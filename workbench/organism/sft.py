"""Step 1 of the recipe: the base model, by supervised fine-tuning on generated problems and easy-VQA's train split.

The same goes on from the base, without RL, for the control that RL is compared with.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from workbench.organism.data import CELLS, COUNTED, IGNORE, PackedBoards, collate
from workbench.organism.resuming import Resumable
from workbench.organism.trainer_settings import trainer_settings
from workbench.problems.shapes import BOARD, COLORS, SHAPES

PROBED = ("row", "column", "color", "shape", "counts")


class CellProbe(nn.Module):
    """Throw-away head: where each cell lies, what it holds, and how often its row has shown each color and shape so far.

    It reads a middle layer and has a norm and weights of its own. An auxiliary loss through the unembedding would
    train the very lens that is studied.
    """

    def __init__(self, hidden: int, seed: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.sizes = [BOARD, BOARD, len(COLORS) + 1, len(SHAPES) + 1, COUNTED * (BOARD + 1)]
        self.out = nn.Linear(hidden, sum(self.sizes))
        nn.init.normal_(self.out.weight, std=hidden**-0.5, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Tensor, **targets: Tensor) -> dict[str, Tensor]:
        """Cross-entropies (nats, mean over cells) at the visual positions ``hidden`` (V, 16, d) of the views."""
        *cells, numbers = self.out(self.norm(hidden)).split(self.sizes, -1)
        logits = [*cells, numbers.unflatten(-1, (COUNTED, BOARD + 1))]
        return {
            name: F.cross_entropy(z.flatten(0, -2), target.flatten(), ignore_index=IGNORE, reduction="sum")
            / (target != IGNORE).sum().clamp_min(1)
            for z, (name, target) in zip(logits, ((name, targets[name]) for name in PROBED), strict=True)
        }


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon with Nesterov momentum 0.95 and steps as long as AdamW's, in the parameters' own precision.

    torch's multiplies in bfloat16, which processors without units for it do several times slower: it took 70% of a step.
    """

    def __init__(self, matrices: list[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; matrices of one size are made orthogonal together."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in group["params"]:
                alike.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in alike.items():
                grads = torch.stack([self._nesterov(m) for m in matrices])
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                for matrix, update in zip(matrices, orthogonal(grads), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)

    def _nesterov(self, matrix: nn.Parameter) -> Tensor:
        assert matrix.grad is not None
        momentum = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
        momentum.lerp_(matrix.grad, 0.05)
        return matrix.grad.lerp(momentum, 0.95)


def orthogonal(matrices: Tensor) -> Tensor:
    """(N, a, b) matrices with all singular values brought near 1 (0.7 to 1.2), by five Newton-Schulz iterations.

    Keller Jordan's coefficients, as in torch.optim.Muon.
    """
    x = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = x / x.flatten(1).norm(dim=1).clamp_min(1e-7)[:, None, None]
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices inside the model's blocks, AdamW for everything else, stepped as one optimizer.

    Measured on this task (300 steps, one seed): text loss .31 nats against .47 with AdamW for all.
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], *, rate: float, muon_rate: float, decay: float
    ) -> None:
        matrices, others = [], []
        for name, parameter in named:
            inside = ".layers." in name or ".blocks." in name or ".merger.mlp." in name
            (matrices if inside and parameter.ndim == 2 else others).append(parameter)
        super().__init__([{"params": matrices}, {"params": others}], {"lr": rate})
        self.parts = [
            Muon(matrices, lr=muon_rate, weight_decay=decay),
            torch.optim.AdamW(others, lr=rate, weight_decay=decay, betas=(0.9, 0.98)),
        ]
        self._share_groups()

    def _share_groups(self) -> None:
        # The scheduler sets rates on `param_groups`; these are the parts' own dictionaries.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of both parts."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


class Sft(Resumable, Trainer):
    """Cross-entropy on the responses, plus the probe's loss at a middle layer."""

    def __init__(
        self, *args: Any, probe_layer: int, probe_weight: float, muon_rate: float | None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.probe_weight, self.muon_rate = probe_weight, muon_rate
        self.middle: dict[str, Tensor] = {}
        self.organism: Any = self.model
        layer = self.organism.model.language_model.layers[probe_layer]
        layer.register_forward_hook(lambda _module, _args, output: self.middle.update(h=output))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Muon and AdamW as one; without a rate for Muon, AdamW alone."""
        if self.muon_rate is None:
            return super().create_optimizer(model)
        if self.optimizer is None:
            self.optimizer = MuonAdamW(
                self.organism.named_parameters(),
                rate=self.args.learning_rate,
                muon_rate=self.muon_rate,
                decay=self.args.weight_decay,
            )
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        # Example i is drawn independently of all others, and the share of hasty chains follows i: no shuffling.
        return SequentialSampler(cast(PackedBoards, self.train_dataset))

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Response cross-entropy + weighted probe loss (nats)."""
        probe = {key: inputs.pop(key) for key in PROBED}
        labels, ids = inputs.pop("labels"), inputs["input_ids"]
        hidden = model.model(**inputs, use_cache=False).last_hidden_state
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE)
        targets_here = targets != IGNORE
        loss = F.cross_entropy(model.lm_head(hidden[targets_here]), targets[targets_here])
        visual = (ids == model.config.image_token_id) | (ids == model.config.video_token_id)
        cells = self.middle["h"][visual].view(-1, CELLS, self.middle["h"].shape[-1])
        probed = model.cell_probe(cells, **probe)
        if self.state.global_step % self.args.logging_steps == 0:
            self.log(
                {"text": loss.item(), **{f"probe_{name}": value.item() for name, value in probed.items()}}
            )
        return loss + self.probe_weight * torch.stack(list(probed.values())).sum()


def train(model: Any, processor: Any, recipe: dict[str, Any], folder: Path, *, control: bool = False) -> None:
    """Train `model` in place; checkpoints in `folder` let an interrupted run go on.

    With `control` the settings of the recipe's control replace those of SFT, and the examples are fresh ones.
    """
    sft = recipe["sft"] | (recipe["control"] if control else {})
    decay = {"min_lr_rate": 0.03} if sft["schedule"] == "cosine_with_min_lr" else {}
    model.cell_probe = CellProbe(recipe["model"]["hidden_size"], recipe["seed"])
    model.config._attn_implementation = "sdpa"
    arguments = TrainingArguments(
        **trainer_settings(sft, folder, recipe["seed"])
        | {"lr_scheduler_type": sft["schedule"], "weight_decay": sft["weight_decay"]},
        lr_scheduler_kwargs=decay,
        per_device_train_batch_size=sft["boards_per_step"],
        logging_steps=20,
        dataloader_num_workers=1,
        dataloader_prefetch_factor=8,
    )
    trainer = Sft(
        model,
        arguments,
        data_collator=partial(collate, pad=processor.tokenizer.pad_token_id),
        train_dataset=PackedBoards(processor.tokenizer, sft, recipe["seed"] + control),
        probe_layer=sft["auxiliary_layer"],
        probe_weight=sft["auxiliary_weight"],
        muon_rate=sft["muon_learning_rate"],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.exists() else None)
    del model.cell_probe
