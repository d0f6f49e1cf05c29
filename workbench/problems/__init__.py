"""Questions with pictures or movies, where they come from, and how answers are judged.

`load_problems` reads a generated set (`shapes`, `shapes_video`, `shapes_agent`), a set of the paper by name
(`problems.yaml`, read by `presets`), a file, a folder or a hub data set (`sources`, `from_rows`). A `Problem` holds its
pictures, its answer and the verifier that judges responses (`answers`).

    import workbench as wb
    wb.load_problems("shapes", split="test", limit=4)

A new published set is an entry in `problems.yaml`; a new generated one a module like `shapes`, named in `problem.load_problems`.
"""
