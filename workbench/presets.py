"""Settings that suit a pair: those of its preset, else the paper's; and the default matrix of interventions."""

from dataclasses import replace
from typing import Any

from workbench.pair_presets import PairPreset
from workbench.pairs import ModelPair, load_pair
from workbench.patching import Patch
from workbench.replay import Replay


def settings_for(pair: ModelPair) -> dict[str, Any]:
    """Arguments of `default_matrix` and `Replay` for a pair: its preset's, else none, which is the paper's."""
    return dict(pair.preset.replay) if pair.preset else {}


def is_bundled(pair: ModelPair) -> bool:
    """Whether the pair ships with the package."""
    return pair.preset is not None and pair.preset.bundled


def longest_answer(pair: ModelPair) -> int:
    """Where `decode` may cut a pair's responses off without loss, in tokens."""
    return (pair.preset or _NONE).longest_answer


def batch_of(pair: ModelPair) -> int:
    """Prompts per forward that suit a pair: many for tiny bundled ones, whose cost is mostly per call."""
    return (pair.preset or _NONE).batch_size


def controls_of(pair: ModelPair) -> dict[str, ModelPair]:
    """Pairs of the same base that RL did not train, by name: for a bundled pair its control, for others none."""
    if pair.preset is None or pair.preset.control is None or "checkpoint" in pair.provenance:
        return {}
    control = load_pair(
        pair.preset.name, checkpoint=pair.preset.control, dtype=pair.dtype, device=pair.device
    )
    return {"fine-tuned without RL": control}


def default_matrix(
    depth: int,
    *,
    tau: float = 0.4,
    alpha: float = 10.0,
    layers: int | None = None,
    threshold: Any = "max_fraction",
    iterations: int = 25,
    top_v: int | None = 50,
) -> dict[str, Replay | Patch]:
    """The card's comparisons: low and high by tokens and by cross-model patch, and every control, in one setting."""
    tokens = Replay(
        tau=tau, alpha=alpha, layers=layers, threshold=threshold, iterations=iterations, top_v=top_v
    )
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


_NONE = PairPreset("none", base="none", rlvr="none")  # the defaults, for pairs that were not loaded by name
