"""What the fused lens costs, against the two unembedding products that no lens can do without.

    python tests/perf/lens.py [--repeats 3] [--threads 2] [--null 3] [--compile]

Random float32 weights, 512 positions, hidden 2048, vocabulary 151936. Measured in turns in one run, the fastest
round of each counts: the two bare products (whole, into an output allocated once; and in blocks, into a reused
one: the faster is the measure), `lens.compare`, the textbook computation over the whole vocabulary for a few
positions at a time, and TransformerLens' `logit_readout`, the kernel of its `logit_lens` (entropy and top-k of
each model, no KL). Exits with 1 if `lens.compare` takes more than 1.15 x the bare products or more than 400 MB,
or if the three disagree.

`--compile` also times it with torch.compile around the sums over a block, which the library does not use.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial

import psutil
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis.logit_lens import logit_readout
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from workbench.lens import fused as lens

TIME_BOUND, MEMORY_BOUND = 1.15, 400e6
AGREEMENT = 2e-5
TOP_K = 10
Residuals = tuple[Tensor, Tensor]


def random_model(hidden: int, vocabulary: int, seed: int) -> Qwen2ForCausalLM:
    """One decoder layer, which is not run, and a real final norm and unembedding."""
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=16,
        num_key_value_heads=1,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        architectures=["Qwen2ForCausalLM"],
    )
    torch.manual_seed(seed)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    model.tie_weights()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    nn.init.ones_(model.model.norm.weight)
    return model


def head_of(model: Qwen2ForCausalLM) -> lens.LensHead:
    return lens.LensHead(model.model.norm, model.lm_head.weight)


def bare_whole(hidden: Residuals, weights: Residuals, out: Tensor) -> None:
    for h, weight in zip(hidden, weights, strict=True):
        torch.mm(h, weight.t(), out=out)


def bare_blocked(hidden: Residuals, weights: Residuals, block: int) -> None:
    buffer = torch.empty(len(hidden[0]) * block)
    for h, weight in zip(hidden, weights, strict=True):
        for rows in weight.split(block):
            torch.mm(h, rows.t(), out=buffer[: len(h) * len(rows)].view(len(h), -1))


def naive(hidden: Residuals, weights: Residuals, chunk: int = 64) -> dict[str, Tensor]:
    """The textbook: both log-softmaxes over the whole vocabulary, for `chunk` positions at a time."""
    parts: list[dict[str, Tensor]] = []
    for h_base, h_rlvr in zip(*(h.split(chunk) for h in hidden), strict=True):
        log_p = (h_base @ weights[0].t()).log_softmax(1)
        log_q = (h_rlvr @ weights[1].t()).log_softmax(1)
        p, q = log_p.exp(), log_q.exp()
        top_p, top_q = p.topk(TOP_K), q.topk(TOP_K)
        parts.append(
            {
                "entropy_base": -(p * log_p).sum(1),
                "entropy_rlvr": -(q * log_q).sum(1),
                "kl": (p * (log_p - log_q)).sum(1),
                "top_probs_base": top_p.values,
                "top_probs_rlvr": top_q.values,
            }
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def bridge_of(model: Qwen2ForCausalLM) -> TransformerBridge:
    """TransformerLens around a module that shares the model's tensors: booting rewrites what it is given."""
    with torch.device("meta"):
        own = Qwen2ForCausalLM(model.config)
    own.load_state_dict(model.state_dict(), assign=True)
    own.tie_weights()
    own = own.eval().requires_grad_(False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, "a")), eos_token="a")
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=own, tokenizer=tokenizer)


def transformer_lens(residuals: Residuals, bridges: list[TransformerBridge]) -> dict[str, Tensor]:
    base, rlvr = (
        logit_readout(bridge, h, top_k=TOP_K, return_type="probs")
        for bridge, h in zip(bridges, residuals, strict=True)
    )
    return {
        "entropy_base": base.entropy,
        "entropy_rlvr": rlvr.entropy,
        "top_probs_base": base.values,
        "top_probs_rlvr": rlvr.values,
    }


def peak_memory(run: Callable[[], object]) -> float:
    """Bytes that the process grows by while `run` runs, at its peak, sampled every millisecond."""
    process, done = psutil.Process(), threading.Event()
    start = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return peak - start


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def disagreement(fused: lens.LensStats, other: dict[str, Tensor]) -> dict[str, float]:
    return {name: float((getattr(fused, name) - value).abs().max()) for name, value in other.items()}


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--null", type=int, default=0, help="also time this many matched-noise draws")
    parser.add_argument("--compile", action="store_true", help="also time it with compiled sums")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    models = [random_model(options.hidden, options.vocabulary, seed) for seed in (0, 1)]
    base, rlvr = (model.lm_head.weight for model in models)
    rlvr.mul_(0.1).add_(base)
    heads = [head_of(model) for model in models]
    h_base = torch.randn(options.positions, options.hidden)
    h_rlvr = h_base + 0.1 * torch.randn_like(h_base)
    residuals, weights = (h_base, h_rlvr), (base, rlvr)
    hidden = (heads[0].norm(h_base), heads[1].norm(h_rlvr))

    fused = partial(lens.compare, h_base, h_rlvr, *heads, top_k=TOP_K)
    # The library has to page its matrix products in once, before memory is measured.
    lens.compare(h_base[:2], h_rlvr[:2], *heads, block=4096)
    memory = {"lens.compare": peak_memory(fused), "naive": peak_memory(partial(naive, hidden, weights))}
    bridges = [bridge_of(model) for model in models]
    readout = partial(transformer_lens, residuals, bridges)
    memory["TransformerLens"] = peak_memory(readout)

    whole = torch.empty(options.positions, options.vocabulary)
    runs: dict[str, Callable[[], object]] = {
        "bare products, whole": partial(bare_whole, hidden, weights, whole),
        "bare products, blocks": partial(bare_blocked, hidden, weights, 4096),
        "lens.compare": fused,
    }
    if options.null:
        null = lens.matched_noise(h_base, h_rlvr, draws=options.null)
        runs[f"lens.compare, {options.null} null draws"] = partial(fused, null=null)
    if options.compile:
        plain, compiled = lens._sums, torch.compile(lens._sums, dynamic=True)

        def run_compiled() -> None:
            lens._sums = compiled
            fused()
            lens._sums = plain

        run_compiled()
        runs["lens.compare, compiled"] = run_compiled
    runs |= {"naive": partial(naive, hidden, weights), "TransformerLens": readout}

    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
    best = {name: min(taken) for name, taken in times.items()}
    bare = min(best["bare products, whole"], best["bare products, blocks"])

    print(
        f"{options.positions} positions, hidden {options.hidden}, vocabulary {options.vocabulary}, float32, "
        f"{options.threads} threads, fastest of {options.repeats}; ratio to the faster bare products"
    )
    for name, taken in best.items():
        extra = f"{memory[name] / 1e6:8.0f} MB extra" if name in memory else ""
        print(f"{name:32} {taken:8.3f} s   {taken / bare:6.3f} x {extra}")

    stats = fused()
    worst = 0.0
    for name, other in (("naive", naive(hidden, weights)), ("TransformerLens", readout())):
        gaps = disagreement(stats, other)
        worst = max(worst, *gaps.values())
        print(
            f"largest difference from {name}: " + ", ".join(f"{key} {gap:.1e}" for key, gap in gaps.items())
        )

    failures = []
    if best["lens.compare"] > TIME_BOUND * bare:
        failures.append(
            f"time {best['lens.compare'] / bare:.3f} x, more than {TIME_BOUND} x the bare products"
        )
    if memory["lens.compare"] > MEMORY_BOUND:
        failures.append(
            f"memory {memory['lens.compare'] / 1e6:.0f} MB, more than {MEMORY_BOUND / 1e6:.0f} MB"
        )
    if worst > AGREEMENT:
        failures.append(f"results differ by {worst:.1e}, more than {AGREEMENT}")
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
