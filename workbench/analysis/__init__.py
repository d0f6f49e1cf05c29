"""Tables made of traces: the shift by entropy stratum (`shift`), its nulls (`null_models`, `weight_nulls`, `change_nulls`), what
else it goes with (`cell_table`, `covariates`), the weights themselves (`weight_changes`), and what a claim comes to (`verdicts`).

    import workbench as wb
    wb.stratified_shift(trace, bins=5).verdict              # the shift by fifth of entropy, over matched noise too
    wb.weight_nulls(pair, problems).plot()                  # beside random weight changes of RLVR's size
    wb.change_nulls(pair, problems, others=controls).verdict # over noise, over the changes' covariance, over other cells' changes
    wb.rank_correlations(wb.cell_table(pair, problems))     # entropy, or residual norm, attention, place, object?
    wb.compare_weights(pair, problems).plot("effective_rank")

Each null answers another question. Matched noise (a random direction as long as the change), which the study's verdict uses: does
it matter at all where RL moved a cell? The changes' covariance: does it matter where, among the directions in which RL moves this
layer anyway? Exchanged changes: is it *this* cell's change, or what RL does to any such cell? Random weights of RL's size: would
any change of the weights do? Controls (``sft``, ``random``): would any training do?

A new analysis takes a `LensTrace` or a table, returns a frozen dataclass with a table whose intervals come from
`workbench.estimates`, clustered by problem; `weight_changes` is the one to copy.
"""
