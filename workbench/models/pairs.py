"""A base model and the RLVR model post-trained from it, and what suits them. `loading.load_pair` makes one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.errors import InputError
from workbench.interventions import Patch, Replay, default_matrix
from workbench.models.anatomy import Anatomy
from workbench.models.chat import Message, tokenizer_of
from workbench.models.pair_html import pair_html
from workbench.models.presets import NO_PRESET, PairPreset
from workbench.models.prompts import EncodedPrompt, encode, show_token
from workbench.problems.problem import Problem
from workbench.sampling import Sampling

_UNKNOWN = 32_768  # positions of a model whose config does not say


@dataclass(frozen=True, eq=False)
class ModelPair:
    """Two models that read the same encoded prompt, position by position."""

    name: str
    base: Anatomy
    rlvr: Anatomy
    processor: Any | None = field(repr=False)
    """A transformers processor, or a tokenizer for text-only pairs; with None only `from_tensors` encodes."""
    provenance: Mapping[str, Any] = field(repr=False)
    """What was loaded (ids, revisions, dtype, device, attention kernel) and the library versions."""
    preset: PairPreset | None = field(default=None, repr=False)
    """What it was loaded by, where it was loaded by name."""

    def __repr__(self) -> str:
        return (
            f"ModelPair({self.name!r}, {self.base.family}, {self.depth} layers, hidden "
            f"{self.base.hidden_size}, vocabulary {self.vocab_size}, {self.dtype}, {self.device})"
        )

    def _repr_html_(self) -> str:
        return pair_html(self)

    @property
    def device(self) -> torch.device:
        """Where a prompt has to be: the device of the base model's input embedding."""
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the base model's unembedding."""
        return self.base.dtype

    @property
    def depth(self) -> int:
        """Decoder layers of each model."""
        return self.base.depth

    @property
    def vocab_size(self) -> int:
        """Unembedding rows that both models have; any further ones are padding that no token uses."""
        return min(self.base.vocab_size, self.rlvr.vocab_size)

    @property
    def tokenizer(self) -> Any | None:
        """The processor's tokenizer; None without one."""
        return tokenizer_of(self.processor)

    @property
    def pad_id(self) -> int:
        """Token id for padded positions: masked, so any id serves that stands for no picture."""
        pad = getattr(self.tokenizer, "pad_token_id", None)
        if pad is not None and pad not in self.base.visual_token_ids:
            return pad
        return next(i for i in range(self.vocab_size) if i not in self.base.visual_token_ids)

    def encode(
        self,
        problem: Problem | EncodedPrompt,
        turns: Sequence[Message] = (),
        *,
        response: str | Sequence[int] | None = None,
    ) -> EncodedPrompt:
        """Encode a problem, and the turns after it, for both models, on the CPU; raises what `prompts.encode` raises.

        A pair loaded by name is asked in its preset's words. What is encoded already stays as it is. A ``response`` (text, or the
        ids of one: `Response.ids`) follows it, so that a trace also covers what a model said.
        """
        if response is not None:
            ids = self.ids_of(response)
            whole = self.encode(problem, turns).continued(ids, [self.decode_token(i) for i in ids.tolist()])
            self.check_room(whole)
            return whole
        if isinstance(problem, EncodedPrompt):
            if turns:
                raise InputError(
                    "`turns` follow a problem, and `problem` is encoded already: pair.encode(problem, turns)"
                )
            return problem
        if not isinstance(problem, Problem):
            raise InputError(
                f"`problem` is a {type(problem).__name__}; expected a Problem: "
                "pair.encode(load_problems('shapes', limit=1)[0])"
            )
        own = problem if self.preset is None else self.preset.asked(problem)
        return encode(self.processor, self.base, own, turns)

    def ids_of(self, response: str | Sequence[int]) -> Int[Tensor, " tokens"]:
        """Token ids of a response, as it follows a prompt; of text without the token that ends it.

        Raises:
            InputError: text without a tokenizer, a response without tokens, one with placeholders of pictures, or ids that
                the vocabulary does not have.
        """
        if isinstance(response, str) and self.tokenizer is None:
            raise InputError(
                "`pair` has no tokenizer, so a response can't be turned into tokens: load_pair(..., processor=<folder or hub id>)"
            )
        ids = response
        if isinstance(response, str):
            tokenizer: Any = self.tokenizer
            ids = tokenizer(response, add_special_tokens=False)["input_ids"]
        if not len(ids):
            raise InputError(f"`response` {response!r} has no tokens; give one such as '<answer> 3</answer>'")
        ids = [*map(int, ids)]
        if outside := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise InputError(
                f"`response` holds token {outside[0]}, and the vocabulary of {self.name!r} has {self.vocab_size}: these are ids "
                "of another tokenizer; give the text: pair.encode(problem, response=response.text)"
            )
        if pictures := [i for i in ids if i in self.base.visual_token_ids]:
            raise InputError(
                f"`response` holds the placeholder {self.decode_token(pictures[0])!r} (token {pictures[0]}), for which there "
                "is no picture; take it out: pair.encode(problem, response='<answer> 3</answer>')"
            )
        return torch.tensor(ids, dtype=torch.int64)

    @property
    def context(self) -> int:
        """Positions that both models were made for; 32,768 where a config does not say."""
        configs = [anatomy.model.config.get_text_config() for anatomy in (self.base, self.rlvr)]
        return min(getattr(config, "max_position_embeddings", None) or _UNKNOWN for config in configs)

    def check_room(self, prompt: EncodedPrompt) -> None:
        """Raise InputError where a prompt with its response is longer than the context."""
        if len(prompt) > self.context:
            start = prompt.response_start
            raise InputError(
                f"`response` to {prompt.problem_id!r} has {len(prompt) - start:,} tokens after {start:,} of the prompt; "
                f"{self.name!r} reads {self.context:,} positions: give its first {max(0, self.context - start):,} tokens, "
                f"response=ids[:{max(0, self.context - start)}]"
            )

    def replay(self, **changes: Any) -> Replay:
        """A `Replay` with the settings that suit the pair, its preset's or the paper's, but for ``changes``.

        Raises:
            InputError: what `Replay` refuses.

        Example:
            >>> wb.load_pair("shapes").replay(select="high").layers
            5
        """
        mid = changes.get("site") == "mid_tokens"
        own = {name: value for name, value in self._default.replay.items() if not (mid and name == "layers")}
        where = {} if self.reads_pictures else {"positions": "text"}
        return Replay(**{**where, **own, **changes})

    def patch(self, **changes: Any) -> Patch:
        """A `Patch` with the settings that suit the pair, but for ``changes``.

        Raises:
            InputError: what `Patch` refuses.
        """
        suits = self._default.matrix(changes)
        shared = {name: suits[name] for name in ("tau", "threshold") if name in suits}
        layers = len(Replay(layers=suits.get("layers")).loss_layers(self.depth))
        return Patch(**{"layers": layers, **shared, **suits.get("patch", {}), **changes})

    def matrix(self, **changes: Any) -> dict[str, Replay | Patch]:
        """`default_matrix` with the settings that suit the pair, but for ``changes`` (arguments of `default_matrix`).

        Raises:
            InputError: what `Replay` and `Patch` refuse.
        """
        settings = {**self._default.matrix(changes), "pictures": self.reads_pictures, **changes}
        return default_matrix(self.depth, **settings)

    def sampling(self, **changes: Any) -> Sampling:
        """How responses are drawn, with what suits the pair where ``changes`` has nothing or None.

        Raises:
            InputError: a number outside its range.
        """
        own = {"max_new_tokens": self._default.longest_answer, "batch_size": self._default.batch_size}
        settings = {name: value for name, value in changes.items() if value is not None}
        sampling = Sampling(**own | settings)
        sampling.check()
        return sampling

    @property
    def reads_pictures(self) -> bool:
        """Whether the models have visual tokens."""
        return bool(self.base.visual_token_ids)

    @property
    def _default(self) -> PairPreset:
        return self.preset or NO_PRESET

    def decode_token(self, token_id: int) -> str:
        """Display string of a token id; ``"#17"`` when there is no tokenizer."""
        return show_token(self.tokenizer, token_id)


def weights_of(pair: ModelPair) -> dict[str, str]:
    """The fingerprints of a pair's weights, by role."""
    return {role: str(pair.provenance[role]["weights"]) for role in ("base", "rlvr")}


def is_bundled(pair: ModelPair) -> bool:
    """Whether the pair ships with the package."""
    return pair.preset is not None and pair.preset.bundled


def longest_answer(pair: ModelPair) -> int:
    """Where `decode` may cut a pair's responses off without loss, in tokens."""
    return (pair.preset or NO_PRESET).longest_answer


def batch_of(pair: ModelPair, given: int | None = None) -> int:
    """Prompts per forward: those given, else what suits a pair: many for tiny bundled ones, whose cost is mostly per call."""
    return (pair.preset or NO_PRESET).batch_size if given is None else given


def study_settings(pair: ModelPair) -> dict[str, int]:
    """Draws of matched noise and null models of each kind that suit a pair."""
    return (pair.preset or NO_PRESET).study_settings


def answers_are_dear(pair: ModelPair) -> bool:
    """Whether answers take so long that its preset has a study draw them on some problems alone (``answers``)."""
    return "answers" in study_settings(pair)
