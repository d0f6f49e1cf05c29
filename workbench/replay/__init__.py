"""Interventions on the prompt: learnt visual tokens (Activation Replay), patches, and adapters that predict tokens.

`replay.learn_tokens`: 1. take the target's predictions (`targets`), 2. choose the cells of the loss, 3. descend (`descent`)
on tokens added to a segment of layers (`segment`), reading the loss at each layer (`loss`). `patching.prepare_patch`
overwrites residuals; `amortised.predict_tokens` uses an `Adapter`. Their settings are values in
`workbench.interventions`; what "low" means stands once, in `workbench.selection`, and the mask is made in `chosen_cells`.

    import workbench as wb
    prompt = pair.encode(problem)
    learned = wb.learn_tokens(pair, prompt, pair.replay(tau=0.4))  # settings that suit the pair, but for these
    patch = wb.prepare_patch(pair, prompt, pair.patch(select="high"))
    wb.decode(pair, prompt, intervention=learned, samples=16, temperature=1.0, seed=0)
    wb.trace(pair, [problem], interventions=[learned])

**Cells of one's own choice.** ``cells`` is a function of the encoded prompt; with ``select="random"`` the same number is drawn
among them, for a control:

    corner = lambda prompt: (prompt.kinds == 1) & (prompt.grid[:, 1] < 3) & (prompt.grid[:, 2] < 3)
    wb.ablate(pair, problems, {"corner": wb.Patch(layers=(3, 4, 5), select="all", cells=corner)})

**Where there is no picture.** ``positions`` says where tokens are learnt and the loss is read: ``"visual"`` (the paper),
``"text"``, ``"all"``, or spans. ``pair.replay()`` of a pair that reads no pictures takes text. This leaves the paper: tokens at
text are added to what the question says word by word, and nothing published says that it helps.

    wb.learn_tokens(pair, prompt, pair.replay(positions=((4, 9),)))  # at positions 4 to 8

**Fewer passes.** ``Replay(solver="adaptive")`` (`quasi_newton`) comes to the loss of 25 plain iterations with tokens no longer in
7 passes, and does not diverge where ``alpha`` is too large; ``plain`` stays the default, since the paper's numbers are of it.

**Amortised.** Optimising takes 25 passes forward and back for every prompt. An adapter, trained once for a pair on other
problems (`train_adapter`), predicts the tokens in one pass, and is a condition like the others:

    adapter = wb.load_adapter("shapes")
    predicted = wb.predict_tokens(pair, prompt, adapter)  # what learn_tokens returns
    wb.ablate(pair, problems, {"one pass": adapter, "optimised": wb.Replay(layers=5, threshold="quantile")})

**Two models that don't fit side by side.** ``wb.learn_problems(..., placement="sequential")`` (`from_checkpoints`) loads one
at a time, the base with its first K layers only.

What an intervention must offer: ``problem_id``, ``sites`` and ``apply(layer, hidden)``, as `workbench.tracing.edits` has
it; `patching` is the one to copy.
"""
