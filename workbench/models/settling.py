"""Which processor and which chat template both models read: the caller's, or those beside the checkpoints."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy
from workbench.models.checkpoints import load_processor
from workbench.models.preflight import rendered
from workbench.models.template_files import SIDES, template_in


@dataclass(frozen=True)
class Settled:
    """The processor that encodes for both, and those that lie beside the two checkpoints (None: none)."""

    processor: Any | None
    beside: Mapping[str, Any | None]
    template: str | None
    """Whose chat template it is, where that was asked for."""


def settle(
    sources: Mapping[str, Any],
    revisions: Mapping[str, str | None],
    anatomy: Anatomy,
    *,
    processor: Any | None,
    chat_template: str | Path | None,
    trust_remote_code: bool,
) -> Settled:
    """Load what is to be loaded; nothing is compared.

    Args:
        sources: role -> folder, hub id, or a module in memory, which has no processor.
        revisions: role -> hub revision.
        anatomy: of either model.
        processor: a processor or tokenizer, or its folder or hub id; None: the base's, else the RLVR model's.
        chat_template: ``"base"``, ``"rlvr"``, or a file; None: the processor's own.
        trust_remote_code: as `load_pair`.

    Raises:
        InputError: a processor that is none, or a template that is nowhere or can't be used.
    """
    named = {role: source for role, source in sources.items() if isinstance(source, str | Path)}

    def loaded(name: str, source: str | Path) -> Any | None:
        same = [role for role in SIDES if named.get(role) == source]
        commit = revisions.get(same[0]) if same else None
        return load_processor(name, source, anatomy, revision=commit, trust_remote_code=trust_remote_code)

    roles = [role for role in named if processor is None or role == chat_template]
    beside = {role: loaded(role, named[role]) for role in roles}
    reader = processor
    if isinstance(processor, str | Path):
        reader = loaded("processor", processor)
        if reader is None:
            raise InputError(
                f"`processor` {str(processor)!r} has no processor or tokenizer files; name one that has"
            )
    if reader is not None and not isinstance(reader, ProcessorMixin | PreTrainedTokenizerBase):
        raise InputError(
            f"`processor` is a {type(reader).__name__}, expected a transformers processor or tokenizer, or "
            "its folder or hub id: `AutoProcessor.from_pretrained(...)`"
        )
    if reader is None:
        reader = next((p for p in beside.values() if p is not None), None)
    if chat_template is not None:
        reader = with_template(reader, chat_template, beside)
    return Settled(
        reader, beside if processor is None else {}, None if chat_template is None else str(chat_template)
    )


def with_template(processor: Any | None, choice: str | Path, beside: Mapping[str, Any | None]) -> Any:
    """A copy of the processor that writes another chat template.

    Raises:
        InputError: no processor, or a template that is nowhere or can't be used.
    """
    call = 'load_pair(..., chat_template="rlvr")'
    if processor is None:
        raise InputError(
            f"`chat_template` {str(choice)!r} needs a processor, and there is none; give `processor=<folder or hub id>`"
        )
    words = template_in(choice)
    if words is None:
        words = getattr(beside.get(str(choice)), "chat_template", None)
    if words is None:
        raise InputError(
            f"`chat_template` is {choice!r}, but `{choice}` brings none (a module in memory has none); name a file with the "
            f"template, or the other model: {call}"
        )
    changed = copy.copy(processor)
    changed.chat_template = words
    try:
        rendered(changed, system=False)
    except TemplateError as error:
        raise InputError(
            f"`chat_template` {str(choice)!r} is no Jinja template that writes a question ({error}); {call}"
        ) from error
    return changed
