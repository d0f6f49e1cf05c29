"""Interventions on the prompt: learnt visual tokens (Activation Replay), patches, and adapters that predict tokens.

`replay.learn_tokens`: 1. take the target's predictions (`targets`), 2. choose the cells of the loss, 3. descend (`descent`)
on tokens added to a segment of layers (`segment`), reading the loss at each layer (`loss`). `patching.prepare_patch`
overwrites residuals; `amortised.predict_tokens` uses an `Adapter`. Their settings are values in `workbench.conditions`.

    import workbench as wb
    learned = wb.learn_tokens(pair, pair.encode(problem), wb.Replay(threshold="quantile", layers=5))

What an intervention must offer: `sites` and `apply(layer, hidden)`, as in `tracing.edits`; `patching` is the one to copy.
"""
