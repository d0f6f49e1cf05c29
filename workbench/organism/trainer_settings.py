"""What every training here tells transformers' Trainer alike, whatever it trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def trainer_settings(settings: Mapping[str, Any], folder: Path, seed: int) -> dict[str, Any]:
    """Arguments of ``TrainingArguments`` or ``GRPOConfig``, from a section of a recipe: constant rate after a warm-up, no decay.

    Args:
        settings: steps, learning_rate, warmup_steps and save_steps.
        folder: for checkpoints.
        seed: of the trainer.
    """
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(folder),
        "max_steps": settings["steps"],
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": settings["warmup_steps"],
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "save_steps": settings["save_steps"],
        "save_total_limit": 2,
        "remove_unused_columns": False,
        "seed": seed,
        "report_to": ["tensorboard"],
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
    }


def rollout_settings(settings: Mapping[str, Any], folder: Path, seed: int) -> dict[str, Any]:
    """The same for ``GRPOConfig``, with what both recipes of RL say of rollouts: their number, temperature and length."""
    return trainer_settings(settings, folder, seed) | {
        "max_grad_norm": settings["max_grad_norm"],
        "num_generations": settings["rollouts"],
        "temperature": settings["temperature"],
        "max_completion_length": settings["max_completion_length"],
        "gradient_checkpointing": False,
        "bf16": False,
    }
