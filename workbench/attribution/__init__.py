"""Which heads and MLPs write the shift: exact direct contributions (`contributions`), swaps of one component between the models
(`swaps`), and gradient approximations beside them (`one_prompt`, `attribute`). TransformerLens is known to `bridge` alone.

It runs over the pair's own weights, pictures included (``pip install -e ".[attribution]"``): Qwen2.5-VL, Qwen3-VL,
LLaVA-1.5 and -OneVision, Idefics3, and text-only Qwen2, Qwen3, Llama.

    import workbench as wb
    found = wb.attribute(pair, problems, metrics=["kl", "logit_difference"], cells=wb.Cells("low", tau=0.2))
    found.plot()                  # exact direct contributions, which sum to the change
    found.plot("kl", "noising")   # what swapping each component does
    found.correlations            # attribution patching and RelP against the exact swaps

A new metric: a case of `contributions.value` and its label in `workbench.names.METRICS`.
"""
