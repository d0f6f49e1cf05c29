"""Further runs of a bundled pair: packed within the rounding that is promised, unpacked once, and named ``shapes@1``."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import workbench as wb
from workbench.errors import InputError
from workbench.models.preset_files import pair_preset
from workbench.models.seeds import seeds_of, unpacked_run
from workbench.models.weight_deltas import read_delta, write_delta
from workbench.organism import training
from workbench.problems import answers

SHAPES = {"matrix": (6, 40), "vector": (17,), "patches": (5, 3, 2, 4, 4)}


def run(folder, seed):
    """A folder as training leaves it, with made-up weights: those of the RLVR model and of the control lie near the base."""
    draw = torch.Generator().manual_seed(seed)
    base = {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}
    near = [
        {name: 0.01 * torch.randn(shape, generator=draw) for name, shape in SHAPES.items()} for _ in range(2)
    ]
    for role, tensors in (("base", base), ("rlvr", {name: base[name] + near[0][name] for name in base})):
        (folder / role).mkdir(parents=True)
        (folder / role / "config.json").write_text(json.dumps({"model_type": role}))
        save_file(tensors, folder / role / "model.safetensors")
    (folder / "control").mkdir()
    write_delta(folder / "control" / "sft.safetensors", near[1])
    return folder


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(training, "curves", lambda folder: pd.DataFrame({"step": [1]}))
    home, other = run(tmp_path / "home", 0), run(tmp_path / "other", 1)
    training.publish_seed(other, home, 1)
    return home, other


def test_a_run_comes_back_within_its_rounding(packed):
    home, other = packed
    assert seeds_of(home) == [1]
    folder = unpacked_run(home, 1)
    first, start, base, rlvr = (
        load_file(f / "model.safetensors")
        for f in (home / "base", other / "base", folder / "base", folder / "rlvr")
    )
    for name, tensor in start.items():
        rows = tensor.shape[0] if tensor.dim() > 1 else 1
        largest = (tensor - first[name]).reshape(rows, -1).abs().amax(1)
        error = (base[name] - tensor).reshape(rows, -1).abs().amax(1)
        assert (
            error <= largest / 127 * 0.51 + 1e-6
        ).all()  # half a step, and bfloat16's rounding of the step
        wanted = load_file(other / "rlvr" / "model.safetensors")[name] - tensor
        change = (rlvr[name] - base[name] - wanted).reshape(rows, -1).abs().amax(1)
        assert (change <= wanted.reshape(rows, -1).abs().amax(1) / 15 * 0.52 + 1e-6).all()
        assert base[name].dtype == tensor.dtype
    assert read_delta(folder / "control" / "sft.safetensors").keys() == start.keys()
    assert json.loads((folder / "rlvr" / "config.json").read_text()) == {"model_type": "rlvr"}


def test_it_is_unpacked_once_and_anew_where_it_changed(packed):
    home, other = packed
    folder = unpacked_run(home, 1)
    written = (folder / "base" / "model.safetensors").stat().st_mtime_ns
    unpacked_run.cache_clear()
    assert unpacked_run(home, 1) == folder
    assert (folder / "base" / "model.safetensors").stat().st_mtime_ns == written
    save_file(load_file(home / "base" / "model.safetensors"), other / "rlvr" / "model.safetensors")
    training.publish_seed(other, home, 1)
    unpacked_run.cache_clear()
    assert unpacked_run(home, 1) != folder


def test_names_with_a_seed():
    assert pair_preset("shapes@0") == pair_preset("shapes")
    for call in (
        lambda: wb.load_pair("shapes@77"),
        lambda: wb.load_pair("shapes", seed=77),
        lambda: pair_preset("vl-rethinker-7b@1"),
        lambda: wb.load_pair("shapes@x"),
    ):
        with pytest.raises(InputError, match="no training run with that seed ships; there are "):
            call()
    with pytest.raises(InputError, match=r'`name` is missing: load_pair\("shapes", seed=2\)'):
        wb.load_pair(base="a", rlvr="b", seed=2)


@pytest.mark.parametrize("seed", pair_preset("shapes").seeds)
def test_a_run_that_ships_sees_and_reasons_as_its_card_says(seed):
    first, pair = wb.load_pair("shapes"), wb.load_pair("shapes", seed=seed)
    assert pair.name == f"shapes@{seed}"
    digests = {one.provenance[role]["weights"] for one in (first, pair) for role in ("base", "rlvr")}
    assert len(digests) == 4
    problems = wb.load_problems("shapes", split="test", limit=40)
    prompts = [pair.encode(problem) for problem in problems]
    right = {}
    for model in ("base", "rlvr"):
        responses = wb.decode_many(pair, prompts, model=model, temperature=0.0)
        right[model] = sum(
            answers.verify(one.text, problem.answer or "", problem.verifier).correct
            for (one,), problem in zip(responses, problems, strict=True)
        )
    # Of 200 it is 53 and 74 percent; weights that unpacking had spoilt would answer none.
    assert right["base"] >= 10
    assert right["rlvr"] >= right["base"] + 2
    control = wb.load_pair("shapes", seed=seed, checkpoint="sft")
    assert control.provenance["base"]["weights"] == pair.provenance["base"]["weights"]
    assert control.provenance["rlvr"]["weights"] != pair.provenance["rlvr"]["weights"]
