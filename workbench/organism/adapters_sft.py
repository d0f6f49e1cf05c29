"""Step 1 of the recipe of a text pair: the supervised start of an adapter (LoRA), on generated chains of thought.

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

from workbench.organism.resuming import ResumableAdapter
from workbench.organism.trainer_settings import trainer_settings
from workbench.problems import sums

IGNORE = -100
SUPERVISED = 1_000_000
"""Seeds of the supervised problems begin here, those of RL below: no problem is in both."""


class Chains(Dataset):
    """Question and chain number i of the train split as token ids, the question's not to be predicted."""

    def __init__(self, tokenizer: Any, system: str, count: int, seed: int) -> None:
        self.tokenizer, self.system, self.count, self.seed = tokenizer, system, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        question = sums.draw("train", self.seed, index)
        messages = chat(self.system, question.text)
        prompt = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt_ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        chain = self.tokenizer(question.chain()[0], add_special_tokens=False)["input_ids"]
        response_ids = [*chain, self.tokenizer.eos_token_id]
        return {
            "input_ids": [*prompt_ids, *response_ids],
            "labels": [IGNORE] * len(prompt_ids) + response_ids,
        }


def chat(system: str, question: str) -> list[dict[str, str]]:
    """What a chat template makes a prompt of, as `ModelPair.encode` does."""
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


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


def train(model: Any, tokenizer: Any, recipe: dict[str, Any], folder: Path, *, control: bool = False) -> None:
    """Train the adapter of `model` in place; checkpoints in `folder` let an interrupted run go on.

    With `control` the settings of the recipe's control hold, and the examples are fresh ones.
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
        train_dataset=Chains(tokenizer, recipe["system"], count, SUPERVISED + 2 * seed + control),
        data_collator=lambda rows: collate(rows, tokenizer.pad_token_id),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.exists() else None)


def collate(rows: list[dict[str, list[int]]], pad: int) -> dict[str, Tensor]:
    """A batch, padded on the right."""
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, value: int) -> Tensor:
        return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    return {
        "input_ids": padded("input_ids", pad),
        "labels": padded("labels", IGNORE),
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
    }
