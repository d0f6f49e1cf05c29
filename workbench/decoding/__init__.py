"""Responses: greedy or sampled, many from one prefill, in process (`decode`) or by vLLM (`vllm_engine`); two models that decode
together (`together`, `criteria`); a model patched while it decodes (`patched`); the loop they share (`streams`); stop tokens
(`stops`); and how probable a given response is (`likelihoods`).

    import workbench as wb
    wb.decode(pair, pair.encode(problem), intervention=learned, samples=16, temperature=1.0, seed=0)

**Two models together.** `CrossSample` and `Extrapolate` are conditions like `Replay`: `decode`, `ablate`, studies, sweeps
(``cross_sample:``, ``extrapolate:``) and the agent take them, for pictures and text alike.

    forward = wb.CrossSample("base", "divergence", threshold=0.1)  # RLVR's draw where both differ by 0.1 nats
    wb.decode(pair, problem, model="base", intervention=forward, samples=16, temperature=1.0)
    wb.ablate(pair, problems, [forward, wb.CrossSample("base", "random", budget=0.04), wb.Extrapolate(0.5)])

`responses.Response.replaced` says which tokens the other model drew, the column ``replaced_share`` of ``responses`` how many;
`responses.Response.values` what the criterion was worth at every token. A threshold that replaces a wanted share is a quantile
of the values of responses in which nothing is replaced (``threshold=math.inf``), on problems kept for that. ``budget`` needs
none, but it does not know what is still to come: in the first 1 / budget tokens it takes what exceeds all before. ``under=``
adds what is done to either model meanwhile: ``wb.CrossSample("base", budget=0.05, under=wb.Replay())``. Models that end at
different tokens are refused; `load_pair` gives both one set of ends and says so.

**A patch while decoding.** ``Patch(when="decoding")`` writes the base's activations into RLVR at every token of the response, as
it is generated, the base reading the same tokens with a cache of its own; ``"both"`` does so in the prompt too. Whatever takes a
`Patch` takes it, ``under=`` of a mixture included, but no trace, likelihood or engine: these decode nothing here. What is low is
decided among the response's cells of a layer so far. `responses.Response.cells` counts what was overwritten.

    wb.ablate(pair, problems, [pair.patch(select=s, when="decoding") for s in ("low", "high", "random")])

A criterion of your own is a branch of `criteria.values_of` and a name in `mixtures.Criterion`.

**vLLM** (``pip install -e ".[vllm]"``, Linux with a GPU) draws long responses of large models faster: ``engine="vllm"`` of
`decode` and `ablate`, ``workbench study --engine vllm``. It gets the visual embeddings with the learnt tokens added
(`export_visual_embeddings`); Qwen2-VL, Qwen2.5-VL, Qwen3-VL (images), LLaVA-1.5 and text-only prompts can be handed over
so, the rest (patches among it) is refused with the reason. Its samples are other draws than those in process.

Another engine offers ``generate`` as `vllm_engine.VllmEngine` does, and is named in `decode`.
"""
