"""What sweeps cost and save, on the bundled pair and on this machine; run it while nothing else runs.

    python tests/perf/sweep.py [--only ledger|overhead|workers|grid|kills] [--problems 8]

ledger    102,680 cells, nine tenths recorded with 17 responses each: status, resume planning with all digests anew, memory
overhead  recording a cell against computing one
workers   cells a second of two workers against one, on two cores, start left out
grid      a 3 x 3 grid of tau and alpha against nine separate sweeps
kills     20 random kill -9 of workers and driver, resumed: tables byte for byte those of an undisturbed sweep

Exits with 1 if a bound is missed: status under 2 s, planning under 5 s, memory under 500 MB; overhead under 2%; workers 1.7 x;
grid 1.5 x; tables equal.
"""

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from workbench.sweeps.cells import identity_of, plan_cells
from workbench.sweeps.driver import run_sweep
from workbench.sweeps.export import export_sweep
from workbench.sweeps.ledger import Ledger, Outcome
from workbench.sweeps.spec import parse_sweep
from workbench.sweeps.worker import Bench, Job

TAUS, ALPHAS = (0.2, 0.3, 0.4), (30, 100, 300)
WORDS = ["red", "circle", "blue", "square", "left", "of", "above", "so", "the", "count", "is"]
failed: list[str] = []


def spec(problems: int, taus: Any = 0.4, alphas: Any = 100, samples: int = 16) -> str:
    return (
        f"pairs: [shapes]\nproblems: [{{source: shapes, limit: {problems}}}]\ndevice: cpu\nsamples: {samples}\n"
        f"interventions: {{t: {{replay: {{tau: {taus}, alpha: {alphas}}}}}}}\n"
    )


def told(what: str, value: float, bound: float, unit: str, *, least: bool) -> None:
    good = value >= bound if least else value <= bound
    print(f"  {what:28} {value:9.3f} {unit:3} (bound {bound})   {'ok' if good else 'MISSED'}", flush=True)
    if not good:
        failed.append(what)


def seconds(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def fill(folder: Path) -> int:
    """A ledger of 340 problems x 302 interventions, nine tenths of them done; how many cells."""
    draw = random.Random(0)
    rows = [
        [i, "count", " ".join(draw.choices(WORDS, k=40)), "3", True, "exact", 40, ""] for i in range(-1, 16)
    ]
    result = {"responses": rows, "drift": [["last layer", "low", 0.1, 0.2, 12]] * 4}
    text = spec(340, [round(0.05 * i, 2) for i in range(1, 11)], list(range(10, 40)))
    sweep = parse_sweep(text)
    identity = identity_of(sweep, "cpu")
    cells = plan_cells(sweep, "cpu", identity)
    with Ledger(folder, write=True) as ledger:
        ledger.plan(cells, {"text": text, "device": "cpu", "identity": identity})
        for start in range(0, len(cells) * 9 // 10, 1000):
            ledger.record(
                Outcome(cell.key, result, "", 0.3, 0.1, "w") for cell in cells[start : start + 1000]
            )
    return len(cells)


def ledger_part(home: Path) -> None:
    count = fill(home / "large")
    program = (
        "import sys, time, resource; from pathlib import Path; from workbench.sweeps.ledger import Ledger\n"
        "from workbench.sweeps.driver import since_plan\n"
        "begun = time.perf_counter()\nwith Ledger(Path(sys.argv[1]), write=True) as ledger:\n"
        "    [*ledger.counts(), *ledger.failures(), *ledger.latest()]; a = time.perf_counter()\n"
        "    assert not since_plan(ledger); ledger.forget_damaged(); ledger.pending(retry_failed=True)\n"
        "b = time.perf_counter()\n"
        "print(a - begun, b - a, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, home / "large"], capture_output=True, text=True, check=True
    )
    status, planning, memory = map(float, done.stdout.split())
    told(f"status of {count:,} cells", status, 2, "s", least=False)
    told("planning a resume", planning, 5, "s", least=False)
    told("memory", memory, 500, "MB", least=False)


def overhead_part(home: Path, problems: int) -> None:
    bench = Bench(Job(spec(problems), "cpu", 10**9, 1))
    cells = plan_cells(bench.sweep, "cpu")
    bench.run(cells[0])
    outcomes: list[Outcome] = []
    computing = seconds(lambda: outcomes.extend(bench.run(cell) for cell in cells))
    with Ledger(home / "overhead", write=True) as ledger:
        ledger.plan(cells, {"text": spec(problems)})
        recording = seconds(lambda: [ledger.record([outcome]) for outcome in outcomes])
    print(
        f"  a cell takes {computing / len(cells):.3f} s, recording it {1e3 * recording / len(cells):.2f} ms"
    )
    told("ledger's share", 100 * recording / computing, 2, "%", least=False)


def rate(file: Path, out: Path, workers: int) -> float:
    """Cells a second between the first and the last outcome."""
    seen: list[tuple[float, int]] = []
    run_sweep(
        file,
        out,
        workers=workers,
        progress=lambda p: seen.append((time.perf_counter(), p.now)) if p.now else None,
    )
    (begun, first), (ended, last) = seen[0], seen[-1]
    return (last - first) / (ended - begun)


def workers_part(home: Path, problems: int) -> None:
    (home / "s.yaml").write_text(spec(problems * 2, list(TAUS)))
    one, two = (rate(home / "s.yaml", home / f"workers{n}", n) for n in (1, 2))
    print(f"  {one:.2f} cells a second with one worker, {two:.2f} with two")
    told("two workers over one", two / one, 1.7, "x", least=True)


def grid_part(problems: int) -> None:
    loaded = Bench(Job(spec(1), "cpu", 0, 1))
    loaded.run(plan_cells(loaded.sweep, "cpu")[0])
    pair, identity, _ = loaded._loaded["pair"][1]

    def run(taus: Any, alphas: Any) -> None:
        bench = Bench(Job(spec(problems, taus, alphas), "cpu", 2 * 10**9, 1))
        conditions = bench.sweep.conditions(bench.sweep.pairs[0], pair.depth)
        bench._loaded["pair"] = ("shapes", (pair, identity, conditions))
        for cell in plan_cells(bench.sweep, "cpu"):
            assert bench.run(cell).result is not None

    together = seconds(lambda: run(list(TAUS), list(ALPHAS)))
    apart = seconds(lambda: [run(tau, alpha) for tau in TAUS for alpha in ALPHAS])
    print(f"  {together:.1f} s as one grid, {apart:.1f} s as nine sweeps, loading left out")
    told("grid over nine sweeps", apart / together, 1.5, "x", least=True)


def undo(folder: Path) -> None:
    with Ledger(folder, write=True) as ledger, ledger.base as base:
        some = "SELECT key FROM outcomes ORDER BY key LIMIT (SELECT count(*) / 3 FROM outcomes)"
        base.execute(f"DELETE FROM results WHERE key IN ({some})")
        base.execute(f"DELETE FROM outcomes WHERE key IN ({some})")


def kills_part(home: Path, problems: int) -> None:
    file = home / "k.yaml"
    file.write_text(spec(problems, list(TAUS), list(ALPHAS), samples=4))
    run_sweep(file, home / "undisturbed", workers=2)
    draw, kills = random.Random(0), 0
    command = [
        sys.executable,
        "-m",
        "workbench.interfaces.cli",
        "sweep",
        "run",
        str(file),
        "--out",
        str(home / "killed"),
        "--workers",
        "2",
    ]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while kills < 20:
        if driver.poll() is not None:
            if not driver.returncode:  # it came to the end: a third is undone, so that every kill hits work
                undo(home / "killed")
            driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(2, 8))
        victims = [driver.pid, *(child.pid for child in psutil.Process(driver.pid).children())]
        try:
            os.kill(draw.choice(victims), signal.SIGKILL)
            kills += 1
        except ProcessLookupError:
            continue
    driver.wait()
    subprocess.run(command, check=True)
    names = [
        f"{table}.{kind}"
        for table in ("cells", "responses", "drift", "interventions")
        for kind in ("parquet", "csv")
    ]
    first, second = (export_sweep(home / name) for name in ("undisturbed", "killed"))
    same = sum((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    told("tables equal after 20 kills", same, len(names), "", least=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["ledger", "overhead", "workers", "grid", "kills"])
    parser.add_argument("--problems", type=int, default=8)
    options = parser.parse_args()
    parts: dict[str, Callable[[Path], None]] = {
        "ledger": ledger_part,
        "overhead": lambda home: overhead_part(home, options.problems),
        "workers": lambda home: workers_part(home, options.problems),
        "grid": lambda home: grid_part(options.problems),
        "kills": lambda home: kills_part(home, options.problems),
    }
    with tempfile.TemporaryDirectory() as home:
        for name, run in parts.items():
            if options.only in (None, name):
                print(name, flush=True)
                run(Path(home))
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
