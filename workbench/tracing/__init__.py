"""Reading both models at every layer. Only `residuals` knows nnsight.

`trace` gives a `LensTrace` (entropy, KL, top-k at every layer and position of some prompts), `follow` exact probabilities of
chosen tokens, `readings` through what a layer is read, `attention` who attends where; `edits` puts interventions in place
meanwhile. `cells` takes a trace apart into cells, a layer at a position each; `agreement` tells how far the two models agree.

    import workbench as wb
    trace = wb.trace(pair, problems, top_k=10)      # a `LensTrace`
    trace.save("runs/trace")

## Readings

Through what a layer is read is a value. `trace`, `follow`, `explore`, `weight_nulls`, `change_nulls` and `study` take it as
``reading=`` (on the command line ``study --reading FOLDER``), and strata, claims and pages say which it was.

    tuned = wb.TunedLens.fit(pair, train, validation)   # translators of the base; own=True: the RLVR model's too
    tuned = wb.TunedLens.load("vlm-mcqa/qwen25vl_7b")   # your own, or what others published
    trace = wb.trace(pair, problems, reading=tuned)     # entropy, KL, noise and top-k through it
    wb.reading_fidelity(pair, problems, [wb.LogitLens(), tuned])    # KL from each model's own prediction, by layer

    lens = wb.LatentLens.build(pair, texts)             # contextual states of text; `LatentLens.load`: an index of latentlens
    near = wb.read_neighbours(pair, problems, lens)     # nearest states, overlap and rank shift: there is no KL
    wb.neighbour_shift(near, wb.trace(pair, problems))  # what changed of them, by stratum; also in wb.study(reading=lens)
    wb.explore(pair, problems[:4], reading=lens)        # the passages at every cell, beside both models' predictions
    wb.neighbour_fidelity(near)                         # is text recognised as itself, and how near is near?

One model's translators read both models, so that KL is about their residual streams alone; with translators of its own for
the RLVR model, KL also holds how these differ. Which it was stands in the trace's provenance. Files of others are read
without running anything in them (`published_translators`). A `LatentLens` compares both models with the states of the model
that it was built of, beside a trace through the logit lens; where its nearest cosines are low, or text is not recognised as
itself, its words mean little. What each reading names rightly where the cells' contents are known is told by `cell_names`.

## Response

What a model said is traced behind its prompt: drawn responses, or texts by problem id, one or several. Both models read them; the
prompt runs once for all of its responses.

    drawn = wb.decode_many(pair, problems, samples=16, temperature=1.0)
    trace = wb.trace(pair, problems, responses=drawn)
    wb.trace(pair, problems[:1], responses={problems[0].id: ["<answer> 3</answer>", "<answer> 4</answer>"]})

Its tokens are of kind ``response``, as are earlier turns of a conversation (``turn`` of a `LensTrace` counts them); each
statistic, figure and table has them as a kind of its own. A position's kind says what stands there; what is *predicted* there
comes one further: ``predicts`` is 0 at the prompt's last position, where the response's first token is predicted.

A new reading with a distribution is a `readings.Reading`: a name, what its numbers depend on, and a view of the residuals for
the head (`readings.LogitLens` is the shortest to copy). One without returns a frozen dataclass with one axis a layer and one a
position, as `neighbours` does.
"""

from workbench import lazy_names

_HOME = {
    "read_residuals": "residuals",
    "read_attention": "residuals",
    "LayerCall": "residuals",
    "read_calls": "residuals",
    "read_logits": "residuals",
    "prefill": "residuals",
    "lens_head": "model_heads",
    "lens_heads": "model_heads",
}

__all__ = [*_HOME]  # noqa: PLE0604  (lazy names)


__getattr__, __dir__ = lazy_names(__name__, _HOME)
