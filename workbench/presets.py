"""Settings that suit a pair: the paper's, or for a bundled pair those chosen on its validation split."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workbench.pairs import ModelPair, load_pair
from workbench.patching import Patch
from workbench.replay import Replay

CHOSEN: Mapping[str, Mapping[str, Any]] = {
    "shapes": {"threshold": "quantile", "tau": 0.4, "alpha": 100.0, "layers": 5}
}
"""Settings of replay on bundled pairs; analyses/LOG.md tells how they were chosen."""
LONGEST: Mapping[str, int] = {"shapes": 64}
"""Tokens of the longest responses of bundled pairs, with room to spare."""


def settings_for(pair: ModelPair) -> dict[str, Any]:
    """Settings of `default_matrix` for a pair: the paper's, or for a bundled pair those chosen on its validation split."""
    return dict(CHOSEN.get(pair.name, {}))


def longest_answer(pair: ModelPair) -> int:
    """Where `decode` may cut a pair's responses off without loss, in tokens."""
    return LONGEST.get(pair.name, 1024)


def batch_of(pair: ModelPair) -> int:
    """Prompts per forward that suit a pair: many for tiny bundled ones, whose cost is mostly per call."""
    return 32 if pair.name in CHOSEN else 8


def controls_of(pair: ModelPair) -> dict[str, ModelPair]:
    """Pairs of the same base that RL did not train, by name: for a bundled pair its control, for others none."""
    if pair.name not in CHOSEN or "checkpoint" in pair.provenance:
        return {}
    control = load_pair(pair.name, checkpoint="sft", dtype=pair.dtype, device=pair.device)
    return {"fine-tuned without RL": control}


def default_matrix(
    depth: int,
    *,
    tau: float = 0.4,
    alpha: float = 10.0,
    layers: int | None = None,
    threshold: Any = "max_fraction",
) -> dict[str, Replay | Patch]:
    """The card's comparisons: low and high by tokens and by cross-model patch, and every control, in one setting."""
    tokens = Replay(tau=tau, alpha=alpha, layers=layers, threshold=threshold)
    layers = len(tokens.loss_layers(depth))
    patch = Patch(tau=tau, threshold=threshold, layers=layers)
    return {
        "tokens, low": tokens,
        "tokens, high": replace(tokens, select="high"),
        "tokens, random": replace(tokens, select="random"),
        "tokens, all": replace(tokens, select="all"),
        "mid tokens, low": replace(tokens, site="mid_tokens", layer=layers - 1, layers=None),
        "reverse, low": replace(tokens, direction="reverse"),
        "self-smoothing": replace(tokens, direction="self", select="all"),
        "patch, low": patch,
        "patch, high": replace(patch, select="high"),
    }
