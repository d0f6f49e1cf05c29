"""Models that answer: ablations over conditions (`ablation`, `run_condition`), perturbed pictures (`perturbation`, `slopes`),
checkpoints of training (`emergence`, `half_times`), a visual agent (`agent`), and how far activations drift (`drift`).

    import workbench as wb
    wb.ablate(pair, problems, {"replay": wb.Replay(layers=5, threshold="quantile")}, samples=16).plot()

A new experiment takes a pair and problems, keeps finished parts in a folder (`workbench.runs`), and returns a frozen dataclass
with tables; `try_replay` is the shortest to copy.
"""
