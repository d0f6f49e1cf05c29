"""The recipe of a pair that sees: tower, supervised start, RL; it survives a kill, and trains on what prompts would show."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
import transformers
from adapter_runs import toy, train_killed_again_and_again
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from workbench import load_pair, load_problems
from workbench.models.lora import TENSORS
from workbench.models.seeing import TENSORS as TOWER
from workbench.models.seeing import Tower, body_config, processor_for
from workbench.organism import adapters_sft, adapters_training, lessons, tower
from workbench.organism.model import initialise
from workbench.organism.recipes import SMOLVL
from workbench.organism.shared_prompts import log_probabilities, pack


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Ten steps in all, of a random Llama of 3 layers and a random tower."""
    small = toy(SMOLVL, tmp_path_factory.mktemp("language"), steps=2)
    small["tower"] |= {"steps": 2, "pictures_per_step": 2, "save_steps": 1}
    return small


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    adapters_training.train(folder, recipe)
    return folder


def test_an_interrupted_run_ends_with_the_same_weights_bit_for_bit(recipe, trained, tmp_path, monkeypatch):
    begun = train_killed_again_and_again(tmp_path, recipe, monkeypatch)
    assert begun > 10
    for name in (f"body/{TOWER}", *(f"{part}/{TENSORS}" for part in ("base", "rlvr", "sft", "random"))):
        whole, resumed = (load_file(folder / name) for folder in (trained, tmp_path))
        assert whole.keys() == resumed.keys()
        for key, tensor in whole.items():
            assert torch.equal(tensor, resumed[key]), (name, key)


def test_adapters_of_a_run_make_a_pair_that_sees(trained):
    pair = load_pair(base=trained / "base", rlvr=trained / "rlvr", device="cpu")
    prompt = pair.encode(load_problems("cards", limit=1)[0])
    assert prompt.grids == ((1, 4, 4),)
    with torch.no_grad():
        base, rlvr = (side.model(**prompt.model_inputs).logits for side in (pair.base, pair.rlvr))
    assert not torch.equal(base, rlvr)
    tensors = load_file(trained / "rlvr" / TENSORS)
    assert all(".language_model." in key for key in tensors)  # the tower is as it was


def test_supervised_examples_are_what_the_pair_is_asked_and_the_chain(recipe, trained):
    pair = load_pair(base=trained / "base", rlvr=trained / "rlvr", device="cpu")
    seed = adapters_sft.SUPERVISED
    chains = adapters_sft.Chains(pair.processor, recipe["system"], 4, seed, "cards")
    problem = load_problems("cards", split="train", seed=seed, limit=3)[2]
    prompt = pair.encode(replace(problem, system=recipe["system"]))
    row, asked = chains[2], len(prompt.input_ids)
    assert row["input_ids"][:asked] == prompt.input_ids.tolist()
    for name in lessons.PICTURE:
        assert torch.equal(row[name], prompt.model_inputs[name])
    assert row["labels"][:asked] == [adapters_sft.IGNORE] * asked
    assert pair.tokenizer.decode(row["labels"][asked:-1]) == problem.metadata["chain"]
    batch = adapters_sft.collate([chains[0], chains[1]], 0)
    assert batch["image_grid_thw"].tolist() == [[1, 8, 8]] * 2
    assert torch.equal(batch["mm_token_type_ids"], (batch["input_ids"] == pair.base.image_token_id).long())


def test_completions_of_one_picture_are_scored_as_if_alone(trained):
    body = trained / "body"
    model = AutoModelForImageTextToText.from_pretrained(body).eval()
    chains = adapters_sft.Chains(AutoProcessor.from_pretrained(body), "Think.", 2, 7, "cards")
    prompts, completions, pictures, expected = [], [], [], []
    for row in (chains[0], chains[1]):
        begin = row["labels"].count(adapters_sft.IGNORE)
        for length in (3, 5):
            prompts.append(row["input_ids"][:begin])
            completions.append(row["input_ids"][begin : begin + length])
            pictures.append({name: row[name] for name in lessons.PICTURE})
    for prompt, completion, picture in zip(prompts, completions, pictures, strict=True):
        ids = torch.tensor([prompt + completion])
        kinds = (ids == model.config.image_token_id).int()
        with torch.no_grad():
            log_p = model(input_ids=ids, mm_token_type_ids=kinds, **picture).logits[0].log_softmax(-1)
        expected += [log_p[len(prompt) - 1 + k, token] for k, token in enumerate(completion)]
    packed = pack(prompts, completions, 0, pictures)
    assert len(packed.ids) == 2
    with torch.no_grad():
        found, _ = log_probabilities(model, packed)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)
    same = pack(prompts[:2], completions[:2], 0, [pictures[0], pictures[2]])
    assert len(same.ids) == 2  # the same words about two pictures


def test_what_ships_names_the_package_and_its_own_tower(recipe, trained, tmp_path):
    adapters_training.publish(trained, home := tmp_path / "mine")
    for name in ("base", "rlvr"):
        assert (
            f'"base_model_name_or_path": "{recipe["body"]}+mine"'
            in (home / name / "adapter_config.json").read_text()
        )
    assert (home / "body" / TOWER).read_bytes() == (trained / "body" / TOWER).read_bytes()
    assert len((home / "SHA256SUMS").read_text().splitlines()) == 6
    assert {"tower", "sft", "rlvr"} <= set(adapters_training.curves(trained)["stage"])


def test_a_tower_learns_what_a_cell_holds(recipe):
    """Twenty steps from nothing bring its tokens nearer to the words, and empty cells nearest to " empty"."""
    language = recipe["body"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(language)
    embedding = transformers.AutoModelForCausalLM.from_pretrained(language).get_input_embeddings().weight
    table = tower.wanted(tokenizer, embedding)
    assert table.shape == (1 + 5 * 9, tiny.HIDDEN)
    blue, three = (
        embedding[tokenizer(text, add_special_tokens=False)["input_ids"]].mean(0) for text in (" blue", "3")
    )
    torch.testing.assert_close(table[1 + 2 * 9 + 2], (blue + three) / 2**0.5)
    pictures = tower.Pictures(8, 0)
    kinds = pictures[0]["kinds"]
    assert kinds.shape == (16,)
    assert 0 <= int(kinds.min()) <= int(kinds.max()) <= 45
    assert np.array_equal(pictures[3]["picture"], tower.Pictures(8, 0)[3]["picture"])
    sizes = Tower()
    processor = processor_for(tokenizer, sizes)
    config = body_config(AutoConfig.from_pretrained(language), tokenizer, sizes)
    model = Qwen2_5_VisionTransformerPretrainedModel(config.vision_config)
    initialise(model, 0)
    batch = tower.collate([pictures[i] for i in range(8)], processor)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        seen = model(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
        loss = (seen - table[batch["kinds"]]).pow(2).mean() / table.pow(2).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    assert 0 <= tower.accuracy(model, processor, table, pictures) <= 1
