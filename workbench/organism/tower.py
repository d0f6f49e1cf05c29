"""Step 0 of the recipe of a pair that sees: its vision tower, trained alone, without a forward of the language model.

What the language model reads in a cell is to be close to what it reads in words: the sum of the embeddings of a card's colour
and digit over the root of 2, about as long as one embedding, and in an empty cell the embedding of " empty". The loss is the
squared distance to that and, since digits lie close together, a tenth of the cross-entropy of which kind is nearest. The
pictures hold more cards than those of `cards` and any card as often as it comes; the language model never sees them.
"""

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.trainer_utils import get_last_checkpoint

from workbench.models.seeing import Tower, body_config, processor_for
from workbench.organism.model import initialise
from workbench.organism.resuming import Resumable
from workbench.organism.trainer_settings import trainer_settings
from workbench.problems import cards

EMPTY = " empty"
FILLED = 0.85
"""Share of the cells with a card."""
PICTURES = 2_000_000
"""Seeds of the tower's pictures begin here."""


def wanted(tokenizer: Any, embedding: Tensor) -> Tensor:
    """(1 + colours x digits, hidden): what each kind of cell is to look like; first an empty one, then colour by colour."""

    def of(text: str) -> Tensor:
        return embedding[tokenizer(text, add_special_tokens=False)["input_ids"]].mean(0)

    kinds = [
        (of(f" {color}") + of(str(digit))) / math.sqrt(2) for color in cards.COLORS for digit in cards.DIGITS
    ]
    return torch.stack([of(EMPTY), *kinds]).detach().clone()


class Pictures(Dataset):
    """Picture number i of a seed, and which kind of cell each of its cells is, as `wanted` counts them."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([PICTURES + self.seed, index])
        shape, filled = (cards.BOARD, cards.BOARD), rng.random((cards.BOARD, cards.BOARD)) < FILLED
        color = np.where(filled, rng.integers(len(cards.COLORS), size=shape), -1)
        digit = np.where(filled, rng.choice(cards.DIGITS, size=shape), 0)
        kinds = np.where(filled, color * len(cards.DIGITS) + digit, 0)
        return {
            "picture": cards.render(cards.Hand(color, digit), rng),
            "kinds": torch.from_numpy(kinds).flatten(),
        }


class TowerTrainer(Resumable, Trainer):
    """The loss that the module's docstring tells."""

    def __init__(self, model: Any, arguments: TrainingArguments, table: Tensor, **kwargs: Any) -> None:
        super().__init__(model, arguments, **kwargs)
        self.table = table.to(arguments.device)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(cast(Pictures, self.train_dataset))

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Share of the square of what is wanted that is missed, and a tenth of a cross-entropy (nats)."""
        seen, target = _tokens(model, inputs), self.table[inputs["kinds"]]
        missed = (seen - target).pow(2).sum() / target.pow(2).sum()
        return missed + F.cross_entropy(-2 * torch.cdist(seen, self.table).pow(2), inputs["kinds"]) / 10


def _tokens(model: Any, inputs: dict[str, Any]) -> Tensor:
    """(cells, hidden) visual tokens."""
    return model(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output


def train(language: str | Path, recipe: dict[str, Any], folder: Path, out: Path) -> None:
    """Train a tower for the language model in the folder ``language`` and save it in ``out``; resumes from ``folder``."""
    settings, tower = recipe["tower"], Tower()
    tokenizer = AutoTokenizer.from_pretrained(language)
    original: Any = AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32)
    processor = processor_for(tokenizer, tower)
    config = body_config(AutoConfig.from_pretrained(language), tokenizer, tower)
    model = Qwen2_5_VisionTransformerPretrainedModel(config.vision_config)
    initialise(model, recipe["seed"])
    shared = trainer_settings(settings, folder, recipe["seed"])
    shared["lr_scheduler_type"] = "linear"
    arguments = TrainingArguments(
        **shared,
        per_device_train_batch_size=settings["pictures_per_step"],
        logging_steps=max(1, settings["steps"] // 40),
    )
    trainer = TowerTrainer(
        model,
        arguments,
        wanted(tokenizer, original.get_input_embeddings().weight),
        train_dataset=Pictures(settings["steps"] * settings["pictures_per_step"], recipe["seed"]),
        data_collator=lambda rows: collate(rows, processor),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.exists() else None)
    tower.save(out, {name: tensor.bfloat16() for name, tensor in model.state_dict().items()})


def collate(rows: list[dict[str, Any]], processor: Any) -> dict[str, Tensor]:
    """A batch: patches of the pictures as the pair will see them, and the kinds of their cells, row by row."""
    seen = processor.image_processor(images=[row["picture"] for row in rows], return_tensors="pt")
    return {**seen, "kinds": torch.cat([row["kinds"] for row in rows])}


@torch.no_grad()
def accuracy(model: Any, processor: Any, table: Tensor, pictures: Pictures) -> float:
    """Share of the cells with a card whose visual token is nearer to their kind than to any other."""
    batch = collate([pictures[i] for i in range(len(pictures))], processor)
    nearest, card = torch.cdist(_tokens(model, batch), table).argmin(-1), batch["kinds"] > 0
    return (nearest == batch["kinds"])[card].float().mean().item()
