"""The recipe of a text pair runs, survives a kill bit for bit, and trains on what prompts would show."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import transformers
import yaml
from adapter_runs import toy, train_killed_again_and_again
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from workbench import load_pair, load_problems
from workbench.errors import InputError
from workbench.models.lora import CONFIG, TENSORS
from workbench.models.seeds import seeds_of, unpacked_run
from workbench.models.weight_deltas import read_delta
from workbench.organism import adapters_evaluation, adapters_grpo, adapters_sft, adapters_training
from workbench.organism.recipes import SMOL
from workbench.organism.shared_prompts import log_probabilities, pack
from workbench.problems import sums


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Ten steps in all, of a random Llama of 3 layers."""
    small = toy(SMOL, tmp_path_factory.mktemp("body"), steps=3)
    small["grpo"] |= {"seeds": [0, 1], "checkpoint_steps": [1, 3]}
    return small


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    adapters_training.train(folder, recipe)
    return folder


def test_an_interrupted_run_ends_with_the_same_weights_bit_for_bit(recipe, trained, tmp_path, monkeypatch):
    begun = train_killed_again_and_again(tmp_path, recipe, monkeypatch)
    names = ("base", "rlvr", "sft", "random", "rlvr-1", "checkpoints/0001", "checkpoints/0003")
    assert begun > 12
    for name in names:
        whole, resumed = (load_file(folder / name / TENSORS) for folder in (trained, tmp_path))
        assert whole.keys() == resumed.keys()
        for key, tensor in whole.items():
            assert torch.equal(tensor, resumed[key]), (name, key)


def test_every_stage_trains_from_the_base(trained):
    start = load_file(trained / "base" / TENSORS)
    changed = {}
    for name in ("rlvr", "sft", "random", "rlvr-1"):
        now = load_file(trained / name / TENSORS)
        changed[name] = torch.cat([(now[key].float() - start[key].float()).flatten() for key in start])
        assert changed[name].abs().max() > 0
    assert not torch.equal(changed["rlvr"], changed["rlvr-1"])
    last = load_file(trained / "checkpoints" / "0003" / TENSORS)
    assert all(
        torch.equal(tensor, load_file(trained / "rlvr" / TENSORS)[key]) for key, tensor in last.items()
    )
    assert all(tensor.dtype == torch.bfloat16 for tensor in start.values())


def test_adapters_of_a_run_make_a_pair(recipe, trained):
    config = json.loads((trained / "rlvr" / CONFIG).read_text())
    assert config["base_model_name_or_path"] == recipe["body"]
    pair = load_pair(base=trained / "base", rlvr=trained / "rlvr", device="cpu")
    prompt = pair.encode(load_problems("sums", limit=1)[0])
    body = transformers.AutoModelForCausalLM.from_pretrained(recipe["body"])
    with torch.no_grad():
        expected = PeftModel.from_pretrained(body, trained / "rlvr")(**prompt.model_inputs).logits
        found = pair.rlvr.model(**prompt.model_inputs).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_what_ships_is_the_run_rounded_a_little(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    adapters_training.publish(trained, tmp_path)
    assert sorted(path.stem for path in (tmp_path / "deltas").iterdir()) == ["0001", "0003"]
    assert sorted(path.stem for path in (tmp_path / "control").iterdir()) == ["random", "sft"]
    assert [p.relative_to(tmp_path / "seeds").as_posix() for p in tmp_path.glob("seeds/*/*")] == [
        "1/rlvr.safetensors"
    ]
    assert seeds_of(tmp_path) == [1]
    second = unpacked_run(tmp_path, 1)
    assert (second / "base" / TENSORS).read_bytes() != (second / "rlvr" / TENSORS).read_bytes()
    pair = load_pair(base=second / "base", rlvr=second / "rlvr", device="cpu")
    whole = load_pair(base=trained / "base", rlvr=trained / "rlvr-1", device="cpu")
    for name, tensor in whole.rlvr.model.state_dict().items():
        torch.testing.assert_close(pair.rlvr.model.state_dict()[name], tensor, atol=2e-4, rtol=0)
    assert pair.provenance["base"]["weights"] == whole.provenance["base"]["weights"]
    start, now = (load_file(trained / name / TENSORS) for name in ("base", "sft"))
    for key, change in read_delta(tmp_path / "control" / "sft.safetensors").items():
        wanted = now[key].float() - start[key].float()
        assert (change - wanted).abs().amax() <= wanted.abs().amax() / 30 * 1.14 + 1e-9
    sums_of = (tmp_path / "SHA256SUMS").read_text().splitlines()
    assert len(sums_of) == 7
    stages = adapters_training.curves(trained)
    assert set(stages["stage"]) == {"sft", "control", "rlvr", "random", "rlvr-1"}


def test_supervised_examples_are_what_the_pair_is_asked_and_the_chain(recipe, trained):
    pair = load_pair(base=trained / "base", rlvr=trained / "rlvr", device="cpu")
    chains = adapters_sft.Chains(pair.tokenizer, recipe["system"], 4, adapters_sft.SUPERVISED)
    question = sums.draw("train", adapters_sft.SUPERVISED, 2)
    problem = load_problems("sums", split="train", seed=adapters_sft.SUPERVISED, limit=3)[2]
    assert problem.question == question.text
    prompt = pair.encode(replace(problem, system=recipe["system"]))
    row = chains[2]
    asked = len(prompt.input_ids)
    assert row["input_ids"][:asked] == prompt.input_ids.tolist()
    assert row["labels"][:asked] == [adapters_sft.IGNORE] * asked
    assert row["labels"][asked:] == row["input_ids"][asked:]
    assert pair.tokenizer.decode(row["labels"][asked:-1]) == question.chain()[0]
    batch = adapters_sft.collate([chains[0], chains[1]], 0)
    assert batch["attention_mask"].sum(1).tolist() == [
        len(chains[0]["input_ids"]),
        len(chains[1]["input_ids"]),
    ]


def test_completions_of_one_prompt_are_scored_as_if_alone():
    model = tiny.model("llama", 0).eval()
    prompts = [[5, 6, 7, 8]] * 3 + [[9, 10]] * 2
    completions = [[11, 12], [13], [14, 15, 16, 17], [18], [19, 20, 21]]
    found, entropy = log_probabilities(model, pack(prompts, completions, 0), 0.7)
    expected, entropies = [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        log_p = (model(torch.tensor([prompt + completion])).logits[0] / 0.7).log_softmax(-1)
        for place, token in enumerate(completion, len(prompt) - 1):
            expected.append(log_p[place, token])
            entropies.append(torch.distributions.Categorical(logits=log_p[place]).entropy())
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, torch.stack(entropies), atol=1e-5, rtol=1e-5)


def test_the_actor_has_the_merged_weights():
    model = get_peft_model(
        tiny.model("llama", 0), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    )
    actor = tiny.model("llama", 1)
    actor.load_state_dict(tiny.model("llama", 0).state_dict())
    adapters_grpo.merge_into(actor, model)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(actor.eval()(ids).logits, model.eval()(ids).logits, atol=1e-5, rtol=1e-5)
        assert (actor(ids).logits - tiny.model("llama", 0).eval()(ids).logits).abs().max() > 1e-3


def test_the_reward_is_for_the_right_number():
    said = [
        [{"role": "assistant", "content": text}] for text in ("12 + 7 = 19. The answer is 19.", "18", "none")
    ]
    assert adapters_grpo.reward(said, ["19", "19", "19"]) == [1.0, 0.0, 0.0]


def test_the_evaluation_counts_and_pairs(trained, recipe, tmp_path):
    models = adapters_evaluation.models_of(trained)
    assert [*models] == ["base", "rlvr", "random", "rlvr-1", "sft"]
    chosen = {name: models[name] for name in ("base", "sft")}
    settings = {"problems": 9, "samples": 4, "system": recipe["system"], "keep": tmp_path}
    table = adapters_evaluation.evaluate(chosen, **settings)
    assert set(table["model"]) == {"base", "sft", "sft - base"}
    assert set(table["measure"]) == {"greedy", "Pass@1", "Pass@4"}
    assert set(table["family"]) == {"all", *sums.FAMILIES}
    # From what was kept, with counts that can be worked out by hand.
    for name, right in (("base", 1), ("sft", 3)):
        file = next(tmp_path.glob(f"{name}-*.parquet"))
        pd.read_parquet(file).assign(right=right, greedy=0).to_parquet(file, index=False)
    table = adapters_evaluation.evaluate(chosen, **settings).set_index(["family", "measure", "model"])[
        "estimate"
    ]
    assert table["all", "Pass@1", "sft - base"] == pytest.approx(0.5)
    assert table["all", "Pass@1", "base"] == pytest.approx(0.25)
    assert table["sum", "Pass@4", "base"] == pytest.approx(1.0)
    bounds = {"low": table.to_numpy(), "high": table.to_numpy()}
    text = adapters_evaluation.as_markdown(table.reset_index().assign(**bounds))
    assert "| all | Pass@1 | 25 [25, 25] |" in text
    assert np.isfinite(table).all()


def test_a_folder_without_a_base_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no model, base/adapter_config\.json is missing"):
        adapters_evaluation.models_of(tmp_path)


def test_the_command_trains_and_evaluates_the_pair_that_is_named(recipe, trained, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from workbench.interfaces.cli import app

    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    asked: list[object] = []
    monkeypatch.setattr(adapters_training, "train", lambda *given: asked.append(given))
    told = CliRunner().invoke(
        app, ["organism", "train", "--pair", "smol", "--out", "x", "--recipe", str(tmp_path / "r.yaml")]
    )
    assert told.exit_code == 0, told.output
    assert asked[0][1] == recipe
    told = CliRunner().invoke(
        app, f"organism evaluate --pair smol --folder {trained} --problems 9 --samples 1".split()
    )
    assert told.exit_code == 0, told.output
    assert "| all | Pass@1 |" in told.output
    assert "sft - base" in told.output
