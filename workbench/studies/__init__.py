"""The main job and the paper's figures: `study` traces, answers and writes the report (`report`); `paper` runs the scripts of
`analyses/`; `claims` sets every claim of the paper beside what a pair shows; `explore` shows the lens on a page.

    import workbench as wb
    wb.study(pair, problems, out="runs/mine")

A new script of a figure: a module in `analyses/` with a `run(analysis)`; `analyses/null_models.py` is the shortest to copy.
"""
