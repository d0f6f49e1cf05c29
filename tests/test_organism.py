"""The recipe runs, resumes, and trains on exactly what single prompts would show; the evaluation counts right."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration

from workbench import answers, load_pair, load_problems, shapes
from workbench.errors import InputError
from workbench.organism import data, evaluation, grpo, model, sft, training
from workbench.problems import Problem


@pytest.fixture(scope="module")
def recipe():
    small = yaml.safe_load(training.RECIPE.read_text())
    small["model"] = {
        "hidden_size": 40,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vision_hidden_size": 32,
        "vision_depth": 1,
    }
    small["sft"] |= {
        "steps": 4,
        "boards_per_step": 2,
        "auxiliary_layer": 0,
        "save_steps": 2,
        "warmup_steps": 1,
    }
    small["grpo"] |= {
        "steps": 2,
        "problems_per_step": 2,
        "rollouts": 2,
        "max_completion_length": 4,
        "checkpoint_steps": [1],
        "validation_problems": 3,
        "validation_steps": 1,
        "save_steps": 1,
    }
    small["control"] |= {"steps": 2, "warmup_steps": 1}
    return small


@pytest.fixture(scope="module")
def processor():
    return model.build_processor(model.corpus(["is there a red shape?"], boards=300), 480)


@pytest.fixture(scope="module")
def organism(processor, recipe):
    return model.build_model(processor, recipe["model"], seed=0).eval()


def conversation(question: str, picture: np.ndarray):
    content = [{"type": "image", "image": Image.fromarray(picture)}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def encode(processor, question: str, picture: np.ndarray):
    return processor.apply_chat_template(
        conversation(question, picture),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def test_the_tokenizer_reads_any_text_back(processor):
    for text in (
        "How many red circles are there?",
        "café <script> 42\n\t漢字",
        shapes.problems("test", 1)[0]["chain"],
    ):
        ids = processor.tokenizer(text)["input_ids"]
        assert processor.tokenizer.decode(ids) == text
    assert len(processor.tokenizer("<think> 12</think>")["input_ids"]) == 3


def test_patches_equal_the_processors(processor):
    picture = shapes.draw("train", 0, 0)[1]
    expected = processor.image_processor(images=[Image.fromarray(picture)], return_tensors="pt")[
        "pixel_values"
    ]
    assert (data.patchify(torch.from_numpy(picture)[None]) - expected).abs().max() < 1e-6


def test_a_packed_question_sees_what_a_single_prompt_sees(organism, processor, recipe):
    packed = data.PackedBoards(processor.tokenizer, recipe["sft"], seed=0)
    question, picture = shapes.draw("train", 0, 0)
    texts = [("What color is the shape in row a column 1?", "x"), (question.text, question.response())]
    blank = torch.full((shapes.BOARD**2,), data.IGNORE)
    cells = {"color": blank, "shape": blank, "counts": blank[:, None]}
    batch = data.collate([{**packed._pack(texts), "picture": torch.from_numpy(picture), **cells}], pad=0)
    document = packed._pack(texts)["document"]
    solo = encode(processor, question.text, picture)
    response = torch.tensor([processor.tokenizer(question.response() + "<|im_end|>")["input_ids"]])
    solo["input_ids"] = torch.cat([solo["input_ids"], response], 1)
    solo["attention_mask"] = torch.ones_like(solo["input_ids"])
    solo["mm_token_type_ids"] = torch.nn.functional.pad(solo["mm_token_type_ids"], (0, response.shape[1]))
    given = {
        k: batch[k] for k in ("input_ids", "position_ids", "attention_mask", "pixel_values", "image_grid_thw")
    }
    with torch.no_grad():
        together = organism.model(**given, use_cache=False).last_hidden_state[0]
        alone = organism.model(**solo, use_cache=False).last_hidden_state[0]
    kept = (document == 0) | (document == 2)
    assert torch.equal(batch["input_ids"][0][kept], solo["input_ids"][0])
    assert (together[kept] - alone).abs().max() < 1e-5


def test_the_recipe_runs_stops_and_goes_on(tmp_path, recipe):
    training.train(tmp_path / "pair", recipe)
    base, rlvr = (load_file(tmp_path / "pair" / m / "model.safetensors") for m in ("base", "rlvr"))
    assert not any("probe" in name for name in base)
    assert base.keys() == rlvr.keys()
    assert (tmp_path / "pair" / "grpo" / "delta-0001.safetensors").exists()
    training.publish(tmp_path / "pair", tmp_path / "weights")
    sums = (tmp_path / "weights" / "SHA256SUMS").read_text().splitlines()
    assert [line.split()[1] for line in sums] == [
        "base/model.safetensors",
        "control/sft.safetensors",
        "deltas/0001.safetensors",
        "rlvr/model.safetensors",
    ]
    kept = pd.read_csv(tmp_path / "weights" / "curves.csv")
    assert {"greedy", "sampled", "text"} <= set(kept["measure"])
    before = (tmp_path / "pair" / "base" / "model.safetensors").stat().st_mtime_ns
    training.train(tmp_path / "pair", recipe)
    assert (tmp_path / "pair" / "base" / "model.safetensors").stat().st_mtime_ns == before
    pair = load_pair(base=tmp_path / "pair" / "base", rlvr=tmp_path / "pair" / "rlvr")
    assert pair.encode(load_problems("shapes", limit=1)[0]).kinds.eq(1).sum() == shapes.BOARD**2


def test_an_interrupted_sft_ends_where_an_undisturbed_one_does(tmp_path, processor, recipe):
    whole, broken = (model.build_model(processor, recipe["model"], seed=0) for _ in range(2))
    sft.train(whole, processor, recipe, tmp_path / "whole")
    sft.train(broken, processor, recipe, tmp_path / "broken")
    for folder in (tmp_path / "broken").glob("checkpoint-4"):
        folder.rename(tmp_path / "later")
    resumed = model.build_model(processor, recipe["model"], seed=1)
    sft.train(resumed, processor, recipe, tmp_path / "broken")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-6


def test_an_easy_vqa_record_knows_its_picture():
    records = data.easy_vqa("test")
    known = [r for r in records if r["color"] and r["shape"]]
    assert len(known) > 0.8 * len(records)
    for record in known[:50]:
        for text, answer in record["asked"]:
            if text.startswith("what shape"):
                assert answer == record["shape"]
            if text.startswith("what color"):
                assert answer == record["color"]


def test_reward_is_the_right_answer_and_nothing_else():
    said = ["<answer> 3</answer>", "<answer>4</answer>", "3", "<answer>4</answer> <answer> 3 </answer>"]
    assert grpo.reward([[{"content": s}] for s in said], ["3"] * 4) == [1.0, 0.0, 0.0, 1.0]
    assert answers.extract("no tags")[0] is None
    assert answers.verify("<answer>Red</answer>", "red").correct


def test_the_table_reads_as_markdown(tmp_path, organism, processor):
    for name in ("base", "rlvr"):
        organism.save_pretrained(tmp_path / name)
    processor.save_pretrained(tmp_path / "base")
    table = evaluation.evaluate(tmp_path, problems=5, samples=2, easy_vqa=0)
    assert set(table["model"]) == {"chance", "base", "rlvr", "rlvr - base"}
    differences = table[table["model"] == "rlvr - base"]
    assert (differences["estimate"] == 0).all()
    text = evaluation.as_markdown(table)
    assert text.splitlines()[0] == "| | chance | base | rlvr | rlvr - base |"
    assert "greedy, lookup" in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: training.read_recipe(p / "none.yaml"), "`recipe` .* can't be read"),
        (lambda p: evaluation.evaluate(p), "holds no model; train one with `workbench organism train`"),
        (lambda p: evaluation.evaluate(p, samples=0), "`samples` is 0"),
    ],
)
def test_bad_input(tmp_path, call, message):
    with pytest.raises(InputError, match=message):
        call(tmp_path)


def test_a_recipe_without_a_section_is_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("seed: 1\n")
    with pytest.raises(InputError, match="lacks vocabulary, model, sft, grpo"):
        training.read_recipe(tmp_path / "r.yaml")


def test_problem_answers_are_what_the_reward_accepts():
    for problem in load_problems("shapes", limit=10):
        assert isinstance(problem, Problem)
        assert answers.verify(problem.metadata["chain"], problem.answer or "").correct


def test_weights_load_as_any_checkpoint(tmp_path, organism, processor):
    organism.save_pretrained(tmp_path)
    again = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(organism.parameters(), again.parameters(), strict=True))
