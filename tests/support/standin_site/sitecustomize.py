"""On the PYTHONPATH of a driver and of what a cluster starts for it: with WORKBENCH_STANDIN they compute stand-in results."""

import os

if os.environ.get("WORKBENCH_STANDIN"):
    import sweep_standin

    from workbench.sweeps import worker

    worker.Bench = sweep_standin.Bench
