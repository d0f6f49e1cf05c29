"""A sweep's worker that computes nothing: results made of the cell's key, so that kills can be tested without loading models.

It is started as a worker's process is. An intervention called ``bad`` fails, one called ``fatal`` kills it, and for one called
``stale`` the files have changed; ``STANDIN_SECONDS`` is how long a cell takes.
"""

import os
import time

from workbench.sweeps import worker
from workbench.sweeps.ledger import Outcome


class Bench:
    def __init__(self, job):
        self.seconds = float(os.environ.get("STANDIN_SECONDS", "0"))

    def run(self, cell):
        time.sleep(self.seconds)
        if cell.intervention == "fatal":
            os._exit(9)
        if cell.intervention == "stale":
            return Outcome(
                cell.key, reason="files are not those of the plan; plan again: sweep run", stale=True
            )
        if cell.intervention == "bad":
            return Outcome(cell.key, reason="`tau` selects nothing")
        number = int(cell.key[:8], 16)
        rows = [
            [s, "count", f"answer, {number + s}\n", str(number % 7), number % 2 == 0, "exact", 5, ""]
            for s in (-1, 0, 1)
        ]
        drift = [["last layer", "low", number / 3, float("nan"), 4]]
        return Outcome(
            cell.key, {"responses": rows, "drift": drift}, "", number / 7, 0.0, f"here:{os.getpid()}"
        )


if __name__ == "__main__":
    worker.Bench = Bench
    worker.main()
