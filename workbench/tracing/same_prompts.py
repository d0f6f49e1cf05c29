"""Whether what was read is of the same prompts, and by the same models, as what it is to stand beside.

Numbers of two readings are joined cell by cell. Those of other prompts, or of one with another picture, have often the same
shape, and nothing in the numbers would tell. A prompt is known by its `EncodedPrompt.fingerprint`: problem, tokens and pictures.
Records of earlier versions lack it, and are known by problem and tokens alone.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from workbench.errors import InputError
from workbench.models.identity import recorded_weights
from workbench.models.prompts import EncodedPrompt
from workbench.tracing.lens_trace import LensTrace

Prompts = LensTrace | Sequence[EncodedPrompt]
"""What was traced, or is to be read."""


class _Known(NamedTuple):
    """What a prompt is known by."""

    problem_id: str
    tokens: list[int]
    fingerprint: str
    """Empty where it was not recorded."""

    def same(self, other: "_Known") -> bool:
        recorded = self.fingerprint and other.fingerprint
        return self.fingerprint == other.fingerprint if recorded else self[:2] == other[:2]

    def differs(self, other: "_Known") -> str:
        """What of the two is not the same, in words."""
        if self.problem_id != other.problem_id:
            return f"is {self.problem_id!r}, expected {other.problem_id!r}"
        what = "other pictures" if self.tokens == other.tokens else "other tokens"
        return f"{self.problem_id!r} has {what} than there"


def check_same_prompts(
    name: str, read: Prompts, expected: Prompts, call: str, *, leading: bool = False
) -> None:
    """Refuse what is of other prompts, or of these in another order.

    Args:
        name: what it is, as the caller names it.
        read: what it was read of.
        expected: what it should have been read of.
        call: one that would work.
        leading: whether the first few of those expected will do.

    Raises:
        InputError: names the first prompt that differs.
    """
    held, wanted = _known(read), _known(expected)
    if len(held) > len(wanted) or (len(held) < len(wanted) and not leading):
        raise InputError(f"{name} has {len(held)} prompts, expected the same {len(wanted)}: {call}")
    for number, (own, other) in enumerate(zip(held, wanted, strict=False)):
        if not own.same(other):
            raise InputError(
                f"{name} holds other prompts, or these in another order: prompt {number} {own.differs(other)}; read the same "
                f"list: {call}"
            )


def check_same_models(name: str, read: Mapping[str, str], expected: Mapping[str, str], call: str) -> None:
    """Refuse what was read of other weights; a model that either lacks is not held against it.

    Args:
        name: what it is, as the caller names it.
        read: by model (``"base"``, ``"rlvr"``) the fingerprint of the weights that it was read of.
        expected: of the weights that it should have been read of.
        call: one that would work.

    Raises:
        InputError: names the first model that differs.
    """
    for model, weights in read.items():
        if model in expected and weights != expected[model]:
            raise InputError(
                f"{name} is of other models: its {model} model has weights {weights}, expected {expected[model]}: {call}"
            )


def weights_in(traced: LensTrace) -> dict[str, str]:
    """The fingerprints of the weights that a trace is of, by model, as far as it has them."""
    recorded = {model: recorded_weights(traced.provenance, model) for model in ("base", "rlvr")}
    return {model: weights for model, weights in recorded.items() if weights is not None}


def _known(read: Prompts) -> list[_Known]:
    if not isinstance(read, LensTrace):
        return [_Known(one.problem_id, one.input_ids.tolist(), one.fingerprint) for one in read]
    tokens = [part.tolist() for part in read.by_prompt(read.token_id)]
    return [
        _Known(info.problem_id, ids, info.fingerprint) for info, ids in zip(read.prompts, tokens, strict=True)
    ]
