"""Greedy answers of real vLLM beside those in process: one family, a random model, plain and with learnt tokens.

Run by `tests/harness/vllm`. Ends with status 1 if an answer differs, or if the tokens change none. A family that this vLLM can't
import has to be refused in those words. vLLM's kernels on CPUs want heads of 64 or 128, so the models are wider than those
of the other tests.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import tiny
import torch

from workbench.decoding.decode import Response, decode_many
from workbench.decoding.vllm_engine import VllmEngine
from workbench.errors import InputError
from workbench.models.pairs import ModelPair, load_pair
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.replay.replay import Replay, learn_tokens

IMAGES = (1, 2, 0, 1, 3)  # of the prompts, in one batch
REFUSED = {"llava": "can't import its own llava"}
REPLAY = Replay(layers=2, threshold="quantile", alpha=2000.0, iterations=3)


def stored(family: str, folder: Path) -> ModelPair:
    """A pair with heads of 64, loaded from folders."""
    wide: dict[str, Any] = {
        "hidden_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
    }
    if family in tiny.QWEN_VL:
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [16, 8, 8]}
        # transformers interleaves Qwen3-VL's always, vLLM where the config says so, as those of the released models do
        wide["rope_parameters"] = rope | ({"mrope_interleaved": True} if family == "qwen3_vl" else {})
    pair = tiny.pair(family, **wide)
    for role in ("base", "rlvr"):
        getattr(pair, role).model.save_pretrained(folder / role)
        tiny.processor(family).save_pretrained(folder / role)
    return load_pair(base=folder / "base", rlvr=folder / "rlvr", device="cpu")


def learned(pair: ModelPair, prompt: EncodedPrompt) -> Any:
    """Tokens at the pictures of a prompt; None where it has none."""
    seen = bool((prompt.kinds == TokenKind.VISUAL).any())
    return learn_tokens(pair, prompt, REPLAY) if seen else None


def said(found: list[list[Response]]) -> list[tuple[str, int, bool]]:
    return [(one.text, one.tokens, one.finished) for (one,) in found]


def compare(family: str, pair: ModelPair) -> bool:
    problems = [tiny.problem(family, images=n, seed=i) for i, n in enumerate(IMAGES)]
    if family in ("qwen2_vl", "qwen2_5_vl"):
        problems.append(tiny.problem(family, images=1, frames=4, seed=5))
    prompts = [pair.encode(problem) for problem in problems]
    made = [learned(pair, prompt) for prompt in prompts]
    engine = VllmEngine(
        pair.provenance["rlvr"]["id"], dtype="float32", enforce_eager=True, max_model_len=1024
    )
    plain, agree = None, True
    for name, interventions in (("plain", None), ("tokens", made))[: 1 + any(made)]:
        settings = {"interventions": interventions, "max_new_tokens": 16}
        expected = said(decode_many(pair, prompts, **settings))
        found = said(decode_many(pair, prompts, **settings, engine=engine))
        plain = plain or expected
        equal = sum(one == other for one, other in zip(found, expected, strict=True))
        changed = sum(one != other for one, other in zip(expected, plain, strict=True))
        print(f"{family:10} {name:6} {equal} of {len(found)} equal; {changed} differ from plain", flush=True)
        agree &= equal == len(found) and (changed > 0) == (name == "tokens")
    return agree


def main(family: str) -> bool:
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        pair = stored(family, Path(folder))
        if family not in REFUSED:
            return compare(family, pair)
        try:
            return compare(family, pair)
        except InputError as error:
            print(f"{family:10} refused: {error}", flush=True)
            return REFUSED[family] in str(error)


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1]))
