"""What an intervention is: something made for one prompt that writes layers' inputs over it; and writing many at once."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from workbench.errors import InputError
from workbench.models.prompts import EncodedPrompt
from workbench.tracing.residuals import Edit


@runtime_checkable
class Intervention(Protocol):
    """What `decode` can apply at prefill: `LearnedTokens` and `PreparedPatch` are such."""

    @property
    def problem_id(self) -> str:
        """The prompt it was made for."""
        ...

    @property
    def sites(self) -> tuple[int, ...]:
        """The layers whose input it writes; one past the last for what the final norm receives."""
        ...

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        """The new input (T, hidden) of a layer."""
        ...


def one_each(
    interventions: Sequence[Intervention | None] | None,
    problem_ids: Sequence[str],
    *,
    decoded: bool = False,
) -> list[Intervention | None]:
    """An intervention (or None) for each prompt.

    Args:
        interventions: one for each, or None for none.
        problem_ids: of the prompts.
        decoded: whether a response is drawn, rather than a given text read.

    Raises:
        InputError: too few or too many, one that was made for another prompt, or one that acts while decoding where nothing is.
    """
    call = "interventions=[learn_tokens(pair, problem, Replay())], one (or None) for each prompt"
    try:
        entries: list[Intervention | None] = (
            [None] * len(problem_ids) if interventions is None else [*interventions]
        )
    except TypeError as error:
        raise InputError(
            f"`interventions` is one {type(interventions).__name__}; expected a list: {call}"
        ) from error
    if len(entries) != len(problem_ids):
        raise InputError(
            f"`interventions` has {len(entries)} entries for {len(problem_ids)} prompts; give one (or None) for each"
        )
    for name, intervention in zip(problem_ids, entries, strict=True):
        if not hasattr(intervention, "problem_id") and intervention is not None:
            raise InputError(
                f"`interventions` has {intervention!r}, which is a setting; expected what is made of it for a prompt: {call}"
            )
        if intervention is not None and intervention.problem_id != name:
            raise InputError(
                f"`intervention` was made for {intervention.problem_id!r}, the prompt is {name!r}; "
                "make one for each prompt"
            )
        if not decoded and getattr(intervention, "while_decoding", False):
            raise InputError(
                f"`interventions`: the one of {name!r} overwrites a response as it is decoded, and here a given text is read; "
                "decode with it, or patch the prompt: Patch(when='prefill')"
            )
    return entries


def batch_edits(
    prompts: Sequence[EncodedPrompt], interventions: Sequence[Intervention | None]
) -> dict[int, Edit]:
    """What `tracing` writes: each prompt's intervention on its own row of the left-padded batch."""
    longest = max(len(prompt) for prompt in prompts)
    sites = sorted(
        {site for intervention in interventions if intervention is not None for site in intervention.sites}
    )

    def edit(layer: int, hidden: Tensor) -> Tensor:
        rows = []
        for row, (prompt, intervention) in enumerate(zip(prompts, interventions, strict=True)):
            if intervention is None or layer not in intervention.sites:
                rows.append(hidden[row])
            else:
                offset = longest - len(prompt)
                rows.append(
                    torch.cat([hidden[row, :offset], intervention.apply(layer, hidden[row, offset:])])
                )
        return torch.stack(rows)

    return {layer: (lambda hidden, layer=layer: edit(layer, hidden)) for layer in sites}
