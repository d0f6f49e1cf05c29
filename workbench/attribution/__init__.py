"""Which heads and MLPs write the shift: exact direct contributions (`contributions`), swaps of one component between the models
(`swaps`), and gradient approximations beside them (`one_prompt`, `attribute`). TransformerLens is known to `bridge` alone.

    import workbench as wb
    wb.attribute(pair, problems, metrics=["kl"], cells=wb.Cells("low", tau=0.2)).plot()

A new metric: a case of `contributions.value` and its label in `workbench.names.METRICS`.
"""
