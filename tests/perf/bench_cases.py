"""Chooses the prepared cases of the live bench from the bundled pairs, and writes ``workbench/live/cases.json``.

    python tests/perf/bench_cases.py          # look for all of them anew, some minutes
    python tests/perf/bench_cases.py --only replay

Each case is the first problem of a generated test split (seed 0) of which its sentence is true; `tests/live/test_cases.py` checks
that they still are.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict

import workbench as wb
from workbench.live.actions import replay, to_json
from workbench.live.cases import FILE, Case
from workbench.live.session import Bench

LOOKED_AT = 96


def benches(pair: wb.ModelPair, name: str, start: int = 0) -> Iterator[tuple[int, Case, Bench]]:
    """(number, an empty case of it, a bench at it) of problems in turn."""
    bench = None
    for index in range(start, start + LOOKED_AT):
        empty = Case("", "", pair.name, name, index, {})
        problem = empty.problem()
        bench = Bench(pair, problem, followed=0) if bench is None else bench.open(problem)
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
    for _, empty, bench in benches(shapes, "shapes"):
        if not right(bench, "rlvr") or right(bench, "base"):
            continue
        for row in range(4):
            for column in range(2):
                bench.select(rectangle=(row, column, row, column + 2))
                for trial in (bench.patch(), bench.scale(0.0)):
                    if not trial.effect["right"]["action"]:
                        what = "patched from the base" if isinstance(trial.condition, wb.Patch) else "zeroed"
                        return made(
                            empty,
                            bench,
                            "lost",
                            f"A right answer lost: three visual tokens {what}",
                            (trial.condition,),
                        )
    raise LookupError("lost")


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
    for _, empty, bench in benches(shapes, "shapes-agent"):
        asked = re.search(r"bbox_2d.*?\]", bench.answers["rlvr"][0].text)
        if not asked:
            continue
        for row in range(bench.prompt.grids[0][1]):
            bench.select(rectangle=(row, 0, row, bench.prompt.grids[0][2] - 1))
            trial = bench.scale(0.0)
            if asked[0] not in trial.text and "bbox_2d" in trial.text:
                title = f"An agent's crop: without row {row + 1} of its picture it cuts out another part"
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
                    if v is not None and v is not False and v != ()
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
