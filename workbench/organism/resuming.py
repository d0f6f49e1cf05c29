"""Trainers that go on with the weights they had.

transformers' Trainer saves a model under the names of published checkpoints and looks for the module's own when it resumes. It
loads what happens to have the same name (of Qwen2.5-VL the unembedding alone), warns, and trains on from the rest as it finds it.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from workbench.errors import InputError

STATE = "state.safetensors"


class Resumable:
    """To be mixed into a Trainer: saves and loads weights under the module's own names, all of them."""

    model: Any
    args: Any

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.model.state_dict().items()}, str(folder / STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.model.load_state_dict(load_file(str(Path(resume_from_checkpoint) / STATE)))


class ResumableAdapter(Resumable):
    """The same for a model of which only an adapter trains: saves and loads what trains."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: p.detach().contiguous() for k, p in self._trained().items()}, str(folder / STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved, trained = load_file(str(Path(resume_from_checkpoint) / STATE)), self._trained()
        if saved.keys() != trained.keys():
            raise InputError(
                f"{resume_from_checkpoint} holds another adapter than the recipe's; train into another folder: --out"
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(saved[name])

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}
