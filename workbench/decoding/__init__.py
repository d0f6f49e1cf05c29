"""Responses: greedy or sampled, many from one prefill, in process (`decode`) or by vLLM (`vllm_engine`); stop tokens (`stops`);
and how probable a given response is (`likelihoods`).

    import workbench as wb
    wb.decode(pair, pair.encode(problem), intervention=learned, samples=16, temperature=1.0, seed=0)

**vLLM** (``pip install -e ".[vllm]"``, Linux with a GPU) draws long responses of large models faster: ``engine="vllm"`` of
`decode` and `ablate`, ``workbench study --engine vllm``. It gets the visual embeddings with the learnt tokens added
(`export_visual_embeddings`); Qwen2-VL, Qwen2.5-VL, Qwen3-VL (images), LLaVA-1.5 and text-only prompts can be handed over
so, the rest (patches among it) is refused with the reason. Its samples are other draws than those in process.

Another engine offers ``generate`` as `vllm_engine.VllmEngine` does, and is named in `decode`.
"""
