"""Reading both models at every layer. Only `residuals` knows nnsight.

`trace` gives a `LensTrace` (entropy, KL, top-k at every layer and position of some prompts), `follow` exact probabilities of
chosen tokens, `tuned_lens` affine translators, `attention` who attends where; `edits` puts interventions in place meanwhile.
`cells` takes a trace apart into cells, a layer at a position each; `agreement` tells how far the two models agree.

    import workbench as wb
    trace = wb.trace(pair, problems, top_k=10)      # a `LensTrace`
    trace.save("runs/trace")
    wb.fit_translators(pair, train, validation)     # the tuned lens of the base; `lens_fidelity`: how good it is

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
