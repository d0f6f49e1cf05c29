"""Kept results end with what made them: any file of a checkpoint that can change a number makes them anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from edited import edit
from pair_folders import load
from transformers import GenerationConfig

import workbench as wb
from workbench.studies.paper import Given, Options, find_analyses

HOW: dict[str, Any] = {"samples": 1, "max_new_tokens": 4, "resamples": 20}


def template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("assistant\n{% endif", "assistant\nSo: {% endif"))


def ends(folder: Path) -> None:
    GenerationConfig(eos_token_id=[*range(60, 250), 258]).save_pretrained(folder)


EDITS: dict[str, Callable[[Path], None]] = {
    "chat_template.jinja": template,
    "rope_theta": lambda folder: edit(
        folder / "config.json", ("text_config", "rope_parameters", "rope_theta"), 10.0
    ),
    "rms_norm_eps": lambda folder: edit(folder / "config.json", ("text_config", "rms_norm_eps"), 5.0),
    "image_mean": lambda folder: edit(
        folder / "processor_config.json", ("image_processor", "image_mean"), [0.0, 0.0, 0.0]
    ),
    "image_std": lambda folder: edit(
        folder / "processor_config.json", ("image_processor", "image_std"), [0.05, 0.05, 0.05]
    ),
    "eos_token_id": ends,
}


def edited(home: Path, name: str) -> None:
    """What both models' folders say is changed in place, so that they stay comparable."""
    for role in ("base", "rlvr"):
        EDITS[name](home / role)


@pytest.mark.parametrize("name", EDITS)
def test_answers_are_made_anew_when_a_file_of_the_checkpoint_changed(home, tmp_path, name):
    """Protects from the old model's answers under the new model's name."""
    problems = [tiny.problem(seed=seed) for seed in range(3)]
    before = wb.ablate(load(home), problems, [], **HOW, keep=tmp_path / "keep").responses
    edited(home, name)
    pair = load(home)
    wanted = wb.ablate(pair, problems, [], **HOW).responses
    found = wb.ablate(pair, problems, [], **HOW, keep=tmp_path / "keep").responses
    told = ["intervention", "problem", "sample", "text", "tokens", "stopped"]
    pd.testing.assert_frame_equal(found[told], wanted[told])
    assert not found[told].equals(before[told])  # so that the old answers would have been seen


@pytest.mark.parametrize("name", EDITS)
def test_figures_are_not_up_to_date_when_a_file_of_the_checkpoint_changed(home, tmp_path, name):
    """Protects from "up to date", said of a figure of another model."""
    (analysis,) = find_analyses(names=["top_predictions"])
    base, rlvr = str(home / "base"), str(home / "rlvr")
    options = Options(
        base=base, rlvr=rlvr, problems="shapes", limit=2, device="cpu", cache=tmp_path / "cache"
    )
    analysis.make(Given(options), tmp_path / "out", images=())
    assert analysis.up_to_date(Given(options), tmp_path / "out")
    edited(home, name)
    assert not analysis.up_to_date(Given(options), tmp_path / "out")
