"""The recipe from nothing to the pair: tokenizer and processor, base by SFT, RLVR model by GRPO, and two controls.

Every step resumes.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils.logging import set_verbosity_error

from workbench.models.seeds import BASE, RLVR, WEIGHTS
from workbench.models.weight_deltas import read_delta, write_codes, write_delta
from workbench.organism import data, grpo, model, sft
from workbench.organism.recipes import SHAPES, write_digests

RECIPE = SHAPES
CONTROLS = {"sft": ("control", sft), "random": ("random", grpo)}
"""By the name that `load_pair` knows: the recipe's section, and what trains it."""


def train(folder: Path, recipe: dict[str, Any]) -> None:
    """Make base and RLVR model in `folder`/base and `folder`/rlvr, and the controls' differences to the base.

    Finished steps are skipped, an unfinished one resumes.
    """
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
    for name in CONTROLS:
        if not (folder / "control" / f"{name}.safetensors").exists():
            _train_control(name, folder, recipe)


def _train_control(name: str, folder: Path, recipe: dict[str, Any]) -> None:
    """Go on from the base without the verifiable reward, as long as RL did, and save what it changes (bf16)."""
    section, method = CONTROLS[name]
    organism = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "base", dtype=torch.float32)
    start = {key: tensor.clone() for key, tensor in organism.state_dict().items()}
    processor = AutoProcessor.from_pretrained(folder / "base")
    steps = recipe[section]["steps"] or grpo.kept_step(folder / "grpo")
    method.train(
        organism,
        processor,
        recipe | {section: recipe[section] | {"steps": steps}},
        folder / section,
        control=True,
    )
    now, home = organism.state_dict(), folder / "control"
    home.mkdir(exist_ok=True)
    write_delta(home / f"{name}.safetensors", {key: now[key] - tensor for key, tensor in start.items()})


def _processor(folder: Path, recipe: dict[str, Any]) -> Any:
    """The saved processor, or a new one: made once, because BPE training breaks ties as it pleases."""
    if not (folder / "tokenizer.json").exists():
        texts = [text for record in data.easy_vqa("train") for text, _ in record["asked"]]
        model.build_processor(model.corpus(texts), recipe["vocabulary"]).save_pretrained(folder)
    return AutoProcessor.from_pretrained(folder)


def publish(folder: Path, weights: Path) -> None:
    """Copy what ships of a finished run: both models, their curves, and its checkpoints and controls, rounded (`write_codes`)."""
    weights.mkdir(parents=True, exist_ok=True)
    for name in ("base", "rlvr"):
        shutil.copytree(folder / name, weights / name, dirs_exist_ok=True)
    shutil.rmtree(weights / "deltas", ignore_errors=True)  # those of an earlier run
    (weights / "deltas").mkdir()
    for delta in sorted((folder / "grpo").glob("delta-*.safetensors")):
        _pack(delta, weights / "deltas" / delta.name.removeprefix("delta-"))
    (weights / "control").mkdir(exist_ok=True)
    for name in CONTROLS:
        _pack(folder / "control" / f"{name}.safetensors", weights / "control" / f"{name}.safetensors")
    curves(folder).to_csv(weights / "curves.csv", index=False)
    write_digests(weights)


def publish_seed(folder: Path, weights: Path, seed: int) -> None:
    """Pack what ships of a finished run with another seed than that in `weights`, as rounded changes.

    The base is saved since the first run's, by 127ths of a row's largest value, all else since it, by 15ths.
    """
    home = weights / "seeds" / str(seed)
    home.mkdir(parents=True, exist_ok=True)
    first, base, rlvr = (load_file(f / WEIGHTS) for f in (weights / BASE, folder / BASE, folder / RLVR))
    write_codes(home / f"{BASE}.safetensors", {key: base[key] - tensor for key, tensor in first.items()}, 127)
    write_codes(home / f"{RLVR}.safetensors", {key: rlvr[key] - tensor for key, tensor in base.items()})
    for control in sorted((folder / "control").glob("*.safetensors")):
        _pack(control, home / control.name)
    curves(folder).to_csv(home / "curves.csv", index=False)
    write_digests(weights)


def _pack(delta: Path, packed: Path) -> None:
    write_codes(packed, {key: change.float() for key, change in read_delta(delta).items()})


def curves(folder: Path) -> pd.DataFrame:
    """Training curves of a run, tidy: stage (sft, grpo, control, random, validation), step, measure, value (losses in nats)."""
    rows = []
    for stage in ("sft", "grpo", "control", "random"):
        last = get_last_checkpoint(str(folder / stage)) if (folder / stage).is_dir() else None
        history = json.loads((Path(last) / "trainer_state.json").read_text())["log_history"] if last else []
        for entry in history:
            numbers = {
                k: v for k, v in entry.items() if k not in ("step", "epoch") and isinstance(v, int | float)
            }
            rows += [
                {"stage": stage, "step": entry["step"], "measure": k, "value": v} for k, v in numbers.items()
            ]
    for entry in json.loads((folder / "grpo" / grpo.CURVE).read_text()):
        rows += [
            {"stage": "validation", "step": entry["step"], "measure": key, "value": entry[key]}
            for key in ("greedy", "sampled")
        ]
    return pd.DataFrame(rows)
