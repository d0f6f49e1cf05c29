"""On the PYTHONPATH of a driver and of the jobs that Slurm starts: with WORKBENCH_STANDIN they compute stand-in results."""

import os
import sys

if os.environ.get("WORKBENCH_STANDIN") and {"workbench.interfaces.cli", "submitit.core._submit"} & {
    *sys.orig_argv
}:
    import sweep_standin

    from workbench.sweeps import worker

    worker.Bench = sweep_standin.Bench
