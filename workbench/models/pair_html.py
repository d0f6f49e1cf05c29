"""What was loaded, as a page shows it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.views import markup

if TYPE_CHECKING:
    from workbench.models.pairs import ModelPair


def pair_html(pair: "ModelPair") -> str:
    """What was loaded: both models, one a column."""
    described = {
        role: found if isinstance(found := pair.provenance.get(role), Mapping) else {"id": found or "–"}
        for role in ("base", "rlvr")
    }
    keys = dict.fromkeys(
        key
        for found in described.values()
        for key, value in found.items()
        if key != "family" and value is not None
    )
    rows = [
        {"": key.replace("_", " ")} | {r: _text(f.get(key)) for r, f in described.items()} for key in keys
    ]
    together = {
        "family": pair.base.family,
        "size": f"{pair.depth} layers, hidden {pair.base.hidden_size}, vocabulary {pair.vocab_size:,}",
        "checkpoint": pair.provenance.get("checkpoint"),
        "processor": type(pair.processor).__name__ if pair.processor is not None else "none",
    }
    told = {name: value for name, value in together.items() if value is not None}
    return (
        markup.paragraph(f"Pair {pair.name}", strong=True)
        + markup.facts(told)
        + markup.table(pd.DataFrame(rows))
    )


def _text(value: Any) -> str:
    text = "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    return text if len(text) <= 40 else f"…{text[-38:]}"  # of a long path its end
