"""Step 1 of the recipe of a pair of adapters (LoRA): the supervised start, on generated chains of thought.

The same goes on from the base, without RL, for the control that RL is compared with.
"""

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from workbench.models.chat import tokenizer_of
from workbench.organism.lessons import PICTURE, TYPES, draw
from workbench.organism.resuming import ResumableAdapter
from workbench.organism.trainer_settings import trainer_settings

IGNORE = -100
SUPERVISED = 1_000_000
"""Seeds of the supervised problems begin here, those of RL below: no problem is in both."""


class Chains(Dataset):
    """Question and chain number i of the train split as token ids, the question's not to be predicted, and its picture."""

    def __init__(self, reader: Any, system: str, count: int, seed: int, problems: str = "sums") -> None:
        self.reader, self.system, self.count, self.seed, self.problems = reader, system, count, seed, problems

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        lesson, tokenizer = draw(self.problems, self.seed, index), tokenizer_of(self.reader)
        prompt = lesson.prompt(self.reader, self.system)
        chain = tokenizer(lesson.chain, add_special_tokens=False)["input_ids"]
        prompt_ids, response_ids = prompt.pop("input_ids"), [*chain, tokenizer.eos_token_id]
        return {
            "input_ids": [*prompt_ids, *response_ids],
            "labels": [IGNORE] * len(prompt_ids) + response_ids,
            **prompt,
        }


class Sft(ResumableAdapter, Trainer):
    """Cross-entropy on the chains, in the order in which they are drawn."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(cast(Chains, self.train_dataset))  # every example is drawn independently

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Cross-entropy (nats); the unembedding is applied where something is predicted."""
        targets = F.pad(inputs.pop("labels")[:, 1:], (0, 1), value=IGNORE)
        body, learnt = model.get_base_model(), targets != IGNORE
        hidden = body.model(**inputs, use_cache=False).last_hidden_state
        return F.cross_entropy(body.lm_head(hidden[learnt]), targets[learnt])


def train(model: Any, reader: Any, recipe: dict[str, Any], folder: Path, *, control: bool = False) -> None:
    """Train the adapter of `model` in place; checkpoints in `folder` let an interrupted run go on.

    ``reader`` is the tokenizer, or the processor of a model that sees. With `control` the settings of the recipe's control hold,
    and the examples are fresh ones.
    """
    settings, seed = recipe["control" if control else "sft"], recipe["seed"]
    arguments = TrainingArguments(
        **trainer_settings(settings, folder, seed),
        per_device_train_batch_size=settings["chains_per_step"],
        logging_steps=1,
    )
    count = settings["steps"] * settings["chains_per_step"]
    trainer = Sft(
        model,
        arguments,
        train_dataset=Chains(
            reader, recipe["system"], count, SUPERVISED + 2 * seed + control, recipe["problems"]
        ),
        data_collator=lambda rows: collate(rows, tokenizer_of(reader).pad_token_id),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.exists() else None)


def collate(rows: list[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """A batch, padded on the right; patches of pictures one after the other."""
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, value: int) -> Tensor:
        return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    return {
        "input_ids": padded("input_ids", pad),
        "labels": padded("labels", IGNORE),
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        **{name: torch.cat([row[name] for row in rows]) for name in PICTURE if name in rows[0]},
        **({TYPES: padded(TYPES, 0)} if TYPES in rows[0] else {}),
    }
