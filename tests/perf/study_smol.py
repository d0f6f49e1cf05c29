"""How long the default study of `smol` takes, and whether what it says of the time left is true.

    python tests/perf/study_smol.py [--limit 64] [--answers N]

Stated bound: 12 minutes on two cores, with answers of the conditions and of the control; and from a tenth of the study on, the
time that the progress of the whole says it will take is within a half of what it takes. Run with nothing else on the machine. CPU
seconds by part are printed, too.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BOUND, EARLY, TRUE = 720.0, 10, 1.5


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--limit", type=int, default=64)
    options.add_argument("--answers", type=int)
    options.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.inside:
        inside(chosen.limit, chosen.answers)
        return
    begun = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--inside", *sys.argv[1:]], check=True)
    seconds = time.perf_counter() - begun
    print(f"{seconds:.0f} s in all, bound {BOUND:.0f} s")
    if chosen.limit == 64 and seconds > BOUND:
        raise SystemExit("missed")


def inside(limit: int, answers: int | None) -> None:
    """The study, as the command makes it."""
    from workbench.interfaces import options, questions
    from workbench.interfaces.study_cli import Measures, Parts, Task
    from workbench.studies.plan import WHOLE

    begun, last = time.perf_counter(), [time.process_time()]
    costs: dict[str, float] = {}
    shares: dict[int, float] = {}

    def tell(what: str, done: int, total: int) -> None:
        now = time.process_time()
        if what == WHOLE:
            shares.setdefault(done, time.perf_counter() - begun)
            return
        costs[what] = costs.get(what, 0.0) + now - last[0]
        last[0] = now
        if done == total:
            print(f"{time.perf_counter() - begun:7.0f} s {what}", flush=True)

    task = Task(
        options.ModelsHere(pair="smol"),
        questions.Clips(limit=limit),
        Measures(),
        options.Answers(),
        options.LowCells(),
        Parts(answers=answers),
    )
    task.check()
    with tempfile.TemporaryDirectory() as folder:
        task.run(Path(folder) / "run", False, {}, tell)
    seconds = time.perf_counter() - begun
    for what, cost in costs.items():
        print(f"{cost:8.1f} CPU s  {what}")
    for share in sorted(share for share in shares if share and share % 10 == 0):
        forecast = shares[share] * 100 / share
        print(f"at {share}% of the whole: {forecast:.0f} s forecast, {forecast / seconds:.2f} x")
        if share >= EARLY and not 1 / TRUE < forecast / seconds < TRUE:
            raise SystemExit(f"missed: the forecast at {share}%")


if __name__ == "__main__":
    main()
