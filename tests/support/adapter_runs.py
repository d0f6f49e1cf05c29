"""Toy runs of the recipes of adapters: of a random Llama of 3 layers, in a few steps; and trainings that die on the way."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
import yaml

from workbench.organism import adapters_training

# As SmolLM2's: what is said is written once, as a text.
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def toy(packaged: Path, folder: Path, steps: int) -> dict[str, Any]:
    """A packaged recipe made small, each stage of so many steps; its language model lies in ``folder``."""
    tiny.model("llama", 0).save_pretrained(folder)
    tokenizer = deepcopy(tiny.tokenizer("llama"))  # it is shared with every other test of the process
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    small = yaml.safe_load(packaged.read_text())
    small |= {"body": str(folder), "adapter": {"rank": 2, "alpha": 4}, "matmul": "highest"}
    few = {"steps": steps, "chains_per_step": 2, "save_steps": 1}
    small["sft"] |= few
    small["control"] |= few
    small["grpo"] |= {
        "steps": steps,
        "problems_per_step": 2,
        "rollouts": 3,
        "micro_batch": 6,
        "max_completion_length": 5,
        "checkpoint_steps": [1],
        "save_steps": 1,
        "reward": 0.5,  # a random model says nothing right
        "learning_rate": 0.01,
    }
    return small


class Killed(Exception):
    pass


def train_killed_again_and_again(
    folder: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> int:
    """Train in a folder, killed in the second step of each stage, and after each resumption; how many steps were begun."""
    alive = transformers.Trainer.training_step
    begun = 0

    def dies(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal begun
        begun += 1
        if begun % 3 == 2:
            raise Killed
        return alive(self, *args, **kwargs)

    monkeypatch.setattr(transformers.Trainer, "training_step", dies)
    for _ in range(30):
        try:
            adapters_training.train(folder, recipe)
        except Killed:
            torch.manual_seed(begun)  # whatever else drew numbers meanwhile
            continue
        break
    return begun
