"""Grids of experiments that survive anything: a YAML file (`spec`) becomes cells named by what can change their result (`cells`),
workers compute them (`worker`, `engines`), a ledger records them (`ledger`), tables come out (`export`).

    import workbench as wb
    wb.run_sweep("grid.yaml", "runs/grid")

Lists in the file are grids (`grids`), and what is not named is the pair's own setting:

    pairs: [shapes]
    problems: [{source: shapes, split: validation, limit: 64}]
    interventions:
      tokens: {replay: {tau: [0.2, 0.4], alpha: [30, 100, 300], select: [low, high, random]}}
      patch: {patch: {select: [low, high], layers: [3, [4, 5, 6]]}}
      crossed: {cross_sample: {host: [base, rlvr], criterion: [divergence, random], budget: [0.02, 0.05]}}
      further: {extrapolate: {gamma: [-0.5, 0.5, 1.0]}}
    seeds: [0, 1]
    exclude: [{select: random, tau: 0.2}]

A rule under ``exclude`` leaves out the cells that agree with all of it; a list stands for any of its values, so that one value
that is a list stands in a list of its own (``layers: [[4, 5, 6]]``). From the command line:

    workbench sweep plan grid.yaml        # cells, shared work, time and memory; nothing runs
    workbench sweep run grid.yaml         # into runs/grid; Ctrl-C once finishes the cells under way, twice stops now
    workbench sweep status runs/grid --watch
    workbench sweep resume runs/grid --retry-failed
    workbench sweep export runs/grid      # parquet and CSV into runs/grid/tables; run and resume do it at their end
    workbench sweep diff runs/grid runs/other

``resume`` goes on only with the files, code and libraries of the plan; after a change ``run`` plans anew and keeps every cell
that is the same. Every cell (pair, problem, intervention, seed) is named by the digest of what can change its result and
computed alone, so the tables are the same, byte for byte, whatever the order, the workers, the kills and the engine
(``--engine ray``, ``--engine slurm``: extras of these names). Two sweeps share cells (``--share``). ``workbench sweep verify``
checks every digest anew, ``workbench sweep schema`` prints the JSON schema for your editor.

Another engine implements what `engines` describes; `ray_engine` is the shortest to copy.
"""
