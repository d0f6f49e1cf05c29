"""The recipe of a pair of adapters (LoRA) of one language model: base, RLVR models, two controls. Every step resumes.

With a section ``tower`` the language model first gets a vision tower (`workbench.organism.tower`). All adapters are of the same
language model: that of an RLVR model goes on from the base's, and holds both.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils.logging import set_verbosity_error

from workbench.models.gguf import unpacked
from workbench.models.lora import CONFIG, TENSORS
from workbench.models.seeds import RLVR
from workbench.models.seeing import TENSORS as TOWER
from workbench.models.seeing import build
from workbench.models.weight_deltas import write_codes
from workbench.organism import adapters_grpo, adapters_sft, tower
from workbench.organism.recipes import SMOL, SMOLVL, write_digests

SKIPPED = ("step", "epoch", "num_tokens", "step_time", "total_flos")


def train(folder: Path, recipe: dict[str, Any]) -> None:
    """Make the adapters ``base``, ``rlvr`` (of the first seed), ``sft``, ``random``, ``rlvr-1``, ... in `folder`.

    Checkpoints of the first seed are in ``checkpoints/NNNN``. Finished steps are skipped, an unfinished one resumes.
    """
    set_verbosity_error()
    torch.set_float32_matmul_precision(recipe["matmul"])
    first, *others = recipe["grpo"]["seeds"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / recipe_file(recipe).name).write_text(yaml.safe_dump(recipe, sort_keys=False))
    body = str(_body(folder, recipe))
    if "tower" in recipe:  # adapters name the run's own body as their base
        recipe = recipe | {"body": body}
    reader = _auto(body, AutoProcessor, AutoTokenizer).from_pretrained(body)
    if not (folder / "base" / TENSORS).exists():
        model = _fresh(body, recipe)
        adapters_sft.train(model, reader, recipe, folder / "steps" / "sft")
        _save(model, folder / "base", recipe)
    _grpo("rlvr", body, reader, folder, recipe, first, keep=True)
    if not (folder / "sft" / TENSORS).exists():
        model = _base(body, folder)
        adapters_sft.train(model, reader, recipe, folder / "steps" / "control", control=True)
        _save(model, folder / "sft", recipe)
    _grpo("random", body, reader, folder, recipe, first, control=True)
    for seed in others:
        _grpo(f"rlvr-{seed}", body, reader, folder, recipe, seed)


def _grpo(
    name: str,
    body: str,
    reader: Any,
    folder: Path,
    recipe: dict[str, Any],
    seed: int,
    *,
    keep: bool = False,
    control: bool = False,
) -> None:
    if (folder / name / TENSORS).exists():
        return
    model, actor = _base(body, folder), _plain(body, "eager")  # sdpa is slow for one token at a time
    checkpoint: Callable[[int], None] = lambda step: (  # noqa: E731
        _save(model, folder / "checkpoints" / f"{step:04d}", recipe) if keep else None
    )
    steps = folder / "steps" / name
    adapters_grpo.train(model, actor, reader, recipe, steps, seed=seed, save=checkpoint, control=control)
    _save(model, folder / name, recipe)


def recipe_file(recipe: dict[str, Any]) -> Path:
    """The packaged recipe that has the sections of this one."""
    return SMOLVL if "tower" in recipe else SMOL


def _body(folder: Path, recipe: dict[str, Any]) -> Path:
    """The folder of the language model, with a tower of its own where the recipe has one."""
    language, home = Path(unpacked(recipe["body"])), folder / "body"
    if "tower" not in recipe:
        return language
    if not (home / TOWER).exists():
        tower.train(language, recipe, folder / "steps" / "tower", home)
    if not (home / "config.json").exists():
        build(language, home / TOWER, home)
    return home.resolve()


def _auto(body: str, seeing: Any, reading: Any) -> Any:
    """Of two of transformers' classes the one for this body."""
    kind = type(AutoConfig.from_pretrained(body))
    return seeing if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING else reading


def _plain(body: str, attention: str | None = None) -> Any:
    auto = _auto(body, AutoModelForImageTextToText, AutoModelForCausalLM)
    return auto.from_pretrained(body, dtype=torch.float32, attn_implementation=attention)


def _fresh(body: str, recipe: dict[str, Any]) -> Any:
    """The language model with an adapter that changes nothing yet."""
    torch.manual_seed(recipe["seed"])
    settings = recipe["adapter"]
    lora = LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        target_modules=r"model\.language_model\..*_proj" if "tower" in recipe else "all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(_plain(body), lora)


def _base(body: str, folder: Path) -> Any:
    """The language model with the base's adapter, to be trained on."""
    return PeftModel.from_pretrained(_plain(body), folder / "base", is_trainable=True)


def _save(model: Any, folder: Path, recipe: dict[str, Any]) -> None:
    """The adapter as peft saves it, its tensors rounded to bfloat16, and its base under the name that the recipe has."""
    config = model.peft_config["default"]
    before, config.base_model_name_or_path = config.base_model_name_or_path, recipe["body"]
    state = {key: value.detach().bfloat16() for key, value in model.state_dict().items() if "lora_" in key}
    try:
        model.save_pretrained(folder, state_dict=state)
    finally:
        config.base_model_name_or_path = before


def publish(folder: Path, weights: Path) -> None:
    """Copy what ships from a run, finished or not: base and RLVR model as adapters, all else as changes of the base's adapter.

    The changes are rounded (`write_codes`): steps on the way, controls, and RLVR models of other seeds; the two adapters are not.
    """
    for name in ("base", "rlvr"):
        shutil.copytree(
            folder / name, weights / name, ignore=shutil.ignore_patterns("*.md"), dirs_exist_ok=True
        )
    if (folder / "body" / TOWER).exists():
        _publish_tower(folder, weights)
    start = load_file(folder / "base" / TENSORS)
    places = {path.name: weights / "deltas" for path in sorted((folder / "checkpoints").glob("*"))}
    others = [path.parent.name for path in sorted(folder.glob(f"*/{TENSORS}"))]
    places |= {name: weights / "control" for name in others if not name.startswith(("base", "rlvr"))}
    seeds = {name: name.removeprefix("rlvr-") for name in others if name.startswith("rlvr-")}
    places |= {name: weights / "seeds" / seed for name, seed in seeds.items()}
    for name, home in places.items():
        home.mkdir(parents=True, exist_ok=True)
        source = folder / ("checkpoints" if home.name == "deltas" else "") / name
        now = load_file(source / TENSORS)
        change = {key: now[key].float() - tensor.float() for key, tensor in start.items()}
        write_codes(home / f"{RLVR if name in seeds else name}.safetensors", change)
    curves(folder).to_csv(weights / "curves.csv", index=False)
    write_digests(weights)


def _publish_tower(folder: Path, weights: Path) -> None:
    """The tower, and the adapters' base named as a package's file with it."""
    (weights / "body").mkdir(exist_ok=True)
    shutil.copy(folder / "body" / TOWER, weights / "body")
    language = yaml.safe_load((folder / SMOLVL.name).read_text())["body"]
    for config in weights.glob(f"*/{CONFIG}"):
        entries = json.loads(config.read_text())
        entries["base_model_name_or_path"] = f"{language}+{weights.name}"
        config.write_text(json.dumps(entries, indent=2) + "\n")


def curves(folder: Path) -> pd.DataFrame:
    """Training curves of a run, tidy: stage (sft, rlvr, control, random, ...), step, measure, value (losses in nats)."""
    rows = []
    for stage in sorted((folder / "steps").iterdir()):
        last = get_last_checkpoint(str(stage))
        history = json.loads((Path(last) / "trainer_state.json").read_text())["log_history"] if last else []
        for entry in history:
            numbers = {k: v for k, v in entry.items() if isinstance(v, int | float) and k not in SKIPPED}
            rows += [
                {"stage": stage.name, "step": entry["step"], "measure": k, "value": round(v, 6)}
                for k, v in numbers.items()
                if not k.endswith(("runtime", "per_second"))
            ]
    return pd.DataFrame(rows)
