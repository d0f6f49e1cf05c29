"""What replay costs: against the released procedure, against the bare minimum, in batches; and samples from one
prefill.

    python tests/perf/replay.py [--rounds 2] [--threads 2] [--only mid|real|batch|samples]

mid      hidden 512, 12 layers, K = 7, vocabulary 32768, 144 visual and 64 text tokens, vision depth 6, 25 iterations
real     the same, nearer to real: vocabulary 151936, hidden 1024
batch    the bundled pair: 8 prompts in one batch against one at a time
samples  16 samples from one prefill against 16 separate generations, for a prompt whose prefill dominates

The *released procedure* is what the paper's code does in every iteration: the whole model, vision tower and
unembedding of the whole vocabulary included, then the lens of each of the first K layers over the whole
vocabulary. The *bare minimum* is 25 forward and backward passes over K layers and the sequence up to the last
visual token, and nothing else. Measured in turns in one run, the fastest round of each counts. Exits with 1 if a
bound is missed: 5 x faster than the released procedure with tokens equal to 1e-6 of their largest, at most 1.3 x
the bare minimum, batching 1.3 x faster a prompt, 16 samples 3 x faster and the same.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import oracle

from workbench import EncodedPrompt, Replay, decode, learn_many, learn_tokens, load_pair, load_problems
from workbench.models.anatomy import frozen
from workbench.models.pairs import ModelPair
from workbench.models.prompts import TokenKind
from workbench.replay.segment import Segment
from workbench.tracing.residuals import read_calls

IMAGE, VISION_START, VISION_END = 5, 3, 4
TEXT, SIDE = 64, 24  # text tokens; patches a side: 12 x 12 visual tokens
SETTINGS = Replay(tau=0.4, threshold="quantile", alpha=10.0, layers=7, iterations=25, alignment="released")


def model(seed: int, hidden: int, vocabulary: int) -> Qwen2_5_VLForConditionalGeneration:
    text = {
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [hidden // 64, 3 * hidden // 128, hidden // 16 - 5 * hidden // 128],
        },
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {
        "depth": 6,
        "hidden_size": 320,
        "intermediate_size": 640,
        "num_heads": 4,
        "out_hidden_size": hidden,
        "fullatt_block_indexes": [2, 5],
    }
    names = {
        "image_token_id": IMAGE,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
    }
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, video_token_id=6, tie_word_embeddings=False, **names
    )
    torch.manual_seed(seed)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def random_pair(hidden: int, vocabulary: int) -> tuple[ModelPair, EncodedPrompt]:
    base, rlvr = model(0, hidden, vocabulary), model(1, hidden, vocabulary)
    with torch.no_grad():
        for new, old in zip(rlvr.parameters(), base.parameters(), strict=True):
            new.copy_(old + 0.1 * (new - old))
    pair = load_pair(base=base, rlvr=rlvr)
    torch.manual_seed(2)
    words = torch.randint(10, vocabulary, (TEXT,))
    visual = torch.full((SIDE * SIDE // 4,), IMAGE)
    ids = torch.cat(
        [words[:16], torch.tensor([VISION_START]), visual, torch.tensor([VISION_END]), words[16:]]
    )
    pixels = torch.randn(SIDE * SIDE, 3 * 2 * 14 * 14)
    grid = torch.tensor([[1, SIDE, SIDE]])
    return pair, EncodedPrompt.from_tensors(
        pair, input_ids=ids[None], pixel_values=pixels, image_grid_thw=grid
    )


def seconds(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def released(pair: ModelPair, prompt: EncodedPrompt, mask: Tensor) -> Tensor:
    """The straightforward loop, on the mask that it is given; `oracle.naive_replay` has the same inner part."""
    visual = prompt.kinds == TokenKind.VISUAL
    tokens, _, _ = oracle.naive_replay(
        pair.rlvr,
        pair.base,
        {**prompt.model_inputs},
        visual,
        layers=7,
        iterations=SETTINGS.iterations,
        top_v=50,
        normalize=True,
        alignment="released",
        alpha=SETTINGS.alpha,
        tau=SETTINGS.tau,
        mask=mask,
    )
    return tokens


def bare(pair: ModelPair, prompt: EncodedPrompt) -> None:
    """25 forward and backward passes over the K layers and the truncated sequence."""
    seen = prompt.prefix(int((prompt.kinds == TokenKind.VISUAL).nonzero()[-1]) + 1)
    segment = Segment(pair.rlvr, read_calls(pair.rlvr, seen.model_inputs, 7), 0, 7, first=0)
    with frozen(pair.rlvr):
        for _ in range(SETTINGS.iterations):
            hidden = segment.entry.clone().requires_grad_(True)
            *_, (_, last, _) = segment.run(hidden)
            torch.autograd.grad(last.sum(), hidden)


def one(pair: ModelPair, prompt: EncodedPrompt, rounds: int, title: str) -> bool:
    learned = learn_tokens(pair, prompt, SETTINGS)
    found: dict[str, Tensor] = {}
    runs: dict[str, Callable[[], Any]] = {
        "bare minimum": lambda: bare(pair, prompt),
        "learn_tokens": lambda: found.update(ours=learn_tokens(pair, prompt, SETTINGS).tokens),
        "released procedure": lambda: found.update(theirs=released(pair, prompt, learned.mask)),
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run))
    off = ((found["ours"] - found["theirs"]).abs().max() / found["theirs"].abs().max()).item()
    faster, share = (
        best["released procedure"] / best["learn_tokens"],
        best["learn_tokens"] / best["bare minimum"],
    )
    print(f"\n{title}: {len(prompt)} positions, {SETTINGS.iterations} iterations, fastest of {rounds}")
    for name, value in best.items():
        print(f"  {name:20} {value:8.2f} s")
    print(f"  released / ours      {faster:8.2f}   (bound 5)   {'ok' if faster >= 5 else 'MISSED'}")
    print(f"  ours / bare minimum  {share:8.2f}   (bound 1.3) {'ok' if share <= 1.3 else 'MISSED'}")
    print(f"  tokens differ by     {off:8.1e}   of their largest (bound 1e-6 in float64)", flush=True)
    return faster >= 5 and share <= 1.3


def exact() -> bool:
    """The same tokens, in float64, on the smaller pair."""
    pair, prompt = random_pair(512, 2048)
    for anatomy in (pair.base, pair.rlvr):
        anatomy.model.double()
    prompt.model_inputs["pixel_values"] = prompt.model_inputs["pixel_values"].double()
    learned = learn_tokens(pair, prompt, SETTINGS)
    theirs = released(pair, prompt, learned.mask)
    off = ((learned.tokens - theirs).abs().max() / theirs.abs().max()).item()
    print(
        f"\nfloat64, vocabulary 2048: tokens differ by {off:.1e} of their largest (bound 1e-6) "
        f"{'ok' if off <= 1e-6 else 'MISSED'}"
    )
    return off <= 1e-6


def batch(rounds: int) -> bool:
    pair = load_pair("shapes", device="cpu")
    prompts = [pair.encode(problem) for problem in load_problems("shapes", limit=8)]
    settings = Replay(threshold="quantile", layers=5)
    runs = {
        "8 in a batch": lambda: learn_many(pair, prompts, settings, batch_size=8),
        "one at a time": lambda: learn_many(pair, prompts, settings, batch_size=1),
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds + 1):
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run))
    faster = best["one at a time"] / best["8 in a batch"]
    print(
        f"\nbundled pair, 8 prompts: {best['8 in a batch']:.2f} s in a batch, {best['one at a time']:.2f} s one at a time"
    )
    print(
        f"  faster a prompt      {faster:8.2f}   (bound 1.3) {'ok' if faster >= 1.3 else 'MISSED'}",
        flush=True,
    )
    return faster >= 1.3


def samples(rounds: int) -> bool:
    from dataclasses import replace

    bundled = load_pair("shapes", device="cpu")
    pair, prompt = random_pair(512, 32768)
    pair = replace(pair, processor=bundled.processor)
    pair.rlvr.model.generation_config.eos_token_id = 2
    settings = {"temperature": 1.0, "seed": 0, "max_new_tokens": 4}
    decode(pair, prompt, **settings)
    found: dict[str, list[str]] = {}

    def separately() -> None:
        from workbench.decoding import decode as decoding

        whole = decoding._uniforms
        texts = []
        for i in range(16):  # each time one sample, the i-th of the problem's stream
            decoding._uniforms = lambda seed, name, n, length, i=i: whole(seed, name, 16, length)[i : i + 1]
            texts.append(decode(pair, prompt, **settings)[0].text)
        decoding._uniforms = whole
        found["separately"] = texts

    def together() -> None:
        found["together"] = [r.text for r in decode(pair, prompt, samples=16, **settings)]

    best = {"together": float("inf"), "separately": float("inf")}
    for _ in range(rounds):
        best["together"] = min(best["together"], seconds(together))
        best["separately"] = min(best["separately"], seconds(separately))
    faster, same = best["separately"] / best["together"], found["separately"] == found["together"]
    print(f"\n16 samples of {settings['max_new_tokens']} tokens: {best['together']:.2f} s from one prefill, "
          f"{best['separately']:.2f} s separately, {'the same' if same else 'DIFFERENT'} samples")  # fmt: skip
    print(
        f"  faster               {faster:8.2f}   (bound 3)   {'ok' if faster >= 3 else 'MISSED'}", flush=True
    )
    return faster >= 3 and same


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("mid", "real", "exact", "batch", "samples"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts: dict[str, Callable[[], bool]] = {
        "mid": lambda: one(*random_pair(512, 32768), options.rounds, "hidden 512, vocabulary 32768"),
        "real": lambda: one(*random_pair(1024, 151936), 1, "hidden 1024, vocabulary 151936"),
        "exact": exact,
        "batch": lambda: batch(options.rounds),
        "samples": lambda: samples(options.rounds),
    }
    within = [part() for name, part in parts.items() if options.only in (None, name)]
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}")
    return 0 if all(within) else 1


if __name__ == "__main__":
    sys.exit(main())
