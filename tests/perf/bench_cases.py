"""Chooses the prepared cases of the live bench from the bundled pairs, and writes ``workbench/live/cases.json``.

    python tests/perf/bench_cases.py          # look for all of them anew, some minutes
    python tests/perf/bench_cases.py --only replay

Each case is the first problem of a generated test split (seed 0) of which its sentence is true; `tests/live/test_cases.py` checks
that they still are.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import combinations

import torch

import workbench as wb
from workbench.live.actions import replay, to_json
from workbench.live.cases import FILE, Case
from workbench.live.session import Bench
from workbench.models.prompts import TokenKind
from workbench.problems.answers import verify
from workbench.replay.patching import PreparedPatch, Readings, Recording

LOOKED_AT = 96


def benches(
    pair: wb.ModelPair, name: str, start: int = 0, turn: int = 1
) -> Iterator[tuple[int, Case, Bench]]:
    """(number, an empty case of it, a bench at it) of problems in turn."""
    bench = None
    for index in range(start, start + LOOKED_AT):
        empty = Case("", "", pair.name, name, index, {}, turn=turn)
        problem, _, turns = empty.asked(pair)
        bench = bench or Bench(pair, problem, turns=turns, followed=0)
        if bench.problem is not problem:
            bench.open(problem, turns=turns)
        yield index, empty, bench


def right(bench: Bench, who: str) -> bool:
    return bool(bench.trial.effect["right"][who])


def made(empty: Case, bench: Bench, name: str, title: str, conditions: tuple = (), **more: object) -> Case:
    actions = tuple(map(to_json, conditions))
    return Case(
        **{
            **asdict(empty),
            "name": name,
            "title": title,
            "cells": bench.mask.spans,
            "actions": actions,
            **more,
        }
    )


def lost_at_three(shapes: wb.ModelPair) -> Case:
    """A patch from the base at three visual tokens in a range of layers; first all visual tokens are tried, which is quick."""
    ranges = [
        range(first, stop) for first in range(shapes.depth) for stop in range(first + 1, shapes.depth + 1)
    ]
    for _, empty, bench in benches(shapes, "shapes"):
        if not right(bench, "rlvr") or right(bench, "base"):
            continue
        visual = (bench.prompt.kinds == TokenKind.VISUAL).nonzero()[:, 0].tolist()
        triples = sorted(
            combinations(visual, 3), key=lambda three: three[2] - three[0]
        )  # near each other first
        for layers in (ranges[i] for i in losing(bench, [(layers, visual) for layers in ranges])):
            for i in losing(bench, [(layers, three) for three in triples]):
                bench.select(triples[i], layers=layers)
                trial = bench.patch()
                if not right(bench, "action"):
                    where = (
                        f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
                    )
                    title = f"A right answer lost: three visual tokens of {where} patched from the base"
                    return made(empty, bench, "lost", title, (trial.condition,))
    raise LookupError("lost")


def losing(bench: Bench, places: Sequence[tuple[range, Sequence[int]]]) -> list[int]:
    """Which patches, of layers and positions, make RLVR's answer a wrong one; all of them decoded together."""
    pair, problem, prompt, made = bench.pair, bench.problem, bench.prompt, []
    assert problem is not None
    assert problem.answer is not None
    whole = Readings.of(pair, prompt, range(pair.depth))
    for layers, positions in places:
        mask = torch.zeros(len(layers), len(prompt), dtype=torch.bool)
        mask[:, list(positions)] = True
        numbers = tuple(layers)
        source = Recording(prompt.problem_id, prompt.input_ids, numbers, whole.source.hidden[list(numbers)])
        patch = wb.Patch(select="all", positions="all", layers=numbers)
        made.append(PreparedPatch(prompt.problem_id, patch, mask, source))
    answers = wb.decode_many(pair, [prompt] * len(made), interventions=made, batch_size=96)
    check = {"verifier": problem.verifier, "choices": problem.choices}
    return [i for i, (one,) in enumerate(answers) if not verify(one.text, problem.answer, **check).correct]


def parting(shapes: wb.ModelPair) -> Case:
    for _, empty, bench in benches(shapes, "shapes"):
        if right(bench, "base") or not right(bench, "rlvr"):
            continue
        strip = bench.strips["base"]
        at = max(range(len(strip)), key=lambda place: strip[place].divergence or 0)
        token = strip[at].rlvr[0][0]
        bench.go_on("base", at, token)
        if right(bench, "base") and token != strip[at].id:
            title = f"Where they part: the base made to say RLVR's{strip[at].rlvr[0][1]} at token {at + 1} gets it right"
            return made(empty, bench, "parting", title, goes_on=("base", at, token))
    raise LookupError("parting")


def entropy_shift(shapes: wb.ModelPair) -> Case:
    best = max(
        (float((b.lens.entropy_rlvr - b.lens.entropy_base).abs()[:, b.prompt.kinds == 1].mean()), index)
        for index, _, b in benches(shapes, "shapes")
    )
    _, empty, bench = next(benches(shapes, "shapes", best[1]))
    bench.select(stratum="low", tau=0.7, layers=range(5))
    return made(
        empty, bench, "entropy", "The picture with the largest shift of entropy, its low cells selected"
    )


def video_moment(shapes: wb.ModelPair) -> Case:
    for _, empty, bench in benches(shapes, "shapes-video"):
        if not right(bench, "rlvr"):
            continue
        for frame in range(4):
            bench.select(frame=frame)
            trial = bench.scale(0.0)
            if not right(bench, "action"):
                return made(
                    empty,
                    bench,
                    "video",
                    f"A moment of a video: without frame {frame + 1} the answer is another",
                    (trial.condition,),
                )
    raise LookupError("video")


def crop(shapes: wb.ModelPair) -> Case:
    """An agent's second turn, at which the crop that its zoom brought is in the conversation."""
    for _, empty, bench in benches(shapes, "shapes-agent", turn=2):
        if len(bench.prompt.grids) < 2 or not right(bench, "rlvr"):
            continue
        bench.select(view=1)
        for act in (bench.patch, lambda bench=bench: bench.scale(0.0)):
            trial = act()
            if not right(bench, "action"):
                how = "patched from the base" if isinstance(trial.condition, wb.Patch) else "zeroed"
                title = f"An agent's crop: what its zoom brought is {how}, and a right answer is lost"
                return made(empty, bench, "crop", title, (trial.condition,))
    raise LookupError("crop")


def text_sum(smol: wb.ModelPair) -> Case:
    for _, empty, bench in benches(smol, "sums"):
        if not right(bench, "rlvr"):
            continue
        bench.select(kind="text", layers=range(16))
        trial = bench.scale(0.5)
        if trial.effect["changed"]:
            return made(
                empty,
                bench,
                "sum",
                "A sum in words: with its text at half strength RLVR answers otherwise",
                (trial.condition,),
            )
    raise LookupError("sum")


def amortised(shapes: wb.ModelPair) -> Case:
    for _, empty, bench in benches(shapes, "shapes"):
        bench.select(kind="visual", layers=range(5))
        both = (bench.do("adapter"), bench.replay())
        if all(trial.effect["changed"] for trial in both):
            adapter, learnt = (trial.condition for trial in both)
            return made(
                empty,
                bench,
                "adapter",
                "What an adapter predicts beside what replay learns",
                (adapter, learnt),
            )
    raise LookupError("adapter")


def replayed(shapes: wb.ModelPair) -> Case:
    for _, empty, bench in benches(shapes, "shapes"):
        bench.select(kind="visual", layers=range(5))
        was = right(bench, "rlvr")
        condition = replay(bench.pair, bench.mask)
        bench.act(condition)
        if right(bench, "action") != was:
            how = "mends" if not was else "spoils"
            return made(empty, bench, "replay", f"Replay {how} an answer", (condition,))
    raise LookupError("replay")


FINDERS: dict[str, tuple[str, Callable[[wb.ModelPair], Case]]] = {
    "lost": ("shapes", lost_at_three),
    "parting": ("shapes", parting),
    "entropy": ("shapes", entropy_shift),
    "video": ("shapes", video_moment),
    "crop": ("shapes", crop),
    "sum": ("smol", text_sum),
    "adapter": ("shapes", amortised),
    "replay": ("shapes", replayed),
}


def main(only: str | None = None) -> None:
    kept = {entry["name"]: entry for entry in json.loads(FILE.read_text())}
    for name, (pair, find) in FINDERS.items():
        if only in (None, name):
            try:
                kept[name] = {
                    k: v
                    for k, v in asdict(find(wb.load_pair(pair))).items()
                    if v is not None and v != () and (k, v) != ("turn", 1)
                }
            except LookupError:
                print(f"{name}: no such problem among the first {LOOKED_AT}", file=sys.stderr)
                continue
            print(
                kept[name]["name"],
                kept[name]["problems"],
                kept[name]["index"],
                kept[name]["title"],
                flush=True,
            )
            FILE.write_text(
                json.dumps([kept[n] for n in FINDERS if n in kept], indent=1, ensure_ascii=False) + "\n"
            )


if __name__ == "__main__":
    main(sys.argv[2] if sys.argv[1:2] == ["--only"] else None)
