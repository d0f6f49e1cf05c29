"""Reading both models at every layer. Only `residuals` knows nnsight.

`trace` gives a `LensTrace` (entropy, KL, top-k at every layer and position of some prompts), `follow` exact probabilities of
chosen tokens, `tuned_lens` affine translators, `attention` who attends where; `edits` puts interventions in place meanwhile.
`cells` takes a trace apart into cells, a layer at a position each; `agreement` tells how far the two models agree.

    import workbench as wb
    trace = wb.trace(pair, problems, top_k=10)      # a `LensTrace`
    trace.save("runs/trace")
    wb.fit_translators(pair, train, validation)     # the tuned lens of the base; `lens_fidelity`: how good it is

## Response

What a model said is traced behind its prompt: drawn responses, or texts by problem id, one or several. Both models read them; the
prompt runs once for all of its responses.

    drawn = wb.decode_many(pair, problems, samples=16, temperature=1.0)
    trace = wb.trace(pair, problems, responses=drawn)
    wb.trace(pair, problems[:1], responses={problems[0].id: ["<answer> 3</answer>", "<answer> 4</answer>"]})

Its tokens are of kind ``response``, as are earlier turns of a conversation (``turn`` of a `LensTrace` counts them); each
statistic, figure and table has them as a kind of its own. A position's kind says what stands there; what is *predicted* there
comes one further: ``predicts`` is 0 at the prompt's last position, where the response's first token is predicted.

A new reading returns a frozen dataclass with one axis a layer and one a position; `attention` is the shortest to copy.
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
