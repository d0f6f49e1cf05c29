"""Which processor and which chat template both models read: given, or found beside the checkpoints."""

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

ROLES = ("base", "rlvr")


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
        same = [role for role in ROLES if named.get(role) == source]
        commit = revisions.get(same[0]) if same else None
        return load_processor(name, source, anatomy, revision=commit, trust_remote_code=trust_remote_code)

    wanted = [role for role in named if processor is None or role == chat_template]
    beside = {role: loaded(role, named[role]) for role in wanted}
    chosen = processor
    if isinstance(processor, str | Path):
        chosen = loaded("processor", processor)
        if chosen is None:
            raise InputError(
                f"`processor` {str(processor)!r} has no processor or tokenizer files; name one that has"
            )
    if chosen is not None and not isinstance(chosen, ProcessorMixin | PreTrainedTokenizerBase):
        raise InputError(
            f"`processor` is a {type(chosen).__name__}, expected a transformers processor or tokenizer, or "
            "its folder or hub id: `AutoProcessor.from_pretrained(...)`"
        )
    if chosen is None:
        chosen = next((p for p in beside.values() if p is not None), None)
    if chat_template is not None:
        chosen = _with_template(chosen, chat_template, beside)
    return Settled(
        chosen, beside if processor is None else {}, None if chat_template is None else str(chat_template)
    )


def _with_template(processor: Any | None, wanted: str | Path, beside: Mapping[str, Any | None]) -> Any:
    """A copy of the processor that writes another chat template."""
    call = 'load_pair(..., chat_template="rlvr")'
    if processor is None:
        raise InputError(
            f"`chat_template` {str(wanted)!r} needs a processor, and there is none; give `processor=<folder or hub id>`"
        )
    if wanted in ROLES:
        role, words = str(wanted), getattr(beside.get(str(wanted)), "chat_template", None)
        if words is None:
            raise InputError(
                f"`chat_template` is {role!r}, but `{role}` brings none (a module in memory has none); name a file with the "
                f"template, or the other model: {call}"
            )
    else:
        file = Path(wanted).expanduser()
        if not file.is_file():
            raise InputError(
                f"`chat_template` is {str(wanted)!r}; expected 'base', 'rlvr', or a file with a Jinja "
                f"template (chat_template.jinja): {call}"
            )
        try:
            words = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"`chat_template` {str(file)!r} can't be read as text ({error}); {call}"
            ) from error
    changed = copy.copy(processor)
    changed.chat_template = words
    try:
        rendered(changed, system=False)
    except TemplateError as error:
        raise InputError(
            f"`chat_template` {str(wanted)!r} is no Jinja template that writes a question ({error}); {call}"
        ) from error
    return changed
