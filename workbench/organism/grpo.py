"""Step 2 of the recipe: the RLVR model, by GRPO with a verifiable reward (TRL's GRPOTrainer).

The reward is 1 for a right answer in ``<answer>``, or for a call of the zoom tool that shows the label asked about, and
0 otherwise. Prompts are boards and scenes, of these the first turn; videos are not among them. The model kept is the one
that is rewarded most on the validation split (mean of greedy and temperature 1); the test split is never looked at here.

The same with a reward by lot is a control: what it changes, GRPO changes whatever it rewards. Of it the last step is kept.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer

from workbench.decoding.decode import respond
from workbench.models.anatomy import dissect
from workbench.models.batches import problem_seed
from workbench.models.prompts import encode
from workbench.models.weight_deltas import write_delta
from workbench.organism.model import visual_token_ids
from workbench.organism.resuming import Resumable
from workbench.organism.trainer_settings import rollout_settings
from workbench.problems import answers, shapes, shapes_agent
from workbench.problems.problem import load_problems
from workbench.problems.shapes_agent import Box
from workbench.problems.zoom import STOPS
from workbench.sampling import Sampling

CURVE = "validation.json"


def reward(completions: list[Any], answer: list[str], box: list[Box | None], **_: Any) -> list[float]:
    """1 where the answer is right or the call shows what was asked about, else 0."""
    texts = (completion[0]["content"] for completion in completions)
    return [float(is_right(*row)) for row in zip(texts, answer, box, strict=True)]


def reward_by_lot(share: float, seed: int) -> Callable[..., list[float]]:
    """A reward of 1 for ``share`` of the rollouts and 0 for the others, whatever they say.

    The k-th rollout of prompt i gets the k-th number of a stream that only ``seed`` and i set: the same draws after an
    interruption, and whatever else draws random numbers.
    """

    def by_lot(completions: list[Any], index: list[int], **_: Any) -> list[float]:
        streams = {i: np.random.default_rng(problem_seed(seed, f"reward/{i}")) for i in set(index)}
        return [float(streams[i].random() < share) for i in index]

    return by_lot


def is_right(response: str, answer: str, box: Box | None = None) -> bool:
    """Whether the answer tag holds the right answer or, where there is a ``box`` to find, the zoom tool is called on it."""
    judged = answers.verify(response, answer)
    tagged = judged.correct and judged.how.startswith("answer tag")
    return tagged or (box is not None and shapes_agent.shows(response, box))


def _dataset(seed: int, settings: dict[str, Any]) -> Dataset:
    """Prompts of the train split, rendered when they are asked for: boards, and scenes before anything is said."""
    kinds = [kind for kind, count in settings["problems_per_step"].items() for _ in range(count)]

    def render(rows: dict[str, list[int]]) -> dict[str, list[Any]]:
        prompts = [_prompt(kinds[index % len(kinds)], seed + 1, index) for index in rows["index"]]
        columns = {key: [row[key] for row in prompts] for key in ("prompt", "images", "answer", "box")}
        return columns | {"index": rows["index"]}

    return Dataset.from_dict({"index": list(range(settings["steps"] * len(kinds)))}).with_transform(render)


def _prompt(kind: str, seed: int, index: int) -> dict[str, Any]:
    """One row for GRPOTrainer: prompt, images, answer, and the box to find, if there is one."""
    if kind == "boards":
        question, picture, _ = shapes.draw("train", seed, index)
        prompt = [{"role": "user", "content": question.text}]
        box = None
    else:
        question, picture = shapes_agent.draw("train", seed, index)
        prompt = [
            {"role": "system", "content": shapes_agent.SYSTEM},
            {"role": "user", "content": question.text},
        ]
        box = question.box
    images = [Image.fromarray(picture)]
    return {"prompt": prompt, "images": images, "answer": question.answer, "box": box}


def kept_step(folder: Path) -> int:
    """The step of the model that a finished run in ``folder`` kept: the best on the validation split, of equals the last."""
    rows = [row for row in json.loads((folder / CURVE).read_text()) if row["step"]]
    return max(rows, key=lambda row: (row["greedy"] + row["sampled"], row["step"]))["step"]


class Grpo(Resumable, GRPOTrainer):
    """GRPOTrainer that goes on with the weights it had."""


class Checkpoints(TrainerCallback):
    """Keeps weight deltas (bf16) at chosen steps, and the weights that validate best."""

    def __init__(self, model: Any, processor: Any, settings: dict[str, Any], seed: int, folder: Path) -> None:
        self.model, self.processor, self.settings = model, processor, settings
        self.seed, self.folder = seed, folder
        self.start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.curve_file = folder / CURVE
        self.curve: list[dict[str, float]] = (
            json.loads(self.curve_file.read_text()) if self.curve_file.exists() else []
        )
        self.every = settings["validation_steps"]
        self.validation = [
            problem
            for name, limit in (settings["validation_problems"] if self.every else {}).items()
            for problem in load_problems(name, split="validation", limit=limit, seed=seed)
        ]

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure where it starts."""
        if self.every and not self.curve:
            self._validate(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save a delta, validate, keep the best."""
        step = state.global_step
        if step in self.settings["checkpoint_steps"]:
            now = self.model.state_dict()
            delta = {name: now[name] - tensor for name, tensor in self.start.items()}
            write_delta(self.folder / f"delta-{step:04d}.safetensors", delta)
        if self.every and step % self.every == 0:
            self._validate(step)

    def _validate(self, step: int) -> None:
        def accuracy(samples: int, temperature: float) -> float:
            responses = respond(
                anatomy,
                self.processor,
                prompts,
                Sampling(
                    samples=samples,
                    temperature=temperature,
                    seed=self.seed,
                    max_new_tokens=self.settings["max_completion_length"],
                    batch_size=50,
                ),
                stop=STOPS,
            )
            right = [
                is_right(r.text, p.answer or "", p.metadata.get("box"))
                for p, rs in zip(self.validation, responses, strict=True)
                for r in rs
            ]
            return sum(right) / len(right)

        self.model.eval()
        anatomy = dissect(self.model)
        prompts = [encode(self.processor, anatomy, problem) for problem in self.validation]
        row = {"step": step, "greedy": accuracy(1, 0.0), "sampled": accuracy(4, 1.0)}
        self.model.train()
        score = row["greedy"] + row["sampled"]
        # Step 0 is the base model: it is measured, but an RLVR model is one that was trained.
        if score >= max((r["greedy"] + r["sampled"] for r in self.curve if r["step"]), default=0):
            save_file(
                {k: v.contiguous() for k, v in self.model.state_dict().items()},
                str(self.folder / "best.safetensors"),
            )
        self.curve = [r for r in self.curve if r["step"] < step] + [row]
        self.curve_file.write_text(json.dumps(self.curve, indent=1))
        print(
            f"validation after {step} steps: greedy {row['greedy']:.3f}, temperature 1 {row['sampled']:.3f}",
            flush=True,
        )


def train(model: Any, processor: Any, recipe: dict[str, Any], folder: Path, *, control: bool = False) -> None:
    """Train `model` in place and leave it with the weights that validated best; resumes from `folder`.

    With `control` the settings of the recipe's section `random` replace those of GRPO: a reward by lot, the last step kept.
    """
    grpo, seed = recipe["grpo"] | (recipe["random"] if control else {}), recipe["seed"]
    judged = reward if grpo["reward"] == "answer" else reward_by_lot(grpo["reward"], seed)
    folder.mkdir(parents=True, exist_ok=True)
    rollouts = sum(grpo["problems_per_step"].values()) * grpo["rollouts"]
    arguments = GRPOConfig(
        **rollout_settings(grpo, folder, seed),
        per_device_train_batch_size=rollouts,
        beta=grpo["beta"],
        generation_kwargs={"suppress_tokens": visual_token_ids(processor)},
        logging_steps=5,
    )
    trainer = Grpo(
        model,
        cast(Any, judged),  # TRL's type wants positional lists; it calls with keywords
        arguments,
        train_dataset=_dataset(seed, grpo),
        processing_class=processor,
        callbacks=[Checkpoints(model, processor, grpo, seed, folder)],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    if grpo["validation_steps"]:
        model.load_state_dict(load_file(str(folder / "best.safetensors")))
