"""Memory that tracing and replay use, against what is predicted from the configs.

    python tests/perf/memory.py [--only tiny|mid] [--bound 0.1]

tiny     the tests' Qwen2.5-VL pair (hidden 32, 3 layers, vocabulary 320), weights and every tensor that torch allocates,
         by its profiler; pictures of 36 to 2601 tokens, 60 to 1500 of text
mid      hidden 512, 12 layers, vocabulary 32768, 144 visual tokens, the same; and in a process of its own the resident
         set, less that of the process before it had the pair

Float32 on the CPU. Exits with 1 if a prediction misses what the profiler saw by more than the bound.
"""

import argparse
import multiprocessing
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.profiler import ProfilerActivity, profile

sys.path.append(str(Path(__file__).parents[1] / "support"))
sys.path.append(str(Path(__file__).parent))
import tiny
from replay import random_pair

from workbench.decoding.decode import decode
from workbench.machine.memory import MemoryForecast, predict_memory
from workbench.mixtures import CrossSample
from workbench.models.chat import within_budget
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.replay.replay import Replay, learn_tokens
from workbench.tracing.trace import trace

SETTINGS = Replay(select="all", iterations=2, alpha=1e-3)
LENGTHS = {"samples": 8, "max_new_tokens": 64}
DRAWN = {**LENGTHS, "temperature": 1.0}
CROSSED = CrossSample("base", "divergence", threshold=0.1)


def tiny_case(side: int = 48, text: int = 60) -> tuple[ModelPair, EncodedPrompt, MemoryForecast]:
    """A picture of `side` x `side` pixels, 64 of them a token, beside at least `text` tokens."""
    pair, budget = tiny.pair("qwen2_5_vl"), (16 * 16, side * side)
    pair = replace(pair, processor=within_budget(pair.processor, pair.base, budget, None))
    prompt = pair.encode(tiny.problem(images=(tiny.image(side, side),), question="?" * text))
    return pair, prompt, forecast(pair, prompt, (side, side), budget)


def mid_case() -> tuple[ModelPair, EncodedPrompt, MemoryForecast]:
    pair, prompt = random_pair(512, 32768)
    return pair, prompt, forecast(pair, prompt, (336, 336), None)


def forecast(
    pair: ModelPair, prompt: EncodedPrompt, size: tuple[int, int], budget: tuple[int, int] | None
) -> MemoryForecast:
    before = int((prompt.visual_index >= 0).nonzero()[0])
    configs = (pair.base.model.config, pair.rlvr.model.config)
    return predict_memory(
        *configs,
        image=size,
        text=len(prompt) - int((prompt.visual_index >= 0).sum()),
        before=before,
        budget=budget,
        replay=SETTINGS,
        dtype=pair.dtype,
        device="cpu",
        **LENGTHS,
    )


def weights(pair: ModelPair) -> int:
    models = (pair.base.model, pair.rlvr.model)
    return sum(t.numel() * t.element_size() for m in models for t in (*m.parameters(), *m.buffers()))


def profiled(run: Callable[[], Any]) -> int:
    """The most bytes that torch held at a time of what it allocated meanwhile."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    held = peak = 0
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def jobs(pair: ModelPair, prompt: EncodedPrompt) -> dict[str, Callable[[], Any]]:
    return {
        "tracing": lambda: trace(pair, [prompt]),
        "replay": lambda: learn_tokens(pair, prompt, SETTINGS),
        "decoding": lambda: decode(pair, prompt, **DRAWN),
        "decoding together": lambda: decode(pair, prompt, model="base", intervention=CROSSED, **DRAWN),
    }


def compare(name: str, case: tuple[ModelPair, EncodedPrompt, MemoryForecast], bound: float) -> bool:
    pair, prompt, told = case
    given = sum(t.numel() * t.element_size() for t in prompt.model_inputs.values())
    within = True
    print(f"\n{name}: {told}")
    for job, run in jobs(pair, prompt).items():
        run()  # nnsight compiles, caches fill
        used = weights(pair) + given + profiled(run)
        ratio = told.peak(job) / used
        within &= abs(ratio - 1) <= bound
        print(
            f"  {job:17} predicted {told.peak(job) / 1e6:9.2f} MB, used {used / 1e6:9.2f} MB, ratio {ratio:.3f} "
            f"{'ok' if abs(ratio - 1) <= bound else 'MISSED'}",
            flush=True,
        )
    return within


def high_water() -> int:
    """The largest resident set of this process, in bytes (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def resident(job: str, results: Any) -> None:
    """In a process of its own: how far one job raises the resident set above that of a process that has run a tiny one."""
    torch.set_num_threads(1)
    pair, prompt, _ = tiny_case()
    jobs(pair, prompt)[job]()  # libraries load their code
    start = psutil.Process().memory_info().rss
    pair, prompt, told = mid_case()
    jobs(pair, prompt)[job]()
    results.put((told.peak(job), high_water() - start))


def show_resident() -> None:
    for job in ("tracing", "replay"):
        context = multiprocessing.get_context("spawn")
        results = context.Queue()
        process = context.Process(target=resident, args=(job, results))
        process.start()
        told, used = results.get(timeout=600)
        process.join()
        print(f"  {job:8} resident set {used / 1e6:9.2f} MB, ratio {told / used:.3f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("tiny", "mid"))
    parser.add_argument("--bound", type=float, default=0.1)
    options = parser.parse_args()
    within = True
    if options.only != "mid":
        for side, text in ((48, 60), (48, 1500), (328, 60), (328, 1500), (408, 60)):
            within &= compare(f"tiny, {side} x {side}, {text}", tiny_case(side, text), options.bound)
    if options.only != "tiny":
        within &= compare("mid", mid_case(), options.bound)
        show_resident()
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
