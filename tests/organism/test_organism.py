"""The recipe runs, resumes, and trains on exactly what single prompts would show; the evaluation counts right."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration
from trl.data_utils import prepare_multimodal_messages

from workbench import load_pair, load_problems
from workbench.errors import InputError
from workbench.models.anatomy import dissect
from workbench.models.chat import Message
from workbench.models.prompts import encode
from workbench.organism import data, evaluation, grpo, model, sft, training
from workbench.organism.recipes import read_recipe
from workbench.problems import answers, shapes, shapes_agent, shapes_video
from workbench.problems.problem import Problem


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
        "problems_per_step": {"boards": 1, "scenes": 1},
        "rollouts": 2,
        "max_completion_length": 4,
        "checkpoint_steps": [1],
        "validation_problems": {"shapes": 2, "shapes-agent": 1},
        "validation_steps": 1,
        "save_steps": 1,
    }
    small["control"] |= {"warmup_steps": 1}
    small["random"] |= {"steps": 2}
    return small


@pytest.fixture(scope="module")
def processor():
    return model.build_processor(model.corpus(["is there a red shape?"], boards=300), 480)


@pytest.fixture(scope="module")
def organism(processor, recipe):
    return model.build_model(processor, recipe["model"], seed=0).eval()


def test_the_tokenizer_reads_any_text_back(processor):
    for text in (
        "How many red circles are there?",
        "café <script> 42\n\t漢字",
        next(shapes.problems("test", 1))["chain"],
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


MODEL_INPUTS = (
    *("input_ids", "position_ids", "attention_mask"),
    *("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"),
)


def board_example(packed):
    question, picture, _ = shapes.draw("train", 0, 0)
    view = data._unknown_view(picture)
    other = (
        data.Said("What color is the shape in row a column 1?" + data.ANSWER),
        data.Said("x", learnt=True),
    )
    branches = [other, packed._branch(question, np.random.default_rng(0))]
    return packed.packer.pack((data.OPENING, view, data.VISION_END), branches), ()


def video_example(packed):
    question, pictures = shapes_video.draw("train", 0, 0)
    branch = (
        data.OPENING,
        data._unknown_view(pictures),
        data.VISION_END,
        *packed._branch(question, np.random.default_rng(0)),
    )
    return packed.packer.pack((), [branch, branch]), ()


def agent_example(packed):
    rng = np.random.default_rng([shapes.SPLITS["train"], 0, 0, 3])  # the stream of problem 0
    scene = shapes_agent.sample_scene(rng)
    question = shapes_agent.ask(scene, "detail", rng)
    assert question is not None
    picture = shapes_agent.render_scene(scene, rng)
    system = data.Said(f"<|im_start|>system\n{shapes_agent.SYSTEM}<|im_end|>\n")
    shared = (system, data.OPENING, data._unknown_view(data.shrunk(picture)), data.VISION_END)
    branch = packed._search(question, scene, picture, rng)
    turns = (
        Message("assistant", (question.call,)),
        Message("user", shapes_agent.zoomed(question, picture)[1]),
    )
    return packed.packer.pack(shared, [branch, branch]), turns


@pytest.mark.parametrize(
    ("name", "build", "responses"),
    [("shapes", board_example, 1), ("shapes-video", video_example, 2), ("shapes-agent", agent_example, 4)],
)
def test_a_packed_question_sees_what_a_single_prompt_sees(
    organism, processor, recipe, name, build, responses
):
    careful = recipe["sft"] | {"hasty_share": dict.fromkeys(shapes.TONES, 0.0)}
    example, turns = build(data.PackedBoards(processor.tokenizer, careful, seed=0))
    batch = data.collate([example], pad=0)
    solo = encode(processor, dissect(organism), load_problems(name, split="train", limit=1)[0], turns)
    with torch.no_grad():
        given = {key: batch[key] for key in MODEL_INPUTS if key in batch}
        together = organism.model(**given, use_cache=False).last_hidden_state[0]
        alone = organism.model(**solo.model_inputs, use_cache=False).last_hidden_state[0]
    kept = torch.isin(example["document"], torch.tensor([0, 2])).nonzero()[: len(solo), 0]
    assert torch.equal(batch["input_ids"][0][kept], solo.input_ids)
    assert (together[kept] - alone).abs().max() < 1e-5
    learnt = example["labels"][example["labels"] != data.IGNORE]
    assert processor.tokenizer.decode(learnt).count("<|im_end|>") == responses


def test_the_head_is_told_what_each_cell_holds(processor, recipe):
    packed = data.PackedBoards(processor.tokenizer, recipe["sft"], seed=0)
    batch = data.collate([packed._videos(np.random.default_rng(0))], pad=0)
    assert batch["row"].tolist() == [[0, 0, 1, 1] * 4] * recipe["sft"]["videos_per_example"]
    assert batch["column"].tolist() == [[0, 1, 0, 1] * 4] * recipe["sft"]["videos_per_example"]
    careful = recipe["sft"] | {"hasty_share": dict.fromkeys(shapes.TONES, 0.0)}
    scene = data.collate(
        [data.PackedBoards(processor.tokenizer, careful, 0)._scene(np.random.default_rng(0))], 0
    )
    known = (scene["color"] != data.IGNORE).sum(1).tolist()
    assert known == [16, 1]  # the whole picture, and of the crop the mark


def test_the_step_that_validates_best_is_kept_of_equals_the_last(tmp_path):
    curve = [(0, 0.9, 0.9), (25, 0.5, 0.4), (50, 0.4, 0.5), (75, 0.3, 0.3)]
    rows = [{"step": step, "greedy": greedy, "sampled": sampled} for step, greedy, sampled in curve]
    (tmp_path / grpo.CURVE).write_text(json.dumps(rows))
    assert grpo.kept_step(tmp_path) == 50


def test_muon_takes_torchs_steps():
    torch.manual_seed(0)
    sizes = ((8, 12), (12, 8), (8, 12))
    ours = [torch.nn.Parameter(torch.randn(size)) for size in sizes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizers = (
        sft.Muon(ours, lr=0.01, weight_decay=0.02),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        assert (
            one - other
        ).abs().max() < 2e-3  # torch's are in bfloat16; five steps move entries by up to 0.1


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
        "control/random.safetensors",
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


def test_an_interrupted_grpo_goes_on_with_the_weights_it_had(tmp_path, processor, recipe):
    """Not with those that the model it is given starts from."""
    model.build_model(processor, recipe["model"], seed=0).save_pretrained(tmp_path / "base")
    first, fresh = (Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "base") for _ in range(2))
    with torch.no_grad():
        for weight in fresh.parameters():
            weight.add_(1.0)
    grpo.train(first, processor, recipe, tmp_path, control=True)
    (last,) = tmp_path.glob("checkpoint-2")
    last.rename(tmp_path / "later")
    before = load_file(tmp_path / "checkpoint-1" / "state.safetensors")
    grpo.train(fresh, processor, recipe, tmp_path, control=True)
    moved = max((tensor - before[name]).abs().max().item() for name, tensor in fresh.state_dict().items())
    assert 0 < moved < 3 * recipe["grpo"]["learning_rate"]  # one step of Adam


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


def test_a_call_that_shows_the_label_is_rewarded_too():
    question, _ = shapes_agent.draw("train", 0, 0)
    assert grpo.is_right(question.call, question.answer, question.box)
    assert not grpo.is_right(question.call, question.answer)
    everything = question.call.partition("[")[0] + "[0, 0, 448, 448]}}</tool_call>"
    assert not grpo.is_right(everything, question.answer, question.box)
    elsewhere = [(edge + 224) % 448 for edge in question.box[:2]]
    box = [*elsewhere, elsewhere[0] + 112, elsewhere[1] + 112]
    assert not grpo.is_right(
        question.call.partition("[")[0] + f"{box}}}}}</tool_call>", question.answer, question.box
    )
    assert grpo.is_right(question.reading, question.answer, question.box)


@pytest.mark.parametrize(("kind", "name"), [("boards", "shapes"), ("scenes", "shapes-agent")])
def test_rl_prompts_are_what_the_models_are_asked(processor, organism, kind, name):
    row = grpo._prompt(kind, 0, 0)
    filled = prepare_multimodal_messages(row["prompt"], row["images"])
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    theirs = processor.apply_chat_template(filled, **options)
    ours = encode(processor, dissect(organism), load_problems(name, split="train", limit=1)[0])
    assert torch.equal(theirs["input_ids"][0], ours.input_ids)
    assert torch.equal(theirs["pixel_values"], ours.model_inputs["pixel_values"])


def test_reward_is_the_right_answer_and_nothing_else():
    said = ["<answer> 3</answer>", "<answer>4</answer>", "3", "<answer>4</answer> <answer> 3 </answer>"]
    assert grpo.reward([[{"content": s}] for s in said], ["3"] * 4, [None] * 4) == [1.0, 0.0, 0.0, 1.0]
    assert answers.extract("no tags " * 60)[0] is None
    assert answers.verify("<answer>Red</answer>", "red").correct


def test_a_reward_by_lot_hangs_on_nothing_but_seed_prompt_and_rollout():
    judge, index = grpo.reward_by_lot(0.3, seed=0), np.repeat(range(500), 4).tolist()
    drawn = judge(["right"] * len(index), index=index, answer=["x"] * len(index))
    assert set(drawn) == {0.0, 1.0}
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.03)
    assert len({tuple(drawn[i : i + 4]) for i in range(0, len(drawn), 4)}) > 8
    np.random.default_rng().random(7)
    torch.rand(3)
    assert judge(["wrong"] * 8, index=index[40:48]) == drawn[40:48]
    assert grpo.reward_by_lot(0.3, seed=1)(["right"] * len(index), index=index) != drawn


def test_the_control_by_lot_differs_from_rlvr_in_its_reward_alone(recipe):
    """And in being neither validated nor chosen: the same prompts, optimizer and KL weight."""
    usual, control = recipe["grpo"], recipe["grpo"] | recipe["random"]
    assert {key for key in usual if usual[key] != control[key]} == {
        *("reward", "checkpoint_steps", "validation_steps")
    }
    assert read_recipe(None, training.RECIPE)["random"]["steps"] is None  # as many as the model that is kept


def test_the_table_reads_as_markdown(tmp_path, organism, processor):
    for name in ("base", "rlvr"):
        organism.save_pretrained(tmp_path / name)
    processor.save_pretrained(tmp_path / "base")
    table = evaluation.evaluate(tmp_path, problems=5, samples=2, videos=3, scenes=2, easy_vqa=0)
    assert set(table["model"]) == {"chance", "base", "rlvr", "rlvr - base"}
    differences = table[table["model"] == "rlvr - base"]
    assert (differences["estimate"] == 0).all()
    text = evaluation.as_markdown(table)
    assert text.splitlines()[0] == "| | chance | base | rlvr | rlvr - base |"
    assert "greedy, lookup" in text
    assert {"shapes-video, Pass@1", "shapes-agent, greedy, detail"} <= set(table["measure"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: read_recipe(p / "none.yaml", training.RECIPE), "`recipe` .* can't be read"),
        (lambda p: evaluation.evaluate(p), "holds no model, base/model.safetensors is missing; train one"),
        (lambda p: evaluation.evaluate(p, samples=0), "`samples` is 0"),
    ],
)
def test_bad_input(tmp_path, call, message):
    with pytest.raises(InputError, match=message):
        call(tmp_path)


def test_a_recipe_without_a_section_is_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("seed: 1\n")
    with pytest.raises(InputError, match="lacks vocabulary, model, sft, grpo"):
        read_recipe(tmp_path / "r.yaml", training.RECIPE)


def test_problem_answers_are_what_the_reward_accepts():
    for problem in load_problems("shapes", limit=10):
        assert isinstance(problem, Problem)
        assert answers.verify(problem.metadata["chain"], problem.answer or "").correct


def test_weights_load_as_any_checkpoint(tmp_path, organism, processor):
    organism.save_pretrained(tmp_path)
    again = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(organism.parameters(), again.parameters(), strict=True))
