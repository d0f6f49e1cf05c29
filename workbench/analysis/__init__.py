"""Tables made of traces: the shift by entropy stratum (`shift`), its nulls (`null_models`, `weight_nulls`), what else it goes
with (`cell_table`, `covariates`), the weights themselves (`weight_changes`), and what a claim comes to (`verdicts`).

    import workbench as wb
    wb.stratified_shift(trace, bins=5).verdict              # the shift by fifth of entropy, over matched noise too
    wb.weight_nulls(pair, problems).plot()                  # beside random weight changes of RLVR's size
    wb.rank_correlations(wb.cell_table(pair, problems))     # entropy, or residual norm, attention, place, object?
    wb.compare_weights(pair, problems).plot("effective_rank")

A new analysis takes a `LensTrace` or a table, returns a frozen dataclass with a table whose intervals come from
`workbench.estimates`, clustered by problem; `weight_changes` is the one to copy.
"""
