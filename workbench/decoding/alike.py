"""Prompts that are decoded alike: by one model, by two together, or patched while decoding by one patch."""

from collections.abc import Sequence
from typing import Any

from workbench.errors import InputError
from workbench.mixtures import Mixture
from workbench.sampling import Sampling
from workbench.tracing.edits import Intervention


def alike(
    interventions: Sequence[Intervention | None] | None, count: int
) -> list[tuple[Mixture | None, Sequence[int]]]:
    """Prompts that are decoded alike, with the mixture where two models do it; those patched while decoding by one patch each."""
    groups: dict[int, tuple[Mixture | None, list[int]]] = {}
    for i in range(count):
        one: Any = interventions[i] if interventions else None
        mixture = getattr(one, "mixture", None)
        patch = one.patch if mixture is None and getattr(one, "while_decoding", False) else None
        groups.setdefault(id(mixture or patch), (mixture, []))[1].append(i)
    return [*groups.values()]


def while_decoding(interventions: Sequence[Intervention | None] | None) -> bool:
    """Whether any response is overwritten as it is decoded, each of a prompt's by draws of its own."""
    return any(getattr(one, "while_decoding", False) for one in interventions or ())


def check_mixture(mixture: Mixture | None, model: str, sampling: Sampling) -> None:
    """Refuse a mixture for the wrong model, or for an engine, which has one model.

    Raises:
        InputError: it is.
    """
    if mixture is None:
        return
    if mixture.answered_by != model:
        raise InputError(
            f"`intervention` {mixture.title!r} acts on {mixture.answered_by!r}, and `model` is {model!r}: "
            f"decode(pair, prompt, model={mixture.answered_by!r}, intervention=...)"
        )
    if sampling.engine is not None:
        raise InputError(
            f"`engine` has one model, and {mixture.title!r} needs both at every token; decode in process: "
            "decode(..., engine=None)"
        )
