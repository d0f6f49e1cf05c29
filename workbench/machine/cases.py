"""Recorded cases of `conform`: what their folders hold, looked at without torch."""

import json
from pathlib import Path
from typing import Any

from workbench.errors import InputError

KINDS = ("lens", "token_replay", "mid_replay", "reverse_replay", "cross_model")
"""What a case records."""


def kind_of(folder: Path) -> str:
    """The kind of a case, once its folder has been seen to hold one.

    Raises:
        InputError: it does not.
    """
    label = f"`folders`: {str(folder)!r}"
    if not folder.is_dir():
        raise InputError(f"{label} is not a folder; name a recorded case, `conform(['tests/parity/lens'])`")
    needed = ("case.json", "inputs.safetensors", "expected.safetensors", "base", "rlvr")
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        raise InputError(f"{label} lacks {', '.join(missing)}; a recorded case holds {', '.join(needed)}")
    try:
        case: Any = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{label}: case.json is not JSON ({error}); copy the recorded case again") from error
    kind = case.get("kind") if isinstance(case, dict) else None
    if kind not in KINDS:
        raise InputError(f"{label}: case.json has the kind {kind!r}; expected one of {', '.join(KINDS)}")
    return kind
