"""Grids of experiments that survive anything: a YAML file (`spec`) becomes cells named by what can change their result (`cells`),
workers compute them (`worker`, `engines`), a ledger records them (`ledger`), tables come out (`export`).

    import workbench as wb
    wb.run_sweep("grid.yaml", "runs/grid")

Another engine implements what `engines` describes; `ray_engine` is the shortest to copy.
"""
