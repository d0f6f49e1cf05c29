"""The recipe from nothing to the pair: tokenizer and processor, base by SFT, RLVR model by GRPO. Every step resumes."""

from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
from transformers.utils.logging import set_verbosity_error

from workbench.errors import InputError
from workbench.organism import data, grpo, model, sft

RECIPE = Path(__file__).with_name("recipe.yaml")


def read_recipe(path: Path = RECIPE) -> dict[str, Any]:
    """The recipe's settings.

    Raises:
        InputError: the file is missing, not YAML, or lacks a section.
    """
    try:
        recipe = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(
            f"`recipe` {path} can't be read ({error}); start from a copy of {RECIPE.name}"
        ) from error
    expected = yaml.safe_load(RECIPE.read_text())
    missing = [key for key in expected if key not in (recipe or {})]
    if missing:
        raise InputError(f"`recipe` {path} lacks {', '.join(missing)}; start from a copy of {RECIPE.name}")
    return recipe


def train(folder: Path, recipe: dict[str, Any]) -> None:
    """Make base and RLVR model in `folder`/base and `folder`/rlvr; finished steps are skipped, an unfinished one resumes."""
    set_verbosity_error()
    torch.manual_seed(recipe["seed"])
    base, rlvr = folder / "base", folder / "rlvr"
    if not (base / "model.safetensors").exists():
        processor = _processor(base, recipe)
        organism = model.build_model(processor, recipe["model"], recipe["seed"])
        sft.train(organism, processor, recipe, folder / "sft")
        organism.save_pretrained(base)
    if not (rlvr / "model.safetensors").exists():
        processor = AutoProcessor.from_pretrained(base)
        organism = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
        grpo.train(organism, processor, recipe, folder / "grpo")
        processor.save_pretrained(rlvr)
        organism.save_pretrained(rlvr)


def _processor(folder: Path, recipe: dict[str, Any]) -> Any:
    """The saved processor, or a new one: made once, because BPE training breaks ties as it pleases."""
    if not (folder / "tokenizer.json").exists():
        texts = [text for record in data.easy_vqa("train") for text, _ in record["asked"]]
        model.build_processor(model.corpus(texts), recipe["vocabulary"]).save_pretrained(folder)
    return AutoProcessor.from_pretrained(folder)
