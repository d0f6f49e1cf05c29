"""Step 2 of the recipe of a pair of adapters: RLVR of the base's adapter by GRPO (TRL), without a KL term.

The reward is 1 for a right number and 0 otherwise. Rollouts are drawn with the adapter merged, from one prefill a prompt, and
every step draws from a random stream of its own, so that an interrupted run goes on as if it had not been. The model kept is
the last: nothing is chosen. The same with a reward by lot is a control.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from datasets import Dataset
from peft.tuners.lora import LoraLayer
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer

from workbench.decoding.decode import generate_ids
from workbench.decoding.stops import Stops
from workbench.models.anatomy import Anatomy, dissect
from workbench.models.batches import problem_seed
from workbench.models.chat import tokenizer_of
from workbench.models.prompts import EncodedPrompt
from workbench.organism.grpo import reward_by_lot
from workbench.organism.lessons import draw
from workbench.organism.resuming import ResumableAdapter
from workbench.organism.shared_prompts import log_probabilities, pack
from workbench.organism.trainer_settings import rollout_settings
from workbench.problems import answers


def reward(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """1 where the number is right, else 0."""
    texts = (completion[0]["content"] for completion in completions)
    return [float(answers.verify(text, a, "numeric").correct) for text, a in zip(texts, answer, strict=True)]


def _dataset(recipe: dict[str, Any], seed: int, count: int) -> Dataset:
    """Prompts of the train split, drawn when they are asked for."""

    def render(rows: dict[str, list[int]]) -> dict[str, list[Any]]:
        lessons = [draw(recipe["problems"], seed + 1, index) for index in rows["index"]]
        pictures = [[lesson.picture] for lesson in lessons if lesson.picture]
        return {
            # the trainer itself puts the pictures before what the user says
            "prompt": [replace(lesson, picture=None).chat(recipe["system"]) for lesson in lessons],
            "answer": [lesson.answer for lesson in lessons],
            "index": rows["index"],
            **({"images": pictures} if pictures else {}),
        }

    return Dataset.from_dict({"index": list(range(count))}).with_transform(render)


@torch.no_grad()
def merge_into(actor: Any, model: Any) -> None:
    """Set the weights of `actor` to those of the peft `model` with its adapter merged."""
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            weight = cast(Any, layer.get_base_layer()).weight
            actor.get_submodule(name).weight.copy_(weight + cast(Any, layer).get_delta_weight("default"))


def pictures_of(fields: Mapping[str, Any], count: int) -> list[dict[str, torch.Tensor]]:
    """By row the patches and the grid of its picture, of a batch with one picture a row; nothing where there are none."""
    if fields.get("pixel_values") is None:
        return [{} for _ in range(count)]
    grids = fields["image_grid_thw"]
    patches = fields["pixel_values"].split(grids.prod(-1).tolist())
    return [
        {"pixel_values": part, "image_grid_thw": grid[None]}
        for part, grid in zip(patches, grids, strict=True)
    ]


class _Reader(NamedTuple):
    base: Anatomy
    processor: Any


class Grpo(ResumableAdapter, GRPOTrainer):
    """GRPOTrainer that goes on with the adapter it had, and draws its rollouts with it merged into ``actor``."""

    def __init__(self, model: Any, *args: Any, actor: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        self.counts = torch.ones(0, dtype=torch.bool)
        self.actor = dissect(actor.eval().requires_grad_(False))

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: Any,
        num_generations: int,
        has_tool_images: bool = False,
    ) -> tuple[list[list[int]], None]:
        merge_into(self.actor.model, self.model)
        reader = _Reader(self.actor, self.processing_class)
        pictures = pictures_of(multimodal_fields, len(prompt_ids))[::num_generations]
        prompts = [
            EncodedPrompt.from_tensors(
                reader, input_ids=torch.tensor([ids]), problem_id=str(place), **pictures[place]
            )
            for place, ids in enumerate(prompt_ids[::num_generations])
        ]
        stream = torch.Generator().manual_seed(
            problem_seed(self.args.seed, f"rollouts/{self.state.global_step}")
        )
        longest = cast(Any, self.args).max_completion_length
        draws = torch.rand(len(prompts), num_generations, longest, generator=stream, dtype=torch.float64)
        none = [None] * len(prompts)
        completions = generate_ids(
            self.actor,
            prompts,
            none,
            draws,
            cast(Any, self.args).temperature,
            Stops(reader.processor, self.actor),
        )
        return [[*one.ids] for samples in completions for one in samples], None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self.counts = inputs["advantages"] != 0  # of the others the gradient is 0
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        **fields: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """(rollouts, tokens) log-probabilities and entropies; 0 and the mean for rollouts that don't count."""
        real, begin = attention_mask.bool(), input_ids.shape[1] - logits_to_keep
        scored = torch.zeros_like(real)
        scored[:, begin:] = real[:, begin:] & self.counts[:, None]
        log_p = torch.zeros(input_ids.shape, device=input_ids.device)
        entropies = torch.zeros_like(log_p)
        if scored.any():
            rows = self.counts.nonzero()[:, 0].tolist()
            prompts = [input_ids[i, :begin][real[i, :begin]].tolist() for i in rows]
            completions = [input_ids[i, begin:][real[i, begin:]].tolist() for i in rows]
            seen = pictures_of(fields, len(input_ids))
            packed = pack(
                prompts,
                completions,
                tokenizer_of(self.processing_class).pad_token_id,
                [seen[i] for i in rows],
            )
            scores, entropy = log_probabilities(model, packed, cast(Any, self.args).temperature)
            log_p = log_p.masked_scatter(scored, scores)
            entropies = torch.full_like(log_p, entropy.mean().item()).masked_scatter(scored, entropy)
        else:  # a loss of 0 that can be differentiated
            log_p = log_p + sum(p.sum() for p in model.parameters() if p.requires_grad) * 0
        return log_p[:, begin:], entropies[:, begin:], None


class Checkpoints(TrainerCallback):
    """Keeps the adapter at chosen steps."""

    def __init__(self, steps: list[int], save: Callable[[int], None]) -> None:
        self.steps, self.save = steps, save

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save, where the recipe says so."""
        if state.global_step in self.steps:
            self.save(state.global_step)


def train(
    model: Any,
    actor: Any,
    reader: Any,
    recipe: dict[str, Any],
    folder: Path,
    *,
    seed: int,
    save: Callable[[int], None],
    control: bool = False,
) -> None:
    """Train the adapter of `model` in place; resumes from `folder`.

    Args:
        model: a peft model whose adapter trains.
        actor: the model without adapter, which will hold the merged weights that rollouts are drawn with.
        reader: tokenizer of both, or the processor of models that see.
        recipe: see ``smol.yaml``.
        folder: for checkpoints.
        seed: of problems, rollouts and lots.
        save: called at every step that the recipe keeps.
        control: the settings of the recipe's section `random` replace those of GRPO: a reward by lot.
    """
    grpo = recipe["grpo"] | (recipe["random"] if control else {})
    judged = reward if grpo["reward"] == "answer" else reward_by_lot(grpo["reward"], seed)
    rollouts = grpo["problems_per_step"] * grpo["rollouts"]
    arguments = GRPOConfig(
        **rollout_settings(grpo, folder, seed),
        per_device_train_batch_size=grpo["micro_batch"],
        gradient_accumulation_steps=rollouts // grpo["micro_batch"],
        beta=0.0,
        logging_steps=1,
        shuffle_dataset=False,
    )
    trainer = Grpo(
        model,
        cast(Any, judged),  # TRL's type wants positional lists; it calls with keywords
        arguments,
        train_dataset=_dataset(recipe, seed, grpo["steps"] * grpo["problems_per_step"]),
        processing_class=reader,
        callbacks=[Checkpoints(grpo["checkpoint_steps"], save)],
        actor=actor,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.exists() else None)
